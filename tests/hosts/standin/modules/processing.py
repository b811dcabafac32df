"""Stands for ``modules/processing.py``: a job from its prompts to its pictures."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from modules import prompt_parser, sd_samplers, shared
from modules.images import save_image
from modules.infotext_utils import quote
from modules.scripts import MaskBlendArgs, PostprocessImageArgs, PostSampleArgs
from modules.sd_samplers_common import ImageRNG, decode, to_picture
from modules.shared import opts, state

_NETWORK = re.compile(r"<\w+:[^>]+>")


class StableDiffusionProcessing:
    """One job. Attributes are what the API calls them."""

    _defaults: dict[str, Any] = {
        "prompt": "", "negative_prompt": "", "seed": -1, "sampler_name": None, "scheduler": None,
        "batch_size": 1, "n_iter": 1, "steps": 50, "cfg_scale": 7.0, "width": 512, "height": 512,
        "eta": None, "s_min_uncond": None, "styles": (), "do_not_save_samples": True,
        "do_not_save_grid": True, "denoising_strength": 0.75,
    }  # fmt: skip
    is_hr_pass = enable_hr = False
    scripts = None
    script_args: tuple | list = ()
    mask = nmask = None
    iteration = 0
    hr_scheduler = hr_sampler_name = sampler = rng = None
    firstpass_steps = None
    _cached: dict[tuple, Any] = {}  # conditions outlive jobs

    def __init__(self, sd_model: Any = None, **asked: Any) -> None:
        self.__dict__.update(self._defaults)
        self.__dict__.update(asked)
        self.override_settings = dict(asked.get("override_settings") or {})
        self.extra_generation_params = asked.get("extra_generation_params") or {}
        self.comments: dict[str, int] = {}
        self.outpath_samples = shared.data_path
        if self.seed in (-1, None, ""):
            self.seed = int(torch.randint(2**31, ()))

    @property
    def sd_model(self) -> Any:
        return shared.sd_model

    def comment(self, text: str) -> None:
        self.comments[text] = 1

    def hook(self, name: str, *given: Any, **named: Any) -> None:
        if name == "process_before_every_sampling" and hasattr(self.sd_model, "original_objects"):
            # Forge: what extensions added to the U-Net for the last sampling call is gone
            self.sd_model.forge_objects = copy.copy(self.sd_model.original_objects)
        if self.scripts is not None:
            self.scripts.call(name, self, *given, **named)

    def init(self) -> None:
        """Before the first batch."""

    def sample(self) -> Tensor:
        """The latents of one batch."""
        raise NotImplementedError

    def finished(self, picture: Image.Image) -> Image.Image:
        return picture

    # --- conditions ---

    def setup_conds(self) -> None:
        self.c, self.uc = self._conditions(self.prompts, self.negative_prompts, self.sampler_name)
        self.firstpass_steps = self._total(self.sampler_name, self.steps)

    def get_conds(self) -> tuple[Any, Any]:
        return self.c, self.uc

    def _total(self, sampler: str, steps: int) -> int:
        config = sd_samplers.find_sampler_config(sampler)
        return config.total_steps(steps) if config else steps

    def _conditions(
        self, prompts: list[str], negatives: list[str], sampler: str, hires: int | None = None
    ) -> tuple[Any, Any]:
        steps = self._total(self.sampler_name, self.steps)
        if hires is not None:
            hires = self._total(sampler, hires)
        # Neo has one way to schedule prompts and no option for it.
        old = (opts.use_old_scheduling,) if hasattr(opts, "use_old_scheduling") else ()
        key = (
            tuple(prompts), tuple(negatives), steps, hires, old,
            opts.comma_padding_backtrack, self.sd_model.sd_checkpoint_info,
        )  # fmt: skip
        if key not in self._cached:
            self._cached.clear()
            given = (steps, hires, *old)
            multi = prompt_parser.get_multicond_learned_conditioning(self.sd_model, prompts, *given)
            plain = prompt_parser.get_learned_conditioning(self.sd_model, negatives, *given)
            self._cached[key] = multi, plain
        return self._cached[key]


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """With the second pass "hires", of latents that are made larger."""

    def __init__(self, sd_model: Any = None, **asked: Any) -> None:
        hires = {"enable_hr": False, "hr_scale": 2.0, "hr_upscaler": "Latent", "hr_prompt": "",
                 "hr_second_pass_steps": 0, "hr_negative_prompt": ""}  # fmt: skip
        super().__init__(sd_model, **{**hires, **asked})

    def init(self) -> None:
        if self.enable_hr:
            self.hr_scheduler = self.hr_scheduler or self.scheduler
            told = self.extra_generation_params
            told["Denoising strength"] = self.denoising_strength
            told["Hires upscale"], told["Hires upscaler"] = self.hr_scale, self.hr_upscaler
            if self.hr_second_pass_steps:
                told["Hires steps"] = self.hr_second_pass_steps

    def get_conds(self) -> tuple[Any, Any]:
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else (self.c, self.uc)

    def sample(self) -> Tensor:
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        x = self.rng.next()
        self.hook("process_before_every_sampling", x=x, noise=x, c=self.c, uc=self.uc)
        image = x.new_zeros(len(x), 5, 1, 1)
        samples = self.sampler.sample(self, x, self.c, self.uc, image_conditioning=image)
        if not self.enable_hr or state.interrupted:
            return samples
        self.is_hr_pass = True
        name = self.hr_sampler_name or self.sampler_name
        steps = self.hr_second_pass_steps or self.steps
        self.sampler = sd_samplers.create_sampler(name, self.sd_model)
        size = [int(side * self.hr_scale) // 8 for side in (self.height, self.width)]
        samples = F.interpolate(samples, size=size, mode="bilinear", antialias=False)
        self.rng = ImageRNG(samples.shape[1:], self.seeds)
        noise = self.rng.next()
        self.hr_prompts = [self.hr_prompt or prompt for prompt in self.prompts]
        negatives = [self.hr_negative_prompt or prompt for prompt in self.negative_prompts]
        self.hr_c, self.hr_uc = self._conditions(self.hr_prompts, negatives, name, steps)
        self.hook("before_hr")
        self.hook(
            "process_before_every_sampling", x=samples, noise=noise, c=self.hr_c, uc=self.hr_uc
        )
        samples = self.sampler.sample_img2img(
            self, samples, noise, self.hr_c, self.hr_uc, steps=steps, image_conditioning=image
        )
        self.sampler = None
        self.is_hr_pass = False
        return samples


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """With inpainting of the whole picture; ``mask`` (keep) and ``nmask`` (repaint): [4, h, w]."""

    def __init__(self, sd_model: Any = None, **asked: Any) -> None:
        more = {"init_images": (), "mask_blur": 4, "mask_round": True}
        super().__init__(sd_model, **{**more, **asked})
        self.image_mask, self.mask = self.mask, None
        self.overlay: tuple[Image.Image, Image.Image] | None = None

    def init(self) -> None:
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        pictures = [i.convert("RGB").resize((self.width, self.height)) for i in self.init_images]
        values = torch.stack([torch.from_numpy(np.array(i)).float() / 127.5 - 1 for i in pictures])
        latent = self.sd_model.encode_first_stage(values.permute(0, 3, 1, 2))
        self.init_latent = latent.repeat(self.batch_size // len(latent), 1, 1, 1)
        if self.image_mask is None:
            return
        mask = self.image_mask.convert("L").point(lambda v: 255 * (v >= 128))
        if self.mask_blur:
            mask = mask.filter(ImageFilter.GaussianBlur(self.mask_blur))
            self.extra_generation_params["Mask blur"] = self.mask_blur
        mask = mask.resize((self.width, self.height))
        self.overlay = pictures[0], mask.point(lambda v: min(2 * v, 255))
        cells = np.array(mask.resize(tuple(self.init_latent.shape[:1:-1]))).astype(np.float32) / 255
        cells = np.around(cells) if self.mask_round else cells
        self.nmask = torch.from_numpy(np.tile(cells[None], (self.init_latent.shape[1], 1, 1)))
        self.mask = 1 - self.nmask

    def sample(self) -> Tensor:
        noise = self.rng.next()
        self.hook(
            "process_before_every_sampling", x=self.init_latent, noise=noise, c=self.c, uc=self.uc
        )
        samples = self.sampler.sample_img2img(
            self, self.init_latent, noise, self.c, self.uc,
            image_conditioning=noise.new_zeros(len(noise), 5, 1, 1),
        )  # fmt: skip
        if self.mask is None:
            return samples
        blended = samples * self.nmask + self.init_latent * self.mask
        args = MaskBlendArgs(samples, self.nmask, self.init_latent, self.mask, blended)
        self.hook("on_mask_blend", args)
        return args.blended_latent

    def finished(self, picture: Image.Image) -> Image.Image:
        """What is kept comes from the picture itself."""
        if self.overlay is None:
            return picture
        kept, repaint = self.overlay
        return Image.composite(picture, kept, repaint)


class Processed:
    """What a job made."""

    index_of_first_image = 0

    def __init__(
        self, p: StableDiffusionProcessing, images: list, infotexts: list[str] | None = None
    ) -> None:
        self.images, self.infotexts = images, infotexts or []
        self.all_prompts, self.all_seeds = p.all_prompts, p.all_seeds
        self.all_negative_prompts = p.all_negative_prompts
        self.extra_generation_params = p.extra_generation_params
        self.sampler_name, self.steps, self.seed = p.sampler_name, p.steps, p.all_seeds[0]
        self.comments = "".join(f"{comment}\n" for comment in p.comments)

    def infotext(self, p: StableDiffusionProcessing, index: int) -> str:
        return create_infotext(p, p.all_prompts, p.all_seeds, index=index)

    def js(self) -> str:
        names = ("all_prompts", "all_seeds", "extra_generation_params", "infotexts", "sampler_name",
                 "steps", "seed", "comments", "index_of_first_image")  # fmt: skip
        return json.dumps({name: getattr(self, name) for name in names}, default=str)


def create_infotext(
    p: StableDiffusionProcessing, all_prompts: list[str], all_seeds: list[int], index: int = 0
) -> str:
    values = {
        "Steps": p.steps, "Sampler": p.sampler_name, "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale, "Seed": all_seeds[index], "Size": f"{p.width}x{p.height}",
        "Model": p.sd_model.sd_checkpoint_info.title, **p.extra_generation_params,
        "Version": "v1.10.1",
    }  # fmt: skip
    for key, value in values.items():  # of each image; not in AUTOMATIC1111 1.9
        if isinstance(value, list):
            values[key] = value[index]
        elif callable(value):
            values[key] = value(**locals())
    line = ", ".join(f"{key}: {quote(value)}" for key, value in values.items() if value is not None)
    negative = p.all_negative_prompts[index]
    negative = f"\nNegative prompt: {negative}" if negative else ""
    return f"{all_prompts[index]}{negative}\n{line}".strip()


def process_images(p: StableDiffusionProcessing) -> Processed:
    p.hook("before_process")
    before = {name: getattr(opts, name, None) for name in p.override_settings}
    try:
        for name, value in p.override_settings.items():
            opts.set(name, value, is_api=True, run_callbacks=False)
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        with torch.no_grad():
            return _process(p)
    finally:
        for name, value in before.items():
            setattr(opts, name, value)


def _process(p: StableDiffusionProcessing) -> Processed:
    count = p.batch_size * p.n_iter
    p.all_prompts = list(p.prompt) if isinstance(p.prompt, list) else [p.prompt] * count
    p.all_negative_prompts = [p.negative_prompt] * len(p.all_prompts)
    p.all_seeds = [int(p.seed) + number for number in range(len(p.all_prompts))]
    p.s_min_uncond = opts.s_min_uncond if p.s_min_uncond is None else p.s_min_uncond
    p.hook("process")
    p.init()
    images, infotexts = [], []
    for number in range(p.n_iter):
        p.iteration = number
        if state.interrupted:
            break
        mine = slice(number * p.batch_size, (number + 1) * p.batch_size)
        p.prompts, p.negative_prompts = p.all_prompts[mine], p.all_negative_prompts[mine]
        p.seeds = p.all_seeds[mine]
        p.rng = ImageRNG((4, p.height // 8, p.width // 8), p.seeds)
        batch = {"batch_number": number, "prompts": p.prompts, "seeds": p.seeds}
        p.hook("before_process_batch", **batch)
        p.prompts = [_NETWORK.sub("", prompt) for prompt in p.prompts]
        p.hook("after_extra_networks_activate", **batch)
        p.hook("process_batch", **batch)
        p.setup_conds()
        args = PostSampleArgs(p.sample())
        p.hook("post_sample", args)
        decoded = decode(args.samples)
        p.hook("postprocess_batch", images=decoded, batch_number=number)
        p.prompts = p.all_prompts[mine]
        for index, image in enumerate(decoded):
            shown = PostprocessImageArgs(p.finished(to_picture(image)))
            p.batch_index = index
            p.hook("postprocess_image", shown)
            images.append(shown.image)
            infotexts.append(create_infotext(p, p.prompts, p.seeds, index=index))
            if not p.do_not_save_samples:
                save_image(
                    shown.image, p.outpath_samples, "", p.seeds[index], info=infotexts[-1], p=p
                )
    processed = Processed(p, images, infotexts)
    p.hook("postprocess", processed)
    return processed
