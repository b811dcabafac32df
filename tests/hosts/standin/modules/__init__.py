"""A small stand-in of AUTOMATIC1111's ``modules``, so that the extension is tested without a WebUI.

It keeps the contract that the extension and its tests rely on, checked against v1.10.1 by running
the same tests on both; real are k-diffusion and the ldm UNet. Written anew, nothing is copied.
Left out: PLMS's and Restart's loops (they run Euler), refiner, SDXL, cropped inpainting ("only
masked"), extra networks, s_churn and the like, padding of prompts.
"""
