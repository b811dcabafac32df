"""The options of ``bench tune run | confirm``, and what they do."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from asyndm.bench.alignment import adaptive, prompt_sets, scoring
from asyndm.bench.alignment import command as alignment
from asyndm.bench.alignment.backends import of_world, open_backend
from asyndm.bench.alignment.methods import parse
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.scores import Options, SetScore, open_score
from asyndm.bench.alignment.scores.base import hash_of
from asyndm.bench.alignment.store import written
from asyndm.core.presets import Presets
from asyndm.core.profile import PROFILES
from asyndm.core.settings import SettingsError, check_whole
from asyndm.scenes.world import DEFAULT_WORLD, FIRST_WORLD, WITH_WEIGHTS

from .deciding import difference, told
from .space import ADAPTIVE, ALSO, ARMS, PROFILED, USUAL_ARMS, Space, save, settings_of
from .study import Tuning

VERBS = ("run", "confirm")
_PLAN, _CHOSEN, _REPORT = "tune-plan.json", "chosen.json", "tune.json"
_BEGUN = "begun"  # the arms that a folder was begun with; its studies are named by them
_OF_RUN = ("backend", "prompts", "seeds", "steps", "cfg", "rule", "schedule", "size", "precision",
           "coupling")  # fmt: skip
_OF_MACHINE = ("batch", "threads", "device", "offload", "config")  # those of this machine
_OWN: dict[str, Any] = {
    "score": "right",
    "arms": list(USUAL_ARMS),
    "trials": 60,
    "limit": 60,
    "knots": 5,
    "low": -5.0,
    "high": 5.0,
    "lag": 4.0,
    "also": [],
    "fresh": 250,
    "fresh_seeds": 1,
    "name": "tuned",
    "seed": 0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for; what changes the outcome is kept in the folder."""
    parser.add_argument("verb", nargs="?", choices=VERBS, help="default: both, in turn")
    parser.add_argument("--folder", type=Path, default=Path("out/bench-tune"))

    def add(flag: str, help: str, default: Any, **more: Any) -> None:
        shown = " ".join(default) if isinstance(default, list) else default
        text = help if default in (None, False, []) else f"{help} (default {shown})"
        parser.add_argument(f"--{flag}", default=argparse.SUPPRESS, help=text, **more)

    own, shared = _OWN, alignment.DEFAULTS
    add("backend", "embedded[:WORLD or FILE], diffusers:PATH", shared["backend"])
    add("world", f"of embedded (default {DEFAULT_WORLD})", None, choices=WITH_WEIGHTS)
    add("prompts", "a set or a file; its development prompts are tuned on", shared["prompts"])
    add("limit", "development prompts of a trial", own["limit"], type=int)
    add("seeds", "pictures a prompt", shared["seeds"], type=int)
    add("score", "a trial is judged by: a score of 'bench alignment', or module:Class",
        own["score"])  # fmt: skip
    add("trials", "whose rows each arm may spend; given-up ones leave theirs to others",
        own["trials"], type=int)  # fmt: skip
    add("arms", f"of {', '.join(ARMS)}", own["arms"], nargs="+", choices=ARMS, metavar="ARM")
    add("knots", "of a profile, 4 to 6", own["knots"], type=int)
    add("low", "the background's log-snr at the first knot", own["low"], type=float)
    add("high", "and at the last", own["high"], type=float)
    add("lag", "the most that an object's log-snr lies behind", own["lag"], type=float)
    add("also", f"other settings to tune with the clock: {', '.join(ALSO)}", own["also"],
        nargs="+", metavar="SETTING")  # fmt: skip
    add("steps", "of a picture", shared["steps"], type=int)
    add("cfg", "guidance w", shared["cfg"], type=float)
    for name in ("rule", "schedule", "size", "precision"):
        add(name, "as of 'bench alignment'", shared[name])
    add("coupling", "of the embedded model: 0, .5, 1", shared["coupling"], type=float)
    add("fresh", "test prompts that what was found is confirmed on, once", own["fresh"], type=int)
    add("fresh-seeds", "pictures of each", own["fresh_seeds"], type=int)
    add("name", "of the preset and the profile that are left", own["name"])
    add("seed", "of what is tried", own["seed"], type=int)
    add("batch", "pictures at once", None, type=int)
    add("threads", "of torch", None, type=int)
    add("device", "cuda, mps, cpu", None)
    add("offload", "keep what does not run off the GPU", False, action="store_true")
    add("config", "as of 'bench alignment'", None, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="a database that several machines share, e.g. postgresql://HOST/NAME (also in "
        "ASYNDM_TUNE_STORAGE; it is not kept); default: SQLite in the folder",
    )
    scoring.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Tune, confirm, or both.

    Returns:
        1 where the confirmation's score has no value.

    Raises:
        SettingsError: what cannot be used, in one line.
    """
    if args.scores:
        raise SettingsError("scores: a trial is judged by one; name it by --score.")
    given = {n: v for n, v in vars(args).items() if n in (*_OF_RUN, *_OF_MACHINE, *_OWN)}
    if "backend" in given or "world" in args:
        backend = given.get("backend", alignment.DEFAULTS["backend"])
        given["backend"] = of_world(backend, getattr(args, "world", None))
    values = _values(args.folder, given, args.verb == "confirm")
    if values["threads"]:
        import torch

        torch.set_num_threads(check_whole("threads", values["threads"], 1, 1024))
    PROFILES.folder = args.folder / "asyndm-profiles"
    tuning = _tuning(args, values)
    status = 0
    if args.verb in (None, "run"):
        _run(tuning, values, args.folder)
    if args.verb in (None, "confirm"):
        status = _confirm(tuning, values, args)
    return status


def _values(folder: Path, given: dict[str, Any], only_confirms: bool) -> dict[str, Any]:
    """All options: those the folder was begun with, and nothing else."""
    shared = {name: alignment.DEFAULTS[name] for name in (*_OF_RUN, *_OF_MACHINE)}
    shared["backend"] = of_world(shared["backend"], None)
    path = folder / _PLAN
    try:
        kept = json.loads(path.read_text("utf-8"))
        begun = kept.pop(_BEGUN, None) if isinstance(kept, dict) else None
        if not isinstance(kept, dict) or {*kept} != {*_OF_RUN, *_OWN}:
            raise ValueError("it is another version's")
    except FileNotFoundError:
        if only_confirms:
            raise SettingsError(
                f"folder: {folder} holds no tuning; begin one by 'bench tune run'."
            ) from None
        values = {**shared, **_OWN, **given}
        return {**values, _BEGUN: values["arms"]}
    except (OSError, ValueError) as error:
        raise SettingsError(f"folder: {path} cannot be read ({error}).") from None
    if kept["backend"] == "embedded":  # from before there was a choice
        kept["backend"] = f"embedded:{FIRST_WORLD}"
    begun = kept["arms"] if begun is None else begun
    if "arms" in given and not (folder / _CHOSEN).exists():
        kept["arms"] = given["arms"]  # studies stay: an arm that comes back goes on
    for name, value in given.items():
        if name in kept and kept[name] != value:
            flag = name.replace("_", "-")
            raise SettingsError(
                f"{flag}: this folder was begun with {kept[name]}, not {value}; leave it out, or "
                "take another --folder."
            )
    machine = {name: given.get(name, shared[name]) for name in _OF_MACHINE}
    return {**kept, **machine, _BEGUN: begun}


def _tuning(args: argparse.Namespace, values: dict[str, Any]) -> Tuning:
    space = Space(values["knots"], values["low"], values["high"], values["lag"],
                  tuple(values["also"]))  # fmt: skip
    check_whole("trials", values["trials"], 1, 100_000)
    check_whole("fresh", values["fresh"], 1, 1_000_000)
    Presets(args.folder / "result" / "asyndm-presets").check_name(values["name"])
    if values["backend"].startswith(("webui:", "images:")):
        raise SettingsError(
            "backend: a profile is read from a WebUI's own folder, and finished pictures cannot be "
            "tuned; take embedded or diffusers:PATH."
        )
    backend = open_backend(values["backend"], alignment.setup_of(values))
    if values["batch"] is not None:
        backend.batch = check_whole("batch", values["batch"], 1, 1024)
    prompts = prompt_sets.load(values["prompts"], "development", values["limit"])
    seeds = check_whole("seeds", values["seeds"], 1, 10_000)
    plan = Plan(
        methods=parse("sync"),
        prompts=prompts,
        seeds=list(range(seeds)),
        setup=backend.setup,
        identity=backend.identity(),
        backend=values["backend"],
        scores=[values["score"]],
        source={"name": values["prompts"], "split": "development"},
    )
    backend.check(plan.methods, prompts)
    backend.check(parse("asyndm:k=.5"), prompts)
    options = Options(
        scoring.weights(args.weights), args.judge, args.judge_model, args.score_device,
        args.reference,
    )  # fmt: skip
    score = open_score(values["score"], options)
    score.name = values["score"]
    if isinstance(score, SetScore) or not score.direction:
        raise SettingsError(
            f"score: {score.name} cannot be tuned by; take one that judges each picture, of which "
            "more (or less) is better."
        )
    kept = {name: values[name] for name in (*_OF_RUN, *_OWN)}
    begun = values[_BEGUN]
    as_begun = {**kept, "arms": begun, "model": plan.identity}
    if kept["backend"] == f"embedded:{FIRST_WORLD}":  # so studies from before there was a choice
        as_begun["backend"] = "embedded"
    text = json.dumps(as_begun, sort_keys=True)
    name = f"asyndm-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    file = (args.folder / "studies.db").resolve()
    storage = args.storage or os.environ.get("ASYNDM_TUNE_STORAGE") or f"sqlite:///{file}"
    kept |= {} if kept["arms"] == begun else {_BEGUN: begun}
    written(args.folder / _PLAN, json.dumps(kept, indent=1).encode())
    return Tuning(plan, backend, score, space, args.folder, storage, name,
                  _checkpoint(values["backend"], plan.identity), values["seed"])  # fmt: skip


def _checkpoint(backend: str, identity: dict[str, Any]) -> str:
    """The first letters of a checkpoint file's sha256, as WebUIs have it; "" of a folder."""
    if "weights" in identity:  # the embedded model's is that
        return str(identity["weights"])
    path = Path(backend.partition(":")[2])
    return hash_of(path) if path.is_file() else ""


