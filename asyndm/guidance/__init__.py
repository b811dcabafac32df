"""Guidance methods, one file each: what makes one denoised prediction of several. None yet.

Plain classifier-free guidance is the host's business, or in the studio that of
:class:`asyndm.network.denoiser.GuidedDenoiser`.
"""
