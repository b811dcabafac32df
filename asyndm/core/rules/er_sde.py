"""ER-SDE (Cui et al. 2023, arXiv 2309.06169): reverse-time SDEs with less noise than ancestral."""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.core.rules.base import SECOND_ORDER_CAP, Rule, host_ratio, ratio_of
from asyndm.core.rules.multistep import within_reach

POINTS = 200  # of the authors' sums in place of integrals


class ErSde(Rule):
    """ER-SDE-Solver-1 to -3 on x = x0 + sigma * noise, with the authors' "ER SDE 5" as noise scale.

    Args:
        max_stage: 1 to 3, the highest solver: as many predictions are remembered.

    D is continued by its divided differences in sigma, of each pixel's own levels. The second stage
    has the cap of DPM++ 2M on the ratio of the steps, and is left out where the pixel stood still;
    the third is used where both remembered steps are long enough (``LONGEST_REACH``).
    """

    def __init__(self, s_noise: float = 1.0, max_stage: int = 3) -> None:
        if max_stage not in (1, 2, 3):
            raise ValueError(f"max_stage: {max_stage!r} is not 1, 2 or 3.")
        self.s_noise, self.max_stage, self.draws_noise = s_noise, max_stage, s_noise > 0
        self._past: list[tuple[Tensor, Tensor, float]] = []  # (D, sigma, host's), newest first

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        ratio = noise_scale(sigma_next) / noise_scale(sigma)
        out = ratio * x + (1 - ratio) * denoised
        if self._past:
            out = out + self._higher(denoised, sigma, sigma_next, host_sigma, host_sigma_next)
        self._past = [(denoised, sigma, host_sigma), *self._past][: self.max_stage - 1]
        if not self.s_noise > 0:
            return out
        up = (sigma_next**2 - (sigma * ratio) ** 2).clamp(min=0).sqrt()
        return out + draw() * self.s_noise * up

    def _higher(self, denoised, sigma, sigma_next, host_sigma, host_next):
        """What the second and third stage add."""
        (old, last, host_last), *older = self._past
        step, host_step = sigma - sigma_next, host_sigma - host_next
        wanted = host_ratio(host_step, host_last - host_sigma)
        over = ratio_of(step, last - sigma)
        # The authors' integrals from sigma_next upwards, per unit of the step.
        part = torch.arange(POINTS, device=sigma.device, dtype=sigma.dtype) / POINTS
        scaled = noise_scale(sigma_next)
        each = scaled[..., None] / noise_scale(sigma_next[..., None] + part * step[..., None])
        change = (denoised - old) * over.clamp(0, max(2 * SECOND_ORDER_CAP, wanted))
        out = (1 - each.mean(dim=-1)) * change
        if not older:
            return out
        ancient, before, host_before = older[0]
        may = within_reach(over, wanted) & within_reach(
            ratio_of(step, before - last), host_ratio(host_step, host_before - host_last)
        )
        slope = (denoised - old) / torch.where(may, sigma - last, -1.0)
        slope_before = (old - ancient) / torch.where(may, last - before, -1.0)
        bend = (slope - slope_before) / torch.where(may, sigma - before, -1.0) * 2
        third = (0.5 - (each * (1 - part)).mean(dim=-1)) * step**2 * bend
        # Where the steps allow the third stage, the second is not capped: it is the authors'.
        return torch.where(may, (1 - each.mean(dim=-1)) * over * (denoised - old) + third, out)


def noise_scale(sigma: Tensor) -> Tensor:
    """The authors' function of the noise level that sets how much of the noise is fresh."""
    return sigma * ((sigma**0.3).exp() + 10.0)
