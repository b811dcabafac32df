"""AUTOMATIC1111 v1.9 and v1.10: around the network by the k-diffusion wrapper's ``forward``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
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
from asyndm.core.shadow import shadowed
from asyndm.hosts.calls import SamplingCall, TimestepCall
from asyndm.hosts.encoders import transformer_tokens
from asyndm.hosts.hosted import HostRun
from asyndm.hosts.prompts import Tokens, classic_tokens
from asyndm.hosts.steps import check_caches
from asyndm.hosts.transformers import rectified
from asyndm.hosts.webui import Plan
from asyndm.network import RowsMismatch, UnsupportedNetwork, is_transformer


class A1111Run(HostRun):
    """One asynchronous sampling call in AUTOMATIC1111."""

    def __init__(self, plan: Plan, job: SamplingCall | TimestepCall) -> None:
        self._rows: Rows | None = None
        self._taken = 0  # rows of this step that network calls have had
        self._row_maps: dict[tuple, Rows] = {}
        # Of this step: the rows and what the wrapper was called with.
        self._calls: list[tuple[Rows, Tensor, Tensor, dict[str, Any]]] = []
        self._again: Callable = _not_attached
        super().__init__(plan, job)

    @staticmethod
    def tokenize(text: str) -> Tokens | list[Tokens]:
        model, network = shared.sd_model, A1111Run.network_of(shared.sd_model)
        if is_transformer(network):
            classic = partial(classic_tokens, [model.cond_stage_model.model_lg])
            return transformer_tokens(model, network, classic, text)
        return classic_tokens([model.cond_stage_model], text)

    def check_model(self) -> None:
        other = getattr(sd_unet, "current_unet", None)
        if other is not None:
            option = getattr(other, "option", None)
            name = getattr(option, "label", "another network")
            raise UnsupportedNetwork(
                f"SD Unet {name!r} replaces the PyTorch network; set Settings > SD Unet to None."
            )
        if self.guided and not hasattr(self.denoiser, "combine_denoised"):
            raise UnsupportedNetwork("guidance: this WebUI's CFG cannot be entered.")
        edits = getattr(shared.sd_model, "cond_stage_key", "") == "edit"
        if (
            self.guided
            and edits
            and getattr(self.denoiser, "image_cfg_scale", 1.0) not in (1, None)
        ):
            raise UnsupportedNetwork("guidance: InstructPix2Pix guides by the image, too.")
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
        if self.parametrisation.flow:
            return self.parametrisation.timestep(sigmas)
        if isinstance(self.parametrisation, LcmParametrisation):
            # The host's own search: a level half way between two has to fall to the same side.
            return wrap.sigma_to_t(sigmas.to(wrap.sigmas.dtype))
        if isinstance(self.job, TimestepCall):
            return self.job.timesteps(sigmas).clamp(0, len(self.parametrisation.sigmas) - 1)
        exact = self.parametrisation.timestep(sigmas).clamp(0, len(wrap.sigmas) - 1)
        return exact.round() if getattr(wrap, "quantize", False) else exact

    def begin_step(self, params: Any) -> None:
        self._rows, self._taken = self._row_map(params.x.shape[0], params.x.device), 0
        self._calls, self.ran_uncond = [], False

    def around_network(self) -> AbstractContextManager[None]:
        wrap = self.wrapper()
        return shadowed(wrap, "forward", self._forward(wrap, wrap.forward))

    def _forward(self, wrap: Any, plain: Callable) -> Callable:
        """What stands in for the wrapper's ``forward``."""
        timesteps = isinstance(self.job, TimestepCall)
        if self.parametrisation.flow:
            again = self._by_flow(wrap, plain)
        else:
            again = (self._by_timesteps if timesteps else self._by_sigmas)(wrap, plain)
        self._again = again

        def forward(input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:  # the host's names
            rows = self._next_rows(input)
            if self.guide is not None:
                self._calls.append((rows, input, sigma, kwargs))
                self.ran_uncond |= UNCONDITIONAL in rows.parts
            return again(rows, input, sigma, **kwargs)

        return forward

    def _by_sigmas(self, wrap: Any, plain: Callable) -> Callable:
        """The wrapper where it takes noise levels and answers with D."""
        parametrisation = _parametrisation_of(wrap)
        network = wrap.get_v if hasattr(wrap, "get_v") else wrap.get_eps

        def forward(rows: Rows, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
            self.call.rows, time = rows, self.call.pixel_time
            if time is None:
                return plain(input, sigma, **kwargs)
            level = time.sigma_map()[rows.image]
            scaled = input * parametrisation.c_in(level)
            output = network(scaled, wrap.sigma_to_t(sigma), **kwargs)
            return parametrisation.denoised(input, output, level)

        return forward

    def _by_flow(self, wrap: Any, plain: Callable) -> Callable:
        """Stable Diffusion 3: its input is scaled by nothing, its D comes from one function."""
        parametrisation = _parametrisation_of(wrap)
        sampling = wrap.inner_model.model.model_sampling

        def forward(rows: Rows, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
            self.call.rows, time = rows, self.call.pixel_time
            if time is None:
                return plain(input, sigma, **kwargs)
            level = time.sigma_map()[rows.image]

            def denoised(sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
                return parametrisation.denoised(model_input, model_output, level)

            with shadowed(sampling, "calculate_denoised", denoised):
                return plain(input, sigma, **kwargs)

        return forward

    def ancestral_is_flow(self) -> bool:
        """Its "Euler a" is the step of variance-exploding models on every model."""
        return False

    def _by_timesteps(self, wrap: Any, plain: Callable) -> Callable:
        """The same where it takes latents of constant variance and answers with the noise."""
        parametrisation = _parametrisation_of(wrap)

        def forward(rows: Rows, input: Tensor, timesteps: Tensor, **kwargs: Any) -> Tensor:
            self.call.rows, time, host = rows, self.call.pixel_time, self.job.level(self.calls)
            if time is None:
                return plain(input, timesteps, **kwargs)
            level = time.sigma_map()[rows.image]
            x = input * (1 + host**2) ** 0.5
            output = wrap.inner_model.apply_model(
                x * parametrisation.c_in(level), timesteps, **kwargs
            )
            return (x - parametrisation.denoised(x, output, level)) / host

        return forward

    # --- guidance ---

    def around_guidance(self) -> AbstractContextManager[None]:
        return shadowed(self.denoiser, "combine_denoised", self._combine)

    def _combine(
        self, x_out: Tensor, conds_list: list, uncond: Any, cond_scale: float
    ) -> Tensor:  # the host's names
        """What stands in for the denoiser's ``combine_denoised``; AND keeps its weights."""
        clean, level, x = x_out, None, None
        if isinstance(self.job, TimestepCall):  # what it puts together is noise
            level = self.job.level(self.calls)
            x = self._latents_by_image() * (1 + level**2) ** 0.5
            images = [i for i, parts in enumerate(conds_list) for _ in parts]
            clean = x[images + list(range(len(x)))] - level * x_out
        free = clean[-len(conds_list) :]

        def put_together(rows: Tensor) -> Tensor:
            made = free.clone()
            for image, parts in enumerate(conds_list):
                for row, weight in parts:
                    made[image] += (rows[row] - free[image]) * weight
            return made

        perturbed = None
        if self.guide.wants(cond_scale).perturbed:
            with self.guide.perturbing():
                perturbed = put_together(self._perturbed(x, level, conds_list))
        denoised = self.guide.combine(
            put_together(clean), free if self.ran_uncond else None,
            self.call.pixel_time.sigma_map(), cond_scale, perturbed,
        )  # fmt: skip
        return denoised if level is None else (x - denoised) / level

    def _perturbed(self, x: Tensor | None, level: float | None, conds_list: list) -> Tensor:
        """D of this step's conditional rows, called for once more."""
        made = []
        for rows, input, sigma, kwargs in self._calls:
            chosen = [row for row, part in enumerate(rows.parts) if part != UNCONDITIONAL]
            if not chosen:
                continue
            some = Rows.of(
                [rows.images[row] for row in chosen],
                [rows.parts[row] for row in chosen],
                input.device,
            )
            given = {name: _rows_of(value, chosen, len(rows)) for name, value in kwargs.items()}
            made.append(self._again(some, input[chosen], sigma[chosen], **given))
        made = torch.cat(made)
        if level is None:
            return made
        return x[[i for i, parts in enumerate(conds_list) for _ in parts]] - level * made

    def _latents_by_image(self) -> Tensor:
        """The latents of this step as the wrapper was given them, [B, C, H, W]."""
        seen = {
            image: input[row]
            for rows, input, _, _ in self._calls
            for row, image in enumerate(rows.images)
        }
        return torch.stack([seen[image] for image in range(self.batch)])

    # --- rows ---

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


def _not_attached(*call: Any) -> Tensor:
    raise RuntimeError("No network is attached.")


def _rows_of(value: Any, rows: list[int], count: int) -> Any:
    """Some rows of a host's conditioning, however deep its tensors lie."""
    if isinstance(value, dict):
        return {name: _rows_of(each, rows, count) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rows_of(each, rows, count) for each in value]
    return value[rows] if isinstance(value, Tensor) and len(value) == count else value


def _parametrisation_of(wrap: Any) -> Parametrisation:
    """The parametrisation of one of the host's wrappers around an ldm model.

    Raises:
        UnsupportedNetwork: another kind of wrapper.
    """
    inner = getattr(getattr(wrap, "inner_model", None), "model", None)
    sampling = getattr(inner, "model_sampling", None)
    if sampling is not None:  # Stable Diffusion 3
        return rectified(sampling)
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