def _run(tuning: Tuning, values: dict[str, Any], folder: Path) -> None:
    if (folder / _CHOSEN).exists():
        print(f"tune: {folder / _CHOSEN} is chosen; it is not tuned further.")
        return
    plan = tuning.plan
    each = len(plan.prompts) * len(plan.seeds)
    look = tuning.glimpses.of(plan.prompts[:1])[0][0].rows if ADAPTIVE in values["arms"] else 0
    _, rows = tuning.values(plan.baseline, plan.prompts[:1])
    rows = rows // len(plan.seeds) or 1
    budget = values["trials"] * each * rows
    arms = values["arms"]
    fresh = (len(arms) + 1) * values["fresh"] * values["fresh_seeds"] * rows
    if ADAPTIVE in arms:
        fresh += values["fresh"] * values["fresh_seeds"] * look
        print(
            f"tune: {ADAPTIVE}: {look} of its rows a picture are for the share after "
            f"{adaptive.LOOK} steps, counted in every trial; of a picture's {adaptive.GRID + 1} "
            "strengths each is drawn once.",
            flush=True,
        )
    print(
        f"tune: {len(arms)} arms ({', '.join(arms)}) of {budget} network rows each "
        f"({values['trials']} trials x {len(plan.prompts)} prompts x {len(plan.seeds)} seeds x "
        f"{rows} rows), plain guidance {each * rows}, the confirmation {fresh}: "
        f"{len(arms) * budget + each * rows + fresh} rows in all.",
        flush=True,
    )
    for arm in arms:
        tuning.run(arm, budget)
        best = tuning.best(arm)
        print(f"tune: {arm}: {_told(tuning, arm)}; {tuning.method_of(arm, best).text}", flush=True)
    with FileLock(folder / "locks" / "choose"):
        if not (folder / _CHOSEN).exists():  # by another process
            _choose(tuning, values, folder)


