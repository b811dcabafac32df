"""The picture of what steered an image: previews, masks and timesteps over the steps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asyndm.page.palettes import colours

# Title, note, ground. On a WebUI's page the dark one: its theme is each browser's own, and a film
# that is saved is looked at in either, where dark is easy on the eye.
_LIGHT = ("#2d3440", "#7a828e", "#ffffff")
_DARK = ("#e6e9ee", "#a2abb8", "#1b1f27")
_HEAT, _DIM = "#ff7a1a", "#20242c"
# Ends of the files' names.
HEAT, FILM, MASK = "", "-film", "-mask"
_GAP, _LABELS, _HEADER, _RIGHT = 8, 205, 38, 40


class Film(Protocol):
    """What the strip shows, one entry a step."""

    masks: Sequence[np.ndarray]  # [gh, gw], 0 to 1
    timesteps: Sequence[np.ndarray]  # [H, W], model timesteps
    previews: Sequence[Image.Image] | Mapping[int, Image.Image]  # a mapping: by step, some lack


def enlarge(image: Image.Image, size: int = 384) -> Image.Image:
    """The image with its longer side at ``size`` pixels; shapes keep smooth borders."""
    factor = size / max(image.size)
    if factor <= 1:
        return image
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.LANCZOS)


def outlined(image: Image.Image, region: np.ndarray, size: int = 384) -> Image.Image:
    """The image enlarged, with a line around a region.

    Args:
        region: bool [gh, gw], over the whole image.
    """
    shown = enlarge(image, size).copy()
    wide = Image.fromarray(np.uint8(region) * 255).resize(shown.size, Image.NEAREST)
    inside = np.asarray(wide) > 127
    line = max(1, size // 128)
    shrunk = np.pad(inside, line)
    shrunk = np.min(
        [np.roll(shrunk, (dy, dx), (0, 1)) for dy in (-line, 0, line) for dx in (-line, 0, line)],
        axis=0,
    )[line:-line, line:-line]
    pixels = np.asarray(shown).copy()
    pixels[inside & ~shrunk] = (255, 255, 255)
    half = np.indices(inside.shape).sum(0) // (3 * line) % 2 == 0  # dashes, seen on any ground
    pixels[inside & ~shrunk & half] = (20, 20, 20)
    return Image.fromarray(pixels)


def chosen_steps(count: int, most: int = 8) -> list[int]:
    """At most ``most`` of the steps 0 ... count - 1, evenly, the first and the last included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def film_strip(film: Film, cell: int = 128, dark: bool = False) -> Image.Image:
    """One picture: a column a step; rows: denoised preview, object mask, timestep, lag.

    The lag is how many timesteps a pixel is behind the cleanest pixel of its step; it has a scale
    of its own, since it is small beside the timesteps themselves. Its words are English.

    Args:
        cell: width of one picture.
        dark: light words on a dark ground.

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
        shown = [_nearest(film.previews, i).convert("RGB") for i in steps]
        rows.insert(0, ("picture so far", "denoised guess", shown))
    height, width = np.shape(film.timesteps[0])
    high = max(1, round(cell * height / width))
    width = _LABELS + len(steps) * (cell + _GAP) + _RIGHT  # room for the page's button
    ink, faint, ground = _DARK if dark else _LIGHT
    strip = Image.new("RGB", (width, _HEADER + len(rows) * (high + _GAP)), ground)
    draw = ImageDraw.Draw(strip)
    for column, step in enumerate(steps):
        middle = _LABELS + column * (cell + _GAP) + cell // 2
        draw.text((middle, 8), f"step {step + 1}", faint, font(18), anchor="ma")
    for row, (title, note, images) in enumerate(rows):
        top = _HEADER + row * (high + _GAP)
        draw.text((4, top + high // 2 - 24), title, ink, font(21))
        draw.text((4, top + high // 2 + 4), note, faint, font(16))
        for column, image in enumerate(images):
            sampling = Image.LANCZOS if title == "picture so far" else Image.NEAREST
            strip.paste(
                image.resize((cell, high), sampling), (_LABELS + column * (cell + _GAP), top)
            )
    return strip


def _nearest(previews: Sequence[Image.Image] | Mapping[int, Image.Image], step: int) -> Image.Image:
    known = previews if isinstance(previews, Mapping) else range(len(previews))
    return previews[min(known, key=lambda each: abs(each - step))]


def heat_map(image: Image.Image, values: np.ndarray, words: str = "") -> Image.Image:
    """The image with ``values`` [gh, gw] within 0 and 1 laid over it: nothing at 0, orange at 1.

    Below it is a legend, which names ``words``, the objects.
    """
    base = image.convert("RGB")
    cover = np.clip(np.asarray(values, float), 0, 1)
    alpha = Image.fromarray(np.uint8(170 * cover)).resize(base.size, Image.BILINEAR)
    dimmed = Image.blend(base, Image.new("RGB", base.size, _DIM), 0.35)
    covered = Image.composite(Image.new("RGB", base.size, _HEAT), dimmed, alpha)
    legend = _legend(base.width, words)
    whole = Image.new("RGB", (base.width, base.height + legend.height))
    whole.paste(covered, (0, 0))
    whole.paste(legend, (0, base.height))
    return whole


def _legend(width: int, words: str) -> Image.Image:
    """``0 [scale] 1 object: cat``, as wide as the picture above it."""
    size = min(max(width // 36, 10), 28)
    letters, pad, (ink, faint, ground) = font(size), size // 2, _DARK
    legend = Image.new("RGB", (width, 2 * size), ground)
    draw, middle = ImageDraw.Draw(legend), size
    # The font has Latin letters only; what it lacks is in the image's parameters.
    known = words if all(ord(letter) < 0x250 for letter in words) else ""
    scale = max(width // 4, 16)
    left = pad + round(draw.textlength("0", letters)) + pad
    ramp = Image.fromarray(np.uint8(np.linspace(0, 255, scale))[None]).resize((scale, size))
    bar = Image.composite(
        Image.new("RGB", ramp.size, _HEAT), Image.new("RGB", ramp.size, _DIM), ramp
    )
    draw.text((pad, middle), "0", ink, letters, anchor="lm")
    legend.paste(bar, (left, middle - size // 2))
    draw.rectangle((left, middle - size // 2, left + scale, middle + size // 2), outline=faint)
    left += scale + pad
    room = width - left - pad
    texts = [f"1  object: {known}", f"1  {known}"] if known else ["1  object", "1"]
    text = next((t for t in texts if draw.textlength(t, letters) <= room), texts[-1])
    if draw.textlength(text, letters) > room:
        while len(text) > 1 and draw.textlength(text + "...", letters) > room:
            text = text[:-1]
        text += "..."
    draw.text((left, middle), text, ink, letters, anchor="lm")
    return legend


@dataclass(frozen=True)
class Steps:
    """One image's masks and timesteps as :func:`film_strip` takes them."""

    masks: list[np.ndarray]
    timesteps: list[np.ndarray]
    previews: Mapping[int, Image.Image]


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
        start = f"-asyndm{'-hires' if shot.hires else ''}"
        for j in range(shot.frames[0].mask.shape[0] if shot.frames else 0):
            number = shot.iteration * batch + j
            if first + number >= len(images):
                continue
            image = images[first + number]
            yield number, heat_map(image, mean_mask(shot.frames, j), shot.objects), start + HEAT
            film = Steps(
                [frame.mask[j].numpy() for frame in shot.frames],
                [frame.timestep[j].numpy() for frame in shot.frames],
                {step: Image.fromarray(guess[j]) for step, guess in shot.guesses.items()},
            )
            yield number, film_strip(film, dark=True), start + FILM
            yield number, mask_picture(shot.frames, j, image.size), start + MASK


def is_plain_mask(suffix: str) -> bool:
    """Whether this end of a file's name, of :func:`gallery`, is that of a plain mask."""
    return suffix.endswith(MASK)


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
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, cut down to Latin letters."""
    data = resources.files("asyndm.page").joinpath("DejaVuSans.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size)
