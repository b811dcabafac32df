"""Kinds of mask files and payloads people send, made at random, each with what it must become."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mask_reference as reference
import numpy as np
from PIL import Image


@dataclass
class Case:
    """One payload. Either ``masks`` (what each object must cover) or ``line`` is set."""

    payload: dict[str, Any]
    size: tuple[int, int] = (8, 8)
    masks: list[np.ndarray] | None = None  # bool or float [*size], one an object
    unsure: list[np.ndarray] | None = None  # cells that a rounding decides
    near: float = 0.01  # of float masks
    curvatures: list[float | None] | None = None
    line: str = ""  # part of the one line that must be said
    source: str = "given"


KINDS: dict[str, Callable[[random.Random], Case]] = {}
LONG = "A" * (64 * 2**20 + 4)


def kind(function):
    KINDS[function.__name__] = function
    return function


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def file(picture: Image.Image, format: str, **more) -> bytes:
    data = io.BytesIO()
    picture.save(data, format, **more)
    return data.getvalue()


def drawing(rng: random.Random) -> np.ndarray:
    """bool [H, W]: a box or an ellipse that touches no border."""
    high, wide = rng.randrange(40, 120), rng.randrange(40, 120)
    y, x = np.mgrid[:high, :wide]
    cy, cx = rng.uniform(0.3, 0.6) * high, rng.uniform(0.3, 0.6) * wide
    ry, rx = rng.uniform(0.12, 0.28) * high, rng.uniform(0.12, 0.28) * wide
    if rng.random() < 0.5:
        return (abs(y - cy) < ry) & (abs(x - cx) < rx)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


def grid(rng: random.Random) -> tuple[int, int]:
    return rng.randrange(4, 17), rng.randrange(4, 17)


def plainly(rng: random.Random, data: bytes, text: str | None = None, **more) -> Case:
    size = grid(rng)
    mask = reference.reading(data)
    payload = {"mask": text or b64(data), "mask_source": "given", **more}
    unsure = [reference.unsure(reference.covered(mask, size))]
    return Case(payload, size, [reference.cells(mask, size)], unsure)


def grey(shape: np.ndarray, low: int = 0, high: int = 255) -> Image.Image:
    return Image.fromarray(np.where(shape, high, low).astype(np.uint8))


@kind
def plain_control(rng):
    return plainly(rng, file(grey(drawing(rng)), rng.choice(["PNG", "BMP", "TIFF"])))


def cut(rng, shape, colour):
    picture = np.zeros((*shape.shape, 4), np.uint8)
    picture[..., :3] = colour
    picture[..., 3] = shape * 255
    return Image.fromarray(picture)


@kind
def black_strokes_on_transparent(rng):
    return plainly(rng, file(cut(rng, drawing(rng), 0), rng.choice(["PNG", "TIFF"])))


@kind
def a_cut_out(rng):
    colour = [rng.randrange(0, 110) for _ in range(3)]
    return plainly(rng, file(cut(rng, drawing(rng), colour), "WEBP", lossless=True, exact=True))


@kind
def grey_with_alpha(rng):
    shape = drawing(rng)
    alpha = np.stack([np.zeros_like(shape), shape], -1).astype(np.uint8) * 255
    return plainly(rng, file(Image.fromarray(alpha, "LA"), "PNG"))


@kind
def palette_with_transparency(rng):
    shape = drawing(rng)
    picture = Image.fromarray(shape.astype(np.uint8), "P")
    picture.putpalette([250, 250, 250, *(rng.randrange(0, 100) for _ in range(3))])
    return plainly(rng, file(picture, "PNG", transparency=0))


@kind
def a_clear_colour(rng):
    """A PNG without an alpha channel, one value or colour of which is transparent."""
    shape, dark = drawing(rng), rng.randrange(0, 90)
    picture = grey(shape, 255, dark)
    if rng.random() < 0.5:
        return plainly(rng, file(picture, "PNG", transparency=255))
    return plainly(rng, file(picture.convert("RGB"), "PNG", transparency=(255, 255, 255)))


@kind
def of_one_bit(rng):
    picture = grey(drawing(rng)).convert("1")
    how, more = rng.choice([("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "group4"})])
    return plainly(rng, file(picture, how, **more))


@kind
def turned_by_exif(rng):
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(2, 9)
    shape = np.zeros((rng.randrange(40, 90), rng.randrange(40, 90)), bool)
    shape[: shape.shape[0] // 3, : shape.shape[1] // 2] = True
    shape[: shape.shape[0] // 2, : shape.shape[1] // 5] = True
    how = rng.choice(["PNG", "JPEG", "WEBP"])
    more = {"lossless": True} if how == "WEBP" else {"quality": 95} if how == "JPEG" else {}
    return plainly(rng, file(grey(shape), how, exif=exif, **more))


@kind
def of_16_bits(rng):
    deep = np.where(drawing(rng), rng.randrange(40000, 65536), rng.randrange(300, 20000))
    picture = Image.fromarray(deep.astype(np.uint16))
    return plainly(rng, file(picture, rng.choice(["PNG", "TIFF"])))


@kind
def of_floats(rng):
    white = rng.choice([1.0, 255.0, 65535.0])
    deep = np.where(drawing(rng), white, rng.uniform(0.0, 0.3) * white).astype(np.float32)
    return plainly(rng, file(Image.fromarray(deep), "TIFF"))


@kind
def base64_in_lines(rng):
    data = file(grey(drawing(rng)), "PNG")
    text, width, end = b64(data), rng.choice([60, 64, 76]), rng.choice(["\n", "\r\n", "\n  "])
    lines = end.join(text[i : i + width] for i in range(0, len(text), width)) + end
    return plainly(rng, data, rng.choice(["", "data:image/png;base64,"]) + lines)


@kind
def base64_of_other_alphabets(rng):
    data = file(grey(drawing(rng)), "PNG")
    text = b64(data).replace("+", "-").replace("/", "_")
    return plainly(rng, data, rng.choice([text, text.rstrip("="), b64(data).rstrip("=")]))


@kind
def a_tiny_stroke(rng):
    shape = np.zeros((1024, 1024), bool)
    y, x = rng.randrange(1024), rng.randrange(1024)
    shape[y : y + rng.choice([1, 1, 2]), x] = True
    case = plainly(rng, file(grey(shape), "PNG", compress_level=1))
    return case


@kind
def a_faint_stroke(rng):
    shape = drawing(rng)
    size = grid(rng)
    data = file(cut(rng, shape, 0), "PNG")
    picture = Image.open(io.BytesIO(data))
    picture.putalpha(grey(shape, 0, rng.randrange(1, 120)))
    data = file(picture, "PNG")
    mask = reference.reading(data)
    return Case({"mask": b64(data), "mask_source": "given"}, size, [reference.cells(mask, size)])


@kind
def equally_grey(rng):
    """Never the whole picture: one cell, whichever."""
    data = file(Image.new("L", (64, 64), rng.randrange(1, 120)), "PNG")
    size = grid(rng)
    one = np.zeros(size, bool)
    one[0, 0] = True
    return Case({"mask": b64(data), "mask_source": "given"}, size, [one])


@kind
def the_mask_alone(rng):
    case = plainly(rng, file(grey(drawing(rng)), "PNG"))
    case.payload.pop("mask_source")
    return case


@kind
def painted_is_given(rng):
    case = plainly(rng, file(grey(drawing(rng)), "PNG"))
    case.payload["mask_source"] = "painted"
    return case


@kind
def one_mask_an_object(rng):
    size, entries, masks, unsure, ks = grid(rng), [], [], [], []
    for word in ("cat", "", "dog")[: rng.randrange(1, 4)]:
        data = file(grey(drawing(rng)), "PNG")
        k = rng.choice([None, round(rng.random(), 2)])
        entry = {"mask": b64(data), **({} if k is None else {"k": k})}
        entries.append(entry | ({"word": word} if word else {}))
        mask = reference.reading(data)
        masks.append(reference.cells(mask, size))
        unsure.append(reference.unsure(reference.covered(mask, size)))
        ks.append(k)
    return Case({"masks": entries}, size, masks, unsure, curvatures=ks)


@kind
def one_colour_an_object(rng):
    shape = drawing(rng)
    picture = np.zeros((*shape.shape, 3), np.uint8)
    half = np.arange(shape.shape[1]) < rng.uniform(0.35, 0.55) * shape.shape[1]
    picture[shape & half] = [255 - rng.randrange(40), rng.randrange(40), rng.randrange(40)]
    picture[shape & ~half] = [rng.randrange(40), rng.randrange(40), 255 - rng.randrange(40)]
    size, masks, unsure = grid(rng), [], []
    for part in (shape & half, shape & ~half):
        masks.append(reference.cells(part.astype(float), size))
        unsure.append(reference.unsure(reference.covered(part.astype(float), size)))
    if not (shape & half).any() or not (shape & ~half).any():
        return one_colour_an_object(rng)
    k = round(rng.random(), 2)
    payload = {"mask": b64(file(Image.fromarray(picture), "PNG"))}
    payload["mask_colours"] = rng.choice([f"red=cat:{k}, #00f=dog", f"red={k}, blue"])
    return Case(payload, size, masks, unsure, curvatures=[k, None])


@kind
def soft_keeps_grey(rng):
    shape = drawing(rng)
    data = file(grey(shape, rng.randrange(0, 60), rng.randrange(120, 256)), "PNG")
    size = grid(rng)
    soft = reference.covered(reference.reading(data), size)
    return Case({"mask": b64(data), "soft": True}, size, [soft])


@kind
def inverted(rng):
    data = file(grey(drawing(rng)), "PNG")
    size, mask = grid(rng), 1 - reference.reading(data)
    unsure = [reference.unsure(reference.covered(mask, size))]
    payload = {"mask": b64(data), "mask_invert": True}
    return Case(payload, size, [reference.cells(mask, size)], unsure)


@kind
def an_inverted_cut_out(rng):
    data = file(cut(rng, drawing(rng), 0), "PNG")
    size, mask = grid(rng), 1 - reference.reading(data)
    unsure = [reference.unsure(reference.covered(mask, size))]
    payload = {"mask": b64(data), "mask_invert": True, "mask_source": "painted"}
    return Case(payload, size, [reference.cells(mask, size)], unsure)


@kind
def soft_masks_of_objects(rng):
    size, entries, soft = grid(rng), [], []
    for _ in range(rng.randrange(1, 4)):
        shades = grey(drawing(rng), rng.randrange(0, 60), rng.randrange(120, 256))
        data = file(shades, "PNG")
        entries.append({"mask": b64(data), "word": "cat"})
        soft.append(reference.covered(reference.reading(data), size))
    return Case({"masks": entries, "soft": True}, size, soft)


def at_image(rng) -> tuple[np.ndarray, tuple[int, int]]:
    size = rng.randrange(5, 9), rng.randrange(5, 9)
    shape = np.zeros((size[0] * 8, size[1] * 8), bool)
    shape[10 : rng.randrange(22, size[0] * 8 - 6), 9 : rng.randrange(22, size[1] * 8 - 5)] = True
    return shape, size


@kind
def grown_or_shrunk(rng):
    shape, size = at_image(rng)
    by = rng.choice([-4, -3, -2, 2, 3, 5])
    mask = shape.astype(float)
    mask = reference.wider(mask, by) if by > 0 else 1 - reference.wider(1 - mask, -by)
    unsure = [reference.unsure(reference.covered(mask, size))]
    payload = {"mask": b64(file(grey(shape), "PNG")), "mask_grow": by}
    return Case(payload, size, [reference.cells(mask, size)], unsure)


@kind
def feathered(rng):
    shape, size = at_image(rng)
    feather = rng.choice([4, 6, 10, 16])
    soft = reference.covered(reference.blurred(shape.astype(float), feather / 2), size)
    payload = {"mask": b64(file(grey(shape), "PNG")), "mask_feather": feather}
    return Case(payload, size, [soft], near=0.06)


@kind
def another_format(rng):
    picture = grey(drawing(rng))
    how = rng.choice(["GIF", "PPM", "TGA", "ICO", "EPS", "PCX"])
    return Case({"mask": b64(file(picture, how))}, line="PNG, JPEG, WebP, BMP or TIFF")


@kind
def an_address_or_a_path(rng):
    name = f"mask{rng.randrange(10**6)}.png"
    start = rng.choice(
        ["http://x.org/", "https://x.org/a/", "file:///tmp/", "/tmp/", "C:\\", "../"]
    )
    return Case({"mask": start + name}, line="an address or a path")


@kind
def too_many_pixels(rng):
    def chunk(name, data):
        part = name + data
        return struct.pack(">I", len(data)) + part + struct.pack(">I", zlib.crc32(part))

    wide = rng.choice([7000, 9000, 20000, 60000])
    head = struct.pack(">IIBBBBB", wide, rng.randrange(6000, 9000), 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))
    return Case({"mask": b64(data + chunk(b"IEND", b""))}, line="pixels are too many")


@kind
def too_long(rng):
    return Case({"mask": LONG}, line="characters are too many")


@kind
def cut_off(rng):
    noise = np.random.default_rng(rng.randrange(10**6)).integers(0, 255, (64, 64), np.uint8)
    data = file(Image.fromarray(noise), rng.choice(["PNG", "JPEG", "BMP"]))
    return Case({"mask": b64(data[: len(data) * 2 // 3])}, line="damaged or cut off")


@kind
def numbers_beyond_all_floats(rng):
    name = rng.choice(["curvature", "threshold", "smoothing", "lead"])
    return Case({name: 10 ** rng.randrange(400, 4000)}, line=name)


@kind
def a_list_that_is_none(rng):
    wrong = rng.choice([5, "x", {"mask": ""}, [{"mask": ""}], [{"msk": "x"}], [{"mask": 3}], [7]])
    line = "masks, number 1" if isinstance(wrong, list) else "a list is needed"
    return Case({"masks": wrong}, line=line)


@kind
def a_mask_beside_dynamic(rng):
    data = file(grey(drawing(rng)), "PNG")
    source = rng.choice(["dynamic", "fixed"])
    payload = {"mask": b64(data), "mask_source": source}
    return Case(payload, line="not used", source=source)


@kind
def an_unknown_name(rng):
    name = rng.choice(["colour", "k", "maske", "Mask", "guide"])
    return Case({name: 1}, line=", mask, masks, ")
