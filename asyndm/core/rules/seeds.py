"""SEEDS (Gonzalez et al. 2023, arXiv 2305.14267): exponential Runge-Kutta steps of the SDE."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from asyndm.core.rules.base import Between, Rule, part_way
from asyndm.core.rules.multistep import phi_2


class _Seeds(Rule):
    """Data prediction on x = x0 + sigma * noise; ``parts`` = where the inner calls are.

    Noise is drawn for the ways between the calls, one draw each of the host's intervals, before the
    first inner call; every stage carries on what the stage before was given, so that the whole is
    one path of the SDE.
    """

    parts: tuple[float, ...]  # of the step, in log sigma

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise
        self.draws_noise = eta > 0 and s_noise > 0

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        h = (sigma / sigma_next).log()
        inner: list[Between] = [partial(part_way, part=part) for part in self.parts]
        ways = zip([None, *inner], [*inner, None], strict=True)
        fresh = [draw(*way) for way in ways] if self.draws_noise else []
        ahead, noise, before = denoised, torch.zeros_like(x), 0.0
        for stage, part in enumerate((*self.parts, 1.0)):
            reach = part * (1 + self.eta) * h
            share = -torch.expm1(-reach)
            out = (1 - share) * x + share * denoised
            if stage:
                out = out + self._weight(stage, reach, share) * (ahead - denoised)
            if fresh:
                level = inner[stage](sigma, sigma_next) if part < 1 else sigma_next
                way = (part - before) * self.eta * h
                up = torch.expm1(-2 * way).neg().clamp(min=0).sqrt()
                noise = torch.exp(-way) * noise + up * fresh[stage]
                out = out + level * noise * self.s_noise
            if part < 1:
                ahead, before = model_at(out, inner[stage]), part
        return out

    def _weight(self, stage: int, reach: Tensor, share: Tensor) -> Tensor:
        """Of the newest D, less the first one's, in a stage behind the first inner call."""
        raise NotImplementedError


class Seeds2(_Seeds):
    """SEEDS-2, with a call half way in log sigma. Order 2 for eta 0."""

    calls = 2
    parts = (0.5,)

    def _weight(self, stage, reach, share):
        return share


class Seeds3(_Seeds):
    """SEEDS-3, with calls at a third and two thirds of the way in log sigma. Order 3 for eta 0."""

    calls = 3
    parts = (1 / 3, 2 / 3)

    def _weight(self, stage, reach, share):
        return phi_2(reach) * (2.0 if stage == 1 else 1.5)
