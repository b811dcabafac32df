"""Gradient estimation (Permenter and Yuan 2023, arXiv 2306.04848): steps along two predictions."""

from __future__ import annotations

from torch import Tensor

from asyndm.core.rules.base import Rule


class GradientEstimation(Rule):
    """Euler along the noise predicted now and, by 1 - gamma, the noise predicted a step before.

    Args:
        ge_gamma: the paper's gamma; 1 is Euler.

    The weights are the same whatever the steps' lengths, so that no pixel's are bounded. Order 1,
    as in the paper: for gamma 2 the error changes its sign beside Euler's.
    """

    def __init__(self, ge_gamma: float = 2.0) -> None:
        self.ge_gamma = ge_gamma
        self._old: Tensor | None = None  # the noise predicted in the last step, [B, C, H, W]

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        noise = (x - denoised) / sigma
        estimate = noise
        if self._old is not None:
            estimate = noise + (self.ge_gamma - 1) * (noise - self._old)
        self._old = noise
        return x + estimate * (sigma_next - sigma)
