"""What a host's sampler function does by itself, and takes no parameter for.

reForge has ComfyUI's functions beside k-diffusion's. Theirs read eta, s_noise, s_churn, r, ... in
``shared.opts``. Which settings those are is asked of the function: they are named in its code. How
a multistep function ends is asked of it, too, by a run on one number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from modules import shared
from torch import Tensor

from asyndm.core.rules import REGISTRY
from asyndm.core.settings import SettingsError
from asyndm.hosts.calls import names_of

# What a rule here was shown to do as its twin does: from, to (both inside), and how to say it.
_BOUNDS = {"eta": (0.0, float("inf")), "s_noise": (0.0, float("inf")), "r": (0.05, 1.0)}
_ANCESTRAL = {"eta": (0.0, 1.0)}  # above, ComfyUI's leaves out noise that the next level lacks
_OFFSET = "offset_first_sigma_for_snr"  # ComfyUI's function for the first level of flow
# Rules whose hosts do not agree about the step to 0.
_ENDS_DIFFER = ("ipndm", "ipndm_v", "lms")
# SA-Solver in ComfyUI is stochastic in this part of the model's levels, "percent" from the top.
_STOCHASTIC = {"start_sigma": 0.2, "end_sigma": 0.8}


def options_inside(
    rule: str, twin: Callable, handed: Mapping[str, Any], predictor: Any
) -> dict[str, Any]:
    """The options of a rule that its twin does not take, or takes from the settings for want.

    Args:
        rule: one of :data:`asyndm.core.rules.REGISTRY`.
        twin: the host's function.
        handed: what the host hands in; that comes first, as in the twin.
        predictor: of the host's model, which SA-Solver asks for levels.

    Raises:
        SettingsError: a value without an asynchronous form.
    """
    options: dict[str, Any] = {}
    if of_comfyui(twin):
        known = REGISTRY[rule].options
        options |= {option: False for option in ("draws_idle", "last_step") if option in known}
    if rule in _ENDS_DIFFER:
        options["lower_order_final"] = ends_in_denoised(twin)
    if "start_sigma" in REGISTRY[rule].options and hasattr(predictor, "percent_to_sigma"):
        for option, percent in _STOCHASTIC.items():
            options[option] = float(predictor.percent_to_sigma(percent))
    for setting in _read_by(twin):
        option, value = _option_of(setting, REGISTRY[rule].options), getattr(shared.opts, setting)
        if option is None:
            _check_default(setting, value)
            continue
        if handed.get(option) is not None:
            continue
        least, most = {**_BOUNDS, **(_ANCESTRAL if rule == "ddpm" else {})}.get(option, (None,) * 2)
        if least is not None and not least <= value <= most:
            upto = "or more" if most == float("inf") else f"to {most:g}"
            raise SettingsError(
                f"{setting} {value} (in the WebUI's settings) has no asynchronous form; choose "
                f"{least:g} {upto}."
            )
        options[option] = value
    return options


def _check_default(setting: str, value: Any) -> None:
    """Refuse a setting that the rule knows nothing of, unless it is as the host ships it."""
    default = getattr(shared.opts, "get_default", lambda name: value)(setting)
    if value != default:
        raise SettingsError(
            f"{setting} {value} (in the WebUI's settings) has no asynchronous form; choose "
            f"{default}."
        )


def ends_in_denoised(twin: Callable) -> bool:
    """Whether a multistep sampler's step to 0 is of order 1, whose end is the prediction.

    reForge's IPNDM and Neo's LMS do so, Forge's end in a step of their full order. Asked by a run
    of two steps on one number: the slope is 0 in the first, so a higher order shows in the second.
    """
    seen = []

    def model(x, sigma, **_):
        seen.append(x if not seen else torch.zeros_like(x))
        return seen[-1]

    x, sigmas = torch.ones(1, 1, 1, 1), torch.tensor([2.0, 1.0, 0.0])
    return bool(twin(model, x, sigmas, disable=True).abs().max() < 1e-6)


def levels_of(twin: Callable, sigmas: Tensor, predictor: Any) -> Tensor:
    """The list as the twin goes through it: ComfyUI's SDE samplers begin below 1 on flow.

    Args:
        twin: the host's function.
        sigmas: [calls + 1] that the host hands in.
        predictor: of the host's model.
    """
    offset = global_of(twin, _OFFSET)
    return offset(sigmas, predictor) if offset and _OFFSET in names_of(twin) else sigmas


def of_comfyui(twin: Callable) -> bool:
    """Whether a function is of ComfyUI's line of k-diffusion, whose Brownian tree knows ``cpu``."""
    tree = global_of(twin, "BrownianTreeNoiseSampler")
    return tree is not None and "cpu" in inspect.signature(tree).parameters


def global_of(twin: Callable, name: str) -> Any:
    """What a function's own module calls so; None where it has no such thing."""
    return getattr(inspect.unwrap(twin), "__globals__", {}).get(name)


def _read_by(twin: Callable) -> list[str]:
    """The settings that a function's code names."""
    named = names_of(twin)
    return [name for name in named if name in shared.opts.data_labels] if "opts" in named else []


def _option_of(setting: str, options: tuple[str, ...]) -> str | None:
    """ "heun_og_s_churn" sets s_churn."""
    found = [option for option in options if setting.endswith(f"_{option}")]
    return max(found, key=len, default=None)
