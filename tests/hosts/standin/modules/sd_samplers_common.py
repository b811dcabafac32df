"""Stands for ``modules/sd_samplers_common.py`` and ``rng.py``."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import k_diffusion.sampling
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules import shared
from modules.shared import opts, state


class SamplerData(namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])):
    def total_steps(self, steps: int) -> int:
        return steps * 2 if self.options.get("second_order") else steps


class InterruptedException(BaseException):
    """Ends a sampling call; the last prediction becomes the image."""


class ImageRNG:
    """One generator an image, so that none depends on its batch."""

    def __init__(self, shape: Sequence[int], seeds: Sequence[int]) -> None:
        self.shape = tuple(shape)
        torch.manual_seed(int(seeds[0]))  # the host seeds torch's own generator on the way
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def next(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])


class TorchHijack:
    """k-diffusion's ``torch``: its noise is drawn image by image."""

    def __init__(self, p: Any) -> None:
        self.rng = p.rng

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn_like(self, x: Tensor) -> Tensor:
        return self.rng.next()


def setup_img2img_steps(p: Any, steps: int | None = None) -> tuple[int, int]:
    """(steps of the whole schedule, steps to run less one)."""
    strength = min(p.denoising_strength, 0.999)
    if opts.img2img_fix_steps or steps is not None:
        asked = steps or p.steps
        return (int(asked / strength) if strength > 0 else 0), asked - 1
    return p.steps, int(strength * p.steps)


def decode(samples: Tensor) -> Tensor:
    """[B, 3, H, W] within [0, 1]."""
    return (shared.sd_model.decode_first_stage(samples) * 0.5 + 0.5).clamp(0, 1)


def to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((255.0 * image.numpy().transpose(1, 2, 0)).astype(np.uint8))


def sample_to_image(samples: Tensor, index: int = 0) -> Image.Image:
    return to_picture(decode(samples[index : index + 1])[0])


def store_latent(decoded: Tensor) -> None:
    """For the live preview."""
    state.current_latent = decoded
    every = opts.show_progress_every_n_steps
    if opts.live_previews_enable and every > 0 and state.sampling_step % every == 0:
        state.current_image = sample_to_image(decoded)


class Sampler:
    """What all samplers share."""

    eta_default = 1.0

    def __init__(self, funcname: str | Callable) -> None:
        self.funcname = self.func = funcname
        self.config: SamplerData | None = None  # set by whoever constructs it
        self.last_latent = self.p = self.eta = self.model_wrap_cfg = self.sampler_extra_args = None
        self.s_min_uncond = 0.0

    def callback_state(self, step: dict) -> None:
        state.sampling_step = step["i"]

    def launch_sampling(self, steps: int, func: Callable[[], Tensor]) -> Tensor:
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        state.sampling_steps, state.sampling_step = steps, 0
        try:
            return func()
        except InterruptedException:
            return self.last_latent

    def initialize(self, p: Any) -> dict[str, Any]:
        """The denoiser for this call; the arguments func takes besides."""
        self.p = p
        denoiser = self.model_wrap_cfg
        denoiser.p, denoiser.step = p, 0
        denoiser.mask, denoiser.nmask = getattr(p, "mask", None), getattr(p, "nmask", None)
        usual = opts.eta_ancestral if self.eta_default else opts.eta_ddim
        self.eta = p.eta if p.eta is not None else usual
        self.s_min_uncond = p.s_min_uncond
        k_diffusion.sampling.torch = TorchHijack(p)
        if "eta" not in inspect.signature(self.func).parameters:
            return {}
        if self.eta != self.eta_default:
            told = "Eta" if self.eta_default else "Eta DDIM"
            p.extra_generation_params[told] = self.eta
        return {"eta": self.eta}

    def call_func(
        self, p: Any, x: Tensor, steps: int, conditions: tuple, extra: dict[str, Any]
    ) -> Tensor:
        """The sampling call itself, with what func takes besides."""
        cond, uncond, image_cond = conditions
        self.sampler_extra_args = {
            "cond": cond, "image_cond": image_cond, "uncond": uncond, "cond_scale": p.cfg_scale,
            "s_min_uncond": self.s_min_uncond,
        }  # fmt: skip
        return self.launch_sampling(
            steps,
            lambda: self.func(
                self.model_wrap_cfg, x, extra_args=self.sampler_extra_args, disable=True,
                callback=self.callback_state, **extra,
            ),
        )  # fmt: skip
