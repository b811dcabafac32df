"""Adams-Bashforth rules: dx / dsigma = (x - D) / sigma, continued through remembered slopes.

They differ in the weights alone. The order of a pixel's step falls to the number of remembered
steps that may be used: none before a halt, and none that is too short for the step to come (see
``LONGEST_REACH``). All solve the probability flow, which is one for both kinds of latents.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asyndm.core.rules.base import Rule, host_ratio, ratio_of
from asyndm.core.rules.multistep import LONGEST_REACH, within_reach

# How far the growth of three remembered steps may be from even: :class:`IpndmV`, fourth order.
UNEVEN = 0.1


class AdamsBashforth(Rule):
    """What they share.

    Args:
        order: the highest, 1 to 4; a step remembers one slope less.
        lower_order_final: the step to 0 is of order 1, whose end is D.

    Raises:
        ValueError: an order that has no weights here.
    """

    def __init__(self, order: int, lower_order_final: bool = False) -> None:
        if order not in (1, 2, 3, 4):
            raise ValueError(f"{self._order_name}: {order!r} is not 1, 2, 3 or 4.")
        self.order, self.lower_order_final = order, lower_order_final
        self._past: list[tuple[Tensor, Tensor, float]] = []  # (d, sigma, host's), newest first

    _order_name = "max_order"  # as the twin calls it

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        d = (x - denoised) / sigma
        self._past = [(d, sigma, host_sigma), *self._past[: self.order - 1]]
        change = d * (sigma_next - sigma)
        if host_sigma_next <= 0 and self.lower_order_final:
            return x + change
        levels, hosts = [sigma_next], [host_sigma_next]  # forwards to backwards
        levels += [past[1] for past in self._past]
        hosts += [past[2] for past in self._past]
        usable = torch.ones_like(sigma, dtype=torch.bool)
        for order in range(2, len(self._past) + 1):
            usable = usable & self._may(levels[: order + 1], hosts[: order + 1])
            # Steps of any other length keep what is not used finite.
            nodes = [
                torch.where(usable, node, sigma + float(j))
                for j, node in enumerate(levels[1 : order + 1])
            ]
            weights = self._weights(nodes, sigma_next)
            higher = sum(w * past[0] for w, past in zip(weights, self._past, strict=False))
            change = torch.where(usable, higher, change)
        return x + change

    def _may(self, levels: list[Tensor], hosts: list[float]) -> Tensor:
        """Whether the oldest of ``levels`` (the next, this, the one before, ...) may be used."""
        return within_reach(*self._ratios(levels, hosts))

    @staticmethod
    def _ratios(levels: list[Tensor], hosts: list[float]) -> tuple[Tensor, float]:
        """The step to come in units of the oldest one, of the pixels and of the host."""
        step, last = levels[1] - levels[0], levels[-1] - levels[-2]
        return ratio_of(step, last), host_ratio(hosts[1] - hosts[0], hosts[-1] - hosts[-2])

    def _weights(self, nodes: list[Tensor], end: Tensor) -> list[Tensor]:
        """Of the slopes at ``nodes`` (this level first), for a step to ``end``: they sum to it."""
        raise NotImplementedError


class Lms(AdamsBashforth):
    """LMS of k-diffusion: Adams-Bashforth in sigma, to order 4, on each pixel's own noise levels.

    k-diffusion integrates the Lagrange polynomials by quadrature; here they are integrated in
    closed form. The order falls to the number of remembered steps without a halt and, looking back,
    each at least 1 / :data:`LONGEST_REACH` of the step to come. The order of a whole run is 2,
    because its first steps have none to remember; from an exact start it is the formula's.
    """

    _order_name = "order"

    def __init__(self, order: int = 4, lower_order_final: bool = False) -> None:
        super().__init__(order, lower_order_final)

    def _weights(self, nodes, end):
        return lagrange_integrals([node - nodes[0] for node in nodes], end - nodes[0])


class Ipndm(AdamsBashforth):
    """iPNDM (Zhang and Chen 2022, arXiv 2204.13902): the weights of equal steps.

    They extrapolate as if the steps were alike, so the order falls, besides where all rules' does,
    where a remembered step is longer than :data:`LONGEST_REACH` of the step to come (or than in the
    host's own list). Order 2, as its twin: steps are never quite alike.
    """

    def __init__(self, max_order: int = 4, lower_order_final: bool = False) -> None:
        super().__init__(max_order, lower_order_final)

    def _may(self, levels, hosts):
        ratio, wanted = self._ratios(levels, hosts)
        return within_reach(ratio, wanted) & (ratio * LONGEST_REACH >= min(1.0, wanted))

    def _weights(self, nodes, end):
        return [weight * (end - nodes[0]) for weight in EQUAL_STEPS[len(nodes)]]


# Adams and Bashforth 1883: of this slope, the one before, ...
EQUAL_STEPS = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class IpndmV(AdamsBashforth):
    """iPNDM on steps of any length, with the weights of its authors' code (diff-sampler).

    These are Adams and Bashforth's for ``max_order`` 2, nearly so for 3; those of fourth order sum
    to 1 on steps of even growth alone. So the fourth is used where the growth of a pixel's
    remembered steps is even to :data:`UNEVEN` (or to :data:`LONGEST_REACH` times that of the host's
    own list): elsewhere a picture would come out brighter or darker. Order 2, or 3 for
    ``max_order`` 3 from an exact start.
    """

    def __init__(self, max_order: int = 4, lower_order_final: bool = False) -> None:
        super().__init__(max_order, lower_order_final)

    def _may(self, levels, hosts):
        may = super()._may(levels, hosts)
        if len(levels) < 5:
            return may
        growth = [
            ratio_of(levels[j + 1] - levels[j], levels[j + 2] - levels[j + 1]) for j in (1, 2)
        ]
        host = [host_ratio(hosts[j + 1] - hosts[j], hosts[j + 2] - hosts[j + 1]) for j in (1, 2)]
        bound = max(UNEVEN, LONGEST_REACH * abs(host[0] / host[1] - 1) if host[1] else 0.0)
        return may & ((growth[0] - growth[1]).abs() <= bound * growth[1])

    def _weights(self, nodes, end):
        step = end - nodes[0]
        gaps = [now - older for older, now in zip(nodes[1:], nodes, strict=False)]
        h = step / gaps[0]  # the steps in units of the one before: h, 1, and the older ones'
        if len(nodes) == 2:
            return [step * (1 + h / 2), step * -h / 2]
        a = gaps[1] / gaps[0]
        # What of the second difference, divided by its own steps, is added.
        third = 0.5 - h**2 / (6 * (1 + a))
        weights = [1 + h / 2 + third, -h / 2 - third * (1 + 1 / a), third / a]
        if len(nodes) == 4:
            b = gaps[2] / gaps[0]
            bend = (1 + a) / (a * (a + b))
            fourth = 0.5 - h / (6 * (h + 1)) + (1 - h / (2 * (h + 1))) * h / (6 * (h + 1 + a))
            fourth = fourth * h * (h + 1) * (h + 1 + a) / ((1 + a) * (1 + a + b))
            weights[0] = weights[0] + fourth
            weights[1] = weights[1] - fourth * (1 + 1 / a + bend)
            weights[2] = weights[2] + fourth * (1 / a + bend * (1 + a / b))
            weights.append(-fourth * bend / a)
        return [step * weight for weight in weights]


class Deis(AdamsBashforth):
    """DEIS (Zhang and Chen 2022, arXiv 2204.13902), "tAB": slopes are polynomials in time.

    The time is that of a variance preserving process between the noise levels .002 and 80, as in
    the twin; its weights are integrals over sigma, taken here by Gauss and Legendre in log sigma.
    The step to 0 is of order 1.
    """

    def __init__(self, max_order: int = 3) -> None:
        super().__init__(max_order, lower_order_final=True)

    def _may(self, levels, hosts):
        times = vp_time(torch.tensor(hosts, dtype=torch.float64)).tolist()
        may = super()._may([vp_time(level) for level in levels], times)
        return may & (levels[0] > 0)

    def _weights(self, nodes, end):
        start, times = nodes[0], [vp_time(node) for node in nodes]
        # At 0 these weights are not used.
        reach = (torch.where(end > 0, end, start) / start).log()
        weights = [torch.zeros_like(start) for _ in nodes]
        for place, share in zip(*(each.tolist() for each in GAUSS), strict=True):
            sigma = start * (reach * (place + 1) / 2).exp()
            t = vp_time(sigma)
            for j, node in enumerate(times):
                others = [(t - other) / (node - other) for k, other in enumerate(times) if k != j]
                factor = others[0]
                for other in others[1:]:
                    factor = factor * other
                weights[j] = weights[j] + share / 2 * reach * sigma * factor
        return weights


GAUSS = np.polynomial.legendre.leggauss(8)
# Of the process: its beta is linear in time, and sigma is .002 at time .001 and 80 at 1.
_LOW, _HIGH = np.log1p(0.002**2), np.log1p(80.0**2)
BETA_SLOPE = 2 * (_LOW / 1e-3 - _HIGH) / (1e-3 - 1)
BETA_MIN = _HIGH - BETA_SLOPE / 2


def vp_time(sigma: Tensor) -> Tensor:
    """The time of noise levels in the variance preserving process of the DEIS authors' tables."""
    logs = torch.log1p(sigma**2)
    return ((BETA_MIN**2 + 2 * BETA_SLOPE * logs).sqrt() - BETA_MIN) / BETA_SLOPE


def lagrange_integrals(nodes: list[Tensor], end: Tensor) -> list[Tensor]:
    """The integral from 0 to ``end`` of each Lagrange polynomial through ``nodes``, per element."""
    integrals = []
    for j, node in enumerate(nodes):
        coefficients = [torch.ones_like(node)]  # of the product, lowest power first
        scale = torch.ones_like(node)
        for k, other in enumerate(nodes):
            if k == j:
                continue
            shifted = [torch.zeros_like(node), *coefficients]
            coefficients = [
                up - other * low
                for up, low in zip(shifted, [*coefficients, torch.zeros_like(node)], strict=True)
            ]
            scale = scale * (node - other)
        total = sum(c * end ** (power + 1) / (power + 1) for power, c in enumerate(coefficients))
        integrals.append(total / scale)
    return integrals
