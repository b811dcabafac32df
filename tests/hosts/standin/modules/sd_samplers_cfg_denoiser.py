"""Stands for ``modules/sd_samplers_cfg_denoiser.py``: the rows of a step, guidance, blending."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules import prompt_parser, scripts, sd_samplers_common
from modules.script_callbacks import (
    CFGDenoisedParams,
    CFGDenoiserParams,
    cfg_denoised_callback,
    cfg_denoiser_callback,
)
from modules.shared import opts, state


class CFGDenoiser(torch.nn.Module):
    """(x, one sigma an image) -> D.

    Rows: all conditional ones, image by image with their AND parts, then the unconditional ones,
    which steps may leave out.
    """

    def __init__(self, sampler: Any) -> None:
        super().__init__()
        self.sampler = sampler
        self.model_wrap = self.mask = self.nmask = self.init_latent = self.p = None
        self.steps = self.total_steps = None
        self.step = 0
        self.mask_before_denoising = False

    def combine_denoised(
        self, x_out: Tensor, conds_list: Any, uncond: Any, cond_scale: float
    ) -> Tensor:
        free = x_out[-len(conds_list) :]
        denoised = free.clone()
        for image, parts in enumerate(conds_list):
            for row, weight in parts:
                denoised[image] += (x_out[row] - free[image]) * (weight * cond_scale)
        return denoised

    def guess(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        """D from what the network's wrapper answers."""
        return out

    @property
    def inner_model(self) -> Any:
        raise NotImplementedError

    def forward(
        self, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, cond_scale: float,
        s_min_uncond: float, image_cond: Tensor,
    ) -> Tensor:  # fmt: skip
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        images, text = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        text_uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        if self.mask_before_denoising and self.mask is not None:
            x = scripts.blend(self, x, sigma)
        batch = len(images)
        rows = [image for image, parts in enumerate(images) for _ in parts]
        rows += range(batch)
        params = CFGDenoiserParams(
            x[rows], image_cond[rows], sigma[rows], state.sampling_step, state.sampling_steps,
            text, text_uncond, self,
        )  # fmt: skip
        cfg_denoiser_callback(params)
        x_in, sigma_in, image_in = params.x, params.sigma, params.image_cond
        text, text_uncond = params.text_cond, params.text_uncond

        alone = self._without_uncond(sigma, s_min_uncond)
        if alone:
            x_in, sigma_in = x_in[:-batch], sigma_in[:-batch]
        if alone or text.shape[1] == text_uncond.shape[1]:
            texts = text if alone else torch.cat([text, text_uncond])
            step = len(x_in) if opts.batch_cond_uncond else batch
            calls = [(a, texts[a : a + step]) for a in range(0, len(x_in), step)]
        else:
            step = batch * 2 if opts.batch_cond_uncond else batch
            calls = [(a, text[a : a + step]) for a in range(0, len(text), step)]
            calls.append((len(text), text_uncond))
        out = torch.zeros_like(x_in)
        for a, texts in calls:
            b = a + len(texts)
            given = {"c_crossattn": [texts], "c_concat": [image_in[a:b]]}
            out[a:b] = self.inner_model(x_in[a:b], sigma_in[a:b], cond=given)
        firsts = [parts[0][0] for parts in images]
        if alone:
            out = torch.cat([out, out[firsts]])
        cfg_denoised_callback(
            CFGDenoisedParams(out, state.sampling_step, state.sampling_steps, self.inner_model)
        )

        denoised = self.combine_denoised(out, images, text_uncond, 1.0 if alone else cond_scale)
        if not self.mask_before_denoising and self.mask is not None:
            denoised = scripts.blend(self, denoised, sigma)
        first = params.x[firsts]
        self.sampler.last_latent = self.guess(first, out[firsts], sigma)
        if opts.live_preview_content == "Prompt":
            preview = self.sampler.last_latent
        else:
            preview = self.guess(first, denoised, sigma)
        sd_samplers_common.store_latent(preview)
        self.step += 1
        return denoised

    def _without_uncond(self, sigma: Tensor, s_min_uncond: float) -> bool:
        """Early steps, and every second one below a noise level ("NGMS")."""
        told = self.p.extra_generation_params
        if opts.skip_early_cond and self.step / self.total_steps <= opts.skip_early_cond:
            told["Skip Early CFG"] = opts.skip_early_cond
            return True
        if (self.step % 2 or opts.s_min_uncond_all) and sigma[0] < s_min_uncond:
            told["NGMS"] = s_min_uncond
            return True
        return False
