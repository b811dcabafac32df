"""The picture of what steered an image: previews, masks and timesteps over the steps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asyndm.page.palettes import colours

_INK, _FAINT, _PAPER = "#2d3440", "#7a828e", "#ffffff"
_HEAT = "#ff7a1a"
MASK = "-asyndm-mask"  # the plain mask's file
_GAP, _LABELS, _HEADER, _RIGHT = 8, 205, 38, 40


class Film(Protocol):
    """What the strip shows, one entry a step."""

    masks: Sequence[np.ndarray]  # [gh, gw], 0 to 1
    timesteps: Sequence[np.ndarray]  # [H, W], model timesteps
    previews: Sequence[Image.Image]


def enlarge(image: Image.Image, size: int = 384) -> Image.Image:
    """The image with its longer side at ``size`` pixels; shapes keep smooth borders."""
    factor = size / max(image.size)
    if factor <= 1:
        return image
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.LANCZOS)


def chosen_steps(count: int, most: int = 8) -> list[int]:
    """At most ``most`` of the steps 0 ... count - 1, evenly, the first and the last included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def film_strip(film: Film, cell: int = 128) -> Image.Image:
    """One picture: a column a step; rows: denoised preview, object mask, timestep, lag.

    The lag is how many timesteps a pixel is behind the cleanest pixel of its step; it has a scale
    of its own, since it is small beside the timesteps themselves.

    Raises:
        ValueError: the film holds no step.
    """
    count = min(len(film.masks), len(film.timesteps))
    if not count:
        raise ValueError("film: it holds no step, so there is nothing to show.")
    steps = chosen_steps(count)
    lags = [np.asarray(t, float) - np.min(t) for t in film.timesteps]
    most = max(float(max(lag.max() for lag in lags)), 1e-9)
    rows = [
        ("object mask", "dark = object", [_tint(film.masks[i], 0, 1, "Oranges") for i in steps]),
        (
            "timestep",
            "yellow = noisy",
            [_tint(film.timesteps[i], 0, 1000, "viridis") for i in steps],
        ),
        (
            "lag",
            f"bright = {most:.0f} timesteps",
            [_tint(lags[i], 0, most, "magma") for i in steps],
        ),
    ]
    if film.previews:
        last = len(film.previews) - 1
        shown = [film.previews[min(i, last)].convert("RGB") for i in steps]
        rows.insert(0, ("picture so far", "denoised guess", shown))
    height, width = np.shape(film.timesteps[0])
    high = max(1, round(cell * height / width))
    width = _LABELS + len(steps) * (cell + _GAP) + _RIGHT  # room for the page's button
    strip = Image.new("RGB", (width, _HEADER + len(rows) * (high + _GAP)), _PAPER)
    draw = ImageDraw.Draw(strip)
    for column, step in enumerate(steps):
        middle = _LABELS + column * (cell + _GAP) + cell // 2
        draw.text((middle, 8), f"step {step + 1}", _FAINT, _font(18), anchor="ma")
    for row, (title, note, images) in enumerate(rows):
        top = _HEADER + row * (high + _GAP)
        draw.text((4, top + high // 2 - 24), title, _INK, _font(21))
        draw.text((4, top + high // 2 + 4), note, _FAINT, _font(16))
        for column, image in enumerate(images):
            sampling = Image.LANCZOS if title == "picture so far" else Image.NEAREST
            strip.paste(
                image.resize((cell, high), sampling), (_LABELS + column * (cell + _GAP), top)
            )
    return strip


def heat_map(image: Image.Image, values: np.ndarray) -> Image.Image:
    """The image with ``values`` [gh, gw] within 0 and 1 laid over it: nothing at 0, orange at 1."""
    base = image.convert("RGB")
    cover = np.clip(np.asarray(values, float), 0, 1)
    alpha = Image.fromarray(np.uint8(170 * cover)).resize(base.size, Image.BILINEAR)
    dimmed = Image.blend(base, Image.new("RGB", base.size, "#20242c"), 0.35)
    return Image.composite(Image.new("RGB", base.size, _HEAT), dimmed, alpha)


@dataclass(frozen=True)
class Steps:
    """One image's masks and timesteps as :func:`film_strip` takes them."""

    masks: list[np.ndarray]
    timesteps: list[np.ndarray]
    previews: tuple[Image.Image, ...] = ()


def gallery(
    shots: Sequence[Any], images: Sequence[Image.Image], batch: int, first: int
) -> Iterator[tuple[int, Image.Image, str]]:
    """For every image its heat map (mean mask over the steps), its film and its plain mask.

    Args:
        shots: of :class:`asyndm.hosts.webui.Shot`, one a sampling run.
        images: the gallery; the grid, if any, comes first.
        batch: images a sampling run.
        first: index of the first image that is no grid.

    Yields:
        (number of the image, picture, end of its file's name). An image that was not made (an
        interrupt) has none.
    """
    for shot in shots:
        for j in range(shot.frames[0].mask.shape[0] if shot.frames else 0):
            number = shot.iteration * batch + j
            if first + number >= len(images):
                continue
            masks = [frame.mask[j].numpy() for frame in shot.frames]
            timesteps = [frame.timestep[j].numpy() for frame in shot.frames]
            image = images[first + number]
            yield number, heat_map(image, mean_mask(shot.frames, j)), "-asyndm"
            yield number, film_strip(Steps(masks, timesteps)), "-asyndm"
            yield number, mask_picture(shot.frames, j, image.size), MASK


def mean_mask(frames: Sequence[Any], image: int) -> np.ndarray:
    """[gh, gw] within 0 and 1: one image's mask over the steps whose prompt has an object.

    Args:
        frames: of :class:`asyndm.core.history.Frame`.
        image: its place in the batch.
    """
    has = [f.present is None or bool(f.present[image]) for f in frames]
    masks = [f.mask[image].numpy() for f, here in zip(frames, has) if here]
    return np.mean(masks, axis=0) if masks else np.zeros(frames[0].mask.shape[1:])


def mask_picture(frames: Sequence[Any], image: int, size: tuple[int, int]) -> Image.Image:
    """One image's mask as a plain picture: white where it is object in half of the steps or more.

    Sent back as a mask, it marks the same cells.

    Args:
        size: width, height.
    """
    cells = Image.fromarray(np.uint8(mean_mask(frames, image) >= 0.5) * 255)
    return cells.resize(size, Image.NEAREST)


def _tint(values: np.ndarray, low: float, high: float, name: str) -> Image.Image:
    """A map as RGB by the colour map ``name``."""
    scaled = np.clip((np.asarray(values, float) - low) / (high - low), 0, 1)
    return Image.fromarray(colours(scaled, name))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, cut down to Latin letters."""
    data = resources.files("asyndm.page").joinpath("DejaVuSans.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size)
