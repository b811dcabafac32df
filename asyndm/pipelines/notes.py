"""What of the settings changes nothing in a pipeline, one line each."""

from __future__ import annotations

from typing import Any

from asyndm.core.settings import TRANSFORMER_ONLY, Settings

_OF_WEBUIS = ("hires", "show_masks", "save_masks", "only_hires", "adetailer")
_OF_GIVEN = ("mask_invert", "mask_grow", "mask_feather", "mask_colours")
_OF_WORDS = ("objects", "threshold", "smoothing", "first_step")
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
    if not hasattr(pipe, "transformer"):
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
    elif settings.lead > 0 and pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        lines.append("lead: this network repaints everything; it changes nothing.")
    return lines
