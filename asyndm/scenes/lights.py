"""Light that falls from the sky to each object, in the worlds whose background comes first."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw

SCALE = 3  # supersampling for smooth edges
_GREY = {"day": 214, "sunset": 204, "night": 120}  # what light is tinted from
_TINTED = {"beams": 0.36, "veils": 0.5, "auroras": 0.36}  # with the object's colour
_DENSE = {"beams": 225, "veils": 76, "auroras": 225}  # of 255, how much it covers of the landscape
WORLDS_OF_LIGHT = tuple(_DENSE)
BEAMS_APART = 9.0  # pixels

RAY = 2.0  # pixels, the width of an aurora's rays; two are a cell of the latents
WIDE = 0.64  # of an object's size, the width of its aurora
_PALE = 36  # of 255, how much brighter or darker rays are in the sky
_LIT = 44  # and on the object
_GLOW = 20  # brighter all over, so that dark rays leave the colour one can read
_CLEAR = 1.0  # pixels without light above and below the object
_AFTERGLOW = 0.6  # of an aurora's light falls on, below the object's foot


def up(x: float, y: float) -> tuple[float, float]:
    """A point of the 64x64 picture, supersampled."""
    return x * SCALE, y * SCALE


def apart(world: str, one: float, two: float) -> float:
    """Pixels between the centres of two objects of these sizes, across."""
    if world == "auroras":
        return WIDE * (one + two) / 2
    return BEAMS_APART if world in _DENSE else 0.0


def beam(
    image: Image.Image,
    world: str,
    time: str,
    x: float,
    foot: float,
    colour: tuple[int, int, int],
) -> None:
    """A pale beam in the object's colour, from the top of the picture to its foot."""
    layer = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(layer)
    corners = [(x - 2.6, -1), (x + 2.6, -1), (x + 4.2, foot), (x - 4.2, foot)]
    pen.polygon([up(*corner) for corner in corners], fill=_DENSE[world])
    pen.ellipse([up(x - 6.5, foot - 2.2), up(x + 6.5, foot + 3.0)], fill=_DENSE[world])
    image.paste(_tint(world, time, colour), mask=layer)


def rays(x: float, size: float) -> np.ndarray:
    """[columns] of the supersampled picture, -1 to 1: how bright the light of an object is.

    Drawn from the object's own place and size, so that whoever knows the object knows them.
    """
    rng = np.random.default_rng([4504, round(x * 4096), round(size * 4096)])
    side = 64
    bright = rng.choice([-1.0, 1.0], int(side / RAY)) * rng.uniform(0.7, 1.0, int(side / RAY))
    return bright.repeat(int(RAY * SCALE))


def aurora(
    image: Image.Image,
    time: str,
    x: float,
    foot: float,
    size: float,
    colour: tuple[int, int, int],
) -> None:
    """A curtain of rays in the object's colour, from the top of the picture to the object's own.

    Behind the object there is none, or its outline would be hard to read; below its foot the light
    falls on, fainter.
    """
    layer = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(layer)
    half = WIDE * size / 2
    dense = _DENSE["auroras"]
    pen.rectangle([up(x - half, foot + _CLEAR), up(x + half, 65)], fill=round(dense * _AFTERGLOW))
    pen.rectangle([up(x - half, -1), up(x + half, foot - size - _CLEAR)], fill=dense)
    light = Image.new("RGB", image.size, _tint("auroras", time, colour))
    image.paste(_shaded(light, _PALE * rays(x, size)), mask=layer)


def lit(image: Image.Image, object_of: Image.Image, x: float, size: float) -> None:
    """Let an object's rays shine on it.

    Args:
        image: RGB, supersampled, changed in place.
        object_of: "L", the object's mask.
        x, size: the object's, in pixels of the 64x64 picture.
    """
    image.paste(_shaded(image, _LIT * rays(x, size) + _GLOW), mask=object_of)


def _tint(world: str, time: str, colour: tuple[int, int, int]) -> tuple[int, ...]:
    part = _TINTED[world]
    return tuple(int((1 - part) * _GREY[time] + part * value) for value in colour)


def _shaded(image: Image.Image, steps: np.ndarray) -> Image.Image:
    """Columns brighter by so many steps of 255 in red, green and blue; hue and chroma stay."""

    def striped(values: np.ndarray) -> Image.Image:
        row = np.clip(values.round(), 0, 255).astype(np.uint8)[None, :, None].repeat(3, 2)
        return Image.fromarray(row).resize(image.size, Image.Resampling.NEAREST)

    return ImageChops.subtract(ImageChops.add(image, striped(steps)), striped(-steps))
