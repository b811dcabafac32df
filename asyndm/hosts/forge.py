"""Forge main, Forge Neo, reForge and Forge Classic: around the network by the predictor.

All of them keep a predictor on the model (``predictor``, in the older line ``model_sampling``) that
scales the network's input and turns its output into the denoised prediction. Both methods are
shadowed on the instance for one sampling call. ``model_function_wrapper``, a single slot that other
extensions use, is left to them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from modules import shared
from torch import Tensor, nn

from asyndm.core.parametrisation import (
    EpsParametrisation,
    Parametrisation,
    VParametrisation,
)
from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.core.shadow import replaced, shadowed
from asyndm.hosts.calls import SamplingCall, TimestepCall
from asyndm.hosts.encoders import transformer_tokens
from asyndm.hosts.frames import flat, like
from asyndm.hosts.hosted import HostRun
from asyndm.hosts.prompts import Tokens, classic_tokens
from asyndm.hosts.shims import cond_batch
from asyndm.hosts.steps import check_caches, check_compiled
from asyndm.hosts.transformers import rectified
from asyndm.hosts.webui import Plan
from asyndm.network import RowsMismatch, UnsupportedNetwork, is_transformer

_COND, _UNCOND = 0, 1  # in the backends' cond_or_uncond
_FORMULAS = {
    "epsilon": EpsParametrisation,
    "EPS": EpsParametrisation,
    "v_prediction": VParametrisation,
    "V_PREDICTION": VParametrisation,
}
# Parts of the names of predictors with another table of timesteps.
_OTHER_TABLES = ("EDM", "Continuous", "Flow", "Flux", "Cascade")
_ENGINES = (
    *("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g"),  # backend/
    "cond_stage_model",  # ldm_patched/
)


class ForgeRun(HostRun):
    """One asynchronous sampling call in a WebUI of the Forge family."""

    def __init__(self, plan: Plan, job: SamplingCall | TimestepCall) -> None:
        self._parts = 0  # of the prompt in this step's network calls
        self._seen = 0  # conditional chunks that network calls of this step have had
        self._row_maps: dict[tuple, Rows] = {}
        super().__init__(plan, job)

    @staticmethod
    def tokenize(text: str) -> Tokens | list[Tokens]:
        model, network = shared.sd_model, ForgeRun.network_of(shared.sd_model)

        def classic(text: str) -> Tokens:
            return classic_tokens((getattr(model, name, None) for name in _ENGINES), text)

        if is_transformer(network):
            return transformer_tokens(model, network, classic, text)
        return classic(text)

    @staticmethod
    def network_of(model: Any) -> nn.Module:
        check_compiled(model.forge_objects.unet.model)
        return model.forge_objects.unet.model.diffusion_model

    def check_model(self) -> None:
        options = getattr(self.model().forge_objects.unet, "model_options", None)
        check_caches(self.network(), options)

    def model(self) -> Any:
        return self.denoiser.inner_model.inner_model

    def options(self) -> Mapping[str, Any]:
        return getattr(self.model().forge_objects.unet, "model_options", None) or {}

    def patches(self) -> Iterable[Any]:
        options = self.options()
        patches = options.get("transformer_options", {}).get("patches", {})
        return [*patches.get("attn2_patch", ()), *patches.get("attn2_output_patch", ())]

    def wrapper(self) -> Any:
        inner = self.model().forge_objects.unet.model
        return getattr(inner, "predictor", None) or inner.model_sampling

    def parametrise(self) -> Parametrisation:
        predictor = self.wrapper()
        if _is_flow(predictor):
            return rectified(predictor)
        make = _FORMULAS.get(_prediction(predictor))
        if make is None:
            name = type(self.network()).__name__
            raise UnsupportedNetwork(
                f"AsynDM has no formula for what this model ({name}) predicts."
            )
        return make(1 / (1 + predictor.sigmas.detach().double().cpu() ** 2))

    def ancestral_is_flow(self) -> bool:
        """Forge main's is for its Flux predictor alone; Neo's for every one with a multiplier."""
        predictor = self.wrapper()
        names = [base.__name__ for base in type(predictor).__mro__]
        return hasattr(predictor, "multiplier") or "PredictionFlux" in names

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """The predictors take the nearest whole number of their table; those of flow need none."""
        if self.parametrisation.flow:
            return self.parametrisation.timestep(sigmas)
        last = len(self.parametrisation.sigmas) - 1
        if isinstance(self.job, TimestepCall):
            return self.job.timesteps(sigmas).float().clamp(0, last).round()
        return self.parametrisation.timestep(sigmas).clamp(0, last).round()

    def begin_step(self, params: Any) -> None:
        # The host lays out as many parts (AND) as the shortest prompt of the batch has.
        self._parts = min(len(c) for c in self.denoiser.sampler.sampler_extra_args["cond"].batch)
        self._seen, self.ran_uncond = 0, False
        if self._blends_first():
            self._level_known(params)

    def _blends_first(self) -> bool:
        """Whether the host lays noisy known latents over the kept region before the network."""
        if self.denoiser.mask is None:
            return False
        forward = inspect.unwrap(type(self.denoiser).forward)
        # reForge and Neo do so only for samplers that ask for it; the others always.
        asks = "mask_before_denoising" in forward.__code__.co_names
        return self.denoiser.mask_before_denoising if asks else True

    def _level_known(self, params: Any) -> None:
        """The host's blend is noisy at its own sigma: bring that noise to every pixel's."""
        time = self.call.pixel_time
        if time is None:
            return
        mask, nmask = self.denoiser.mask, self.denoiser.nmask
        kept = flat(self.denoiser.init_latent) * flat(mask)
        clean = flat(self.latents) * flat(nmask) + kept
        host = params.sigma.view(-1, 1, 1, 1)
        levelled = clean + (flat(params.x) - clean) * (time.sigma_map().to(host) / host)
        params.x = like(levelled.to(params.x.dtype), params.x)

    # --- around the network ---

    @contextmanager
    def around_network(self) -> Iterator[None]:
        predictor, parametrisation = self.wrapper(), self.parametrise()
        scale, denoise = predictor.calculate_input, predictor.calculate_denoised

        def calculate_input(sigma: Tensor, noise: Tensor) -> Tensor:  # the host's names
            level = self._level(noise)
            return scale(sigma, noise) if level is None else noise * parametrisation.c_in(level)

        def calculate_denoised(sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
            level = self._level(model_input)
            if level is None:
                return denoise(sigma, model_output, model_input)
            return parametrisation.denoised(model_input, model_output, level)

        with ExitStack() as stack:
            stack.enter_context(shadowed(predictor, "calculate_input", calculate_input))
            stack.enter_context(shadowed(predictor, "calculate_denoised", calculate_denoised))
            hook = self.network().register_forward_pre_hook(self._see_rows, with_kwargs=True)
            stack.callback(hook.remove)
            yield

    def _level(self, x: Tensor) -> Tensor | None:
        """The noise level of every pixel of a network call's rows, [rows, 1, H, W] or as x."""
        time = self.call.pixel_time
        if time is None:
            return None
        size = tuple(self.job.x.shape[-2:])
        if tuple(x.shape[-2:]) != size or len(x) % self.batch:
            raise UnsupportedNetwork(
                f"The network is shown pieces of {x.shape[-2]}x{x.shape[-1]} instead of the whole "
                f"{size[0]}x{size[1]} latents (MultiDiffusion?): switch off what cuts the image."
            )
        return like(time.sigma_map().repeat(len(x) // self.batch, 1, 1, 1), x)

    def _see_rows(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the network: which image and which part of its prompt each row belongs to."""
        x = args[0] if args else kwargs["x"]
        kinds = tuple(kwargs.get("transformer_options", {}).get("cond_or_uncond", ()))
        if len(x) % self.batch:
            raise RowsMismatch(f"A network call of {len(x)} rows does not fit {self.batch} images.")
        if len(kinds) * self.batch != len(x):  # another extension's call of its own
            kinds = (None,) * (len(x) // self.batch)
        parts = []
        for kind in kinds:
            part = UNCONDITIONAL
            if kind == _COND:  # in reverse order, also when they are split over several calls
                part = max(self._parts - 1 - self._seen, UNCONDITIONAL)
                self._seen += 1
            self.ran_uncond |= kind == _UNCOND
            parts.append(part)
        self.call.rows = self._row_map(tuple(parts), x.device)

    # --- guidance ---

    @contextmanager
    def around_guidance(self) -> Iterator[None]:
        """Behind the host's CFG, ahead of other extensions' functions there."""
        if self.guide.perturbation is not None and cond_batch() is None:
            raise UnsupportedNetwork(
                "guidance: this WebUI has no call for a third prediction (SEG, PAG, TPG)."
            )
        options = self.model().forge_objects.unet.model_options
        ours = {
            "sampler_post_cfg_function": [
                self._behind_cfg, *options.get("sampler_post_cfg_function", ())
            ],
            "conditioning_modifiers": [
                *options.get("conditioning_modifiers", ()), self._see_scale
            ],
        }  # fmt: skip
        if self.guide.method.needs_uncond:
            ours["disable_cfg1_optimization"] = True
        with ExitStack() as stack:
            for name, value in ours.items():
                stack.enter_context(replaced(options, name, value))
            yield

    def _has_scale_of_its_own(self) -> bool:
        """A hires pass: the host takes that pass's scale, whatever it is called with."""
        return getattr(self.p, "is_hr_pass", False) and hasattr(self.p, "hr_cfg")

    def scale_of_pass(self) -> float:
        return self.p.hr_cfg if self._has_scale_of_its_own() else self.scale

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        if not self._has_scale_of_its_own():
            yield
            return
        with shadowed(self.p, "hr_cfg", scale):
            yield

    def _see_scale(self, model, x, timestep, uncond, cond, cond_scale, *rest: Any) -> tuple:
        """A modifier that modifies nothing: here a step's true scale can be seen."""
        self.scale = cond_scale
        return (model, x, timestep, uncond, cond, cond_scale, *rest)

    def _behind_cfg(self, args: dict[str, Any]) -> Tensor:
        """The host's guided D, plus what the method makes of it: others' functions stay."""
        guide, cond, free = self.guide, args["cond_denoised"], None
        if self.ran_uncond:
            free = args["uncond_denoised"]
            strength = sum(part.get("strength", 1.0) for part in args["cond"])  # of AND's parts
            cond = free + strength * (cond - free)
        perturbed = None
        if guide.wants(self.scale).perturbed:
            with guide.perturbing():
                worse = cond_batch()(
                    args["model"], args["cond"], None, args["input"], args["sigma"],
                    args["model_options"],
                )[0]  # fmt: skip
            perturbed = worse if free is None else free + strength * (worse - free)
        sigma = self.call.pixel_time.sigma_map()
        made = guide.combine(flat(cond), flat(free), sigma, self.scale, flat(perturbed))
        made = like(made, cond)
        plain = cond if free is None else free + self.scale * (cond - free)
        return args["denoised"] + (made - plain)

    def _row_map(self, parts: tuple[int, ...], device: torch.device) -> Rows:
        key = (parts, device)
        if key not in self._row_maps:
            images = [image for _ in parts for image in range(self.batch)]
            rows = [part for part in parts for _ in range(self.batch)]
            self._row_maps[key] = Rows.of(images, rows, device)
        return self._row_maps[key]


def _is_flow(predictor: Any) -> bool:
    """Rectified flow, whose timestep is a multiple of sigma."""
    names = [base.__name__ for base in type(predictor).__mro__]
    asked = all(hasattr(predictor, name) for name in ("shift", "multiplier"))
    rectified_unet = asked and any("DiscreteFlow" in name for name in names)
    return rectified_unet or getattr(predictor, "prediction_type", None) == "const"


def _prediction(predictor: Any) -> str | None:
    """What a predictor's formula is called in its backend; None where its table is another."""
    names = [base.__name__ for base in type(predictor).__mro__]
    if any(part in name for name in names for part in _OTHER_TABLES):
        return None
    if hasattr(predictor, "prediction_type"):  # backend/
        return predictor.prediction_type
    # ldm_patched/: the class that the formula in use comes from
    return type(predictor).calculate_denoised.__qualname__.rpartition(".")[0]
