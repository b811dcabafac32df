"""Stands for ``modules/sd_samplers_lcm.py``: 50 trained timesteps, and boundary scalings."""

from __future__ import annotations

from typing import Any

import k_diffusion.external
import k_diffusion.sampling
import torch
from torch import Tensor

from modules import shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser
from modules.sd_samplers_kdiffusion import KDiffusionSampler


def sample_lcm(
    model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None
):  # fmt: skip
    draw = noise_sampler or k_diffusion.sampling.default_noise_sampler(x)
    for i, (now, after) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        x = model(x, now * x.new_ones(len(x)), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": now, "sigma_hat": now, "denoised": x})
        if after > 0:
            x = x + after * draw(now, after)
    return x


class LCMCompVisDenoiser(k_diffusion.external.DiscreteEpsDDPMDenoiser):
    EVERY = 20

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.alphas_cumprod[self.EVERY - 1 :: self.EVERY], quantize=None)

    def sigma_to_t(self, sigma: Tensor, quantize: Any = None) -> Tensor:
        away = (sigma.log() - self.log_sigmas[:, None]).abs().argmin(dim=0)
        return away.view(sigma.shape) * self.EVERY + self.EVERY - 1

    def get_sigmas(self, n: int | None = None) -> Tensor:
        rows = torch.linspace(len(self.sigmas) - 1, 0, n)
        return k_diffusion.sampling.append_zero(super().t_to_sigma(rows))

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner_model.apply_model(*args, **kwargs)

    def get_scaled_out(self, sigma: Tensor, output: Tensor, input: Tensor) -> Tensor:
        t = 10.0 * self.sigma_to_t(sigma)[:, None, None, None]
        return t / (t**2 + 0.25).sqrt() * output + 0.25 / (t**2 + 0.25) * input

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        level = sigma[:, None, None, None]
        eps = self.get_eps(input / (level**2 + 1).sqrt(), self.sigma_to_t(sigma), **kwargs)
        return self.get_scaled_out(sigma, input - level * eps, input)


class CFGDenoiserLCM(CFGDenoiser):
    @property
    def inner_model(self) -> Any:
        if self.model_wrap is None:
            self.model_wrap = LCMCompVisDenoiser(shared.sd_model)
        return self.model_wrap


class LCMSampler(KDiffusionSampler):
    def __init__(self, funcname: Any, sd_model: Any) -> None:
        super().__init__(funcname, sd_model)
        self.model_wrap_cfg = CFGDenoiserLCM(self)
        self.model_wrap = self.model_wrap_cfg.inner_model