def _told(tuning: Tuning, arm: str) -> str:
    trials = tuning.trials(arm)
    gave_up = sum(one.value is None or one.state.name == "PRUNED" for one in trials)
    return (
        f"{len(trials)} trials, {gave_up} given up, {tuning.spent(arm)} rows, the best "
        f"{tuning.best(arm).value:+.4f} beside plain guidance"
    )


def _choose(tuning: Tuning, values: dict[str, Any], folder: Path) -> None:
    """What each arm found: chosen.json for the confirmation, the preset and the profile."""
    plan, arms = tuning.plan, values["arms"]
    chosen = {arm: tuning.method_of(arm, tuning.best(arm)) for arm in arms}
    methods = [plan.baseline.text, *(one.text for one in chosen.values())]
    found = {
        "score": tuning.score.name,
        "prompts": [prompt.text for prompt in plan.prompts],
        "seeds": len(plan.seeds),
        "methods": list(dict.fromkeys(methods)),
        "from": {
            arm: {one.user_attrs["method"]: one.user_attrs["mean"] for one in tuning.trials(arm)}
            for arm in arms
        },
    }
    report = {
        "values": {name: values[name] for name in (*_OF_RUN, *_OWN)},
        "model": plan.identity,
        "arms": {arm: _arm(tuning, arm, chosen[arm].text) for arm in arms},
    }
    written(folder / _REPORT, _json(report))
    kinds = [arm for arm in arms if arm != ADAPTIVE]  # a rule is no setting of a WebUI's
    main_arm = "learned" if "learned" in arms else kinds[0] if kinds else None
    left = main_arm and _leave(tuning, main_arm, chosen[main_arm], values["name"], folder)
    written(folder / _CHOSEN, _json(found))
    if left:
        print(f"tune: {main_arm} is left as {' and '.join(map(str, left))}")
    else:
        print(f"tune: {ADAPTIVE} alone leaves no preset: a WebUI has no such setting")


