"""``python -m asyndm bench scenes``: do the pictures of the embedded model follow the prompt?

Methods x couplings x prompts x seeds, paired: every method draws the same prompts from the same
noise. Results go line by line into a folder, so a run can be cut off, resumed and shared among
processes; the report is made from whatever is there.
"""

from __future__ import annotations

import argparse
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asyndm.core.settings import RULES, Settings, SettingsError, check_whole
from asyndm.core.sigmas import SCHEDULES
from asyndm.scenes import chosen
from asyndm.scenes.checker import check
from asyndm.scenes.pipeline import METHODS, Request, ScenePipeline
from asyndm.scenes.text import COUPLINGS, parse_prompt
from asyndm.scenes.train import to_input
from asyndm.scenes.world import draw, holds_out, sample_scene, sample_wish

from .alignment.store import written
from .flaws import failures

SPLITS = {"development": 1, "test": 2}  # of prompts; disjoint
MOST_PROMPTS = 2000  # of a split
DRAWN = "drawn"  # scenes by the world's own program through the decoder: as right as judged can be
PRECISIONS = ("float32", "bfloat16")  # of the network; the sampler stays in float32
_BATCH = 32


@dataclass(frozen=True)
class Arm:
    """One method with its settings, written ``METHOD`` or ``METHOD:name=value,name=value``."""

    text: str
    method: str
    settings: Settings

    @classmethod
    def parse(cls, text: str, base: Settings | None = None) -> Arm:
        """Read the written form.

        Raises:
            SettingsError: an unknown method, setting or value.
        """
        method, _, rest = text.strip().partition(":")
        if method not in (*METHODS, DRAWN):
            known = ", ".join((*METHODS, DRAWN))
            raise SettingsError(f"methods: {method!r} is unknown; choose of {known}.")
        if method == DRAWN and rest:
            raise SettingsError(
                f"methods: {DRAWN!r} is drawn without the network, it has no settings."
            )
        values = {}
        types = typing.get_type_hints(Settings)
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise SettingsError(f"methods: {part!r} is not of the form name=value.")
            is_switch = types.get(name) is bool
            values[name] = value == "true" if is_switch and value in ("true", "false") else value
        changed = Settings.from_dict(values) if values else Settings()
        base = base or Settings()
        return cls(text.strip(), method, replace(base, **{n: getattr(changed, n) for n in values}))


@dataclass(frozen=True)
class Task:
    """One batch of pictures: an arm, a coupling and some (prompt number, seed number) pairs."""

    arm: Arm
    coupling: float
    pairs: tuple[tuple[int, int], ...]


def bench_prompts(split: str, count: int, skip: int = 0) -> list[str]:
    """``count`` prompts of a split behind its first ``skip``; development and test share none.

    Prompts with pairs or counts that training captions never named are among them.

    Raises:
        SettingsError: more prompts than there are to keep the splits apart.
    """
    skip = check_whole("skip", skip, 0, MOST_PROMPTS - 1)
    count = skip + check_whole("prompts", count, 1, MOST_PROMPTS - skip)
    rngs = {name: np.random.default_rng([4504, number]) for name, number in SPLITS.items()}
    taken: dict[str, str] = {}
    chosen: list[str] = []
    while len(chosen) < count:
        for name, rng in rngs.items():  # in turn, so that the splits do not depend on ``count``
            prompt = sample_wish(rng, held_out=None).prompt()
            if taken.setdefault(prompt, name) == name == split and prompt not in chosen:
                chosen.append(prompt)
    return chosen[skip:count]


def seed_of(prompt: int, seed: int) -> int:
    """The noise of a prompt's picture: the same for all methods and couplings."""
    return 1_000_003 * (prompt + 1) + seed


def tasks(
    arms: list[Arm], couplings: list[float], prompts: int, seeds: int, batch: int = _BATCH
) -> Iterator[Task]:
    """All batches, ordered so that an unfinished run has all arms on its first prompts."""
    pairs = [(prompt, seed) for seed in range(seeds) for prompt in range(prompts)]
    for start in range(0, len(pairs), batch):
        for coupling in couplings:
            for arm in arms:
                yield Task(arm, coupling, tuple(pairs[start : start + batch]))


