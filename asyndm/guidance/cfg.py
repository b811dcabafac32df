"""Classifier-free guidance, and the interval of noise levels it is limited to.

Ho & Salimans 2022 (arXiv 2207.12598); Kynkaanniemi et al. 2024 (arXiv 2404.07724), "Applying
Guidance in a Limited Interval": outside of it the prediction with the prompt is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asyndm.guidance.base import Guidance


class Cfg(Guidance):
    """D_u + w (D_c - D_u)."""


@dataclass(frozen=True)
class Interval:
    """The noise levels at which guidance acts, each pixel's own: low < sigma <= high.

    A ``high`` of 0 is no end.
    """

    low: float = 0.0
    high: float = 0.0

    @property
    def limits(self) -> bool:
        return self.low > 0 or self.high > 0

    def holds(self, sigma: float) -> bool:
        """Whether guidance acts at one noise level."""
        return self.low < sigma and not 0 < self.high < sigma

    def active(self, sigma: Tensor) -> Tensor:
        """1 where it acts, 0 elsewhere; like ``sigma``."""
        inside = sigma > self.low
        return (inside & (sigma <= self.high) if self.high > 0 else inside).to(sigma.dtype)

    def scale(self, scale: float, active: Tensor) -> Tensor:
        """w where it acts, 1 elsewhere."""
        return torch.where(active > 0, float(scale), 1.0)
