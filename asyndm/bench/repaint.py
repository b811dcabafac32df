"""``python -m asyndm bench repaint``: one object of a picture is painted anew in another colour.

Seam: how much larger the step of colour across the border of the repainted region is than in the
original picture, where the background lies on both sides. Change outside: how far the kept part is
from the original as the autoencoder gives it back. All methods repaint the same pictures from the
same noise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asyndm.core.settings import Settings, check_whole
from asyndm.scenes.checker import check, object_mask
from asyndm.scenes.model import LATENT_SIZE, PATCH
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.repaint import repaint
from asyndm.scenes.text import COLOURS, Wish
from asyndm.scenes.train import to_input
from asyndm.scenes.world import draw, sample_scene, sample_wish

from .paired import compare, mean_over_prompts

_BATCH = 25
_GIVEN = Settings(enabled=True, mask_source="given")
ARMS = {
    "plain inpainting": replace(_GIVEN, curvature=0.0),
    "region slow, k .5": replace(_GIVEN, curvature=0.5),
    "region slow, k .9": replace(_GIVEN, curvature=0.9),
    "context leads .5": replace(_GIVEN, curvature=0.0, lead=0.5),
    "context clean": replace(_GIVEN, curvature=0.0, lead=1.0),
    "region slow, k .5, context leads .5": replace(_GIVEN, curvature=0.5, lead=0.5),
}
BASELINE = "plain inpainting"


@dataclass(frozen=True)
class Job:
    """A picture, the cells to repaint, and what is wished for instead."""

    picture: np.ndarray  # uint8 [64, 64, 3]
    region: np.ndarray  # bool [16, 16]
    wish: Wish


def sample_job(rng: np.random.Generator) -> Job:
    """A scene of two or three single objects, one of which is to change its colour."""
    while True:
        wish = sample_wish(rng)
        if len(wish.groups) > 1 and all(group.count == 1 for group in wish.groups):
            break
    scene = sample_scene(rng, wish, 1.0)
    target = wish.groups[0]
    used = {group.colour for group in wish.groups}
    colour = str(rng.choice([c for c in COLOURS if c not in used]))
    groups = (replace(target, colour=colour), *wish.groups[1:])
    thing = scene.things[0]
    reach = thing.size / 2 + 2  # a margin as people paint it
    region = np.zeros((LATENT_SIZE, LATENT_SIZE), bool)
    (top, left), (bottom, right) = (
        np.floor(np.array([thing.y + s, thing.x + s]) / PATCH).astype(int) for s in (-reach, reach)
    )
    region[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
    return Job(np.asarray(draw(scene)), region, replace(wish, groups=groups))


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=Request("").cfg)
    parser.add_argument("--strength", type=float, default=1.0, help="denoising strength")
    parser.add_argument("--weights", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path)


def main(args: argparse.Namespace) -> int:
    """Repaint, measure and print.

    Raises:
        SettingsError: a value that cannot be used.
    """
    count = check_whole("pictures", args.pictures, 1, 100_000)
    request = Request("", steps=args.steps, cfg=args.cfg)
    if args.threads:
        torch.set_num_threads(args.threads)
    pipeline = ScenePipeline.load(args.weights)
    rng = np.random.default_rng([4504, 3])
    jobs = [sample_job(rng) for _ in range(count)]
    measured = {
        arm: np.array(
            [
                values
                for start in tqdm(range(0, count, _BATCH), desc=arm)
                for values in _measure(
                    pipeline, jobs[start : start + _BATCH], start, settings, request, args.strength
                )
            ]
        )
        for arm, settings in ARMS.items()
    }
    rows = []
    for arm, values in measured.items():
        row: dict = {"method": arm}
        for column, name in enumerate(("right", "seam", "change_outside")):
            mine, base = values[:, column, None], measured[BASELINE][:, column, None]
            row[name] = mean_over_prompts(mine).as_dict()
            if arm != BASELINE:
                both = ~np.isnan(mine[:, 0]) & ~np.isnan(base[:, 0])
                row[f"{name}_difference"] = compare(mine[both], base[both]).as_dict()
        rows.append(row)
        print(_line(row))
    if args.json:
        setup = {"pictures": count, "steps": request.steps, "cfg": request.cfg}
        args.json.write_text(json.dumps({**setup, "strength": args.strength, "rows": rows}))
    return 0


def _measure(pipeline, jobs, first, settings, request, strength):
    """[right, seam, change outside] of every job."""
    originals = np.stack([job.picture for job in jobs])
    regions = np.stack([job.region for job in jobs])
    made = repaint(
        pipeline,
        originals,
        torch.from_numpy(regions),
        [job.wish.prompt() for job in jobs],
        [1_000_003 + first + j for j in range(len(jobs))],
        settings,
        request,
        strength,
    )
    autoencoder = pipeline.model.autoencoder
    latents = autoencoder.encode(to_input(originals, torch.device("cpu")))
    kept = pipeline.model.decode_pixels(latents).numpy()
    for job, picture, original in zip(jobs, made, kept):
        outside = ~job.region.repeat(PATCH, 0).repeat(PATCH, 1)
        change = np.abs(picture.astype(float) - original.astype(float))[outside].mean()
        right = float(check(picture, job.wish).right)
        yield right, seam(picture, job.picture, job.region), float(change)


def _line(row: dict) -> str:
    text = f"{row['method']:<38}"
    for name, digits in (("right", 3), ("seam", 2), ("change_outside", 2)):
        text += f"  {name.replace('_', ' ')} {row[name]['value']:.{digits}f}"
        if f"{name}_difference" in row:
            difference = row[f"{name}_difference"]
            low, high = difference["low"], difference["high"]
            text += f" ({difference['value']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"
    return text