def read_results(folder: Path) -> list[dict]:
    """All result lines of a folder; a last line that was cut off is left out."""
    lines = []
    for path in sorted(folder.glob("results_*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the process was stopped while it wrote; that picture is drawn again
    return lines


def run(
    pipeline: ScenePipeline,
    arms: list[Arm],
    couplings: list[float],
    prompts: list[str],
    seeds: int,
    request: Request,
    folder: Path,
    shard: tuple[int, int] = (0, 1),
    precision: str = "float32",
    batch: int = _BATCH,
) -> None:
    """Draw and check whatever the folder does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    done = {_key(line) for line in read_results(folder)}
    number, of = shard
    todo = [
        task
        for i, task in enumerate(tasks(arms, couplings, len(prompts), seeds, batch))
        if i % of == number
    ]
    with open(folder / f"results_{number}_of_{of}.jsonl", "a+") as out:
        end_cut_line(out)
        for task in tqdm(todo, desc=f"shard {number + 1}/{of}", unit="batch"):
            pairs = [p for p in task.pairs if (task.arm.text, task.coupling, *p) not in done]
            if not pairs:
                continue
            drawn = _draw(pipeline, task, pairs, prompts, request, precision)
            out.writelines(json.dumps(line) + "\n" for line in drawn)
            out.flush()


def end_cut_line(out: typing.TextIO) -> None:
    """Start a new line behind one that a stopped process left unfinished."""
    end = out.tell()
    out.seek(max(end - 1, 0))
    if end and out.read(1) != "\n":
        out.write("\n")


def _key(line: dict) -> tuple:
    return line["arm"], line["coupling"], line["prompt"], line["seed"]


def _draw(
    pipeline: ScenePipeline,
    task: Task,
    pairs: list[tuple[int, int]],
    prompts: list[str],
    request: Request,
    precision: str,
) -> Iterator[dict]:
    texts = [prompts[prompt] for prompt, _ in pairs]
    seeds = [seed_of(*pair) for pair in pairs]
    if task.arm.method == DRAWN:
        latents = _encoded(pipeline, texts, seeds, task.coupling)
    else:
        with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            latents = pipeline.sample(
                texts,
                seeds,
                task.arm.method,
                task.arm.settings,
                replace(request, coupling=task.coupling),
            ).latents
    pixels = pipeline.model.decode_pixels(latents).numpy()
    for (prompt, seed), text, picture in zip(pairs, texts, pixels):
        wish = parse_prompt(text)
        verdict = check(picture, wish)
        yield {
            "arm": task.arm.text,
            "coupling": task.coupling,
            "prompt": prompt,
            "seed": seed,
            "held_out": holds_out(wish),
            "right": verdict.right,
            "objects": verdict.objects_right / verdict.objects_asked,
            "noise": verdict.quality["noise"],
            "sharpness": verdict.quality["sharpness"],
            **failures(picture, wish, verdict),
        }


@torch.no_grad()
def _encoded(
    pipeline: ScenePipeline, prompts: list[str], seeds: list[int], coupling: float
) -> torch.Tensor:
    """Latents [B, C, h, w] of drawn scenes that fulfil the prompts; the network has no part."""
    pictures = []
    for prompt, seed in zip(prompts, seeds):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, parse_prompt(prompt), coupling, pipeline.world)
        pictures.append(np.asarray(draw(scene)))
    return pipeline.model.autoencoder.encode(to_input(np.stack(pictures), pipeline.device))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument(
        "--folder", type=Path, default=Path("out/bench-scenes"), help="results lie here"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["synchronous", "concave", "asyndm"],
        metavar="ARM",
        help=f"of {', '.join(METHODS)}, each with its settings: asyndm:curve=linear,curvature=0.7; "
        f"or {DRAWN}: right scenes through the decoder, the most that is judged right",
    )
    parser.add_argument("--couplings", type=float, nargs="+", default=[1.0])
    parser.add_argument("--prompts", type=int, default=250)
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        help="leave out so many prompts at the split's beginning: those of earlier runs",
    )
    parser.add_argument("--seeds", type=int, default=2, help="pictures a prompt")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=Request("").cfg)
    parser.add_argument("--rule", choices=RULES, default="ddpm")
    parser.add_argument("--schedule", choices=SCHEDULES, default="uniform")
    parser.add_argument("--shard", default="1/1", help="part of the work, e.g. 2/3")
    chosen.add_arguments(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the network, for all methods alike; bfloat16 is faster where the CPU has it",
    )
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="cpu", help="where torch runs the model: cpu, cuda")
    parser.add_argument("--batch", type=int, default=_BATCH, help="pictures at once")
    parser.add_argument("--report-only", action="store_true", help="draw nothing")
    parser.add_argument("--json", type=Path, help="default: report.json in the folder")
    parser.add_argument("--html", type=Path, help="default: report.html in the folder")


def main(args: argparse.Namespace) -> int:
    """Draw, check and report.

    Raises:
        SettingsError: a value that cannot be used.
    """
    from .report import summarise, write_html  # plots are not needed to draw a shard

    arms = [Arm.parse(text) for text in args.methods]
    for coupling in args.couplings:
        if coupling not in COUPLINGS:
            raise SettingsError(f"couplings: {coupling:g} is unknown; choose of 0, 0.5, 1.")
    request = Request("", steps=args.steps, cfg=args.cfg, rule=args.rule, schedule=args.schedule)
    shard = parse_shard(args.shard)
    prompts = bench_prompts(args.split, args.prompts, args.skip)
    seeds = check_whole("seeds", args.seeds, 1, 1000)
    setup = {
        "split": args.split,
        "prompts": len(prompts),
        "seeds": seeds,
        "steps": request.steps,
        "cfg": request.cfg,
        "rule": request.rule,
        "schedule": request.schedule,
        "precision": args.precision,
        **({"skip": args.skip} if args.skip else {}),
        **chosen.told(args, lambda named: Path(named).name),
        # pictures of another device are others, in the last bits
        **({} if args.device == "cpu" else {"device": args.device.partition(":")[0]}),
    }
    _keep_setup(args.folder, setup)
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.report_only:
        pipeline = chosen.open_chosen(args).to(args.device)
        run(
            pipeline,
            arms,
            args.couplings,
            prompts,
            seeds,
            request,
            args.folder,
            shard,
            args.precision,
            check_whole("batch", args.batch, 1, 4096),
        )
    lines = read_results(args.folder)
    summary = summarise(lines, [arm.text for arm in arms], args.couplings, setup)
    if summary is None:
        print(
            "No prompt is finished for all methods yet; run the other shards, then --report-only."
        )
        return 0
    json_path = args.json or args.folder / "report.json"
    html_path = args.html or args.folder / "report.html"
    json_path.write_text(json.dumps(summary, indent=1))
    write_html(summary, html_path)
    for row in summary["rows"]:
        print(_line(row))
    print(f"wrote {json_path} and {html_path}")
    return 0


def _line(row: dict) -> str:
    text = (
        f"coupling {row['coupling']:<4g}{row['arm']:<46} right {row['right']['value']:.3f}"
        f" [{row['right']['low']:.3f}, {row['right']['high']:.3f}]"
    )
    if row["right_difference"]:
        difference = row["right_difference"]
        text += (
            f"  {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
            f" p={difference['p_value']:.2g}"
        )
    return text


def parse_shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise SettingsError(f"shard: {text!r} is not of the form 2/3.")
    return int(number) - 1, int(of)


def _keep_setup(folder: Path, setup: dict) -> None:
    """Results of different setups must not mix in one folder (more prompts or seeds may come).

    Raises:
        SettingsError: the folder belongs to another setup.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "setup.json"
    fixed = {name: value for name, value in setup.items() if name not in ("prompts", "seeds")}
    if not path.exists():
        written(path, json.dumps(fixed).encode())  # other shards may start at the same moment
    if (there := json.loads(path.read_text())) != fixed:
        names = {**fixed, **there}
        changed = ", ".join(name for name in names if there.get(name) != fixed.get(name))
        raise SettingsError(f"folder: {folder} holds results of another {changed}; name a new one.")
