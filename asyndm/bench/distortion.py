"""``python -m asyndm bench distortion``: a spoilt object of a drawn picture is redrawn.

The embedded model draws a picture that is right. One of its objects is spoilt on purpose (blurred,
warped, or half of it replaced by another shape in another colour), the region around it is masked,
and it is redrawn for the same prompt at the same seed, at the denoising strength a WebUI starts
with. Source of the task: arXiv 2510.04504, its application to distortions; there the picture's own
distortions are masked. The measures and statistics are those of ``bench repaint``.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from tqdm import tqdm

from asyndm.core.settings import Settings, SettingsError
from asyndm.scenes.checker import check, find_objects, object_mask
from asyndm.scenes.model import PATCH
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.text import COLOURS, SHAPES, Wish
from asyndm.scenes.world import PALETTE, SIZE, UNIT_OUTLINES

from .repaint import BASELINE, Job, box_cells, run, single_objects
from .repaint import add_arguments as add_repaints_arguments

WAYS = ("blur", "warp", "wrong part")
# name -> (seed of the prompts and of what is spoilt, first seed of the noise)
SETS = {
    "development": ([4504, 18, 3], 183_000_003),
    "confirm": ([4504, 18, 4], 184_000_003),
}
STRENGTH = 0.75
_ARMS = (BASELINE, "concave for all, k .9", "region slow, k .9")
_BATCH = 16
_MOST_DRAWN = 20  # pictures drawn for each one that is right; of the shipped model's about half are
_MARGIN = 2  # pixels around an object, as people paint
_BLUR, _WARP = 3.5, 7.0  # pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    add_repaints_arguments(parser, SETS, _ARMS, STRENGTH)


def main(args: argparse.Namespace) -> int:
    """Draw, spoil, redraw, measure and print.

    Raises:
        SettingsError: a value that cannot be used.
    """
    return run(args, spoilt_jobs, bench="distortion")


def spoilt_jobs(pipeline: ScenePipeline, name: str, count: int, request: Request) -> list[Job]:
    """The first ``count`` right pictures of a set, each with one object spoilt.

    Every run draws them anew; they depend on nothing but the set and the request.

    Raises:
        SettingsError: the model draws hardly a picture that is right.
    """
    prompt_seed, noise_seed = SETS[name]
    rng = np.random.default_rng(prompt_seed)
    jobs: list[Job] = []
    drawn = 0
    with tqdm(total=count, desc="drawing", unit="picture") as bar:
        while len(jobs) < count:
            if drawn >= _MOST_DRAWN * count + _BATCH:
                raise SettingsError(
                    f"steps: of {drawn} drawn pictures {len(jobs)} are right, which leaves too few "
                    "to spoil; take more steps, or weights that were trained."
                )
            wishes = [single_objects(rng) for _ in range(_BATCH)]
            seeds = [noise_seed + drawn + j for j in range(_BATCH)]
            prompts = [wish.prompt() for wish in wishes]
            sampled = pipeline.sample(prompts, seeds, "synchronous", Settings(), request)
            pictures = pipeline.model.decode_pixels(sampled.latents).numpy()
            for picture, wish, seed in zip(pictures, wishes, seeds):
                job = spoilt_job(picture, wish, seed, WAYS[len(jobs) % len(WAYS)])
                if job is not None:
                    jobs.append(job)
                    bar.update()
            drawn += _BATCH
    return jobs[:count]


def spoilt_job(picture: np.ndarray, wish: Wish, seed: int, way: str) -> Job | None:
    """The picture with one of its objects spoilt; None where it is not right to begin with.

    Args:
        picture: uint8 [64, 64, 3].
        seed: of the picture; also tells which object is spoilt, and how exactly.
        way: of :data:`WAYS`.
    """
    seen = find_objects(picture)
    if not check(picture, wish).right:
        return None
    rng = np.random.default_rng(seed)
    one = seen[rng.integers(len(seen))]
    labels, _ = ndimage.label(object_mask(picture))
    label = labels[round(one.y), round(one.x)]
    if not label or np.sum([labels[round(o.y), round(o.x)] == label for o in seen]) > 1:
        return None  # it touches another: they cannot be masked apart
    rows, columns = ndimage.find_objects((labels == label).astype(int))[0]
    region = box_cells(
        rows.start - _MARGIN,
        columns.start - _MARGIN,
        rows.stop - 1 + _MARGIN,
        columns.stop - 1 + _MARGIN,
    )
    box = (rows.start, columns.start, rows.stop, columns.stop)
    return Job(spoil(picture, region, box, way, rng), region, wish, seed, way)


def spoil(
    picture: np.ndarray,
    region: np.ndarray,
    box: tuple[int, int, int, int],
    way: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """The picture, spoilt inside the region.

    Args:
        picture: uint8 [64, 64, 3].
        region: bool [16, 16], latent cells.
        box: top, left, bottom and right of the object in pixels, the last two exclusive.
        way: of :data:`WAYS`.
    """
    inside = region.repeat(PATCH, 0).repeat(PATCH, 1)
    if way == "blur":
        changed = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(_BLUR)))
    elif way == "warp":
        # a smooth random field that fades at the region's border, so that nothing tears there
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        fade = np.clip(depth / 6, 0, 1)
        rough = rng.standard_normal((2, 9, 9))
        shift = np.stack([ndimage.zoom(field, SIZE / 9, order=3) for field in rough]) * _WARP * fade
        places = np.indices((SIZE, SIZE)) + shift
        changed = np.stack(
            [
                ndimage.map_coordinates(
                    picture[..., c].astype(float), places, order=1, mode="nearest"
                )
                for c in range(3)
            ],
            -1,
        ).round()
    elif way == "wrong part":
        changed = _with_wrong_half(picture, box, rng)
    else:
        raise ValueError(f"way: {way!r} is none of {', '.join(WAYS)}.")
    return np.where(inside[..., None], changed, picture).astype(np.uint8)


def _with_wrong_half(
    picture: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """The upper, lower, left or right half of the box holds that half of another object."""
    top, left, bottom, right = box
    middle = np.array([[left + right], [top + bottom]]) / 2
    radii = np.array([[right - left], [bottom - top]]) / 2
    hues = np.array([PALETTE[colour] for colour in COLOURS], float)
    own = picture[int(middle[1, 0]), int(middle[0, 0])].astype(float)
    others = np.argsort(np.square(hues - own).sum(1))[1:]  # every colour but the nearest
    colour = PALETTE[COLOURS[rng.choice(others)]]
    outline = middle + radii * np.array(UNIT_OUTLINES[str(rng.choice(SHAPES))]).T
    drawn = Image.fromarray(picture)
    ImageDraw.Draw(drawn).polygon([tuple(corner) for corner in outline.T.tolist()], fill=colour)
    axis, first = int(rng.integers(2)), bool(rng.integers(2))
    at = np.indices((SIZE, SIZE))[axis]
    half = (at < middle[1 - axis, 0]) == first
    # the old half goes too: what lies between the two outlines is the ground beside the object
    ground = picture.copy()
    cut = (slice(top, bottom), slice(left, right))
    beside = left - 1 if left > 0 else min(right, SIZE - 1)
    ground[cut] = picture[top:bottom, beside : beside + 1]
    covered = (np.asarray(drawn) != picture).any(-1)
    replaced = np.where(covered[..., None], np.asarray(drawn), ground)
    return np.where(half[..., None], replaced, picture)