def _arm(tuning: Tuning, arm: str, method: str) -> dict[str, Any]:
    best = tuning.best(arm)
    return {
        "method": method,
        "value": best.value,
        "parameters": best.params,
        "rows": tuning.spent(arm),
        "trials": [
            {
                "number": one.number,
                "method": one.user_attrs["method"],
                "mean": one.user_attrs["mean"],
                "prompts": one.user_attrs["prompts"],
                "rows": one.user_attrs["rows"],
                "given_up": one.state.name == "PRUNED",
            }
            for one in tuning.trials(arm)
        ],
    }


def _leave(tuning: Tuning, arm: str, method: Any, name: str, folder: Path) -> list[Path]:
    """The preset, and the profile it names, as a WebUI's folders hold them."""
    settings = settings_of(method)
    left = []
    if arm in PROFILED:
        profile = tuning.space.profile(tuning.best(arm).params, tuning.checkpoint)
        left.append(save(profile, folder / "result" / "asyndm-profiles", name))
        settings["profile"] = name
    presets = Presets(folder / "result" / "asyndm-presets")
    left.append(presets.folder / f"{presets.save(name, settings)}.json")
    return left


def _confirm(tuning: Tuning, values: dict[str, Any], args: argparse.Namespace) -> int:
    """Once, on prompts that nothing was chosen on; the same call goes on after a kill."""
    folder = args.folder
    if not (folder / _CHOSEN).exists():
        raise SettingsError(f"tune: nothing is chosen in {folder} yet; let 'bench tune run' go on.")
    parser = argparse.ArgumentParser()
    alignment.add_arguments(parser)
    call = ["--folder", folder / "confirm", "--chosen", folder / _CHOSEN, "--scores",
            values["score"], "--limit", values["fresh"], "--seeds", values["fresh_seeds"],
            "--score-device", args.score_device]  # fmt: skip
    for name in (*_OF_RUN, *_OF_MACHINE):
        if name != "seeds" and values[name] not in (None, False):
            call += [f"--{name}", values[name]] if values[name] is not True else [f"--{name}"]
    if args.weights:
        call += ["--weights", *args.weights]
    for flag, value in (("--judge", args.judge), ("--judge-model", args.judge_model)):
        call += [flag, value] if value else []
    status = alignment.main(parser.parse_args([str(each) for each in call]))
    _keep(values, folder)
    return status


def _keep(values: dict[str, Any], folder: Path) -> None:
    """What the confirmation said, beside what was found."""
    report = json.loads((folder / _REPORT).read_text("utf-8"))
    confirmed = json.loads((folder / "confirm" / "report.json").read_text("utf-8"))
    score = next((one for one in confirmed["scores"] if one["name"] == values["score"]), None)
    beside = {one["method"]: one for one in (score or {"beside": []})["beside"]}
    report["confirmed"] = {
        "prompts": confirmed["prompts"],
        "seeds": confirmed["seeds"],
        "baseline": None if score is None else score["means"][confirmed["baseline"]],
        "arms": {arm: beside.get(one["method"]) for arm, one in report["arms"].items()},
    }
    if ADAPTIVE in report["arms"]:
        found = {arm: one["method"] for arm, one in report["arms"].items()}
        report["confirmed"][ADAPTIVE] = difference(folder / "confirm", values["score"], found)
    written(folder / _REPORT, _json(report))
    for arm, one in report["confirmed"]["arms"].items():
        if one is None:
            print(f"tune: {arm}: it found plain guidance itself")
            continue
        line = f"tune: {arm}: {report['arms'][arm]['value']:+.3f} in development, "
        line += f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}] on fresh prompts"
        if arm == "shuffled" and one["low"] * one["high"] > 0:
            line += "; shuffled verdicts must show nothing: trust no arm of this tuning"
        print(line)
    if ADAPTIVE in report["arms"]:
        print(told(report["confirmed"][ADAPTIVE]))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
