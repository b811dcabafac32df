"""Stands for ``backend/`` (Forge, Neo) and ``ldm_patched/`` (reForge, Classic).

Predictors, the model with its one ``apply_model``, the patcher with its one wrapper slot, and the
way rows are put together: all parts of the prompt, then the unconditional ones, taken from the
end; contexts of unequal length repeated; as many in a call as memory allows.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from modules_forge import STYLE
from torch import Tensor, nn

OLD = STYLE in ("reforge", "classic")
COND, UNCOND = 0, 1


class _Table(nn.Module):
    """Noise levels of 1,000 timesteps; a sigma finds the nearest of them."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigmas", ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5)
        self.register_buffer("log_sigmas", self.sigmas.log())

    def timestep(self, sigma: Tensor) -> Tensor:
        away = sigma.log() - self.log_sigmas[:, None]
        return away.abs().argmin(dim=0).view(sigma.shape)

    def sigma(self, timestep: Tensor) -> Tensor:
        low, high, part = timestep.floor().long(), timestep.ceil().long(), timestep.frac()
        return ((1 - part) * self.log_sigmas[low] + part * self.log_sigmas[high]).exp()


def _column(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.view(sigma.shape[:1] + (1,) * (x.ndim - 1))  # one number a row: maps fail here


class EPS(_Table):
    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (_column(sigma, noise) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor):
        return model_input - model_output * _column(sigma, model_output)


class V_PREDICTION(EPS):
    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor):
        sigma = _column(sigma, model_output)
        return model_input / (sigma**2 + 1) - model_output * sigma / (sigma**2 + 1) ** 0.5


def predictor_for(kind: str, alphas_cumprod: Tensor) -> nn.Module:
    base = {"eps": EPS, "v": V_PREDICTION}[kind]
    if OLD:  # says what it predicts by its classes alone
        return type("ModelSampling", (base,), {})(alphas_cumprod)
    made = base(alphas_cumprod)
    made.prediction_type = {"eps": "epsilon", "v": "v_prediction"}[kind]
    return made


class KModel(nn.Module):
    """The network between the two methods of its predictor."""

    def __init__(self, network: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = network
        setattr(self, "model_sampling" if OLD else "predictor", predictor)

    def apply_model(
        self, x: Tensor, t: Tensor, c_crossattn: Tensor, transformer_options: dict, **more: Any
    ) -> Tensor:
        predictor = self.model_sampling if OLD else self.predictor
        scaled = predictor.calculate_input(t, x)
        timestep = predictor.timestep(t).float()
        guess = self.diffusion_model(
            scaled, timestep, context=c_crossattn, transformer_options=transformer_options
        )
        eps = not isinstance(predictor, V_PREDICTION)
        # Random weights know no images: what they say only bends a plain guess.
        return predictor.calculate_denoised(t, 0.4 * guess + (0.9 * scaled if eps else 0), x)

    def memory_required(self, input_shape: list[int], **more: Any) -> float:
        return float(math.prod(input_shape))


class UnetPatcher:
    """A model and what extensions add to it; clones share the model."""

    def __init__(self, model: KModel) -> None:
        self.model, self.model_options = model, {}

    def clone(self) -> UnetPatcher:
        made = UnetPatcher(self.model)
        made.model_options = copy.copy(self.model_options)
        return made

    def set_model_unet_function_wrapper(self, wrapper: Any) -> None:
        self.model_options["model_function_wrapper"] = wrapper


def _fit(one: Tensor, two: Tensor) -> bool:
    longer = math.lcm(one.shape[1], two.shape[1])
    return longer // min(one.shape[1], two.shape[1]) <= 4


def sample(
    unet: UnetPatcher, x: Tensor, sigma: Tensor, cond: list[tuple[Tensor, float]],
    uncond: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """D after guidance, and after what extensions put around it."""
    model, options = unet.model, unet.model_options
    conds = [{"text": text, "strength": weight} for text, weight in cond]
    unconds = None if uncond is None else [{"text": uncond}]
    for modifier in options.get("conditioning_modifiers", []):
        model, x, sigma, unconds, conds, scale, options, _ = modifier(
            model, x, sigma, unconds, conds, scale, options, None
        )
    left_out = math.isclose(scale, 1.0) and not options.get("disable_cfg1_optimization", False)
    guided, free = calc_cond_uncond_batch(
        model, conds, None if left_out else unconds, x, sigma, options
    )
    strength = sum(part["strength"] for part in conds)
    denoised = free + (guided - free) * scale * strength
    for function in options.get("sampler_post_cfg_function", []):
        denoised = function({
            "denoised": denoised, "cond": conds, "uncond": unconds, "model": model,
            "uncond_denoised": free, "cond_denoised": guided, "sigma": sigma,
            "model_options": options, "input": x,
        })  # fmt: skip
    return denoised


def calc_cond_uncond_batch(
    model: KModel, cond: list[dict], uncond: list[dict] | None, x: Tensor, sigma: Tensor,
    options: dict,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """D of both, weighted means of their parts; zeros for what is left out."""
    rest = [(part["text"], part["strength"], COND) for part in cond]
    rest += [(part["text"], 1.0, UNCOND) for part in uncond or []]
    out, count = {COND: 0.0, UNCOND: 0.0}, {COND: 1e-37, UNCOND: 1e-37}
    while rest:
        fits = [i for i, item in enumerate(rest) if _fit(item[0], rest[0][0])][::-1]
        chosen = fits[:1]
        for cut in range(1, len(fits) + 1):
            some = fits[: len(fits) // cut]
            if model.memory_required([len(some) * len(x), *x.shape[1:]]) < 1e9:
                chosen = some
                break
        items = [rest.pop(i) for i in chosen]
        longest = math.lcm(*(text.shape[1] for text, _, _ in items))
        context = torch.cat([t.repeat(1, longest // t.shape[1], 1) for t, _, _ in items])
        kinds = [kind for _, _, kind in items]
        given = {"c_crossattn": context, "transformer_options": {"cond_or_uncond": kinds[:]}}
        rows, levels = torch.cat([x] * len(items)), torch.cat([sigma] * len(items))
        wrapper = options.get("model_function_wrapper")
        if wrapper is None:
            made = model.apply_model(rows, levels, **given)
        else:
            call = {"input": rows, "timestep": levels, "c": given, "cond_or_uncond": kinds}
            made = wrapper(model.apply_model, call)
        for (_, weight, kind), part in zip(items, made.chunk(len(items))):
            out[kind], count[kind] = out[kind] + part * weight, count[kind] + weight
    return out[COND] / count[COND], torch.zeros_like(x) + out[UNCOND] / count[UNCOND]
