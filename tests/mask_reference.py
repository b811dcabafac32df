"""What a sent mask means, told a second time; imports nothing of the code it judges.

Pillow only unpacks the files: transparency, orientation, depth, colours, cells and shapes are
worked out here on plain arrays.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image


def reading(data: bytes) -> np.ndarray:
    """[H, W] within [0, 1]: how much of every pixel of a file is mask."""
    picture = Image.open(io.BytesIO(data))
    turn = picture.getexif().get(0x0112, 1)
    raw, mode = np.array(picture), picture.mode
    if mode == "P":
        table = np.array(picture.getpalette("RGB")).reshape(-1, 3)
        alpha = np.full(len(table), 255)
        clear = picture.info.get("transparency")
        if isinstance(clear, bytes):
            alpha[: len(clear)] = list(clear)[: len(table)]
        elif clear is not None:
            alpha[clear] = 0
        raw = np.concatenate([table[raw], alpha[raw][..., None]], -1)
        mode = "RGBA"
    if mode == "1":
        mask = raw.astype(float)
    elif mode in ("L", "RGB"):
        mask = raw / 255 if mode == "L" else luma(raw)
        clear = picture.info.get("transparency")
        if clear is not None:  # one value, or one colour, is transparent
            seen = raw != clear if mode == "L" else (raw != np.array(clear)).any(-1)
            mask = mask if seen.all() else seen.astype(float)
    elif mode in ("LA", "RGBA"):
        alpha, colours = raw[..., -1], raw[..., :-1]
        opaque = alpha.min() == 255
        grey = colours[..., 0] / 255 if mode == "LA" else luma(colours)
        mask = grey if opaque else alpha / 255
    elif mode.startswith("I"):
        mask = raw.astype(float) / 65535
    elif mode == "F":
        most = raw.max()
        mask = raw.astype(float) / (1 if most <= 1 else 255 if most <= 255 else 65535)
    else:
        raise AssertionError(mode)
    return upright(mask, turn)


def luma(colours: np.ndarray) -> np.ndarray:
    red, green, blue = (colours[..., c].astype(np.int64) for c in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16) / 255


def upright(mask: np.ndarray, turn: int) -> np.ndarray:
    """EXIF's table: where row 0 and column 0 of the stored picture belong."""
    return {
        1: lambda m: m,
        2: lambda m: m[:, ::-1],
        3: lambda m: m[::-1, ::-1],
        4: lambda m: m[::-1],
        5: lambda m: m.T,
        6: lambda m: m.T[:, ::-1],
        7: lambda m: m[::-1, ::-1].T,
        8: lambda m: m.T[::-1],
    }[turn](mask)


def shares(of: int, into: int) -> np.ndarray:
    """[into, of]: how much of each of ``of`` pixels lies in each of ``into`` cells."""
    edges = np.arange(into + 1) * of / into
    pixel = np.arange(of)
    inside = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    return inside.clip(0) * into / of


def covered(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return shares(mask.shape[0], size[0]) @ mask @ shares(mask.shape[1], size[1]).T


def unsure(cover: np.ndarray) -> np.ndarray:
    """Cells whose coverage is so near a half that a rounding decides."""
    return np.abs(cover - 0.5) < 0.004


def cells(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    cover = covered(mask, size)
    if (cover >= 0.5 - 1e-6).any():
        return cover >= 0.5 - 1e-6
    return cover >= cover.max() - 1e-6 * cover.max()


def wider(mask: np.ndarray, by: int) -> np.ndarray:
    """The largest value within ``by`` to every side, by looking at every neighbour."""
    padded = np.pad(mask, by)
    height, width = mask.shape
    shifts = [
        padded[y : y + height, x : x + width]
        for y in range(2 * by + 1)
        for x in range(2 * by + 1)
    ]  # fmt: skip
    return np.max(shifts, axis=0)


def blurred(mask: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian, edge pixels repeated."""
    reach = math.ceil(4 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        line = np.moveaxis(mask, axis, 0)
        padded = np.pad(line, ((reach, reach), (0, 0)), mode="edge")
        line = sum(w * padded[i : i + len(line)] for i, w in enumerate(weights))
        mask = np.moveaxis(line, 0, axis)
    return mask
