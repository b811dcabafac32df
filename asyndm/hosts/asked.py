"""What is asked of a host: every name, argument and attribute, each with what is lost without it.

Looked for once, when the extension starts: a thing that is missing is one line in the log and in
the accordion. Versions are never compared. What the adapters take if it is there and do as well
without (``getattr`` with a default) is not listed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

FORGES = ("Forge", "reForge")  # as in detect.host_name: the families of backend/ and ldm_patched/
# What is lost without the things nothing can be done without.
EVERYTHING = "images stay synchronous"
_THIRD = "no guidance by SEG, PAG and TPG"
_STEERING = "a ticked image stays synchronous, and says so"


@dataclass(frozen=True)
class Asked:
    """One thing.

    Attributes:
        module: that has it.
        name: of a function, a class or a variable in it.
        lost: what a user loses without it, as the end of a sentence.
        attribute: that the objects of the class have; "" = the class or function itself is asked.
        takes: arguments that are handed to it by name, or how many are handed to it by place.
        hosts: whose it is, by the names of ``detect.host_name``; none = every host's.
    """

    module: str
    name: str
    lost: str
    attribute: str = ""
    takes: tuple[str, ...] | int = ()
    hosts: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        """Without it AsynDM does nothing at all in a host."""
        return self.lost == EVERYTHING

    def __str__(self) -> str:
        return ".".join(filter(None, (self.module, self.name, self.attribute)))

    def missing(self) -> str:
        """What of it is not there, "" for nothing."""
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            return f"it has no {self.module}"
        if not hasattr(module, self.name):
            return f"its {self.module} has no {self.name}"
        found = getattr(module, self.name)
        if self.attribute and not _has(found, self.attribute):
            return f"its {self.module}.{self.name} has no {self.attribute}"
        wanting = _not_taken(found, self.takes)
        return f"its {self.module}.{self.name} does not take {wanting}" if wanting else ""


def _of(module: str, names: str, lost: str, **more: Any) -> Iterator[Asked]:
    return (Asked(module, name, lost, **more) for name in names.split())


def _objects(module: str, name: str, attributes: str, lost: str, **more: Any) -> Iterator[Asked]:
    return (Asked(module, name, lost, attribute, **more) for attribute in attributes.split())


_KEYWORDS = tuple(
    "elem_id height scribble_color scribble_color_fixed scribble_alpha scribble_alpha_fixed "
    "scribble_softness_fixed".split()
)
SCHEDULES = Asked(
    "modules.prompt_parser",
    "get_learned_conditioning_prompt_schedules",
    "words of an edited prompt steer as it is written, not step by step",
    takes=3,
)
CANVAS = Asked(
    "modules_forge.forge_canvas.canvas",
    "ForgeCanvas",
    "a mask can be loaded, not painted",
    takes=_KEYWORDS,
    hosts=("Forge",),
)
_K_MODEL, _PREDICTION = "backend.modules.k_model", "backend.modules.k_prediction"

ASKED: tuple[Asked, ...] = (
    # the samplers
    *_of("modules.sd_samplers", "all_samplers all_samplers_map set_samplers", EVERYTHING),
    *_of("modules.sd_samplers_common", "SamplerData", EVERYTHING),
    *_of("modules.sd_samplers_kdiffusion", "KDiffusionSampler", EVERYTHING),
    *_objects(
        "modules.sd_samplers_kdiffusion", "KDiffusionSampler", "func config sampler_extra_args",
        _STEERING,
    ),
    *_of(
        "modules.sd_samplers", "find_sampler_config",
        "an edited prompt's words may steer at wrong steps of the hires pass",
    ),
    # a step
    *_of("modules.script_callbacks", "on_cfg_denoiser", EVERYTHING),
    *_objects(
        "modules.sd_samplers_cfg_denoiser", "CFGDenoiser",
        "step p sampler mask nmask init_latent inner_model", _STEERING,
    ),
    *_objects("modules.sd_samplers_cfg_denoiser", "CFGDenoiser", "mask_before_denoising",
        "what inpainting keeps may be too noisy", hosts=FORGES),
    # guidance
    *_objects("modules.sd_samplers_cfg_denoiser", "CFGDenoiser", "combine_denoised",
        "no method of guidance but the host's own CFG", hosts=("A1111",)),
    *_of("backend.sampling.sampling_function", "calc_cond_uncond_batch", _THIRD, hosts=("Forge",)),
    *_of("ldm_patched.modules.samplers", "calc_cond_uncond_batch", _THIRD, hosts=("reForge",)),
    # a job
    *_objects(
        "modules.processing", "StableDiffusionProcessing",
        "rng sampler sampler_name prompts steps", _STEERING,
    ),
    *_objects(
        "modules.processing", "StableDiffusionProcessing", "comment extra_generation_params",
        "AsynDM's lines are only in the log",
    ),
    *_of("modules.shared", "opts state cmd_opts", EVERYTHING),
    # prompts
    *_of("modules.prompt_parser", "get_multicond_prompt_list", EVERYTHING),
    SCHEDULES,
    # the page
    *_of("modules.scripts", "Script AlwaysVisible", EVERYTHING),
    *_of("modules.ui_components", "InputAccordion", EVERYTHING),
    *_of("modules.infotext_utils", "image_from_url_text", "no button 'Paint over the last image'"),
    CANVAS,
    *_of("modules.script_callbacks", "on_before_ui", "no axes for the X/Y/Z plot"),
    *_of("modules.scripts", "scripts_data", "no axes for the X/Y/Z plot"),
    Asked(
        "modules.images", "save_image", "'Save masks' saves nothing",
        takes=("info", "p", "suffix"),
    ),
    # the network
    *_of("modules.sd_unet", "current_unet",
        "an SD Unet (TensorRT, ONNX) is not seen, and a ticked image is a broken one",
        hosts=("A1111",)),
    *_objects(_K_MODEL, "KModel", "predictor diffusion_model apply_model", _STEERING,
        hosts=("Forge",)),
    *_objects(_PREDICTION, "Prediction",
        "prediction_type sigmas calculate_input calculate_denoised", _STEERING, hosts=("Forge",)),
    *_objects("ldm_patched.modules.model_base", "BaseModel", "model_sampling diffusion_model",
        _STEERING, hosts=("reForge",)),
)  # fmt: skip


def lacking(host: str, things: Iterable[Asked] = ASKED) -> list[tuple[Asked, str]]:
    """(thing, what of it is missing) for everything a host lacks.

    Args:
        host: its family, by ``detect.host_name``.
        things: that are asked.
    """
    asked = (thing for thing in things if not thing.hosts or host in thing.hosts)
    return [(thing, text) for thing in asked if (text := thing.missing())]


def line(thing: Asked, text: str) -> str:
    """For the log and the accordion."""
    return f"AsynDM: this WebUI is not quite one that AsynDM knows ({text}): {thing.lost}."


def _has(kind: Any, name: str) -> bool:
    """Whether objects of a class have an attribute, as far as the class tells.

    It has it itself, declares it, or its own functions speak of it: most are set in ``__init__``.
    """
    if hasattr(kind, name):
        return True
    for base in getattr(kind, "__mro__", ()):
        if name in getattr(base, "__annotations__", {}):
            return True
        if base.__module__.split(".")[0] in ("torch", "builtins"):
            continue
        for function in vars(base).values():
            function = inspect.unwrap(getattr(function, "fget", function) or function)
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if isinstance(code, CodeType) and (name in code.co_names or name in code.co_consts):
                return True
    return False


def _not_taken(function: Any, takes: tuple[str, ...] | int) -> str:
    """What a function has no place for, in words; "" for nothing, and where it cannot be told."""
    if not takes or isinstance(function, ModuleType):
        return ""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ""
    if isinstance(takes, int):
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return ""
        places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        return f"{takes} arguments" if places < takes else ""
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return ""
    known = {p.name for p in parameters}
    return ", ".join(name for name in takes if name not in known)
