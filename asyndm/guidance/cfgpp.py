"""CFG++ (Chung et al. 2024, arXiv 2406.08070, ICLR 2025): guided by lambda, renoised unguided.

D = D_u + lambda (D_c - D_u) is where the step leads, and the noise it keeps is that of D_u. In an
Euler, DDIM or ancestral step this *is* CFG with w = lambda / (1 - sigma_down / sigma), for every
pixel of its own. For flow models the unconditional *noise* (x - (1 - s) D_u) / s is kept, so that
w = lambda (1 - s_down) / (1 - s_down / s).

Two forms: the rules of this file, exact at every pixel's noise level; and :class:`ByWeight`, the
w of the host's own step for the whole image, which any sampler can take. They are one where all
pixels share the host's clock. A pixel whose clock stands still gets lambda * (D_c - D_u) in every
step by the first, and nothing special by the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from asyndm.core.rules.base import Churned, Rule, ancestral_split
from asyndm.core.rules.multistep import DpmPP2M
from asyndm.core.settings import SettingsError
from asyndm.guidance.base import Guess, Guidance

# (w of every pixel) -> None, told after each step
Weighed = Callable[[Tensor], None]


class CfgPP(Guidance):
    """D_u + lambda (D_c - D_u), for a rule of :func:`renoising_rule`.

    Args:
        strength: lambda.
    """

    needs_uncond = True

    def __init__(self, strength: float = 0.6) -> None:
        self.strength = strength

    def combine(self, guess: Guess) -> Tensor:
        if guess.uncond is None:
            return guess.cond
        return guess.uncond.lerp(guess.cond, self.strength)


class ByWeight(Guidance):
    """CFG with the w that makes the host's own step CFG++'s.

    Args:
        strength: lambda.
        eta: noise of the sampler's ancestral step, 0 for one without.
        flow: of the model.
    """

    needs_uncond = True

    def __init__(self, strength: float = 0.6, eta: float = 0.0, flow: bool = False) -> None:
        self.strength, self.eta, self.flow = strength, eta, flow
        self._host: list[float] = []

    def begin(self, host_sigmas: list[float]) -> None:
        self._host = list(host_sigmas)

    def weight(self, step: int) -> float:
        """w of the host's own step; 1 for one that leads nowhere, which no guidance changes."""
        step = min(step, len(self._host) - 2)
        pair = (torch.tensor(each, dtype=torch.float64) for each in self._host[step : step + 2])
        sigma, after = pair
        down = step_down(sigma, after, self.eta, self.flow)
        weight = float(weight_of(self.strength, sigma, down, self.flow))
        return weight if math.isfinite(weight) else 1.0

    def combine(self, guess: Guess) -> Tensor:
        if guess.uncond is None:
            return guess.cond
        return guess.uncond.lerp(guess.cond, self.weight(guess.step))


def step_down(sigma: Tensor, after: Tensor, eta: float, flow: bool) -> Tensor:
    """The noise level an ancestral step leads to before fresh noise; ``after`` where eta is 0."""
    if not eta:
        return after
    if flow:
        return after * (1 + eta * (after / sigma - 1))
    return ancestral_split(sigma, after, eta)[0]


def weight_of(strength: float, sigma: Tensor, down: Tensor, flow: bool) -> Tensor:
    """The w with which a CFG step from ``sigma`` to ``down`` is CFG++'s; infinite at a halt."""
    return strength * (1 - down if flow else 1.0) / (1 - down / sigma)


class _Renoising(Rule):
    needs_uncond = True

    def __init__(self, strength: float, weighed: Weighed | None) -> None:
        self._strength, self._weighed = strength, weighed

    def _tell(self, weight: Tensor) -> None:
        if self._weighed is not None:
            self._weighed(weight)


