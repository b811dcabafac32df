"""Stands for ``modules/sd_samplers.py``: the lists of samplers, and how names are resolved."""

from __future__ import annotations

import functools
import logging
from functools import partial
from typing import Any

from torch import Tensor

from modules import sd_samplers_timesteps_impl, shared
from modules.sd_samplers_common import Sampler, SamplerData
from modules.sd_samplers_kdiffusion import KDiffusionSampler, schedulers, schedulers_map
from modules.sd_samplers_lcm import LCMSampler, sample_lcm
from modules.sd_samplers_timesteps import CompVisSampler


class OtherSampler(Sampler):
    """Stands for samplers that are no ``KDiffusionSampler``; runs Euler inside."""

    def __init__(self, name: str, model: Any) -> None:
        super().__init__(name)
        self._inner = KDiffusionSampler("sample_euler", model)
        self.model_wrap_cfg = self._inner.model_wrap_cfg

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        self._inner.config = self.config
        return self._inner.sample(*args, **kwargs)

    def sample_img2img(self, *args: Any, **kwargs: Any) -> Tensor:
        self._inner.config = self.config
        return self._inner.sample_img2img(*args, **kwargs)


def _kdiffusion(name: str, funcname: str, **options: Any) -> SamplerData:
    alias = funcname.replace("sample_", "k_")
    return SamplerData(name, lambda model: KDiffusionSampler(funcname, model), [alias], options)


def _other(name: str) -> SamplerData:
    return SamplerData(name, lambda model: OtherSampler(name, model), [], {})


all_samplers = [
    _kdiffusion("DPM++ 2M", "sample_dpmpp_2m", scheduler="karras"),
    _kdiffusion(
        "DPM++ SDE", "sample_dpmpp_sde", scheduler="karras", second_order=True, brownian_noise=True
    ),
    _kdiffusion("Euler a", "sample_euler_ancestral", uses_ensd=True),
    _kdiffusion("Euler", "sample_euler"),
    _kdiffusion(
        "DPM++ 2M SDE", "sample_dpmpp_2m_sde", scheduler="exponential", brownian_noise=True
    ),
    _kdiffusion(
        *("DPM++ 2M SDE Heun", "sample_dpmpp_2m_sde"),
        scheduler="exponential",
        brownian_noise=True,
        solver_type="heun",
    ),
    _kdiffusion(
        *("DPM++ 2S a", "sample_dpmpp_2s_ancestral"),
        scheduler="karras",
        uses_ensd=True,
        second_order=True,
    ),
    _kdiffusion(
        *("DPM++ 3M SDE", "sample_dpmpp_3m_sde"),
        scheduler="exponential",
        discard_next_to_last_sigma=True,
        brownian_noise=True,
    ),
    _kdiffusion("LMS", "sample_lms"),
    _kdiffusion("Heun", "sample_heun", second_order=True),
    _kdiffusion(
        *("DPM2", "sample_dpm_2"),
        scheduler="karras",
        discard_next_to_last_sigma=True,
        second_order=True,
    ),
    _kdiffusion(
        *("DPM2 a", "sample_dpm_2_ancestral"),
        scheduler="karras",
        discard_next_to_last_sigma=True,
        uses_ensd=True,
        second_order=True,
    ),
    *(
        SamplerData(name, partial(CompVisSampler, function), [name.lower()], {})
        for name, function in (
            ("DDIM", sd_samplers_timesteps_impl.ddim),
            ("UniPC", sd_samplers_timesteps_impl.unipc),
        )
    ),
    SamplerData("LCM", partial(LCMSampler, sample_lcm), ["k_lcm"], {}),
    *map(_other, ("PLMS", "Restart")),
]
all_samplers_map = {sampler.name: sampler for sampler in all_samplers}
samplers: list[SamplerData] = []
samplers_map: dict[str, str] = {}
samplers_hidden: set[str] = set()


def find_sampler_config(name: str | None) -> SamplerData | None:
    return all_samplers[0] if name is None else all_samplers_map.get(name)


def create_sampler(name: str, model: Any) -> Sampler:
    config = find_sampler_config(name)
    assert config is not None, f"bad sampler name: {name}"
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def set_samplers() -> None:
    global samplers, samplers_hidden
    samplers, samplers_hidden = all_samplers, set(shared.opts.hide_samplers)
    samplers_map.clear()
    for sampler in all_samplers:
        for known in (sampler.name, *sampler.aliases):
            samplers_map[known.lower()] = sampler.name


@functools.cache
def get_sampler_and_scheduler(
    sampler_name: str | None, scheduler_name: str | None, *, convert_automatic: bool = True
) -> tuple[str, str]:
    """Old names end in a schedule's name, which is cut off; unknown ones become the first."""
    name = sampler_name or samplers[0].name
    found = schedulers_map.get(scheduler_name, schedulers[0])
    for scheduler in schedulers:
        for ending in (scheduler.label, scheduler.name, *scheduler.aliases):
            if name.endswith(f" {ending}"):
                found, name = scheduler, name.removesuffix(f" {ending}")
                break
    sampler = all_samplers_map.get(name, samplers[0])
    if convert_automatic and sampler.options.get("scheduler") == found.name:
        found = schedulers[0]
    return sampler.name, found.label


def fix_p_invalid_sampler_and_scheduler(p: Any) -> None:
    asked = p.sampler_name, p.scheduler
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(*asked, convert_automatic=False)
    if (p.sampler_name, p.scheduler) != asked:
        logging.info("sampler and schedule: %s becomes %s", asked, (p.sampler_name, p.scheduler))


set_samplers()
