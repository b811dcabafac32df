"""Read a picture of the small world back into objects, and judge it against its prompt.

Objects are the saturated regions: every palette colour is far more saturated than any ground,
shadow or reflection. A region's colour is the nearest palette hue, its shape the template it
overlaps best.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .text import SHAPES, Group, Wish
from .world import PALETTE, UNIT_OUTLINES, related

_CHROMA = 98  # max - min of RGB above which a pixel belongs to an object
_MIN_AREA = 24  # pixels; the smallest drawn object covers 60
_TEMPLATE = 28
_MIN_OVERLAP = 0.62  # of a region with its best template; below it is no shape at all
_HUES = np.array([colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] for rgb in PALETTE.values()])
_COLOURS = tuple(PALETTE)


@dataclass(frozen=True)
class Seen:
    """One object found in a picture: centre (x, y) and area in pixels, fit to its template."""

    shape: str | None  # None: a coloured region of no known shape
    colour: str
    x: float
    y: float
    area: float
    overlap: float


@dataclass(frozen=True)
class Verdict:
    """What of a wish a picture fulfils."""

    right: bool
    items: tuple[tuple[str, bool], ...]
    sentence: str
    objects_right: int  # asked objects that are there, of ``objects_asked``
    objects_asked: int
    quality: dict[str, float | None] = field(default_factory=dict)


def object_mask(pixels: np.ndarray) -> np.ndarray:
    """Pixels that belong to an object.

    Args:
        pixels: [..., H, W, 3], uint8 values 0 to 255 (or floats of that range).

    Returns:
        bool [..., H, W].
    """
    pixels = np.asarray(pixels, np.float32)
    return pixels.max(-1) - pixels.min(-1) >= _CHROMA


def object_cells(pixels: np.ndarray, cell: int) -> np.ndarray:
    """bool [B, H / cell, W / cell]: cells of which objects cover a quarter or more.

    Args:
        pixels: [B, H, W, 3], uint8.
        cell: pixels a side.
    """
    seen = object_mask(pixels)
    batch, height, width = seen.shape
    return seen.reshape(batch, height // cell, cell, width // cell, cell).mean((2, 4)) >= 0.25


def find_objects(image: Image.Image | np.ndarray) -> list[Seen]:
    """All objects of a 64x64 RGB picture, from left to right."""
    pixels = np.asarray(image, np.float32)
    mask = object_mask(pixels)
    hue_class = _nearest_colour(pixels)
    seen: list[Seen] = []
    for index, colour in enumerate(_COLOURS):
        labels, _ = ndimage.label(mask & (hue_class == index))
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            region = ndimage.binary_fill_holes(labels[box] == label)
            area = int(region.sum())
            if area < _MIN_AREA:
                continue
            shape, overlap = _best_shape(region)
            y, x = ((side.start + side.stop) / 2 for side in box)
            seen.append(Seen(shape, colour, x, y, area, overlap))
    return sorted(seen, key=lambda one: one.x)


def check(image: Image.Image | np.ndarray, wish: Wish) -> Verdict:
    """Judge a picture: exactly the asked objects, in the asked relation, and nothing else."""
    seen = find_objects(image)
    left = list(seen)
    items: list[tuple[str, bool]] = []
    notes: list[str] = []
    found_groups: list[list[Seen]] = []
    matched = 0
    # groups that name a colour choose first, or an "any colour" group might take their objects
    order = sorted(range(len(wish.groups)), key=lambda i: wish.groups[i].colour is None)
    results: dict[int, tuple[Group, list[Seen]]] = {}
    for i in order:
        group = wish.groups[i]
        fits = [one for one in left if _fits(one, group)]
        results[i] = (group, fits)
        left = [one for one in left if one not in fits]
    for i in range(len(wish.groups)):
        group, fits = results[i]
        found_groups.append(fits)
        ok = len(fits) == group.count
        matched += min(len(fits), group.count)
        items.append((str(group), ok))
        found = "missing" if not fits else f"no, {len(fits)} found"
        notes.append(f"{group}: {'yes' if ok else found}")
    if wish.relation:
        pair = [group[0] for group in found_groups if group]
        ok = len(pair) == 2 and related(wish.relation, *[(one.x, one.y) for one in pair])
        items.append((wish.relation, ok))
        notes.append(f"{wish.relation}: {'yes' if ok else 'no'}")
    if left:
        extra = ", ".join(f"{one.colour} {one.shape or 'patch'}" for one in left)
        items.append(("nothing else", False))
        notes.append(f"not asked for: {extra}")
    return Verdict(
        right=all(ok for _, ok in items),
        items=tuple(items),
        sentence="; ".join(notes),
        objects_right=matched,
        objects_asked=wish.total,
        quality=background_quality(image),
    )


def background_quality(image: Image.Image | np.ndarray) -> dict[str, float | None]:
    """How clean the background is, away from the objects.

    Returns:
        ``noise``: standard deviation of the finest grain in grey levels (Immerkaer 1996, "Fast
        noise variance estimation"), as a median, so that edges do not count; 0 in a clean picture.
        ``sharpness``: the 98th percentile of the gradient in grey levels a pixel; a blurred
        horizon or shadow lowers it.
    """
    pixels = np.asarray(image, np.float32)
    grey = pixels.mean(-1)
    near_object = ndimage.binary_dilation(object_mask(pixels), iterations=3)
    background = ~near_object
    if background.sum() < 64:
        return {"noise": None, "sharpness": None}  # no background to speak of
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    grain = np.abs(ndimage.convolve(grey, kernel))[background]
    gradient = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))[background] / 8
    return {
        # the kernel has norm 6; the median of |normal noise| is 0.6745 standard deviations
        "noise": float(np.median(grain) / (6 * 0.6745)),
        "sharpness": float(np.percentile(gradient, 98)),
    }


def _fits(one: Seen, group: Group) -> bool:
    return one.shape == group.shape and group.colour in (None, one.colour)


def _nearest_colour(pixels: np.ndarray) -> np.ndarray:
    """Index of the palette colour with the nearest hue, per pixel."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    top, low = pixels.max(-1), pixels.min(-1)
    spread = np.maximum(top - low, 1e-6)
    hue = np.where(
        top == red,
        (green - blue) / spread,
        np.where(top == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    hue = (hue / 6) % 1
    distance = np.abs(hue[..., None] - _HUES)
    return np.minimum(distance, 1 - distance).argmin(-1)


def _templates() -> dict[str, np.ndarray]:
    """Every shape as it fills its bounding box, [_TEMPLATE, _TEMPLATE] of 0 to 1."""
    templates = {}
    for shape in SHAPES:
        outline = np.array(UNIT_OUTLINES[shape])
        low, high = outline.min(0), outline.max(0)
        outline = (outline - low) / (high - low)
        canvas = Image.new("L", (_TEMPLATE * 4, _TEMPLATE * 4))
        corners = [tuple(corner) for corner in (outline * (_TEMPLATE * 4 - 1)).tolist()]
        ImageDraw.Draw(canvas).polygon(corners, fill=255)
        small = canvas.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BOX)
        templates[shape] = np.asarray(small, np.float32) / 255
    return templates


_TEMPLATES = _templates()


def _best_shape(region: np.ndarray) -> tuple[str | None, float]:
    """The shape whose template overlaps the region best (intersection over union), and how well."""
    height, width = region.shape
    if not 0.5 < height / width < 2:
        return None, 0.0
    picture = Image.fromarray((region * 255).astype(np.uint8))
    picture = picture.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BILINEAR)
    filled = np.asarray(picture, np.float32) / 255
    overlaps = {
        shape: float(np.minimum(filled, template).sum() / np.maximum(filled, template).sum())
        for shape, template in _TEMPLATES.items()
    }
    shape = max(overlaps, key=overlaps.get)
    return (shape, overlaps[shape]) if overlaps[shape] >= _MIN_OVERLAP else (None, overlaps[shape])
