"""Masks a person sends: from a file's bytes, a canvas or a list to coverage by cell.

A picture is read as the WebUIs read their own inpaint mask: where it has transparency, what is
opaque is the mask, whatever its colour; else brightness is. White (or opaque) = object.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageFilter, ImageOps

from asyndm.core.settings import Settings, SettingsError, check_number

# No others: Pillow would start Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MEGAPIXELS = 40
BASE64_CHARACTERS = 64 * 2**20
COLOUR_REACH = 80  # how far a channel may be from a named colour, of 255
_ALPHABET = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_LINK = re.compile(r"\s*(?:[a-z][a-z0-9+.]*://|[a-z]:[\\/]|~|\.{0,2}[\\/](?!9j)|file:)", re.I)
_NAMED = re.compile(r"[^/\\]*\.(?:png|jpe?g|webp|bmp|tiff?|gif)\s*", re.I)
_KINDS = "PNG, JPEG, WebP, BMP or TIFF"


@dataclass(frozen=True)
class ObjectMask:
    """Where one object is.

    Attributes:
        mask: [H, W] float32 within [0, 1], at the picture's size.
        curvature: its own k, None = the general one.
        word: what it is called, "" = nothing.
    """

    mask: np.ndarray
    curvature: float | None = None
    word: str = ""


def read_masks(
    mask: Any, masks: Any, settings: Settings
) -> tuple[tuple[ObjectMask, ...], list[str]]:
    """All masks of a job.

    Args:
        mask: one picture, see :func:`read_mask`; with ``settings.mask_colours`` one object a
            colour.
        masks: a list, each a dictionary with "mask" and, if wanted, "k" and "word".
        settings: whose inversion and colours are used.

    Returns:
        (the masks, none where nothing was sent; lines about what could not be found in them).

    Raises:
        SettingsError: something that cannot be used, in one line.
    """
    notes: list[str] = []
    found: list[ObjectMask] = []
    colours = parse_colours(settings.mask_colours)
    if colours and isinstance(mask, str) and mask.strip():
        mask = open_base64(mask)
    if colours and isinstance(mask, Image.Image):
        parts, missing = split_colours(mask, colours)
        found += parts
        notes += [f"mask_colours: nothing in the mask is {name}." for name in missing]
    else:
        read = read_mask(mask, empty=settings.mask_invert)
        found += [] if read is None else [ObjectMask(read)]
    if masks not in (None, [], ()):
        found += _listed(masks, settings.mask_invert)
    if settings.mask_invert:
        found = [replace(each, mask=1 - each.mask) for each in found]
        if not all(each.mask.any() for each in found):
            raise SettingsError("mask: inverted it is empty; leave a part of it black.")
    return tuple(found), notes


def _listed(masks: Any, empty: bool) -> list[ObjectMask]:
    if not isinstance(masks, (list, tuple)):
        raise SettingsError("masks: a list is needed, of {'mask': picture, 'k': 0.7, 'word': ...}.")
    found = []
    for number, each in enumerate(masks, 1):
        here = f"masks, number {number}"
        each = each if isinstance(each, Mapping) else {"mask": each}
        for name in each:
            if name not in ("mask", "k", "word"):
                raise SettingsError(f"{here}: {name!r} is none of mask, k, word.")
        try:
            read = read_mask(each.get("mask"), empty)
        except SettingsError as error:
            raise SettingsError(f"{here}: {str(error).removeprefix('mask: ')}") from None
        if read is None:
            raise SettingsError(f"{here}: it has no mask; send a picture in base64.")
        k, word = each.get("k"), each.get("word") or ""
        if not isinstance(word, str):
            raise SettingsError(f"{here}: word {word!r} is no text.")
        k = None if k is None else check_number(f"{here}: k", k, 0, 1)
        found.append(ObjectMask(read, k, word.strip()))
    return found


def read_mask(value: Any, empty: bool = False) -> np.ndarray | None:
    """A mask as float32 [H, W] within [0, 1], or None where there is none.

    Args:
        value: None or "", a picture in base64 (also as a data URL, also in lines), a PIL image, an
            array or nested list of numbers within [0, 1].
        empty: whether a mask without any object may pass (it will be inverted).

    Raises:
        SettingsError: no picture, one that is too large, or an empty one.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        value = open_base64(value)
    if isinstance(value, Image.Image):
        value = coverage(value)
    try:
        mask = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        mask = np.zeros(0)
    if mask.ndim != 2 or not mask.size or not 0 <= mask.min() <= mask.max() <= 1:
        raise SettingsError("mask: a picture is needed, white where the object is.")
    if not mask.any() and not empty:
        raise SettingsError("mask: it is empty; paint where the object shall be.")
    return mask


