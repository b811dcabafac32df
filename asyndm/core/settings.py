"""The one validated settings object: the single source for pages, infotext, API and plots.

A plain dataclass, because the hosts carry pydantic 1 or pydantic 2 and the extension must
start in both.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

CURVES = ("quadratic", "linear", "piecewise", "exponential")
LEARNED = "learned"  # the curve of a profile
MASK_SOURCES = ("dynamic", "fixed", "given")
FIRST_STEPS = ("objects", "background")
ORIGINS = ("host", "paper")
NORMS = ("host", "levelled")
RULES = ("ddpm", "euler", "dpmpp_2m")
GUIDANCES = ("cfg", "s-cfg", "seg", "pag", "tpg", "apg", "cfg++", "cfg++w")
CLOCKS = ("asynchronous", "concave", "synchronous")
TEXT_TIMESTEPS = ("scalar", "objects")
SOFTMAXES = ("text", "joint")
# Settings that only a transformer among the networks takes.
TRANSFORMER_ONLY = ("text_timestep", "softmax")
# Settings that the embedded model has no use for: they need a WebUI around them (inpainting, a
# second pass, a gallery), or a transformer.
WEBUI_ONLY = (
    *("lead", "hires", "show_masks", "save_masks", "only_hires", "mask_invert", "mask_grow"),
    *("mask_feather", "mask_colours", "adetailer", "clock"),
    *TRANSFORMER_ONLY,
)
# Settings that are yes or no, and those that are text, besides the choices.
SWITCHES = (
    *("enabled", "soft", "hires", "show_masks", "save_masks", "only_hires", "mask_invert"),
    "adetailer",
)
TEXTS = {
    **{"objects": "shark, bike", "mask_colours": "red=shark, blue=bike"},
    "profile": "my profile",
}
# What people say -> the value.
SAID = {"mask_source": {"painted": "given"}}
CHOICES = {
    "curve": (*CURVES, LEARNED),
    "mask_source": MASK_SOURCES,
    "first_step": FIRST_STEPS,
    "origin": ORIGINS,
    "clock": CLOCKS,
    "guidance": GUIDANCES,
    "norms": NORMS,
    "text_timestep": TEXT_TIMESTEPS,
    "softmax": SOFTMAXES,
}
RANGES = {
    "curvature": (0.0, 1.0),
    "threshold": (0.0, 10.0),
    "eta": (0.0, 1.0),
    "smoothing": (0.0, 0.99),
    "start": (0.0, 1.0),
    "end": (0.0, 1.0),
    "lead": (0.0, 1.0),
    "mask_grow": (-512.0, 512.0),
    "mask_feather": (0.0, 512.0),
    "perturbed_scale": (0.0, 30.0),
    "seg_blur": (0.0, 10_000.0),
    "cfgpp_lambda": (0.0, 1.0),
    "apg_eta": (0.0, 1.0),
    "apg_momentum": (-1.0, 1.0),
    "apg_norm": (0.0, 1000.0),
    "interval_low": (0.0, 10_000.0),
    "interval_high": (0.0, 10_000.0),
    "zigzag": (0.0, 1.0),
    "zigzag_up": (0.0, 30.0),
}


class SettingsError(ValueError):
    """A value a person gave cannot be used. One line: which input, and the remedy."""


@dataclass(frozen=True)
class Settings:
    """What the user chose. Immutable; make variants with :func:`dataclasses.replace`.

    Raises:
        SettingsError: a field is of the wrong type, not among its choices or out of range.
    """

    enabled: bool = False
    objects: str = ""  # object expression, "shark:0.7, bike"; empty = found in the prompt
    curve: str = "quadratic"
    curvature: float = 0.5  # k, the paper's weight omega; 0 = synchronous
    threshold: float = 1.0  # a pixel is object where attention >= threshold * spatial mean
    mask_source: str = "dynamic"
    first_step: str = "objects"  # what every pixel counts as before the first mask is read
    origin: str = "host"  # "paper": the authors' indexing, one interval earlier
    eta: float = 1.0  # noise of the ddpm rule: 1 = DDPM, 0 = DDIM
    smoothing: float = 0.0  # running mean of attention over steps: weight of the past, 0 = off
    soft: bool = False  # masks between 0 and 1 instead of binary ones
    start: float = 0.0  # masks steer from this fraction of the steps on; earlier = synchronous pace
    end: float = 1.0  # and up to this one; afterwards every pixel keeps the pace it has
    lead: float = 0.0  # inpainting: how far the kept region runs ahead; 1 = clean from the start
    hires: bool = True  # WebUI: the second pass of hires fix is asynchronous too
    show_masks: bool = False  # WebUI: heat maps and the film of timesteps join the gallery
    save_masks: bool = False  # WebUI: and are saved beside the images
    only_hires: bool = False  # WebUI: the first pass of hires fix stays synchronous
    mask_invert: bool = False  # given masks: what is white is not the object
    mask_grow: float = 0.0  # given masks: pixels to every side, negative = shrink
    mask_feather: float = 0.0  # given masks: pixels over which the border fades
    mask_colours: str = ""  # given masks: one object a colour, "red=shark:0.7, #00f=bike"
    adetailer: bool = False  # WebUI: ADetailer's inner passes are asynchronous too
    clock: str = "asynchronous"  # WebUI: or one for all pixels, the objects' or the host's
    guidance: str = "cfg"  # what makes one prediction of several
    perturbed_scale: float = 3.0  # seg, pag, tpg: g, away from the perturbed prediction
    seg_blur: float = 10_000.0  # seg: sigma of the blurred queries; above 9999 their mean
    cfgpp_lambda: float = 0.6  # cfg++: in place of the CFG scale
    apg_eta: float = 0.0  # apg: share of what is parallel to the prediction
    apg_momentum: float = -0.5  # apg: of the difference over the steps
    apg_norm: float = 15.0  # apg: ceiling of the difference's norm, 0 = none
    interval_low: float = 0.0  # guided only above this noise level
    interval_high: float = 0.0  # and up to this one, 0 = no end
    zigzag: float = 0.0  # share of the steps that zigzag
    zigzag_up: float = 0.0  # guidance on a zigzag's way up
    norms: str = "host"  # "levelled": group norms by statistics of each pixel's own noise level
    # Transformers: what text tokens are told of time, the host's scalar or the objects' mean.
    text_timestep: str = "scalar"
    softmax: str = "text"  # transformers: attention to words among the text alone, or among all
    profile: str = ""  # of the learned curve, by name

    def __post_init__(self) -> None:
        for name, said in SAID.items():
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, said.get(value, value))
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(
                    f"{name}: {_shown(getattr(self, name))} is neither true nor false."
                )
        for name, example in TEXTS.items():
            if not isinstance(getattr(self, name), str):
                raise SettingsError(
                    f"{name}: {_shown(getattr(self, name))} is not text; write e.g. {example!r}."
                )
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name, (low, high) in RANGES.items():
            object.__setattr__(self, name, check_number(name, getattr(self, name), low, high))
        if self.start >= self.end:
            raise SettingsError(
                f"start: {self.start:g} is not before end ({self.end:g}); masks would never steer."
            )

        if self.curve == LEARNED and self.origin != ORIGINS[0]:
            raise SettingsError(
                f"origin: {self.origin} has no learned curve; set origin to {ORIGINS[0]}, or "
                f"another curve."
            )

    def changed(self) -> dict[str, Any]:
        """The fields that differ from the defaults, in the order of declaration."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Settings from a plain dictionary (API, saved files).

        Raises:
            SettingsError: an unknown name or a value that cannot be used.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise SettingsError(
                    f"{name}: no such setting; the settings are {', '.join(known)}."
                )
        return cls(**values)


# Starting points by name: what each changes of the defaults.
PRESETS = {
    "default": {},
    "paper": {"curvature": 1.0, "origin": "paper"},
    "gentle": {"curvature": 0.25},
    "strong": {"curvature": 0.9},
    "edit": {"curvature": 0.9, "mask_source": "given"},
    "flow": {"curvature": 0.3},  # of rectified-flow models, which were trained on one noise level
}


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a finite float within [low, high].

    Raises:
        SettingsError: otherwise, naming the input and the range.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:  # false for NaN too
        raise SettingsError(
            f"{name}: {_shown(value)} is out of range; give a number from {low:g} to {high:g}."
        )
    return number


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as a whole number within [low, high].

    Raises:
        SettingsError: otherwise, naming the input and the range.
    """
    number = check_number(name, value, low, high)
    if number != int(number):
        raise SettingsError(f"{name}: {value!r} is not a whole number from {low} to {high}.")
    return int(number)


def _shown(value: Any) -> str:
    """A value in a message: short, and of whatever length it was sent."""
    if isinstance(value, int) and abs(value) >= 10**20:  # a thousand digits are no message
        return "this number"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(
            f"{name}: {_shown(value)} is unknown; choose one of {', '.join(choices)}."
        )
