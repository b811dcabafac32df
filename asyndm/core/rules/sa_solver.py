"""SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams, predicted and corrected."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asyndm.core.rules.base import Rule, host_ratio, ratio_of
from asyndm.core.rules.multistep import within_reach
from asyndm.core.rules.unipc import moments_of, solve_moments

_Past = tuple[Tensor, Tensor, float]  # (D, sigma, the host's sigma) of one step


class SaSolver(Rule):
    """SA-Solver with data prediction on x = x0 + sigma * noise, a network call a step.

    Args:
        tau: how stochastic the SDE is, where the host's scalar next level is from ``start_sigma``
            down to ``end_sigma``; elsewhere 0, the ODE. That one number is for all pixels, and
            noise is drawn where it is above 0.
        s_noise: factor on the noise.
        predictor_order, corrector_order: 1 to 3, 1 to 4: of the polynomial in log sigma.
        last_step: predict the end of a list that ends above 0, as in the paper; False: stay at the
            last call's level, corrected, as ComfyUI's function does.

    Towards the end of a list that ends in 0 the orders fall, as in ComfyUI's function. A pixel's
    orders fall to the number of remembered steps without a halt and, looking back, each at least
    1 / ``LONGEST_REACH`` of the step. For tau 0 and from an exact start the order is 4.
    """

    evaluates_again = False

    def __init__(
        self,
        tau: float = 1.0,
        start_sigma: float = math.inf,
        end_sigma: float = 0.0,
        s_noise: float = 1.0,
        predictor_order: int = 3,
        corrector_order: int = 4,
        last_step: bool = True,
    ) -> None:
        for name, order, most in (
            ("predictor_order", predictor_order, 3),
            ("corrector_order", corrector_order, 4),
        ):
            if order not in range(1, most + 1):
                raise ValueError(f"{name}: {order!r} is not 1 to {most}.")
        self.tau, self.start_sigma, self.end_sigma, self.s_noise = (
            tau, start_sigma, end_sigma, s_noise,
        )  # fmt: skip
        self.predictor_order, self.corrector_order = predictor_order, corrector_order
        self.last_step = last_step
        self.draws_noise = tau > 0 and s_noise > 0
        self._past: list[_Past] = []  # newest first
        self._x: Tensor | None = None  # that the step in the past started from, corrected
        self._tau = 0.0  # of that step
        self._noise: Tensor | float = 0.0  # that it threw in
        self._left, self._falls = 0, False

    def begin(self, sigmas):
        self._left, self._falls = len(sigmas) - 1, sigmas[-1] <= 0

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        order = min(self.corrector_order, len(self._past) + 1)
        order = min(order, self._left) if self._falls else order
        if self._x is not None and (host_sigma_next > 0 or self.evaluates_again):
            corrected = self._towards(sigma, host_sigma, order, denoised)
            x = corrected + self._noise
            if self.evaluates_again:
                denoised = model_at(x, lambda now, after: now)
        self._past = [(denoised, sigma, host_sigma), *self._past[:2]]
        order = min(self.predictor_order, len(self._past))
        order = min(order, self._left - 1) if self._falls else order
        self._x, self._left = x, self._left - 1
        if host_sigma_next <= 0:
            return denoised
        if not (self._left or self.last_step):
            return x
        within = self.start_sigma >= host_sigma_next >= self.end_sigma
        self._tau, self._noise = (self.tau if within else 0.0), 0.0
        out = self._towards(sigma_next, host_sigma_next, order, None)
        if self._tau > 0 and self.s_noise > 0:
            way = self._tau**2 * (sigma / sigma_next).log()
            up = torch.expm1(-2 * way).neg().clamp(min=0).sqrt()
            self._noise = draw() * sigma_next * up * self.s_noise
        return out + self._noise

    def _towards(
        self, sigma_next: Tensor, host_next: float, order: int, ahead: Tensor | None
    ) -> Tensor:
        """From the newest remembered step to ``sigma_next``; ``ahead`` = D there: corrected."""
        now, sigma, host = self._past[0]
        h, host_h = (sigma / sigma_next).log(), math.log(host / host_next)
        reach = (1 + self._tau**2) * h
        share = -torch.expm1(-reach)
        kept = (1 - share) * self._x
        if order == 1:
            return kept + share * (now if ahead is None else ahead)
        moves = h > 0
        length, ones = torch.where(moves, h, 1.0), torch.ones_like(h)
        # Places in steps, from the start of this one: older ones are below 0, its end is at 1.
        places = [] if ahead is None else [ones]
        slopes = [] if ahead is None else [ahead - now]
        moments = moments_of(torch.where(moves, reach, 1.0), ones, order - 1)
        change = torch.zeros_like(now) if ahead is None else moments[0] * slopes[0]
        usable, newer, host_newer = moves, sigma, host
        for old, older, host_older in self._past[1 : order - len(slopes)]:
            gap, host_gap = (older / newer).log(), math.log(host_older / host_newer)
            usable = usable & within_reach(ratio_of(h, gap), host_ratio(host_h, host_gap))
            # Any distinct places keep what is not used finite.
            place = torch.where(usable, -(older / sigma).log() / length, -1.0 - len(places))
            places, slopes = [*places, place], [*slopes, (old - now) / place]
            rhos = solve_moments(places, moments)
            higher = sum(rho * slope for rho, slope in zip(rhos, slopes, strict=True))
            change = torch.where(usable, higher, change)
            newer, host_newer = older, host_older
        return kept + share * now + torch.where(moves, change, 0.0)


class SaSolverPece(SaSolver):
    """SA-Solver that calls the network once more with what was corrected, at the same level."""

    calls = 2
    evaluates_again = True