def open_base64(text: str) -> Image.Image:
    """The picture in a text, loaded and turned upright.

    Raises:
        SettingsError: which of the many ways it is no picture that can be used.
    """
    if len(text) > BASE64_CHARACTERS:
        raise SettingsError(
            f"mask: {len(text) / 2**20:.0f} million characters are too many (at most "
            f"{BASE64_CHARACTERS // 2**20}); send a smaller picture."
        )
    data = text
    if text.lstrip()[:5].lower() == "data:":
        head, comma, data = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise SettingsError("mask: this data URL holds no base64; send ';base64,' and data.")
    data = "".join(data.split())
    plain = data.replace("-", "+").replace("_", "/")
    try:
        if not _ALPHABET.fullmatch(plain):
            raise binascii.Error
        content = base64.b64decode(plain.rstrip("=") + "=" * (-len(plain.rstrip("=")) % 4))
    except (binascii.Error, ValueError):
        content = b""
    try:
        with warnings.catch_warnings():  # of large pictures: they are refused below
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise SettingsError(_too_large("far more")) from None
    except Exception:  # whatever a broken header makes Pillow raise
        raise SettingsError(_no_picture(text, content)) from None
    size = picture.width * picture.height / 1e6
    if size > MEGAPIXELS:
        raise SettingsError(_too_large(f"{picture.width}x{picture.height}"))
    try:
        picture.load()
    except Exception:
        raise SettingsError(
            f"mask: the {picture.format} picture is damaged or cut off; send the whole file."
        ) from None
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # an orientation nobody can read is none
        return picture


def _too_large(what: str) -> str:
    return f"mask: {what} pixels are too many (at most {MEGAPIXELS} million); send a smaller one."


def _no_picture(text: str, content: bytes) -> str:
    if _LINK.match(text) or _NAMED.fullmatch(text):
        return "mask: an address or a path is no mask; send the picture itself in base64."
    if not content:
        return f"mask: this is not a picture in base64 ({_KINDS})."
    return f"mask: the base64 holds no {_KINDS} picture; send one of these."


def has_transparency(picture: Image.Image) -> bool:
    """True where a part of the picture is not opaque."""
    if picture.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and (
        "transparency" not in picture.info
    ):
        return False
    return bool(_alpha(picture).min() < 255)


def _alpha(picture: Image.Image) -> np.ndarray:
    clear = picture.info.get("transparency")
    if picture.mode.startswith("I") and isinstance(clear, int):
        return np.where(np.asarray(picture) == clear, 0, 255)
    return np.asarray(picture.convert("RGBA"))[..., 3]


def coverage(picture: Image.Image) -> np.ndarray:
    """How much of a picture's every pixel is mask: float32 [H, W] within [0, 1].

    Raises:
        SettingsError: values that are no brightness (negative, not a number), a strange mode.
    """
    try:
        if has_transparency(picture):
            return _alpha(picture).astype(np.float32) / 255
        if picture.mode.startswith(("I", "F")):
            return _scaled(np.asarray(picture, np.float32), picture.mode)
        return np.asarray(picture.convert("L")).astype(np.float32) / 255
    except SettingsError:
        raise
    except Exception:
        raise SettingsError(
            f"mask: pictures of the kind {picture.mode!r} cannot be read; save it in grey."
        ) from None


def _scaled(values: np.ndarray, mode: str) -> np.ndarray:
    """Whole numbers are of 16 bits, if no pixel is larger; white of floats is 1, 255 or 65535.

    Beyond these the brightest pixel is white.
    """
    if not np.isfinite(values).all() or values.min() < 0:
        raise SettingsError("mask: a picture's brightness must be a number from 0 up.")
    most = float(values.max())
    whites = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    return values / next((white for white in whites if most <= white), most)


def parse_colours(text: str) -> dict[str, tuple[float | None, str]]:
    """``red=shark:0.7, #00f=bike, lime=0.3`` as colour -> (k or None, word or "").

    Raises:
        SettingsError: a colour nobody knows, a k that is no number from 0 to 1.
    """
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        colour, _, rest = (part.strip() for part in item.partition("="))
        try:
            ImageColor.getrgb(colour)
        except ValueError:
            raise SettingsError(
                f"mask_colours: {colour[:40]!r} is no colour; write e.g. 'red=shark:0.7, #00f=bike'"
                "."
            ) from None
        word, colon, k = rest.rpartition(":")
        if not colon:
            word, k = ("", rest) if re.fullmatch(r"[-+]?[\d.]+", rest) else (rest, "")
        k = check_number(f"mask_colours: k of {colour}", k.strip(), 0, 1) if k.strip() else None
        found[colour] = (k, word.strip())
    return found


