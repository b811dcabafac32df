"""Tiny pipelines of Stable Diffusion 3.5 and Flux, and calls of them."""

from __future__ import annotations

import inspect

import diffusers
import pytest
import tiny_checkpoint
import torch
from steer_toys import PROMPTS, close, hooks, picture, region

import asyndm

if not hasattr(diffusers, "FluxInpaintPipeline"):
    pytest.skip("this diffusers has no Flux", allow_module_level=True)

FAMILIES = {"3.5": "StableDiffusion3", "Flux": "Flux"}
KINDS = {"text": "", "image": "Img2Img", "inpaint": "Inpaint"}
EVERY = [(family, kind) for family in FAMILIES for kind in KINDS]
TRUE_CFG = "true_cfg_scale" in inspect.signature(diffusers.FluxPipeline.__call__).parameters
INSIDE = (slice(4, 12), slice(2, 10))  # of the latents


class Toys:
    """Pipelines by (family, kind); the same parts in all kinds."""

    def __init__(self, folder):
        self.folder, self._made = folder, {}

    def pipe(self, family="3.5", kind="text"):
        if (family, kind) not in self._made:
            if kind == "text":
                saved = tiny_checkpoint.save_flow(self.folder / family, flux=family == "Flux")
                pipe = diffusers.DiffusionPipeline.from_pretrained(saved)
                assert type(pipe).__name__ == f"{FAMILIES[family]}Pipeline"
            else:
                whole = getattr(diffusers, f"{FAMILIES[family]}{KINDS[kind]}Pipeline")
                parts = self.pipe(family).components
                takes = inspect.signature(whole.__init__).parameters
                pipe = whole(**{name: part for name, part in parts.items() if name in takes})
            pipe.set_progress_bar_config(disable=True)
            self._made[family, kind] = pipe
        return self._made[family, kind]


def made(pipe, kind="text", prompts=PROMPTS, steps=4, seeds=(3, 4), **changes):
    """Latents of a pipeline's call: [B, 16, 16, 16], or packed [B, 64, 64]."""
    prompts = list(prompts)
    given = {
        "prompt": prompts,
        "generator": [torch.Generator().manual_seed(s) for s in seeds[: len(prompts)]],
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "output_type": "latent",
        "max_sequence_length": 24,
        "height": 32,
        "width": 32,
    }
    if kind != "text":
        given |= {"image": [picture()] * len(prompts), "strength": 0.7}
    if kind == "inpaint":
        given |= {"mask_image": [region()] * len(prompts), "strength": 1.0}
    if kind == "image" and "height" not in inspect.signature(type(pipe).__call__).parameters:
        del given["height"], given["width"]
    return pipe(**{**given, **changes}).images


def alike(pipe, settings, *args, limit=1e-4, steering=None, **changes):
    """The result of a steered call whose picture is the pipeline's own."""
    with asyndm.steer(pipe, settings, **(steering or {})) as result:
        mine = made(pipe, *args, **changes)
    close(mine, made(pipe, *args, **changes), limit)
    assert hooks(pipe) == 0
    return result


def moved(pipe, settings, *args, steering=None, **changes):
    with asyndm.steer(pipe, settings, **(steering or {})) as result:
        mine = made(pipe, *args, **changes)
    return mine, result


def opened(latents):
    """[B, 16, 16, 16] of either kind, by einops where the code uses pixel_shuffle."""
    from einops import rearrange

    if latents.ndim == 4:
        return latents
    return rearrange(latents, "b (h w) (c p q) -> b c (h p) (w q)", h=8, p=2, q=2)
