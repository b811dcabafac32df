"""Rules of x0 + sigma * noise on the latents of rectified flow, (1 - sigma) x0 + sigma * noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from asyndm.core.rules.base import Between, Rule

Levels = TypeVar("Levels", float, Tensor)

_LEVELS = ("start_sigma", "end_sigma")  # options that are noise levels
# Above it a level is taken for it: at 1 nothing of x0 is left, and the ratio would be infinite.
TOP = 1 - 1e-6


class OnFlow(Rule):
    """Any rule that draws no churn, in other units: of x / (1 - sigma) and sigma / (1 - sigma).

    Both name the same half log-SNR (Kingma et al. 2021, arXiv 2107.00630), in which
    DPM-Solver++, ER-SDE, SEEDS and SA-Solver are written, so a step is the rule's own.

    Args:
        rule: for x = x0 + sigma * noise.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.draws_noise, self.calls, self.s_noise = rule.draws_noise, rule.calls, rule.s_noise

    def begin(self, sigmas):
        self.rule.begin([ratio_of_flow(sigma) for sigma in sigmas])

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        def drawn(start: Between | None = None, end: Between | None = None) -> Tensor:
            return draw(start and _on_flow(start), end and _on_flow(end))

        def asked(inside: Tensor, between: Between) -> Tensor:
            between = _on_flow(between)
            return model_at(inside * (1 - between(sigma, sigma_next)), between)

        out = self.rule.step(
            x / (1 - sigma.clamp(max=TOP)), denoised, ratio_of_flow(sigma),
            ratio_of_flow(sigma_next), ratio_of_flow(host_sigma), ratio_of_flow(host_sigma_next),
            draw and drawn, model_at and asked,
        )  # fmt: skip
        return out * (1 - sigma_next)


@dataclass(frozen=True)
class MakeOnFlow:
    """Makes a rule for rectified flow of what makes it for x0 + sigma * noise, with its options."""

    make: Callable[..., Rule]

    def __call__(self, **options: Any) -> OnFlow:
        levels = {name: ratio_of_flow(options[name]) for name in _LEVELS if name in options}
        return OnFlow(self.make(**{**options, **levels}))


def ratio_of_flow(sigma: Levels) -> Levels:
    """sigma / (1 - sigma): the noise level of x / (1 - sigma)."""
    sigma = sigma.clamp(max=TOP) if isinstance(sigma, Tensor) else min(sigma, TOP)
    return sigma / (1 - sigma)


def _on_flow(between: Between) -> Between:
    """A level inside a step, of flow's levels."""

    def inside(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        level = between(ratio_of_flow(sigma), ratio_of_flow(sigma_next))
        return level / (1 + level)

    return inside
