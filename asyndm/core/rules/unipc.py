"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a multistep predictor, corrected in the next step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asyndm.core.rules.base import SECOND_ORDER_CAP, Rule, host_ratio, ratio_of
from asyndm.core.rules.multistep import within_reach

VARIANTS = ("bh1", "bh2")


class UniPC(Rule):
    """UniPC with data prediction, B(h) = h ("bh1") or e^h - 1 ("bh2"), order 1 to 3.

    Step i predicts x at the next level; its D there corrects that x before the next prediction, so
    there is one network call a step. At the end of the list the order falls to 1, as in the
    authors' ``lower_order_final``. Order 3 falls to 2 where a pixel's ratios are degenerate (a
    remembered step is too short, see ``LONGEST_REACH``); order 2 has DPM++ 2M's cap on the step's
    ratio, and falls to 1 where the pixel stood still.

    The corrector raises the order by one: 2 for order 1; 4 for order 3 from an exact start and
    without ``lower_order_final`` (a whole run starts and ends in steps of order 1, and has 2); 3
    for order 2 on equal steps, and 2 for pixels whose pace rises, where the cap acts.
    """

    def __init__(
        self, variant: str = "bh1", order: int = 3, lower_order_final: bool = True
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant: {variant!r} is none of {', '.join(VARIANTS)}.")
        if order not in (1, 2, 3):
            raise ValueError(f"order: {order!r} is not 1, 2 or 3.")
        self.variant, self.order, self.lower_order_final = variant, order, lower_order_final
        self._past: list[tuple[Tensor, Tensor, float]] = []  # (D, sigma, host's), newest first
        self._x: Tensor | None = None  # that the step in the past started from, corrected
        self._used = 0  # its order
        self._left = math.inf

    def begin(self, sigmas):
        self._left = len(sigmas) - 1

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if self._x is not None:
            x = self._towards(sigma, host_sigma, self._used, denoised)
        self._past = [(denoised, sigma, host_sigma), *self._past[: self.order - 1]]
        self._used = min(self.order, len(self._past))
        if self.lower_order_final:
            self._used = min(self._used, self._left)
        self._left, self._x = self._left - 1, x
        if host_sigma_next <= 0:
            return denoised
        return self._towards(sigma_next, host_sigma_next, self._used, None)

    def _towards(
        self, sigma_next: Tensor, host_next: float, order: int, ahead: Tensor | None
    ) -> Tensor:
        """From the newest remembered step to ``sigma_next``; ``ahead`` = D there: corrected."""
        now, sigma, host = self._past[0]
        h, host_h = (sigma / sigma_next).log(), math.log(host / host_next)
        share = -torch.expm1(-h)
        b = h if self.variant == "bh1" else share
        # By orders, each where it may be used: the sum of rho * (D of a remembered step - D now).
        coming = None if ahead is None else ahead - now
        change = torch.zeros_like(now) if coming is None else coming / 2
        for each in range(2, order + 1):
            change = self._order(each, h, host_h, b, coming, change)
        # h = 0: nothing moves, whatever the sum.
        return (1 - share) * self._x + share * now + b * torch.where(h > 0, change, 0.0)

    def _order(self, order, h, host_h, b, coming, lower):
        """The sum of this order where the pixel's steps allow it, else ``lower``."""
        now, sigma, host = self._past[0]
        back, differences, usable = [], [], torch.ones_like(sigma, dtype=torch.bool)
        newer, host_newer = sigma, host
        for j, (old, older, host_older) in enumerate(self._past[1:order]):
            gap, host_gap = (older / newer).log(), math.log(host_older / host_newer)
            if order == 2:
                # The cap lengthens the remembered step; a halt makes the order fall.
                cap = max(2 * SECOND_ORDER_CAP, host_ratio(host_h, host_gap))
                ratio = ratio_of(h, gap).clamp(0, cap)
                usable = usable & (ratio > 0)
                gap = h / torch.where(usable, ratio, 1.0)
            else:
                usable = usable & within_reach(ratio_of(h, gap), host_ratio(host_h, host_gap))
            span = gap if not back else gap - back[-1] * h
            back.append(torch.where(usable, -span / h, -1.0 - j))
            differences.append((old - now) / back[-1])
            newer, host_newer = older, host_older
        # The authors' b_i / B(h): of phi_1, phi_2, ... at -h.
        moments = moments_of(torch.where(usable, h, 1.0), torch.where(usable, b, 1.0), order)
        if coming is None and order == 2:
            rhos = [torch.full_like(h, 0.5)]  # the authors' simplification
        else:
            nodes = back if coming is None else [*back, torch.ones_like(h)]
            rhos = solve_moments(nodes, moments)
        terms = differences if coming is None else [*differences, coming]
        total = sum(rho * term for rho, term in zip(rhos, terms, strict=True))
        return torch.where(usable, total, lower)


def moments_of(h: Tensor, b: Tensor, count: int) -> list[Tensor]:
    """The right hand sides k! * phi_{k+1}(-h) * h / B, k = 1 .. count, with b the size of B(h).

    The authors' recurrence cancels for short steps: there the series is summed.
    """
    moments, phi = [], torch.expm1(-h) / -h - 1
    for k in range(1, count + 1):
        series = sum((-h) ** j / math.factorial(j + k) for j in range(1, 12))
        moments.append(torch.where(h < 1, series, phi) * math.factorial(k) / -b)
        phi = phi / -h - 1 / math.factorial(k + 1)
    return moments


def solve_moments(nodes: list[Tensor], moments: list[Tensor]) -> list[Tensor]:
    """rho with sum of rho_j * node_j^(k-1) = moment_k for every k: Vandermonde, in closed form."""
    rhos = []
    for j, node in enumerate(nodes):
        # The Lagrange polynomial of the node, applied to the moments in place of the powers.
        others = [other for k, other in enumerate(nodes) if k != j]
        if not others:
            rhos.append(moments[0])
        elif len(others) == 1:
            rhos.append((moments[1] - others[0] * moments[0]) / (node - others[0]))
        else:
            p, q = others
            top = moments[2] - (p + q) * moments[1] + p * q * moments[0]
            rhos.append(top / ((node - p) * (node - q)))
    return rhos
