"""What every rule has, and the small formulas they share.

A rule is the k-diffusion rule of its name with sigma replaced by a map [B, 1, H, W] and D the
denoised prediction. k-diffusion's helpers compare sigma in Python (``min``, ``if sigma > 0``) and
cannot be used for maps. ``host_sigma`` and ``host_sigma_next`` are the plain numbers of the host's
list: they decide, exactly as in the host's twin, whether noise is drawn and how many network calls
a step has.

Noise levels *inside* a step are told by a formula of the two ends of the step. The same formula
serves the map, the small table a network reads, and the host's two scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

# (noise level now, after the step) -> noise level inside the step, element by element.
Between = Callable[[Tensor, Tensor], Tensor]

# DPM++ 2M's weight of the second-order term, 1 / (2r), in a schedule of equal log-sigma steps. A
# pixel whose pace just changed may exceed it tenfold.
SECOND_ORDER_CAP = 0.5


class Draw(Protocol):
    """Noise like x from the host's noise sampler."""

    def __call__(self, start: Between | None = None, end: Between | None = None) -> Tensor:
        """Unit noise of the host's interval, or of the part between two formulas of its ends."""


class ModelAt(Protocol):
    """The network inside a step."""

    def __call__(self, x: Tensor, between: Between) -> Tensor:
        """D of ``x`` at the noise levels ``between`` says, in float32. Masks are not read."""


class Rule:
    """An update rule; a fresh one for every run.

    Attributes:
        draws_noise: it needs a noise sampler.
        calls: network calls a step, at most.
        needs_uncond: it renoises with the unconditional prediction, which :attr:`uncond` holds.
    """

    draws_noise = False
    needs_uncond = False
    uncond: Tensor | None = None
    calls = 1
    s_noise = 1.0

    def begin(self, sigmas: Sequence[float]) -> None:
        """Told once: the host's whole list."""

    def churn(self, host_sigma: float) -> float | None:
        """How far the noise is raised before the first call: sigma_hat = (1 + gamma) * sigma.

        None where the twin throws nothing in, so that nothing needs to be drawn.
        """
        return None

    def step(
        self,
        x: Tensor,
        denoised: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        host_sigma: float,
        host_sigma_next: float,
        draw: Draw | None = None,
        model_at: ModelAt | None = None,
    ) -> Tensor:
        """x at ``sigma_next`` from x and D at ``sigma`` (maps), in float32."""
        raise NotImplementedError


class Churned(Rule):
    """Karras et al. 2022, algorithm 2: fresh noise before the step, as k-diffusion draws it.

    Args:
        draws_idle: a step whose gamma is 0 draws, too, and throws it away, as in k-diffusion;
            False: as in ComfyUI.
    """

    def __init__(
        self,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        draws_idle: bool = True,
    ) -> None:
        self.draws_idle = draws_idle
        self.s_churn, self.s_tmin, self.s_tmax, self.s_noise = s_churn, s_tmin, s_tmax, s_noise
        self.draws_noise = s_churn > 0
        self._steps = 1

    def begin(self, sigmas):
        self._steps = len(sigmas) - 1

    def churn(self, host_sigma):
        if not self.draws_noise:
            return None
        if not self.s_tmin <= host_sigma <= self.s_tmax:
            return 0.0 if self.draws_idle else None
        return min(self.s_churn / self._steps, 2**0.5 - 1)


def euler_step(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x + (x - D) / s * (s' - s)."""
    return x + (x - denoised) / sigma * (sigma_next - sigma)


def ancestral_split(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(sigma_down to step to, sigma_up of fresh noise) elementwise; both maps as ``sigma``."""
    kept = (1 - (sigma_next / sigma) ** 2).clamp(min=0).sqrt()
    up = (eta * sigma_next * kept).minimum(sigma_next)
    return (sigma_next**2 - up**2).clamp(min=0).sqrt(), up


def half_way(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Half way in log sigma."""
    return sigma.log().lerp(sigma_next.log(), 0.5).exp()


def part_way(sigma: Tensor, sigma_next: Tensor, part: float) -> Tensor:
    """That part of the step in log sigma, written as k-diffusion writes it."""
    t, t_next = sigma.log().neg(), sigma_next.log().neg()
    return (t + (t_next - t) * part).neg().exp()


def ratio_of(step: Tensor, last: Tensor) -> Tensor:
    """step / last, and 0 where the pixel stood still (last = 0)."""
    moved = last > 0
    return torch.where(moved, step / torch.where(moved, last, 1.0), 0.0)


def host_ratio(step: float, last: float) -> float:
    """The same of two numbers."""
    return step / last if last > 0 else 0.0
