"""The masks of mask source "given" in one sampling call: sent, painted, or inpainting's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from asyndm.core.given import ObjectMask, shaped
from asyndm.core.masks import GivenMasks
from asyndm.core.settings import Settings, SettingsError
from asyndm.core.words import parse_objects


def curvatures_of(objects: tuple[ObjectMask, ...], settings: Settings) -> list[float]:
    """One k a mask: its own, else its word's in the object words, else the general one."""
    by_word = {word.text: word.k(settings.curvature) for word in parse_objects(settings.objects)}
    found = []
    for each in objects or (None,):
        own = None if each is None else each.curvature
        own = by_word.get(each.word) if own is None and each is not None else own
        found.append(settings.curvature if own is None else own)
    return found


def given_masks(
    settings: Settings,
    objects: tuple[ObjectMask, ...],
    nmask: Tensor | None,
    size: tuple[int, int],
    say: Callable[[str], None],
    device: torch.device,
    cut: Callable[[np.ndarray], np.ndarray] | None = None,
) -> GivenMasks:
    """What was sent or painted, else the region that is repainted.

    Args:
        settings: the user's.
        objects: what was sent.
        nmask: the repaint mask [H, W] or [B, H, W], None outside inpainting.
        size: of the latents.
        say: one line to the user.
        device: of the run.
        cut: the part of a mask that this pass works on; None = all of it.

    Raises:
        SettingsError: there is no mask, or nothing is left of it.
    """
    if objects:
        masks = [
            shaped(each.mask if cut is None else cut(each.mask), size, settings) for each in objects
        ]
        both = np.float32 if any(m.dtype != bool for m in masks) else bool
        masks = torch.from_numpy(np.stack([m.astype(both) for m in masks]))[None]
        if nmask is not None and not bool((masks.amax(1) * (nmask.cpu() > 0)).any()):
            say("mask: it lies outside the inpaint mask; nothing is slow.")
        return GivenMasks.of_objects(masks.to(device), curvatures_of(objects, settings))
    if nmask is None:
        raise SettingsError(
            "mask_source: nothing is painted; paint a mask in the accordion, send one, or use "
            "inpaint."
        )
    if settings.mask_invert:
        raise SettingsError(
            "mask_invert: outside the inpaint mask nothing is repainted; paint a mask in the "
            "accordion to invert it."
        )
    idle = [name for name in ("mask_grow", "mask_colours") if getattr(settings, name)]
    if settings.mask_grow < 0:
        idle.remove("mask_grow")
    for name in idle:
        say(f"{name}: it changes nothing, because the inpaint mask itself is used.")
    region = nmask.float().cpu()
    region = region if region.ndim == 3 else region[None]
    if settings.soft or settings.mask_feather or settings.mask_grow < 0:
        masks = torch.from_numpy(np.stack([shaped(m, size, settings) for m in region.numpy()]))
    else:
        masks = region >= 0.5
    return GivenMasks.of_objects(masks[:, None].to(device), [settings.curvature])