def split_colours(
    picture: Image.Image, colours: Mapping[str, tuple[float | None, str]]
) -> tuple[list[ObjectMask], list[str]]:
    """(one mask a named colour that is there, the names of those that are not).

    A pixel belongs to the nearest of the colours, if it is near at all.

    Raises:
        SettingsError: none of the colours is there.
    """
    pixels = np.asarray(picture.convert("RGBA"))
    wanted = [ImageColor.getrgb(name)[:3] for name in colours]
    apart = np.stack(
        [np.abs(pixels[..., :3].astype(np.int16) - each).max(-1).astype(np.uint8)
         for each in np.asarray(wanted, np.int16)]
    )  # fmt: skip
    nearest = apart.argmin(0)
    painted = (apart.min(0) <= COLOUR_REACH) & (pixels[..., 3] > 127)
    found, missing = [], []
    for number, (name, (k, word)) in enumerate(colours.items()):
        here = painted & (nearest == number)
        if here.any():
            found.append(ObjectMask(here.astype(np.float32), k, word))
        else:
            missing.append(name)
    if not found:
        raise SettingsError(f"mask_colours: nothing in the mask is {', '.join(colours)}.")
    return found, missing


def cover(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean of a mask [H, W] over every cell, float32 [*size] within [0, 1].

    Exact where a cell's border cuts a pixel, which Pillow's box filter is not.
    """
    for axis, into in enumerate(size):
        mask = np.moveaxis(_means(np.moveaxis(np.asarray(mask), axis, 0), into), 0, axis)
    return mask.clip(0, 1).astype(np.float32)


def _means(lines: np.ndarray, into: int) -> np.ndarray:
    """Means of ``into`` equal parts of the first axis, by sums from its start."""
    of = len(lines)
    sums = np.zeros((of + 1, *lines.shape[1:]))
    np.cumsum(lines, axis=0, dtype=np.float64, out=sums[1:])
    edges = np.arange(into + 1) * of / into
    whole = np.minimum(edges.astype(int), of - 1)
    part = (edges - whole)[:, None]
    at = sums[whole] * (1 - part) + sums[whole + 1] * part
    return np.diff(at, axis=0) * (into / of)


def mask_cells(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [*size]: cells of which at least half is painted.

    Where a stroke is too fine or too faint to cover half of any, the most covered ones; of a
    picture that is equally grey all over a single one, never all of it.
    """
    cells = cover(mask, size)
    half = 0.5 - 1e-6  # a rounding is no pixel
    if (cells >= half).any():
        return cells >= half
    best = cells >= cells.max() * (1 - 1e-5)
    if best.all() and best.size > 1:
        best = np.arange(best.size).reshape(best.shape) == int(cells.argmax())
    return best


def shaped(mask: np.ndarray, size: tuple[int, int], settings: Settings) -> np.ndarray:
    """A mask as the run takes it: [*size], bool, or float32 where masks are soft.

    Args:
        mask: [H, W] within [0, 1].
        size: of the latents, an eighth of the picture's.
        settings: how far it grows (or shrinks) and over how many of the picture's pixels it fades.
    """
    grow, feather = round(settings.mask_grow), settings.mask_feather
    if grow or feather:
        pixels = (size[0] * 8, size[1] * 8)
        mask = cover(mask, pixels) if settings.soft else mask_cells(mask, pixels)
        mask = mask.astype(np.float32)
        mask = grown(mask, grow) if grow >= 0 else 1 - grown(1 - mask, -grow)
        if feather:
            picture = Image.fromarray(np.uint8(np.round(mask * 255)))
            blurred = picture.filter(ImageFilter.GaussianBlur(feather / 2))
            mask = np.asarray(blurred, np.float32) / 255
        if not mask.any():
            raise SettingsError("mask_grow: the mask shrinks to nothing; take fewer pixels.")
    if settings.soft or feather:
        return cover(mask, size)
    return mask_cells(mask, size)


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The largest value within ``by`` pixels to every side (a square), same shape."""
    for axis in (0, 1):
        line = np.moveaxis(mask, axis, 0)
        line = np.pad(line, ((by, by), (0, 0)))
        reach, wanted = 1, 2 * by + 1
        while reach < wanted:  # a window twice as wide at every turn
            step = min(reach, wanted - reach)
            line = np.maximum(line[:-step], line[step:])
            reach += step
        mask = np.moveaxis(line, 0, axis)
    return mask


def cut_out(mask: np.ndarray, box: Sequence[float], whole: Sequence[int]) -> np.ndarray:
    """The part of a mask that a host cut out of the picture, [H', W'].

    Args:
        mask: [H, W] of the whole picture, at any resolution.
        box: left, top, width, height in the picture's pixels.
        whole: width, height of the picture.
    """
    across, down = mask.shape[1] / whole[0], mask.shape[0] / whole[1]
    left, top, width, height = box
    place = (left * across, top * down, (left + width) * across, (top + height) * down)
    size = (max(1, round(width * across)), max(1, round(height * down)))
    picture = Image.fromarray(np.asarray(mask, np.float32))
    place = (
        max(0.0, place[0]), max(0.0, place[1]),
        min(float(picture.width), place[2]), min(float(picture.height), place[3]),
    )  # fmt: skip
    return np.asarray(picture.resize(size, Image.Resampling.BOX, box=place)).clip(0, 1)
