"""One update of the latents when every pixel has a noise level of its own.

Each rule is the k-diffusion rule with sigma replaced by a map [B, 1, H, W] and D the denoised
prediction. k-diffusion's helpers compare sigma in Python (``min``, ``if sigma > 0``) and cannot be
used for maps. ``host_sigma`` and ``host_sigma_next`` are the plain numbers of the host's list: they
decide, exactly as in the host's twin, whether noise is drawn.

Sources: DDPM/ancestral: Ho et al. 2020 in the form of k-diffusion's ``get_ancestral_step``; Euler:
Karras et al. 2022, algorithm 2 (= DDIM); DPM++ 2M: Lu et al. 2022, arXiv 2211.01095.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from asyndm.core.settings import RULES

Draw = Callable[[], Tensor]

# DPM++ 2M's weight of the second-order term, 1 / (2r), in a schedule of equal log-sigma steps. A
# pixel whose pace just changed may exceed it tenfold.
SECOND_ORDER_CAP = 0.5


class Rule(Protocol):
    """An update rule; a fresh one for every run."""

    draws_noise: bool

    def step(
        self,
        x: Tensor,
        denoised: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        host_sigma: float,
        host_sigma_next: float,
        draw: Draw | None = None,
    ) -> Tensor:
        """x at ``sigma_next`` from x and D at ``sigma`` (maps), in float32; draw() gives noise."""


def make_rule(name: str, *, eta: float = 1.0, s_noise: float = 1.0, flow: bool = False) -> Rule:
    """The rule "ddpm" (with ``eta`` 0: DDIM), "euler" or "dpmpp_2m".

    Args:
        eta: share of the ancestral noise, "ddpm" alone.
        s_noise: factor on the noise, "ddpm" alone.
        flow: the model is a rectified flow. Euler and DPM++ 2M have one form for both.

    Raises:
        ValueError: an unknown name.
    """
    if name == "ddpm":
        return FlowDdpm(eta, s_noise) if flow else Ddpm(eta, s_noise)
    if name == "euler":
        return Euler()
    if name == "dpmpp_2m":
        return DpmPP2M()
    raise ValueError(f"rule: {name!r} is unknown; choose one of {', '.join(RULES)}.")


def euler_step(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x + (x - D) / s * (s' - s)."""
    return x + (x - denoised) / sigma * (sigma_next - sigma)


def ancestral_split(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(sigma_down to step to, sigma_up of fresh noise) elementwise; both maps as ``sigma``."""
    kept = (1 - (sigma_next / sigma) ** 2).clamp(min=0).sqrt()
    up = (eta * sigma_next * kept).minimum(sigma_next)
    return (sigma_next**2 - up**2).clamp(min=0).sqrt(), up


class Euler:
    """Euler, which is DDIM: no noise. (The twin draws one tensor a step and throws it away.)"""

    draws_noise = False

    def step(self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None):
        return euler_step(x, denoised, sigma, sigma_next)


class Ddpm:
    """DDPM = Euler ancestral with eta 1, the paper's sampler, on x = x0 + sigma * noise."""

    draws_noise = True

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def step(self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None):
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        x = euler_step(x, denoised, sigma, down)
        return x + draw() * self.s_noise * up if host_sigma_next > 0 else x


class FlowDdpm:
    """Ancestral steps on x = (1 - sigma) * x0 + sigma * noise, with eta as in the flow samplers.

    Down to sigma_down = s' * (1 + eta * (s' / s - 1)); then x is scaled so that x0 has its share
    1 - s' again, and noise fills the variance up to s'^2.
    """

    draws_noise = True

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def step(self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None):
        down = sigma_next * (1 + self.eta * (sigma_next / sigma - 1))
        x = euler_step(x, denoised, sigma, down)
        if host_sigma_next <= 0:
            return x
        # A pixel that stands still at sigma = 1 has 0 / 0 here: nothing is left to rescale.
        room = 1 - down
        scale = torch.where(room > 0, (1 - sigma_next) / room.clamp(min=1e-12), 1.0)
        up = (sigma_next**2 - (down * scale) ** 2).clamp(min=0).sqrt()
        return scale * x + draw() * self.s_noise * up


class DpmPP2M:
    """DPM++ 2M with a step size h = -log(s' / s) of each pixel's own.

    The second-order weight 1 / (2r) = h / (2 h_last) is capped at 0.5 or, where the host's own list
    asks for more at this step, at the host's value, so that the cap never acts on a synchronous
    run; where h_last = 0 the step is of first order.
    """

    draws_noise = False

    def __init__(self) -> None:
        self._old_denoised: Tensor | None = None
        self._h_last: Tensor | None = None
        self._host_h_last = 0.0

    def step(self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None):
        ratio = sigma_next / sigma
        target = denoised
        if self._old_denoised is not None and host_sigma_next > 0:
            weight = self._second_order_weight(-ratio.log(), host_sigma, host_sigma_next)
            target = denoised + weight * (denoised - self._old_denoised)
        self._old_denoised = denoised
        if host_sigma_next > 0:
            self._h_last = -ratio.log()
            self._host_h_last = math.log(host_sigma / host_sigma_next)
        return ratio * x + (1 - ratio) * target

    def _second_order_weight(self, h: Tensor, host_sigma: float, host_next: float) -> Tensor:
        host_weight = 0.0
        if self._host_h_last > 0:
            host_weight = math.log(host_sigma / host_next) / (2 * self._host_h_last)
        cap = max(SECOND_ORDER_CAP, host_weight)
        moved = self._h_last > 0
        weight = h / (2 * torch.where(moved, self._h_last, 1.0))
        return torch.where(moved, weight, 0.0).clamp(0, cap)
