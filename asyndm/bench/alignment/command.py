"""The options of ``bench alignment run | score | report``, and what they do."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyndm.core.settings import SettingsError, check_whole
from asyndm.scenes.world import DEFAULT_WORLD, FIRST_WORLD, WITH_WEIGHTS

from . import drawing, matching, prompt_sets, recipes
from .backends import READ_BY, Setup, of_world, open_backend
from .methods import finished, parse_all
from .plan import Plan
from .spread import spread
from .store import Store

VERBS = ("run", "score", "report")
DEFAULTS: dict[str, Any] = {
    "backend": "embedded",
    "world": None,
    "methods": ["sync", "concave", "asyndm"],
    "prompts": "grammar",
    "split": "test",
    "limit": None,
    "seeds": 1,
    "first_seed": 0,
    "same_noise": False,
    "steps": 25,
    "cfg": None,
    "rule": None,
    "schedule": None,
    "size": None,
    "precision": "float32",
    "coupling": 1.0,
    "match": ["steps"],
    "pilot": None,
    "batch": None,
    "threads": None,
    "device": None,
    "offload": False,
    "config": None,
    "family": None,
    "chosen": None,
    "recipe": None,
    "ray": None,
}
# Prompts that effective guidance is measured on at most; pictures of the small model are cheap:
# APG's varies by 40% from picture to picture, and its mean is known to 2% from 1,600 of them.
PILOT, PILOT_EMBEDDED = 400, 2000
# What the other two verbs read, with what it is where nobody sets it.
_OF_VERB: dict[str, dict[str, Any]] = {
    "score": {
        "scores": None, "weights": [], "judge": None, "judge_model": None, "reference": None,
        "score_device": "cpu",
    },
    "report": {"choose": None, "export": None},
}  # fmt: skip
_UNSET = argparse.SUPPRESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for; options of ``run`` are kept in the folder for the other two."""
    parser.add_argument("verb", nargs="?", choices=VERBS, help="default: all three, in turn")
    parser.add_argument("--folder", type=Path, default=Path("out/bench-alignment"))
    run = parser.add_argument_group("run")

    def add(flag: str, help: str, **more: Any) -> None:
        default = DEFAULTS[flag.replace("-", "_")]
        shown = " ".join(default) if isinstance(default, list) else default
        text = help if default in (None, False) else f"{help} (default {shown})"
        run.add_argument(f"--{flag}", default=_UNSET, help=text, **more)

    add("backend", "embedded[:WORLD or FILE], diffusers:PATH, webui:URL[,URL...], images:FOLDER")
    add("world", f"of embedded (default {DEFAULT_WORLD})", choices=WITH_WEIGHTS)
    add("methods", "e.g. sync asyndm:k=.3|.7 cfg:w=4 asyndm+pag:k=.7,g=1; the first is the "
        "baseline", nargs="+", metavar="METHOD")  # fmt: skip
    add("recipe", f"methods and steps of an ablation: {', '.join(recipes.names())}, or a file")
    add("prompts", "grammar, geneval, animals, animals40, or a txt, csv, tsv, json, jsonl file")
    add("split", "of the prompts", choices=prompt_sets.SPLITS)
    add("limit", "at most so many prompts", type=int)
    add("seeds", "pictures a prompt and method", type=int)
    add("first-seed", "its number", type=int)
    add("same-noise", "all prompts start from the same noise, as the authors' do",
        action="store_true")  # fmt: skip
    add("steps", "of methods without steps of their own", type=int)
    add("cfg", "guidance w of methods without their own", type=float)
    add("rule", "the sampler, by the backend's name")
    add("schedule", "its noise levels, by the backend's name")
    add("size", "pixels, WIDTHxHEIGHT")
    add("precision", "of the network: float32, bfloat16, float16")
    add("coupling", "of the embedded model: 0, .5, 1", type=float)
    add("match", "CFG beside each method at equal steps, rows, effective guidance", nargs="+",
        choices=matching.KINDS)  # fmt: skip
    add("pilot", f"development prompts that guidance is matched on, at most (default {PILOT}, "
        f"of the small model {PILOT_EMBEDDED})", type=int)  # fmt: skip
    add("batch", "pictures at once", type=int)
    add("threads", "of torch", type=int)
    add("device", "cuda, mps, cpu")
    add("offload", "keep what does not run off the GPU", action="store_true")
    add("config", "of a checkpoint that is one file: its folder in diffusers' layout, without "
        "weights (default: the one beside it that is named as it is)", type=Path,
        metavar="FOLDER")  # fmt: skip
    add("family", "methods whose p values are corrected together; default: all but the baseline",
        nargs="+", metavar="METHOD")  # fmt: skip
    add("chosen", "chosen.json of a folder with development prompts: its methods are drawn",
        type=Path)  # fmt: skip
    add("ray", "workers of Ray that share the work, a GPU each (the extra 'ray')", type=int,
        metavar="N")  # fmt: skip
    for name in ("scoring", "reporting"):
        _optional(name, parser)


