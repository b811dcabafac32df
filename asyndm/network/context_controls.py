"""Controls of the context map: masks and pictures with which a gain would mean something else.

A map of two timesteps tells a network where the objects are, and leaves whatever it leaves slow
among clear surroundings. What the true mask brings is compared with what these bring.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# What else is slow, or else is clear, and in which cells the error is taken then.
CONTROLS = {
    "shifted": "the mask moved sideways by half a picture; error in all slow cells",
    "foreign": "another picture's mask; error in all slow cells",
    "strange": "the true mask before another picture's background; error in object cells",
    "boxed": "a box around each object; error in object cells",
    "attention": "the mask that attention gives at t_object; error in the object cells it finds",
}


def shifted(mask: Tensor) -> Tensor:
    """Moved sideways by half a picture: what lies at one height is alike, sky above, ground below.

    Args:
        mask: [B, h, w].
    """
    return mask.roll(mask.shape[-1] // 2, -1)


def boxes(mask: Tensor) -> Tensor:
    """The bounding box of every connected piece of masks [B, h, w] (cells that touch by a corner
    are connected)."""
    height, width = mask.shape[-2:]
    cells = height * width
    names = torch.arange(1, cells + 1, dtype=torch.float32, device=mask.device)
    names = names.view(1, height, width) * mask
    for _ in range(cells):  # every piece takes the largest name in it
        spread = F.max_pool2d(names[:, None], 3, 1, 1)[:, 0] * mask
        if torch.equal(spread, names):
            break
        names = spread
    boxed = torch.zeros_like(mask)
    for picture, piece in enumerate(names):
        for name in piece.unique().tolist():
            if name:
                rows, columns = (piece == name).nonzero(as_tuple=True)
                boxed[picture, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = (
                    True
                )
    return boxed


def strange_context(clean: Tensor, mask: Tensor) -> Tensor:
    """Latents whose background is another picture's wherever neither has an object.

    As clear a context, and as clearly told where the objects are, but not of theirs.

    Args:
        clean: [B, C, h, w].
        mask: bool [B, h, w].
    """
    exchanged = ~mask & ~mask.roll(1, 0)
    return torch.where(exchanged[:, None], clean.roll(1, 0), clean)
