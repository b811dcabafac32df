"""Stands for ``modules/sd_samplers_timesteps.py``: samplers that know timesteps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modules import sd_samplers_common, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser


class CompVisTimestepsDenoiser(nn.Module):
    """(latents of constant variance, timesteps) -> noise."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner_model = model

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs: Any) -> Tensor:
        return self.inner_model.apply_model(input, timesteps, **kwargs)


class CompVisTimestepsVDenoiser(CompVisTimestepsDenoiser):
    def predict_eps_from_z_and_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        alpha = self.inner_model.alphas_cumprod[t.int()][:, None, None, None]
        return alpha.sqrt() * v + (1 - alpha).sqrt() * x_t

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs: Any) -> Tensor:
        return self.predict_eps_from_z_and_v(
            input, timesteps, super().forward(input, timesteps, **kwargs)
        )


class CFGDenoiserTimesteps(CFGDenoiser):
    def __init__(self, sampler: Any) -> None:
        super().__init__(sampler)
        if hasattr(shared.sd_model, "forge_objects"):
            self.classic_ddim_eps_estimation = True
        else:
            self.mask_before_denoising = True

    @property
    def inner_model(self) -> Any:
        if self.model_wrap is None:
            v = shared.sd_model.parameterization == "v"
            v &= not hasattr(shared.sd_model, "forge_objects")
            kind = CompVisTimestepsVDenoiser if v else CompVisTimestepsDenoiser
            self.model_wrap = kind(shared.sd_model)
        return self.model_wrap

    def guess(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        alpha = shared.sd_model.alphas_cumprod[sigma.int()][:, None, None, None]
        return (x - (1 - alpha).sqrt() * out) / alpha.sqrt()


class CompVisSampler(sd_samplers_common.Sampler):
    eta_default = 0.0

    def __init__(self, function: Callable, sd_model: Any) -> None:
        super().__init__(function)
        self.model_wrap_cfg = CFGDenoiserTimesteps(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def _timesteps(self, steps: int) -> Tensor:
        return (torch.arange(0, 1000, 1000 // steps) + 1).clamp(max=999)

    def sample(
        self, p: Any, x: Tensor, conditioning: Any, unconditional_conditioning: Any,
        steps: int | None = None, image_conditioning: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        steps = steps or p.steps
        conditions = (conditioning, unconditional_conditioning, image_conditioning)
        return self._launch(p, x, x, self._timesteps(steps), False, steps, conditions)

    def sample_img2img(
        self, p: Any, x: Tensor, noise: Tensor, conditioning: Any, unconditional_conditioning: Any,
        steps: int | None = None, image_conditioning: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        steps, last = sd_samplers_common.setup_img2img_steps(p, steps)
        timesteps = self._timesteps(steps)
        alpha = shared.sd_model.alphas_cumprod[timesteps[last]]
        begun = x * alpha.sqrt() + noise * (1 - alpha).sqrt()
        self.model_wrap_cfg.init_latent = x
        conditions = (conditioning, unconditional_conditioning, image_conditioning)
        return self._launch(p, x, begun, timesteps[:last], True, last + 1, conditions)

    def _launch(
        self, p: Any, known: Tensor, x: Tensor, timesteps: Tensor, again: bool, steps: int,
        conditions: tuple,
    ) -> Tensor:  # fmt: skip
        extra = self.initialize(p)
        takes = inspect.signature(self.func).parameters
        extra |= {n: v for n, v in {"timesteps": timesteps}.items() if n in takes}
        if again and "is_img2img" in takes:
            extra["is_img2img"] = True
        self.last_latent = known
        return self.call_func(p, x, steps, conditions, extra)
