"""``python -m asyndm bench repaint``: one object of a picture is painted anew in another colour.

Seam: how much larger the step of colour across the border of the repainted region is than in the
original picture, where the background lies on both sides. Change outside: how far the kept part is
from the original as the autoencoder gives it back. All methods repaint the same pictures from the
same noise. What goes wrong is told by kind, see :func:`failures`; p values are McNemar's, exact.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asyndm.core.settings import SettingsError, check_whole
from asyndm.network.norms import REACH
from asyndm.scenes import chosen
from asyndm.scenes.checker import check
from asyndm.scenes.model import LATENT_SIZE, PATCH, weights_file
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.repaint import repaint
from asyndm.scenes.text import COLOURS, Wish
from asyndm.scenes.train import to_input
from asyndm.scenes.world import FIRST_WORLD, draw, sample_scene, sample_wish

from .flaws import KINDS, failures, seam
from .paired import compare, mean_over_prompts
from .repaint_arms import ARMS, BASELINE, EVERYWHERE, REACH_OF, SLOW
from .scenes import PRECISIONS, end_cut_line, parse_shard

_BATCH = 16
# name -> (seed of the scenes and wishes, first seed of the noise); no two share a picture
SETS = {
    "first": ([4504, 3], 1_000_003),  # the 144 pictures of 0.1.0's table
    "development": ([4504, 18, 1], 181_000_003),
    "confirm": ([4504, 18, 2], 182_000_003),
    "norms-development": ([4504, 18, 5], 185_000_003),
    "norms-confirm": ([4504, 18, 6], 186_000_003),
    "reach-development": ([4504, 18, 7], 187_000_003),
    "reach-confirm": ([4504, 18, 8], 188_000_003),
    "mixed-confirm": ([4504, 18, 9], 189_000_003),
}
MEASURES = ("right", "seam", "change_outside", "sharpness", *KINDS)


@dataclass(frozen=True)
class Job:
    """A picture, the cells to repaint, and what is wished for there.

    Attributes:
        seed: of the noise.
        group: pictures of a group are also counted by themselves; "" = there are no groups.
    """

    picture: np.ndarray  # uint8 [64, 64, 3]
    region: np.ndarray  # bool [16, 16]
    wish: Wish
    seed: int = 0
    group: str = ""


MakeJobs = Callable[[ScenePipeline, str, int, Request], list[Job]]


def single_objects(rng: np.random.Generator) -> Wish:
    """A wish for two or three single objects."""
    while True:
        wish = sample_wish(rng)
        if len(wish.groups) > 1 and all(group.count == 1 for group in wish.groups):
            return wish


def box_cells(top: float, left: float, bottom: float, right: float) -> np.ndarray:
    """bool [16, 16]: the cells that a box of pixels touches."""
    cells = np.zeros((LATENT_SIZE, LATENT_SIZE), bool)
    top, left, bottom, right = (int(side // PATCH) for side in (top, left, bottom, right))
    cells[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
    return cells


def sample_job(rng: np.random.Generator, seed: int = 0, world: str = FIRST_WORLD) -> Job:
    """A scene of two or three single objects, one of which is to change its colour."""
    wish = single_objects(rng)
    scene = sample_scene(rng, wish, 1.0, world)
    target = wish.groups[0]
    used = {group.colour for group in wish.groups}
    colour = str(rng.choice([c for c in COLOURS if c not in used]))
    groups = (replace(target, colour=colour), *wish.groups[1:])
    thing = scene.things[0]
    reach = thing.size / 2 + 2  # a margin as people paint it
    region = box_cells(thing.y - reach, thing.x - reach, thing.y + reach, thing.x + reach)
    return Job(np.asarray(draw(scene)), region, replace(wish, groups=groups), seed)


def sample_jobs(pipeline: ScenePipeline, name: str, count: int, request: Request) -> list[Job]:
    """The first ``count`` jobs of a set of :data:`SETS`, in the model's world."""
    scene_seed, noise_seed = SETS[name]
    rng = np.random.default_rng(scene_seed)
    return [sample_job(rng, noise_seed + i, pipeline.world) for i in range(count)]


def add_arguments(
    parser: argparse.ArgumentParser,
    sets: Iterable[str] = SETS,
    arms: Iterable[str] = ARMS,
    strength: float = 1.0,
) -> None:
    """The options of this bench, and with other defaults of one that paints like it."""
    sets = list(sets)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument(
        "--set", choices=sets, default=sets[0], help="of pictures; k is never chosen on confirm"
    )
    parser.add_argument(
        "--arms", nargs="+", default=list(arms), metavar="ARM", help=f"of {'; '.join(ARMS)}"
    )
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=Request("").cfg)
    parser.add_argument("--strength", type=float, default=strength, help="denoising strength")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    chosen.add_arguments(parser)
    parser.add_argument("--device", default="cpu", help="where torch runs the model: cpu, cuda")
    parser.add_argument("--batch", type=int, default=_BATCH, help="pictures at a time")
    parser.add_argument("--shard", default="1/1", help="part of the pictures, e.g. 2/3")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument(
        "--lines", type=Path, help="results by picture, JSON lines; a stopped run goes on there"
    )
    parser.add_argument("--report-only", action="store_true", help="paint nothing")
    parser.add_argument("--json", type=Path)


