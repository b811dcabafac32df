"""What is wrong with a repainted picture: its seam, and failures by kind."""

from __future__ import annotations

import numpy as np

from asyndm.scenes.checker import Verdict, find_objects, object_mask
from asyndm.scenes.model import PATCH
from asyndm.scenes.text import Wish

KINDS = ("malformed", "shape", "colour", "count", "relation")


def seam(picture: np.ndarray, original: np.ndarray, region: np.ndarray) -> float:
    """Extra step of colour across the region's border where both sides are background, in 1/255.

    Args:
        picture, original: uint8 [64, 64, 3].
        region: bool [16, 16].

    Returns:
        NaN where objects line the whole border.
    """
    inside = region.repeat(PATCH, 0).repeat(PATCH, 1)
    empty = ~(object_mask(picture) | object_mask(original))
    steps = []
    for axis in (0, 1):
        border = np.diff(inside.astype(int), axis=axis) != 0
        bare = np.take(empty, range(63), axis) & np.take(empty, range(1, 64), axis)
        for image, sign in ((picture, 1.0), (original, -1.0)):
            jump = np.abs(np.diff(image.astype(float), axis=axis)).mean(-1)
            steps.append(sign * jump[border & bare])
    count = sum(len(step) for step in steps) / 2
    return float(sum(step.sum() for step in steps) / count) if count else float("nan")


def failures(picture: np.ndarray, wish: Wish, verdict: Verdict) -> dict[str, bool]:
    """Which kinds of failure a picture shows; all False where it is right.

    Args:
        picture: uint8 [64, 64, 3].

    Returns:
        ``malformed``: a coloured region of no known shape. ``shape``, ``colour``: for an asked
        object that is missing there is one of its colour in another shape, of its shape in
        another colour. ``count``: more or fewer objects than asked. ``relation``: the objects
        stand otherwise than asked. A picture may show several.
    """
    seen = find_objects(picture)

    def fits(one, group) -> bool:
        return one.shape == group.shape and group.colour in (None, one.colour)

    left = [one for one in seen if not any(fits(one, group) for group in wish.groups)]
    missing = [g for g in wish.groups if sum(fits(one, g) for one in seen) < g.count]
    return {
        "malformed": any(one.shape is None for one in left),
        "shape": any(one.shape and one.colour == g.colour for g in missing for one in left),
        "colour": any(one.shape == g.shape for g in missing for one in left),
        "count": len(seen) != wish.total,
        "relation": any(text == wish.relation and not ok for text, ok in verdict.items),
    }
