"""AUTOMATIC1111 v1.9 and v1.10: around the network by the k-diffusion wrapper's ``forward``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from modules import sd_unet, shared
from torch import Tensor, nn

from asyndm.core.parametrisation import (
    EpsParametrisation,
    LcmParametrisation,
    Parametrisation,
    VParametrisation,
)
from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.hosts.calls import SamplingCall, TimestepCall
from asyndm.hosts.hosted import HostRun
from asyndm.hosts.prompts import Tokens, classic_tokens
from asyndm.hosts.shadow import shadowed
from asyndm.hosts.steps import check_caches
from asyndm.hosts.webui import Plan
from asyndm.network import RowsMismatch, UnsupportedNetwork


class A1111Run(HostRun):
    """One asynchronous sampling call in AUTOMATIC1111."""

    def __init__(self, plan: Plan, job: SamplingCall | TimestepCall) -> None:
        self._rows: Rows | None = None
        self._taken = 0  # rows of this step that network calls have had
        self._row_maps: dict[tuple, Rows] = {}
        super().__init__(plan, job)

    @staticmethod
    def tokenize(text: str) -> Tokens:
        return classic_tokens([shared.sd_model.cond_stage_model], text)

    def check_model(self) -> None:
        other = getattr(sd_unet, "current_unet", None)
        if other is not None:
            option = getattr(other, "option", None)
            name = getattr(option, "label", "another network")
            raise UnsupportedNetwork(
                f"SD Unet {name!r} replaces the PyTorch network; set Settings > SD Unet to None."
            )
        if getattr(shared.sd_model, "is_sd3", False):
            raise UnsupportedNetwork("Stable Diffusion 3 is not supported yet.")
        check_caches(self.network())

    @staticmethod
    def network_of(model: Any) -> nn.Module:
        return model.model.diffusion_model

    def model(self) -> Any:
        return shared.sd_model

    def wrapper(self) -> Any:
        return self.denoiser.inner_model

    def parametrise(self) -> Parametrisation:
        return _parametrisation_of(self.denoiser.inner_model)

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """k-diffusion's rule: within its table, whole numbers where it quantises.

        Timestep samplers and LCM have rules of their own.
        """
        wrap = self.wrapper()
        if isinstance(self.parametrisation, LcmParametrisation):
            # The host's own search: a level half way between two has to fall to the same side.
            return wrap.sigma_to_t(sigmas.to(wrap.sigmas.dtype))
        if isinstance(self.job, TimestepCall):
            return self.job.timesteps(sigmas).clamp(0, len(self.parametrisation.sigmas) - 1)
        exact = self.parametrisation.timestep(sigmas).clamp(0, len(wrap.sigmas) - 1)
        return exact.round() if getattr(wrap, "quantize", False) else exact

    def begin_step(self, params: Any) -> None:
        self._rows, self._taken = self._row_map(params.x.shape[0], params.x.device), 0

    def around_network(self) -> AbstractContextManager[None]:
        wrap = self.wrapper()
        return shadowed(wrap, "forward", self._forward(wrap, wrap.forward))

    def _forward(self, wrap: Any, plain: Callable) -> Callable:
        """What stands in for the wrapper's ``forward``."""
        if isinstance(self.job, TimestepCall):
            return self._timestep_forward(wrap, plain)
        parametrisation = _parametrisation_of(wrap)
        network = wrap.get_v if hasattr(wrap, "get_v") else wrap.get_eps

        def forward(input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:  # the host's names
            self.call.rows = rows = self._next_rows(input)
            time = self.call.pixel_time
            if time is None:
                return plain(input, sigma, **kwargs)
            level = time.sigma_map()[rows.image]
            scaled = input * parametrisation.c_in(level)
            output = network(scaled, wrap.sigma_to_t(sigma), **kwargs)
            return parametrisation.denoised(input, output, level)

        return forward

    def _timestep_forward(self, wrap: Any, plain: Callable) -> Callable:
        """The same where it takes latents of constant variance and answers with the noise."""
        parametrisation = _parametrisation_of(wrap)

        def forward(input: Tensor, timesteps: Tensor, **kwargs: Any) -> Tensor:  # the host's names
            self.call.rows = rows = self._next_rows(input)
            time, host = self.call.pixel_time, self.job.level(self.calls)
            if time is None:
                return plain(input, timesteps, **kwargs)
            level = time.sigma_map()[rows.image]
            x = input * (1 + host**2) ** 0.5
            output = wrap.inner_model.apply_model(
                x * parametrisation.c_in(level), timesteps, **kwargs
            )
            return (x - parametrisation.denoised(x, output, level)) / host

        return forward

    def _next_rows(self, x: Tensor) -> Rows:
        """The host may cut a step's rows into several calls, one after the other."""
        first, self._taken = self._taken, self._taken + len(x)
        if self._rows is not None and self._taken <= len(self._rows):
            return self._rows[first : self._taken]
        if len(x) % self.batch:
            raise RowsMismatch(f"A network call of {len(x)} rows does not fit {self.batch} images.")
        # Another extension's call of its own: whole batches, not to read masks from.
        images = [i % self.batch for i in range(len(x))]
        return Rows.of(images, [UNCONDITIONAL] * len(x), x.device)

    def _row_map(self, rows: int, device: torch.device) -> Rows:
        """All conditional rows, image by image with their AND parts, then unconditional batches."""
        parts = [len(image) for image in self.denoiser.sampler.sampler_extra_args["cond"].batch]
        key = (rows, *parts, device)
        if key not in self._row_maps:
            images = [image for image, count in enumerate(parts) for _ in range(count)]
            order = [part for count in parts for part in range(count)]
            rest = rows - len(images)
            if rest < 0 or rest % len(parts):
                raise RowsMismatch(f"{rows} network rows do not fit prompts of {parts} parts.")
            self._row_maps[key] = Rows.of(
                images + [i % len(parts) for i in range(rest)],
                order + [UNCONDITIONAL] * rest,
                device,
            )
        return self._row_maps[key]


def _parametrisation_of(wrap: Any) -> Parametrisation:
    """The parametrisation of one of the host's wrappers around an ldm model.

    Raises:
        UnsupportedNetwork: another kind of wrapper.
    """
    if hasattr(wrap, "sigma_to_t") and hasattr(wrap, "get_scaled_out"):  # the host's LCM
        alphas = shared.sd_model.alphas_cumprod.detach().double().cpu()
        return LcmParametrisation(alphas, len(wrap.sigmas))
    velocity = hasattr(wrap, "get_v") or hasattr(wrap, "predict_eps_from_z_and_v")
    if hasattr(wrap, "sigma_to_t") and (velocity or hasattr(wrap, "get_eps")):
        alphas = 1 / (1 + wrap.sigmas.detach().double().cpu() ** 2)
    elif hasattr(getattr(wrap, "inner_model", None), "alphas_cumprod"):  # a timestep sampler's
        alphas = wrap.inner_model.alphas_cumprod.detach().double().cpu()
    else:
        raise UnsupportedNetwork("This model predicts neither noise nor v; AsynDM cannot steer it.")
    return VParametrisation(alphas) if velocity else EpsParametrisation(alphas)