def main(args: argparse.Namespace) -> int:
    """Repaint, measure and print.

    Raises:
        SettingsError: a value that cannot be used.
    """
    return run(args, sample_jobs)


def run(args: argparse.Namespace, make_jobs: MakeJobs, **of_bench: str) -> int:
    """What every bench that repaints does with its options.

    Args:
        make_jobs: makes the pictures to repaint.
        of_bench: what else tells its results from those of another bench.

    Raises:
        SettingsError: a value that cannot be used.
    """
    count = check_whole("pictures", args.pictures, 1, 100_000)
    for arm in args.arms:
        if arm not in ARMS:
            raise SettingsError(f"arms: {arm!r} is unknown; choose of {'; '.join(ARMS)}.")
    arms = list(dict.fromkeys([BASELINE, *args.arms]))
    request = Request("", steps=args.steps, cfg=args.cfg)
    setup = {
        "set": args.set,
        "steps": request.steps,
        "cfg": request.cfg,
        "strength": args.strength,
        "precision": args.precision,
        **({} if args.device == "cpu" else {"device": args.device.partition(":")[0]}),
        **chosen.told(args, lambda named: digest(weights_file(named))),
        **of_bench,
    }
    check_whole("batch", args.batch, 1, 1024)
    if args.threads:
        torch.set_num_threads(args.threads)
    lines = _read(args.lines, setup)
    if not args.report_only:
        lines += _paint(args, arms, count, request, setup, lines, make_jobs)
    table = {(line["arm"], line["picture"]): line for line in lines}
    complete = [i for i in range(count) if all((arm, i) in table for arm in arms)]
    if not complete:
        print("No picture is finished for all methods yet.")
        return 0
    if len(complete) < count:
        print(f"{len(complete)} of {count} pictures are finished for all methods; these count.")
    rows = summarise(table, arms, complete)
    for row in rows:
        print(_line(row))
    groups = by_group(table, arms, complete)
    for name, group in groups.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.3g}" for what, value in group.items()))
    if args.json:
        report = {"pictures": len(complete), **setup, "rows": rows}
        if groups:
            report["groups"] = groups
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def summarise(table: dict, arms: list[str], pictures: list[int]) -> list[dict]:
    """A row an arm: means, and paired differences to plain, to concave for all, and of an arm with
    a reach of levelled norms to the same everywhere.

    Args:
        table: (arm, picture) -> the line of its measures.
    """
    values = {
        arm: {name: np.array([[table[arm, i][name]] for i in pictures], float) for name in MEASURES}
        for arm in arms
    }
    controls = {"": BASELINE, "_to_concave": next(a for a, slow in SLOW.items() if slow == "all")}
    rows = []
    for arm in arms:
        row: dict = {"method": arm}
        others = {**controls, "_to_everywhere": EVERYWHERE.get(arm)}
        for name in MEASURES:
            mine = values[arm][name]
            row[name] = _rounded(mean_over_prompts(mine).as_dict())
            for suffix, control in others.items():
                if control == arm or control not in values or (suffix and arm == BASELINE):
                    continue
                base = values[control][name]
                both = ~np.isnan(mine[:, 0]) & ~np.isnan(base[:, 0])
                row[f"{name}_difference{suffix}"] = _rounded(
                    compare(mine[both], base[both]).as_dict()
                )
        rows.append(row)
    return rows


def by_group(table: dict, arms: list[str], pictures: list[int]) -> dict[str, dict]:
    """For every group of pictures their number, the share that was right before, and by arm."""
    groups: dict[str, dict] = {}
    for name in sorted({table[arms[0], i].get("group", "") for i in pictures} - {""}):
        mine = [i for i in pictures if table[arms[0], i]["group"] == name]
        groups[name] = {
            "pictures": len(mine),
            "before": float(np.mean([table[arms[0], i]["right_before"] for i in mine])),
            **{arm: float(np.mean([table[arm, i]["right"] for i in mine])) for arm in arms},
        }
    return groups


