"""Guidance methods, one file each: what makes one denoised prediction of several.

Three seams, all free of any host and all in terms of every pixel's own D:

- :class:`~asyndm.guidance.base.Guidance`: the predictions of a step -> its D (CFG, S-CFG, SEG, PAG,
  TPG, APG, CFG++ by weight);
- a rule of :mod:`asyndm.core.rules` that renoises with the unconditional prediction (CFG++);
- :class:`asyndm.core.passes.Pass`: more network calls a step (Z-Sampling).

:class:`~asyndm.guidance.guide.Guide` is one run's method, made from the settings; it also measures.
"""

from asyndm.guidance.base import Guess, Guidance
from asyndm.guidance.guide import Guide
from asyndm.guidance.methods import METHODS

__all__ = ["METHODS", "Guess", "Guidance", "Guide"]
