"""Stands for ``modules/sd_samplers_kdiffusion.py`` and ``sd_schedulers.py``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import k_diffusion.external
import k_diffusion.sampling
import torch
from torch import Tensor

from modules import sd_samplers_common, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser
from modules.shared import opts

# --- schedules ---


@dataclass(frozen=True)
class Scheduler:
    name: str
    label: str
    function: Callable[..., Tensor] | None = None
    need_inner_model: bool = False
    aliases: Sequence[str] = ()


def _uniform(n: int, sigma_min: float, sigma_max: float, inner_model: Any) -> Tensor:
    return inner_model.get_sigmas(n)


def _kl_optimal(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """n + 1 values, the last of them ``sigma_min`` and not 0, as in the host."""
    return torch.linspace(math.atan(sigma_max), math.atan(sigma_min), n + 1).tan()


def _every(n: int, sigma_min: float, sigma_max: float, inner_model: Any) -> Tensor:
    """DDIM's: from 1 upwards in whole strides, so there may be more than n."""
    table = inner_model.sigmas
    return torch.cat([table[1 :: max(len(table) // n, 1)].flip(0), table.new_zeros(1)])


def _simple(n: int, sigma_min: float, sigma_max: float, inner_model: Any) -> Tensor:
    table = inner_model.sigmas
    rows = [-1 - int(i * len(table) / n) for i in range(n)]
    return torch.cat([table[rows], table.new_zeros(1)])


schedulers = [
    Scheduler("automatic", "Automatic"),
    Scheduler("uniform", "Uniform", _uniform, need_inner_model=True),
    Scheduler("karras", "Karras", k_diffusion.sampling.get_sigmas_karras),
    Scheduler("exponential", "Exponential", k_diffusion.sampling.get_sigmas_exponential),
    Scheduler("kl_optimal", "KL Optimal", _kl_optimal),
    Scheduler("simple", "Simple", _simple, need_inner_model=True),
    Scheduler("ddim", "DDIM", _every, need_inner_model=True),
]
schedulers_map = {key: s for s in schedulers for key in (s.name, s.label)}


# --- the sampler ---


class CFGDenoiserKDiffusion(CFGDenoiser):
    @property
    def inner_model(self) -> Any:
        if self.model_wrap is None:
            model, external = shared.sd_model, k_diffusion.external
            v = model.parameterization == "v"
            wrap = external.CompVisVDenoiser if v else external.CompVisDenoiser
            self.model_wrap = wrap(model, quantize=opts.enable_quantization)
        return self.model_wrap


class KDiffusionSampler(sd_samplers_common.Sampler):
    """A function of k-diffusion's form, by name or as it is."""

    def __init__(self, funcname: str | Callable, sd_model: Any) -> None:
        super().__init__(funcname)
        self.func = funcname if callable(funcname) else getattr(k_diffusion.sampling, funcname)
        self.model_wrap_cfg = CFGDenoiserKDiffusion(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_sigmas(self, p: Any, steps: int) -> Tensor:
        cut = self.config.options.get("discard_next_to_last_sigma", False)
        if opts.always_discard_next_to_last_sigma and not cut:
            cut = p.extra_generation_params["Discard penultimate sigma"] = True
        steps += cut
        name = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        if name == "Automatic":
            name = self.config.options.get("scheduler")
        scheduler = schedulers_map.get(name)
        if scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(steps)
        else:
            told = p.extra_generation_params
            if not p.is_hr_pass:
                told["Schedule type"] = scheduler.label
            elif scheduler.label != told.get("Schedule type"):
                told["Hires schedule type"] = scheduler.label
            table = self.model_wrap.sigmas
            given = {"sigma_min": table[0].item(), "sigma_max": table[-1].item()}
            if scheduler.need_inner_model:
                given["inner_model"] = self.model_wrap
            sigmas = scheduler.function(n=steps, **given)
        return (torch.cat([sigmas[:-2], sigmas[-1:]]) if cut else sigmas).cpu()

    def sample(
        self, p: Any, x: Tensor, conditioning: Any, unconditional_conditioning: Any,
        steps: int | None = None, image_conditioning: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        steps = steps or p.steps
        sigmas = self.get_sigmas(p, steps)
        table = self.model_wrap.sigmas
        special = {"n": steps, "sigma_min": table[0].item(), "sigma_max": table[-1].item()}
        x = x * sigmas[0]
        self.last_latent = x
        return self._launch(
            p, x, sigmas, sigmas, special, steps,
            (conditioning, unconditional_conditioning, image_conditioning),
        )  # fmt: skip

    def sample_img2img(
        self, p: Any, x: Tensor, noise: Tensor, conditioning: Any, unconditional_conditioning: Any,
        steps: int | None = None, image_conditioning: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        steps, last = sd_samplers_common.setup_img2img_steps(p, steps)
        sigmas = self.get_sigmas(p, steps)
        run = sigmas[steps - last - 1 :]
        special = {"n": len(run) - 1, "sigma_min": run[-2], "sigma_max": run[0], "sigma_sched": run}
        self.model_wrap_cfg.init_latent = self.last_latent = x
        return self._launch(
            p, x + noise * run[0], run, sigmas, special, last + 1,
            (conditioning, unconditional_conditioning, image_conditioning),
        )  # fmt: skip

    def _launch(
        self, p: Any, x: Tensor, run: Tensor, sigmas: Tensor, special: dict, steps: int,
        conditions: tuple,
    ) -> Tensor:  # fmt: skip
        """Ask func what it takes, and call it."""
        extra = self.initialize(p)
        takes = inspect.signature(self.func).parameters
        extra |= {n: v for n, v in {**special, "sigmas": run}.items() if n in takes}
        if self.config.options.get("brownian_noise"):
            extra["noise_sampler"] = k_diffusion.sampling.BrownianTreeNoiseSampler(
                x, sigmas[sigmas > 0].min(), sigmas.max(), seed=p.seeds
            )
        if self.config.options.get("solver_type") == "heun":
            extra["solver_type"] = "heun"
        return self.call_func(p, x, steps, conditions, extra)
