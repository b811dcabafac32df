"""Masks as a host has them: cut out by "only masked" inpainting, or with channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from asyndm.core.given import cut_out
from asyndm.hosts.frames import flat


def in_this_pass(p: Any, mask: np.ndarray) -> np.ndarray:
    """The mask, or the part of it that "only masked" inpainting cut out of the picture."""
    box = getattr(p, "paste_to", None)
    if not box or not getattr(p, "inpaint_full_res", False):
        return mask
    whole = getattr(p, "mask_for_overlay", None) or p.init_images[0]
    return cut_out(mask, box, whole.size)


def one_mask(mask: Tensor) -> Tensor:
    """[H, W] or [B, H, W] of the host's repaint mask [C, H, W], [B, C, H, W] or of one frame."""
    return flat(mask)[..., 0, :, :]
