"""Rules that remember the predictions of earlier steps.

Every pixel has step sizes of its own, so every pixel has coefficients of its own. Where its pace
has just changed, the twin's formula would draw a line through two neighbouring points and follow it
far: the share of a remembered difference is bounded, or the order falls. The bounds follow the
host's own list wherever that asks for more, so they never act on a synchronous run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asyndm.core.rules.base import SECOND_ORDER_CAP, Rule, ancestral_split, host_ratio, ratio_of

# Rules of third and higher order use a remembered step if the step to come is at most this many
# times as long (or, in the host's own list, this many times its ratio there).
LONGEST_REACH = 2.0


class DpmPP2M(Rule):
    """DPM++ 2M (Lu et al. 2022, arXiv 2211.01095), h = -log(s' / s) of each pixel's own.

    The second-order weight 1 / (2r) = h / (2 h_last) is capped at 0.5 or, where the host's own list
    asks for more at this step, at the host's value, so that the cap never acts on a synchronous
    run; where h_last = 0 the step is of first order. Order 2.
    """

    def __init__(self) -> None:
        self._old_denoised: Tensor | None = None
        self._h_last: Tensor | None = None
        self._host_h_last = 0.0

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
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
        host_h = math.log(host_sigma / host_next)
        cap = max(SECOND_ORDER_CAP, host_ratio(host_h, self._host_h_last) / 2)
        return (ratio_of(h, self._h_last) / 2).clamp(0, cap)


class DpmPP2MSde(Rule):
    """DPM++ 2M SDE of k-diffusion, "midpoint" or "heun": :class:`DpmPP2M` with noise, same cap.

    Order 2 for eta 0.
    """

    def __init__(
        self, eta: float = 1.0, s_noise: float = 1.0, solver_type: str = "midpoint"
    ) -> None:
        if solver_type not in ("midpoint", "heun"):
            raise ValueError(f"solver_type: {solver_type!r} is neither 'midpoint' nor 'heun'.")
        self.eta, self.s_noise, self.solver_type = eta, s_noise, solver_type
        self.draws_noise = eta > 0
        self._old: Tensor | None = None
        self._h_last: Tensor | None = None
        self._host_h_last = 0.0

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        h, host_h = (sigma / sigma_next).log(), math.log(host_sigma / host_sigma_next)
        out = self._along(x, denoised, h, host_h)
        return _noised(out, h, sigma_next, self.eta, self.s_noise, draw)

    def _along(self, x: Tensor, denoised: Tensor, h: Tensor, host_h: float) -> Tensor:
        """A step of ``h`` in log sigma without its noise; remembers it."""
        reach = (1 + self.eta) * h
        share = -torch.expm1(-reach)
        out = (1 - share) * x + share * denoised
        if self._old is not None:
            cap = max(2 * SECOND_ORDER_CAP, host_ratio(host_h, self._host_h_last))
            over_r = ratio_of(h, self._h_last).clamp(0, cap)
            weight = share / 2 if self.solver_type == "midpoint" else phi_2(reach)
            out = out + weight * over_r * (denoised - self._old)
        self._old, self._h_last, self._host_h_last = denoised, h, host_h
        return out


class ResMultistep(DpmPP2MSde):
    """Res Multistep of ComfyUI and Forge Neo: RES (Zhang et al. 2023, arXiv 2308.02157), order 2.

    Its two-point exponential step is :class:`DpmPP2MSde`'s "heun" without noise, with the same cap.
    Order 2.
    """

    def __init__(self, s_noise: float = 1.0) -> None:
        super().__init__(0.0, s_noise, "heun")

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if draw is not None and host_sigma_next > 0:
            draw()  # the twin draws, and adds nothing of it
        return super().step(x, denoised, sigma, sigma_next, host_sigma, host_sigma_next)


class ResMultistepAncestral(ResMultistep):
    """Res Multistep Ancestral of ComfyUI: :class:`ResMultistep` to sigma_down, and ancestral noise.

    A remembered step is as long as its way to its own sigma_down; the cap is that of
    :class:`DpmPP2M` on the ratio of the two. Order 2 for eta 0.
    """

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        super().__init__(s_noise)
        self.split, self.draws_noise = eta, True

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        down, up = ancestral_split(sigma, sigma_next, self.split)
        ends = (torch.tensor(each, dtype=torch.float64) for each in (host_sigma, host_sigma_next))
        host_down = float(ancestral_split(*ends, self.split)[0])
        # sigma_down is 0 for eta above 1 alone: there the step ends in D, and nobody looks back.
        h = (sigma / torch.where(down > 0, down, sigma)).log()
        host_h = math.log(host_sigma / host_down) if host_down > 0 else 0.0
        out = self._along(x, denoised, h, host_h)
        return torch.where(down > 0, out, denoised) + draw() * self.s_noise * up


class DpmPP3MSde(Rule):
    """DPM++ 3M SDE of k-diffusion.

    Third order where both remembered steps are long enough (:data:`LONGEST_REACH`), second order
    with the cap of :class:`DpmPP2M` elsewhere, first order where the last step stood still. Its
    third term has half the weight of Taylor's, in k-diffusion as here: for eta 0 its error falls
    with order 2.
    """

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise, self.draws_noise = eta, s_noise, eta > 0
        self._past: list[tuple[Tensor, Tensor, float]] = []  # (D, h, the host's h), newest first

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        h, host_h = (sigma / sigma_next).log(), math.log(host_sigma / host_sigma_next)
        reach = (1 + self.eta) * h
        out = torch.exp(-reach) * x - torch.expm1(-reach) * denoised
        if self._past:
            old, h_1, host_1 = self._past[0]
            wanted = host_ratio(host_h, host_1)
            over_r0 = ratio_of(h, h_1)
            capped = over_r0.clamp(0, max(2 * SECOND_ORDER_CAP, wanted))
            first = capped * (denoised - old)
            second = torch.zeros_like(first)
            if len(self._past) > 1:
                older, h_2, host_2 = self._past[1]
                over_r1 = ratio_of(h, h_2)
                third = within_reach(over_r0, wanted) & within_reach(
                    ratio_of(h_1, h_2), host_ratio(host_1, host_2)
                )
                r0, r1 = (torch.where(third, each / h, 1.0) for each in (h_1, h_2))
                d_0, d_1 = over_r0 * (denoised - old), over_r1 * (old - older)
                bend = (d_0 - d_1) / (r0 + r1)
                first = torch.where(third, d_0 + bend * r0, first)
                second = torch.where(third, bend, 0.0)
            out = out + phi_2(reach) * first - phi_3(reach) * second
        self._past = [(denoised, h, host_h), *self._past[:1]]
        return _noised(out, h, sigma_next, self.eta, self.s_noise, draw)


def within_reach(ratio: Tensor, wanted: float) -> Tensor:
    """Whether a step may look back on one that is 1 / ratio as long; 0 stands for a halt."""
    return (ratio > 0) & (ratio <= LONGEST_REACH * max(1.0, wanted))


def phi_2(h: Tensor) -> Tensor:
    """(e^-h - 1) / h + 1, by its series where the difference would cancel; 0 at 0."""
    series = h / 2 - h**2 / 6 + h**3 / 24
    safe = torch.where(h > 0.01, h, 1.0)
    return torch.where(h > 0.01, torch.expm1(-safe) / safe + 1, series)


def phi_3(h: Tensor) -> Tensor:
    """phi_2(h) / h - 1 / 2, by its series where the difference would cancel; 0 at 0."""
    series = -h / 6 + h**2 / 24 - h**3 / 120 + h**4 / 720
    safe = torch.where(h > 0.1, h, 1.0)
    return torch.where(h > 0.1, phi_2(safe) / safe - 0.5, series)


def _noised(x, h, sigma_next, eta, s_noise, draw):
    if not eta:
        return x
    return x + draw() * sigma_next * torch.expm1(-2 * eta * h).neg().clamp(min=0).sqrt() * s_noise
