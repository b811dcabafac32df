"""Rules of one network call a step and no memory."""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.core.rules.base import Churned, Rule, ancestral_split, euler_step


class Euler(Churned):
    """Euler, Karras et al. 2022 (arXiv 2206.00364), algorithm 2; without churn this is DDIM.

    Order 1.
    """

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        return euler_step(x, denoised, sigma, sigma_next)


class Ddpm(Rule):
    """DDPM = Euler ancestral with eta 1, the paper's sampler, on x = x0 + sigma * noise.

    Ho et al. 2020 (arXiv 2006.11239) in the form of k-diffusion's ``get_ancestral_step``.
    """

    draws_noise = True

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        down, up = ancestral_split(sigma, sigma_next, self.eta)
        x = euler_step(x, denoised, sigma, down)
        return x + draw() * self.s_noise * up if host_sigma_next > 0 else x


class DdpmVp(Ddpm):
    """DDPM, Ho et al. 2020, algorithm 2 with the variance of equation 7, on x / sqrt(alpha).

    The posterior of a step is the ancestral one of eta 1.
    """

    def __init__(self) -> None:
        super().__init__()


class Ddim(Ddpm):
    """DDIM, Song et al. 2020 (arXiv 2010.02502), on x / sqrt(alpha): "ddpm" with eta 0.

    In these latents the paper's sigma_t(eta) is the ancestral split of the same eta, so what is its
    own are the noise levels: :func:`asyndm.core.sigmas.ddim_sigmas`.
    """

    def __init__(self, eta: float = 0.0, s_noise: float = 1.0) -> None:
        super().__init__(eta, s_noise)
        self.draws_noise = eta > 0

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if not self.eta:
            if draw is not None:
                draw()  # the hosts' own function draws, and adds nothing of it
            return euler_step(x, denoised, sigma, sigma_next)
        return super().step(x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw)


class FlowDdpm(Rule):
    """Ancestral steps on x = (1 - sigma) * x0 + sigma * noise, with eta as in the flow samplers.

    Down to sigma_down = s' * (1 + eta * (s' / s - 1)); then x is scaled so that x0 has its share
    1 - s' again, and noise fills the variance up to s'^2.
    """

    draws_noise = True

    def __init__(self, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        down = down_on_flow(sigma, sigma_next, self.eta)
        x = euler_step(x, denoised, sigma, down)
        if host_sigma_next <= 0:
            return x
        return renoised_on_flow(x, down, sigma_next, draw() * self.s_noise)


def down_on_flow(sigma: Tensor, sigma_next: Tensor, eta: float) -> Tensor:
    """The level an ancestral step goes down to before noise is added."""
    return sigma_next * (1 + eta * (sigma_next / sigma - 1))


def renoised_on_flow(x: Tensor, down: Tensor, sigma_next: Tensor, noise: Tensor) -> Tensor:
    """From the level ``down`` up to ``sigma_next``, x0's share and the variance as they must be."""
    # A pixel that stands still at sigma = 1 has 0 / 0 here: nothing is left to rescale.
    room = 1 - down
    scale = torch.where(room > 0, (1 - sigma_next) / room.clamp(min=1e-12), 1.0)
    up = (sigma_next**2 - (down * scale) ** 2).clamp(min=0).sqrt()
    return scale * x + noise * up


class Lcm(Rule):
    """LCM, Luo et al. 2023 (arXiv 2310.04378): D, noised anew to the next level.

    Its boundary scalings and rounded levels belong to the model:
    :class:`asyndm.core.parametrisation.LcmParametrisation`.
    """

    draws_noise = True

    def __init__(self, flow: bool = False) -> None:
        self.flow = flow

    def step(
        self, x, denoised, sigma, sigma_next, host_sigma, host_sigma_next, draw=None, model_at=None
    ):
        if host_sigma_next <= 0:
            return denoised
        kept = (1 - sigma_next) * denoised if self.flow else denoised
        return kept + sigma_next * draw()