def _optional(name: str, parser: argparse.ArgumentParser) -> None:
    importlib.import_module(f"asyndm.bench.alignment.{name}").add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run, score, report, or one of them.

    Raises:
        SettingsError: what cannot be used, in one line.
    """
    from . import reporting, scoring

    given = {name: value for name, value in vars(args).items() if name in DEFAULTS}
    if args.verb in VERBS[1:] and given:
        name = next(iter(given)).replace("_", "-")
        raise SettingsError(f"{name}: it is of 'run'; 'bench alignment {args.verb}' reads it from "
                            f"{args.folder / 'plan.json'}.")  # fmt: skip
    for verb, options in _OF_VERB.items():
        for name, default in options.items():
            read = args.verb in (None, verb) or (args.verb, name) == ("run", "scores")
            if not read and getattr(args, name) != default:
                raise SettingsError(f"{name.replace('_', '-')}: it is of '{verb}'; leave it out.")
    status = 0
    if args.verb in (None, "run"):
        run(given, args)
    if args.verb in (None, "score"):
        status = scoring.main(args)
    if args.verb in (None, "report"):
        status = reporting.main(args) or status
    return status


def run(given: dict[str, Any], args: argparse.Namespace) -> None:
    """Draw what the folder lacks."""
    values = {**DEFAULTS, **given}
    if values["recipe"]:
        values = {**DEFAULTS, **recipes.load(values["recipe"]), **given}
    if values["threads"]:
        import torch

        torch.set_num_threads(check_whole("threads", values["threads"], 1, 1024))
    values["backend"] = of_world(values["backend"], values["world"])
    setup = setup_of(values)
    chosen = _chosen(values)
    given_pictures = values["backend"].startswith("images:")
    read = (lambda texts: [finished(text) for text in texts]) if given_pictures else parse_all
    methods = read(values["methods"])
    prompts, source = _prompts(values, chosen)
    seeds = check_whole("seeds", values["seeds"], 1, 10_000)
    first = check_whole("first_seed", values["first_seed"], 0, 2**31)
    backend = open_backend(values["backend"], setup)
    for name in ("steps", "precision", "match") if given_pictures else ():
        if name in given or values[name] != DEFAULTS[name]:  # or of a recipe
            raise SettingsError(f"{name}: the pictures are finished; leave it out.")
    if values["batch"] is not None:
        backend.batch = check_whole("batch", values["batch"], 1, 1024)
    backend.check(methods, prompts)
    plan = Plan(
        methods=methods,
        prompts=prompts,
        seeds=list(range(first, first + seeds)),
        setup=backend.setup,
        identity=backend.identity(),
        backend=values["backend"],
        same_noise=values["same_noise"],
        scores=list(args.scores or backend.scores),
        family=_family(values, methods, read),
        chosen=chosen,
        source=source,
    )
    store = Store(args.folder)
    store.refresh()
    most = values["pilot"]
    if most is None:
        most = PILOT_EMBEDDED if values["backend"].startswith("embedded") else PILOT
    check_whole("pilot", most, 1, 100_000)
    _name_family(plan, store, args.folder)
    matching.match(plan, values["match"], backend, store, most)
    plan.save(args.folder)
    print(_count(plan), flush=True)
    if values["ray"] is not None:
        workers = check_whole("ray", values["ray"], 1, 10_000)
        made = spread(args.folder, workers, backend.batch, setup.options)
        store.refresh()
    else:
        made = drawing.draw(plan, backend, store)
    print(f"drew {made} pictures; {args.folder} holds {len(store.records)}")


def setup_of(values: dict[str, Any]) -> Setup:
    """What all methods share, of options by name.

    Raises:
        SettingsError: a value that cannot be used.
    """
    return Setup(
        steps=check_whole("steps", values["steps"], 1, 1000),
        cfg=values["cfg"],
        rule=values["rule"],
        schedule=values["schedule"],
        size=_size(values["size"]),
        precision=values["precision"],
        coupling=values["coupling"],
        options={name: values[name] for name in READ_BY},
    )


def _count(plan: Plan) -> str:
    methods = len(plan.drawn)
    each = len(plan.prompts) * len(plan.seeds)
    return (
        f"{methods} methods x {len(plan.prompts)} prompts x {len(plan.seeds)} seeds = "
        f"{methods * each} pictures"
    )


def _family(values: dict[str, Any], methods: list, read: Callable) -> list[str]:
    if values["family"] is None:
        return [one.text for one in methods[1:]]
    known = [one.text for one in methods]
    family = [one.text for one in read(values["family"])]
    for text in family:
        if text not in known[1:]:
            raise SettingsError(
                f"family: {text!r} is not among the methods after the baseline: "
                f"{', '.join(known[1:]) or 'none'}."
            )
    return family


def _name_family(plan: Plan, store: Store, folder: Path) -> None:
    """When the family and its score were named: before the first picture, or after how many.

    Raises:
        SettingsError: the folder's model is another, and its plan does not name it.
    """
    keys = [key for method in plan.drawn for row in plan.keys(method) for key in row]
    plan.named_at = len(keys) - len(store.missing(keys))
    if (folder / "plan.json").exists():
        before = Plan.load(folder)
        if before.backend == "embedded" and before.identity != plan.identity:
            raise SettingsError(  # from before there was a choice
                f"folder: {folder} was drawn with other weights; go on with --world {FIRST_WORLD}, "
                "or take another --folder."
            )
        same = {*before.family} == {*plan.family} and before.scores[:1] == plan.scores[:1]
        if same:
            plan.named_at = before.named_at


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and (height or width).isdigit()):
        raise SettingsError(f"size: {text!r} is not of the form 512x768.")
    return (
        check_whole("size", int(width), 8, 16384),
        check_whole("size", int(height or width), 8, 16384),
    )


def _chosen(values: dict[str, Any]) -> dict[str, Any]:
    """What a development folder chose; its methods become the run's."""
    path = values["chosen"]
    if path is None:
        return {}
    try:
        chosen = json.loads(Path(path).read_text("utf-8"))
        values["methods"] = chosen["methods"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsError(
            f"chosen: {path} is no choice; make one by 'bench alignment report --choose SCORE' in "
            "a folder of development prompts."
        ) from None
    if values["split"] == "development":
        raise SettingsError("chosen: report on test prompts; leave --split development out.")
    return chosen


def _prompts(values: dict[str, Any], chosen: dict[str, Any]) -> tuple[list, dict[str, Any]]:
    """The run's prompts, without those that settings were chosen on."""
    name, split, limit = values["prompts"], values["split"], values["limit"]
    seen = set(chosen.get("prompts", ()))
    prompts = prompt_sets.load(name, split, limit, without=seen)
    source = {"name": name, "split": split, "hash": prompt_sets.of_hash(prompts)}
    return prompts, {**source, "left_out": len(seen)}