class RenoisedAncestral(_Renoising):
    """Euler ancestral (DDPM), and with eta 0 DDIM.

    Args:
        strength: lambda.
        weighed: told the w of plain CFG that would have done the same, a map, step by step.
        eta, s_noise: as in :class:`asyndm.core.rules.single.Ddpm`.
        flow: of the model.
        draws: noise is drawn (and thrown away) where eta is 0, as the host's twin does.
    """

    def __init__(
        self,
        strength: float,
        weighed: Weighed | None = None,
        eta: float = 1.0,
        s_noise: float = 1.0,
        flow: bool = False,
        draws: bool = False,
    ) -> None:
        super().__init__(strength, weighed)
        self.eta, self.s_noise, self.flow, self._draws = eta, s_noise, flow, draws
        self.draws_noise = eta > 0

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        down = step_down(sigma, sigma_next, self.eta, self.flow)
        self._tell(weight_of(self._strength, sigma, down, self.flow))
        if self.flow:
            noise = (x - (1 - sigma) * self.uncond) / sigma
            x = (1 - down) * denoised + down * noise
        else:
            x = denoised + down * (x - self.uncond) / sigma
        if not self.eta:
            if self._draws and draw is not None:
                draw()
            return x
        if host_sigma_next <= 0:
            return x
        if not self.flow:
            return x + draw() * self.s_noise * ancestral_split(sigma, sigma_next, self.eta)[1]
        room = 1 - down
        scale = torch.where(room > 0, (1 - sigma_next) / room.clamp(min=1e-12), 1.0)
        up = (sigma_next**2 - (down * scale) ** 2).clamp(min=0).sqrt()
        return scale * x + draw() * self.s_noise * up


class RenoisedEuler(Churned):
    """Euler with the churn of k-diffusion."""

    needs_uncond = True

    def __init__(
        self, strength: float, weighed: Weighed | None = None, flow: bool = False, **churn: float
    ) -> None:
        super().__init__(**churn)
        self._step = RenoisedAncestral(strength, weighed, eta=0.0, flow=flow)

    def step(self, *args, **kwargs):
        self._step.uncond = self.uncond
        return self._step.step(*args, **kwargs)


class Renoised2M(DpmPP2M):
    """DPM++ 2M; its first and last steps are of first order, as in the twin.

    x' = rho x + (1 - rho) (D_u + a (D_u - D_u before)) + lambda (D_c - D_u) (1 + a (1 - rho)).
    """

    needs_uncond = True

    def __init__(self, strength: float, weighed: Weighed | None = None) -> None:
        super().__init__()
        self._strength, self._weighed = strength, weighed

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        ratio = sigma_next / sigma
        second = torch.zeros_like(sigma)
        if self._old_denoised is not None and host_sigma_next > 0:
            second = self._second_order_weight(-ratio.log(), host_sigma, host_sigma_next)
        uncond = super().step(
            x, self.uncond, sigma, sigma_next, host_sigma, host_sigma_next, draw, model_at
        )
        more = 1 + second * (1 - ratio)
        if self._weighed is not None:
            self._weighed(self._strength * more / (1 - ratio))
        return uncond + (denoised - self.uncond) * more


_FORMS = ("ddpm", "euler", "ddim", "dpmpp_2m")


def renoising_rule(
    name: str, strength: float, weighed: Weighed | None, flow: bool = False, **options: object
) -> Rule:
    """CFG++'s form of a rule.

    Raises:
        SettingsError: it has none.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if name not in _FORMS or (flow and name in ("ddim", "dpmpp_2m")):
        raise SettingsError(
            "guidance: cfg++ has forms of Euler, Euler a (DDPM), DDIM and DPM++ 2M"
            f"{' (flow models: of Euler and Euler a)' if flow else ''}; with this sampler choose "
            "cfg++w, which any sampler can take."
        )
    if name == "dpmpp_2m":
        return Renoised2M(strength, weighed)
    if name == "euler":
        known = ("s_churn", "s_tmin", "s_tmax", "s_noise")
        churn = {key: value for key, value in options.items() if key in known}
        return RenoisedEuler(strength, weighed, flow=flow, **churn)
    given = {key: value for key, value in options.items() if key in ("eta", "s_noise")}
    if name == "ddim":
        given = {"eta": 0.0, **given}
    return RenoisedAncestral(strength, weighed, flow=flow, draws=name == "ddim", **given)
