"""Pipelines of every kind on tiny checkpoints, and a call of each."""

from __future__ import annotations

import numpy as np
import tiny_checkpoint
import torch
from PIL import Image

import asyndm

PROMPTS = ["a cat riding a bike", "two cats and a red umbrella"]
GENERAL = asyndm.Settings(curvature=1e-9)  # all of the general path, and no pixel moved
STRONG = asyndm.Settings(curvature=0.7)
FAMILIES = {"1.5": {}, "2.1": {"two": True}, "XL": {"xl": True}}
# By kind: the middle of the class's name, and what its call takes besides.
KINDS = {
    "text": ("", ()),
    "image": ("Img2Img", ("image", "strength")),
    "inpaint": ("Inpaint", ("image", "mask_image", "size")),
    "inpaint 9": ("Inpaint", ("image", "mask_image", "size")),
    "inpaint part": ("Inpaint", ("image", "mask_image", "size", "strength")),
    "control": ("ControlNet", ("image",)),
    "control image": ("ControlNetImg2Img", ("image", "control_image", "strength")),
    "control inpaint": ("ControlNetInpaint", ("image", "mask_image", "control_image")),
}


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8))


def region():
    """Rows 8 to 24, columns 4 to 20 of the picture: 4 to 12 and 2 to 10 of its latents."""
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 4:20] = 255
    return Image.fromarray(mask)


class Toys:
    """Pipelines by (family, kind), loaded once each from folders in the real layout."""

    def __init__(self, folder):
        self.folder, self._made, self._folders = folder, {}, {}

    def saved(self, family, inpaints=False):
        key = family, inpaints
        if key not in self._folders:
            at = self.folder / f"{family}{inpaints}"
            self._folders[key] = tiny_checkpoint.save(at, inpaints=inpaints, **FAMILIES[family])
        return self._folders[key]

    def control(self, family):
        key = family, "control"
        if key not in self._folders:
            at = self.folder / f"{family}control"
            self._folders[key] = tiny_checkpoint.save_control(at, self.saved(family))
        return self._folders[key]

    def pipe(self, family="1.5", kind="text"):
        import diffusers

        from asyndm.pipelines import Checkpoint

        if (family, kind) in self._made:
            return self._made[family, kind]
        name = f"StableDiffusion{'XL' if family == 'XL' else ''}{KINDS[kind][0]}Pipeline"
        if kind == "text":
            pipe = Checkpoint.load(self.saved(family)).pipe
        elif kind == "inpaint 9":
            folder = self.saved(family, inpaints=True)
            pipe = getattr(diffusers, name).from_pretrained(folder)
        else:
            parts = {**self.pipe(family).components}
            if family != "XL":
                parts["requires_safety_checker"] = False
            else:
                for lacking in ("image_encoder", "feature_extractor"):
                    parts.pop(lacking, None)
            if kind.startswith("control"):
                parts["controlnet"] = diffusers.ControlNetModel.from_pretrained(
                    self.control(family)
                )
            pipe = getattr(diffusers, name)(**parts)
        pipe.set_progress_bar_config(disable=True)
        self._made[family, kind] = pipe
        return pipe


def schedule(pipe, monkeypatch, kind="EulerDiscreteScheduler"):
    """Another scheduler of diffusers, with the pipeline's own configuration."""
    import diffusers

    scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", scheduler)


def made(pipe, kind="text", prompts=PROMPTS, steps=4, seeds=(3, 4), **changes):
    """Latents [B, 4, 16, 16] of a pipeline's call."""
    prompts = list(prompts)
    # One picture a prompt: a single one is encoded with the first generator, or not at all.
    more = {
        "image": {"image": [picture()] * len(prompts)},
        "mask_image": {"mask_image": [region()] * len(prompts)},
        "control_image": {"control_image": [picture(1)] * len(prompts)},
        "strength": {"strength": 0.8},
        "size": {"height": 32, "width": 32},
    }
    given = {
        "prompt": prompts,
        "generator": [torch.Generator().manual_seed(s) for s in seeds[: len(prompts)]],
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "output_type": "latent",
    }
    for name in KINDS[kind][1]:
        given |= more[name]
    if KINDS[kind][0].endswith("Inpaint") and "strength" not in KINDS[kind][1]:
        given["strength"] = 1.0
    return pipe(**{**given, **changes}).images


def steered(pipe, settings, *args, steering=None, **changes):
    """(latents, result) of a steered call."""
    with asyndm.steer(pipe, settings, **(steering or {})) as result:
        return made(getattr(pipe, "pipe", pipe), *args, **changes), result


def close(one, two, limit=1e-4):
    """Within a limit of the latents' size (random networks make them large)."""
    scale = max(1.0, float(two.abs().max()) / 4)
    torch.testing.assert_close(one, two, atol=limit * scale, rtol=0)


def hooks(pipe):
    """How many hooks are in all networks of a pipeline."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for module in part.modules()
    )