def digest(path: Path) -> str:
    """Eight letters that tell a file from others.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    except OSError as error:
        raise SettingsError(f"weights: {path} cannot be read ({error.strerror}).") from None


def _rounded(cell: dict) -> dict:
    return {name: float(f"{value:.5g}") for name, value in cell.items()}


def _read(path: Path | None, setup: dict) -> list[dict]:
    """The lines of an earlier run; one that was cut off is left out, its picture is made again.

    Raises:
        SettingsError: the file is of another setup or another program, or has no folder.
    """
    if path and not path.parent.is_dir():
        raise SettingsError(f"lines: the folder {path.parent} does not exist; make it first.")
    lines = []
    for text in path.read_text().splitlines() if path and path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        there = line.pop("setup", None) if isinstance(line, dict) else None
        if there is None:
            raise SettingsError(f"lines: {path} holds no results of this bench; name a new file.")
        if there != setup:
            changed = ", ".join(
                name for name in {**setup, **there} if there.get(name) != setup.get(name)
            )
            raise SettingsError(f"lines: {path} is of another {changed}; name a new file.")
        lines.append(line)
    return lines


def _paint(args, arms, count, request, setup, lines, make_jobs) -> list[dict]:
    """The lines that are not there yet; batch by batch, so a stopped run has all arms on some."""
    pipeline = chosen.open_chosen(args).to(args.device)
    shard, shards = parse_shard(args.shard)
    jobs = make_jobs(pipeline, args.set, count, request)
    done = {(line["arm"], line["picture"]) for line in lines}
    made = []
    with open(args.lines, "a+") if args.lines else contextlib.nullcontext() as out:
        if out:
            end_cut_line(out)
        starts = range(0, count, args.batch)[shard::shards]
        for start in tqdm(starts, unit="batch"):
            for arm in arms:
                numbers = [
                    i for i in range(start, min(start + args.batch, count)) if (arm, i) not in done
                ]
                if not numbers:
                    continue
                measured = _measure(
                    pipeline,
                    [jobs[i] for i in numbers],
                    arm,
                    request,
                    args.strength,
                    args.precision,
                )
                new = [{"arm": arm, "picture": i, **m} for i, m in zip(numbers, measured)]
                made += new
                if out:
                    out.write("".join(json.dumps({**ln, "setup": setup}) + "\n" for ln in new))
                    out.flush()
    return made


def painted_by(pipeline, jobs, arm, request, strength=1.0) -> np.ndarray:
    """The pictures uint8 [B, 64, 64, 3] that an arm makes of jobs."""
    pipeline.reach = REACH_OF.get(arm, REACH)
    return repaint(
        pipeline,
        np.stack([job.picture for job in jobs]),
        torch.from_numpy(np.stack([job.region for job in jobs])),
        [job.wish.prompt() for job in jobs],
        [job.seed for job in jobs],
        ARMS[arm],
        request,
        strength,
        SLOW.get(arm, "region"),
    )


def _measure(pipeline, jobs, arm, request, strength, precision=PRECISIONS[0]):
    """The measures of every job, as dictionaries."""
    originals = np.stack([job.picture for job in jobs])
    device = pipeline.device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        made = painted_by(pipeline, jobs, arm, request, strength)
    autoencoder = pipeline.model.autoencoder
    latents = autoencoder.encode(to_input(originals, device))
    kept = pipeline.model.decode_pixels(latents).numpy()
    for job, picture, original in zip(jobs, made, kept):
        outside = ~job.region.repeat(PATCH, 0).repeat(PATCH, 1)
        change = np.abs(picture.astype(float) - original.astype(float))[outside].mean()
        verdict = check(picture, job.wish)
        yield {
            "right": verdict.right,
            "seam": seam(picture, job.picture, job.region),
            "change_outside": float(change),
            "sharpness": verdict.quality["sharpness"],
            **failures(picture, job.wish, verdict),
            **(
                {"group": job.group, "right_before": check(job.picture, job.wish).right}
                if job.group
                else {}
            ),
        }


_BESIDE = {"": "", "_to_concave": "vs concave ", "_to_everywhere": "vs everywhere "}


def _line(row: dict) -> str:
    text = f"{row['method']:<38}"
    for name, digits in (("right", 3), ("seam", 2), ("change_outside", 2), ("sharpness", 2)):
        text += f"  {name.replace('_', ' ')} {row[name]['value']:.{digits}f}"
        for suffix, beside in _BESIDE.items():
            if difference := row.get(f"{name}_difference{suffix}"):
                low, high = difference["low"], difference["high"]
                text += (
                    f" ({beside}{difference['value']:+.{digits}f} "
                    f"[{low:+.{digits}f}, {high:+.{digits}f}]"
                )
                text += f" p={difference['p_value']:.2g})" if name == "right" else ")"
    return text + "  " + ", ".join(f"{kind} {row[kind]['value']:.3f}" for kind in KINDS)
