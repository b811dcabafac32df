"""Stands for ``modules/sd_samplers_cfg_denoiser.py`` of the family: two ways to inpaint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from modules_forge import STYLE
from torch import Tensor

from modules import forge_backend, prompt_parser, scripts, sd_samplers_common
from modules.script_callbacks import CFGDenoiserParams, cfg_denoiser_callback
from modules.shared import opts, state


class _Denoiser(torch.nn.Module):
    """(x, one sigma an image) -> D."""

    def __init__(self, sampler: Any) -> None:
        super().__init__()
        self.sampler = sampler
        self.model_wrap = self.mask = self.nmask = self.init_latent = self.p = None
        self.steps = self.total_steps = None
        self.step = 0
        self.mask_before_denoising = False
        self.classic_ddim_eps_estimation = False

    @property
    def inner_model(self) -> Any:
        raise NotImplementedError

    def _noised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The kept region overwritten; the noise is the whole batch's, from torch's generator."""
        noise = torch.randn_like(self.init_latent)
        known = self.init_latent + sigma[:, None, None, None] * noise
        return x * self.nmask + known * self.mask

    def _predict(
        self, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, scale: float, least: float,
        image_cond: Any,
    ) -> Tensor:  # fmt: skip
        images, text = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        free = None if uncond is None else prompt_parser.reconstruct_cond_batch(uncond, self.step)
        params = CFGDenoiserParams(
            x, image_cond, sigma, state.sampling_step, state.sampling_steps, text, free, self
        )
        cfg_denoiser_callback(params)
        if self.p.is_hr_pass:
            scale = getattr(self.p, "hr_cfg", scale)
        told = self.p.extra_generation_params
        if opts.skip_early_cond and self.step / self.total_steps <= opts.skip_early_cond:
            scale, told["Skip Early CFG"] = 1.0, opts.skip_early_cond
        elif (self.step % 2 or opts.s_min_uncond_all) and sigma[0] < least:
            scale, told["NGMS"] = 1.0, least
        parts = [(params.text_cond[[row for row, _ in part]], part[-1][1]) for part in zip(*images)]
        unet = self.inner_model.inner_model.forge_objects.unet
        return forge_backend.sample(unet, params.x, params.sigma, parts, params.text_uncond, scale)

    def _told(self, denoised: Tensor) -> Tensor:
        self.sampler.last_latent = denoised
        sd_samplers_common.store_latent(denoised)
        self.step += 1
        return denoised


def _for_timesteps_too(forward: Callable) -> Callable:
    """Timestep samplers hand in timesteps and other latents, and want the noise."""

    @functools.wraps(forward)
    def either(self, x: Tensor, sigma: Tensor, **given: Any) -> Tensor:
        if not self.classic_ddim_eps_estimation:
            return forward(self, x, sigma, **given)
        alphas = self.inner_model.inner_model.alphas_cumprod
        sigma = ((1 - alphas) / alphas).sqrt()[sigma.round().long()]
        level = sigma[:, None, None, None]
        x = x * (1 + level**2).sqrt()
        return (x - forward(self, x, sigma, **given)) / level

    return either


class _BlendsTwice(_Denoiser):
    """Forge main, Neo and Classic."""

    @_for_timesteps_too
    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if self.mask is not None:
            x = self._noised(x, sigma)
        denoised = self._predict(x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond)
        return self._told(denoised if self.mask is None else scripts.blend(self, denoised, sigma))


class _BlendsAsAsked(_Denoiser):
    """reForge."""

    @_for_timesteps_too
    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if self.mask_before_denoising and self.mask is not None:
            x = self._noised(x, sigma)
        denoised = self._predict(x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond)
        if not self.mask_before_denoising and self.mask is not None:
            denoised = scripts.blend(self, denoised, sigma)
        return self._told(denoised)


CFGDenoiser = _BlendsAsAsked if STYLE == "reforge" else _BlendsTwice
