"""What of the settings changes nothing in a pipeline, one line each."""

from __future__ import annotations

from typing import Any

from asyndm.core.settings import TRANSFORMER_ONLY, Settings
from asyndm.guidance import methods
from asyndm.pipelines.kept import blends

_OF_WEBUIS = ("hires", "show_masks", "save_masks", "only_hires", "adetailer")
_OF_GIVEN = ("mask_invert", "mask_grow", "mask_feather", "mask_colours")
_OF_WORDS = ("objects", "threshold", "smoothing", "first_step")
_OWN_SCALE = methods.OWNERS["cfgpp_lambda"]
_WITHOUT = ("s-cfg", "apg", *_OWN_SCALE)  # methods that compare with what has no prompt
_WITH_ETA = ("EulerAncestralDiscreteScheduler", "DDPMScheduler")


def idle_settings(settings: Settings, pipe: Any, inpaints: bool, painted: bool) -> list[str]:
    """One line for each changed setting that cannot act.

    Args:
        settings: the user's.
        pipe: the pipeline.
        inpaints: it is an inpainting pipeline.
        painted: masks were given.
    """
    changed = settings.changed()
    scheduler = type(pipe.scheduler).__name__
    lines = [f"{n}: it is of WebUIs; it changes nothing here." for n in _OF_WEBUIS if n in changed]
    if hasattr(pipe, "transformer"):
        if "norms" in changed:
            lines.append("norms: a transformer has no group norms; it changes nothing.")
    else:
        alike = ("synchronous",) if inpaints else ("synchronous", "concave")
        if "norms" in changed and settings.clock in alike:
            lines.append("norms: no pixel's noise level differs here; it changes nothing.")
        lines += [
            f"{n}: it is of transformers; it changes nothing here."
            for n in TRANSFORMER_ONLY
            if n in changed
        ]
    given = settings.mask_source == "given"
    if not given:
        lines += [f"{n}: it changes given masks only." for n in _OF_GIVEN if n in changed]
    if given:
        lines += [
            f"{n}: given masks are not read from the prompt; it changes nothing."
            for n in _OF_WORDS
            if n in changed and not (n == "objects" and painted)
        ]
    elif settings.mask_source == "fixed":
        lines += [
            f"{n}: fixed masks are known from the start; it changes nothing."
            for n in ("smoothing", "first_step")
            if n in changed
        ]
    if "eta" in changed and scheduler not in _WITH_ETA:
        where = " (DDIM's own is an argument of the pipeline)" if "DDIM" in scheduler else ""
        lines.append(f"eta: it changes nothing beside {scheduler}{where}.")
    if settings.lead > 0 and not inpaints:
        lines.append("lead: nothing is kept; it acts in inpainting pipelines only.")
    elif settings.lead > 0 and not blends(pipe):
        lines.append("lead: this network repaints everything; it changes nothing.")
    return lines


def unguided(settings: Settings, packed: bool) -> list[str]:
    """One line for each setting that a call which makes nothing without the prompt leaves idle.

    Args:
        settings: the user's.
        packed: it is Flux's.
    """
    why, remedy = "at this guidance_scale the pipeline", "set it above 1"
    if packed:
        why, remedy = "this call", "give a negative_prompt and true_cfg_scale above 1"
    needs = {}
    if settings.guidance in _WITHOUT:
        needs["guidance"] = settings.guidance
    if methods.interval_of(settings).limits:
        needs["interval"] = "an interval of guidance"
    if settings.zigzag > 0:
        needs["zigzag"] = "a zigzag"
    return [
        f"{field}: {why} makes nothing without the prompt, which {one} needs; {remedy}"
        f"{' (it is not read)' if one in _OWN_SCALE and not packed else ''}."
        for field, one in needs.items()
    ]
