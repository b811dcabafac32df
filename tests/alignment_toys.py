"""What the tests of bench alignment share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asyndm import cli

ROOT = Path(__file__).resolve().parents[1]


def bench(*args):
    return cli.main(["bench", "alignment", *map(str, args)])


def small(folder, *more):
    """A few pictures in three steps by weights that load fast."""
    return ["--folder", folder, "--limit", 3, "--steps", 3, *more]


# --- what scores look at ---

COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def two_pictures():
    """Noise, and a ramp; wider than high."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((40, 1, 3))
    ramp[..., 2] = 200
    return [noise, Image.fromarray(ramp.astype(np.uint8))]


def clip_pixels(image, side=32, middle=lambda odd: odd // 2):
    """[3, side, side] by hand: the short side, the middle, CLIP's colours."""
    width = round(image.width * side / image.height)
    small = image.resize((width, side), Image.Resampling.BICUBIC)
    left = middle(width - side)
    values = np.asarray(small.crop((left, 0, left + side, side)), np.float32) / 255
    mean, deviation = (torch.tensor(each)[:, None, None] for each in COLOURS)
    return (torch.from_numpy(values).permute(2, 0, 1) - mean) / deviation
