"""Rules with a second network call inside the step.

The director moves the clocks once a step, behind the first call; the inner call is at noise levels
between a pixel's two. Where the host's own step ends at 0 there is one call, as in the twin. A
pixel that stands still needs no care: its inner level is its own, and both halves cancel.
"""

from __future__ import annotations

import torch

from asyndm.core.rules.base import Churned, Rule, ancestral_split, euler_step, half_way
from asyndm.core.rules.single import down_on_flow, renoised_on_flow


class Heun(Churned):
    """Heun, Karras et al. 2022 (arXiv 2206.00364), algorithm 2. Order 2."""

    calls = 2

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return euler_step(x, denoised, sigma, sigma_next)
        d = (x - denoised) / sigma
        ahead = x + d * (sigma_next - sigma)
        d_ahead = (ahead - model_at(ahead, lambda now, after: after)) / sigma_next
        return x + (d + d_ahead) / 2 * (sigma_next - sigma)


class Dpm2(Churned):
    """DPM2 of k-diffusion: DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927) in Karras' form.

    Order 2.
    """

    calls = 2

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return euler_step(x, denoised, sigma, sigma_next)
        middle = half_way(sigma, sigma_next)
        inside = euler_step(x, denoised, sigma, middle)
        d = (inside - model_at(inside, half_way)) / middle
        return x + d * (sigma_next - sigma)


class _Ancestral(Rule):
    """A step down to half way before sigma_down, and noise up to the next level."""

    draws_noise = True
    calls = 2
    noise_behind_euler = True  # the twin adds noise where sigma_down is 0, too

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def _middle(self, sigma, sigma_next):
        down, _ = ancestral_split(sigma, sigma_next, self.eta)
        # sigma_down is 0 for eta above 1 alone: no middle then, and none is used.
        return torch.where(down > 0, half_way(sigma, torch.where(down > 0, down, sigma)), sigma)

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        euler = euler_step(x, denoised, sigma, down)
        ends = (torch.tensor(each, dtype=torch.float64) for each in (host_sigma, host_sigma_next))
        host_down = float(ancestral_split(*ends, self.eta)[0]) if host_sigma_next > 0 else 0.0
        if host_down > 0:
            middle = self._middle(sigma, sigma_next)
            inside = euler_step(x, denoised, sigma, middle)
            second = self._second(x, model_at(inside, self._middle), inside, sigma, middle, down)
            euler = torch.where(down > 0, second, euler)
        if host_sigma_next <= 0 or not (host_down > 0 or self.noise_behind_euler):
            return euler
        if not self.noise_behind_euler:
            up = torch.where(down > 0, up, 0.0)
        return euler + draw() * self.s_noise * up


class Dpm2Ancestral(_Ancestral):
    """DPM2 a of k-diffusion: :class:`Dpm2` down to sigma_down, and ancestral noise."""

    noise_behind_euler = False

    @staticmethod
    def _second(x, denoised, inside, sigma, middle, down):
        return x + (inside - denoised) / middle * (down - sigma)


class FlowDpm2Ancestral(Rule):
    """DPM2 a on (1 - sigma) x0 + sigma noise: :class:`Dpm2` to ``FlowDdpm``'s level, and noise.

    As Forge's function has it for Flux.
    """

    draws_noise = True
    calls = 2

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def _middle(self, sigma, sigma_next):
        return half_way(sigma, down_on_flow(sigma, sigma_next, self.eta))

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return euler_step(x, denoised, sigma, sigma_next)
        down = down_on_flow(sigma, sigma_next, self.eta)
        middle = half_way(sigma, down)
        inside = euler_step(x, denoised, sigma, middle)
        d = (inside - model_at(inside, self._middle)) / middle
        x = x + d * (down - sigma)
        return renoised_on_flow(x, down, sigma_next, draw() * self.s_noise)


class DpmPP2SAncestral(_Ancestral):
    """DPM++ 2S a: DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095), and ancestral noise."""

    @staticmethod
    def _second(x, denoised, inside, sigma, middle, down):
        return euler_step(x, denoised, sigma, down)


class DpmPPSde(Rule):
    """DPM++ SDE of k-diffusion: a stochastic DPM-Solver++ (arXiv 2211.01095) step.

    Args:
        r: where in the step, in log sigma, the inner call is.

    Two draws a step, for the way to the inner level and for the whole: each is the host's own for
    its interval, so they keep the host's correlation.
    """

    draws_noise = True
    calls = 2

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5) -> None:
        self.eta, self.s_noise, self.r = eta, s_noise, r

    # Written as k-diffusion writes them: a Brownian tree tells neighbouring floats apart.

    def _middle(self, sigma, sigma_next):
        t, t_next = sigma.log().neg(), sigma_next.log().neg()
        return (t + (t_next - t) * self.r).neg().exp()

    @staticmethod
    def _start(sigma, sigma_next):
        return sigma.log().neg().neg().exp()

    @staticmethod
    def _end(sigma, sigma_next):
        return sigma_next.log().neg().neg().exp()

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return euler_step(x, denoised, sigma, sigma_next)
        middle = self._middle(sigma, sigma_next)
        down, up = ancestral_split(sigma, middle, self.eta)
        inside = euler_step(x, denoised, sigma, down)
        inside = inside + draw(self._start, self._middle) * self.s_noise * up
        part = 1 / (2 * self.r)
        target = (1 - part) * denoised + part * model_at(inside, self._middle)
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        x = euler_step(x, target, sigma, down)
        return x + draw(self._start, self._end) * self.s_noise * up
