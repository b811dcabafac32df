"""Judge the pictures of a folder by scores; every value is kept by picture, score and version."""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from asyndm.core.settings import SettingsError

from .plan import Plan
from .scores import SCORES, Absent, Options, Score, SetScore, open_score
from .store import Lines, Store, key_of, written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What scores need."""
    score = parser.add_argument_group("score")
    score.add_argument(
        "--scores",
        nargs="+",
        metavar="SCORE",
        help=f"of {', '.join(SCORES)}, or module:Class of your own; the first is what is tested",
    )
    score.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="where a score's weights lie; a PATH alone holds folders named as the scores",
    )
    score.add_argument("--judge", metavar="URL", help="an OpenAI-compatible server, .../v1")
    score.add_argument("--judge-model", metavar="NAME")
    score.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="pictures that fid and kid compare every method's with",
    )
    score.add_argument("--score-device", default="cpu", metavar="DEVICE")


def main(args: argparse.Namespace) -> int:
    """Judge what is not judged yet.

    Returns:
        1 where none of the scores that were asked for could run.

    Raises:
        SettingsError: a score of no name, or one that broke off.
    """
    plan = Plan.load(args.folder)
    if args.scores:  # kept for the report; what was there stays
        plan.scores = list(dict.fromkeys([*args.scores, *plan.scores]))
        plan.save(args.folder)
    asked = args.scores or plan.scores
    options = Options(
        weights(args.weights), args.judge, args.judge_model, args.score_device, args.reference
    )
    store = Store(args.folder)
    store.refresh()
    ran = 0
    for name in asked:
        try:
            score = open_score(name, options)
        except Absent as error:
            print(f"asyndm: {error}", file=sys.stderr)
            continue
        score.name = name
        judged = (judge_sets if isinstance(score, SetScore) else judge)(score, plan, store)
        ran += judged > 0
    if not ran:
        print("asyndm: scores: none of those asked for could run.", file=sys.stderr)
    return 0 if ran else 1


def weights(texts: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if equals:
            found[name] = Path(path)
        elif Path(text).is_dir():
            found |= {one.name: one for one in Path(text).iterdir() if one.name not in found}
        else:
            raise SettingsError(f"weights: {text!r} is neither NAME=PATH nor a folder.")
    return found


class Judging:
    """A score's values of a folder's pictures; what other processes add is read as it comes.

    Attributes:
        values: a line a picture, by its key.
    """

    def __init__(self, score: Score, store: Store) -> None:
        self.score, self._store = score, store
        self._lines = Lines(_declare(score, store))
        self.values: dict[str, dict[str, Any]] = {}

    def judge(self, pictures: list[tuple[str, Any]], quiet: bool = False) -> None:
        """Judge those (key, prompt) that have no line yet."""
        score = self.score
        self.values |= {line["key"]: line for line in self._lines.new()}
        todo = [one for one in pictures if one[0] not in self.values]
        starts = range(0, len(todo), score.batch)
        for start in tqdm(starts, desc=score.name, disable=quiet or not todo):
            batch = todo[start : start + score.batch]
            images = [_open(self._store.picture(key)) for key, _ in batch]
            judged = score.score(images, [prompt for _, prompt in batch])
            new = [
                {"key": key, "value": one.value, "reason": one.reason, "parts": one.parts}
                for (key, _), one in zip(batch, judged)
            ]
            self._lines.append(new)
            self.values |= {line["key"]: line for line in new}


def judge(score: Score, plan: Plan, store: Store) -> int:
    """Judge a plan's pictures; returns how many have a value."""
    judging, pictures = Judging(score, store), [*_pictures(plan, store)]
    judging.judge(pictures)
    asked, values = {key for key, _ in pictures}, judging.values
    none = [line for key, line in values.items() if key in asked and line["value"] is None]
    if none:
        print(
            f"asyndm: {score.name}: {len(none)} of {len(asked)} pictures have no value; "
            f"the first: {none[0]['reason']}.",
            file=sys.stderr,
        )
    return len(asked & set(values)) - len(none)


def _declare(score: Score, store: Store) -> Path:
    """Say what a score is; returns where its values lie."""
    version = score.version()
    digest = key_of({"score": score.name, **version})[:12]
    folder = folder_of(store.folder, score.name)
    declared = {
        "name": score.name,
        "version": version,
        "hash": digest,
        "direction": score.direction,
        "range": [None if abs(end) == float("inf") else end for end in score.range],
        "rate": score.rate,
        "sets": isinstance(score, SetScore),
    }
    written(folder / "score.json", json.dumps(declared, indent=1).encode())
    return folder / digest


def judge_sets(score: SetScore, plan: Plan, store: Store) -> int:
    """Judge each method's pictures of the prompts that all have drawn; returns how many methods."""
    from .summary import Table

    where, sets = _declare(score, store), Table(plan, store).sets()
    lines = Lines(folder_of(store.folder, "features") / key_of(score.version())[:12])
    known = {line["key"]: line["features"] for line in lines.new()}
    keys = dict.fromkeys(key for each in sets.values() for key in each)

    def drawn() -> Iterator[tuple[str, Image.Image]]:
        for key in keys:
            if key not in known:
                yield key, _open(store.picture(key))

    def others() -> Iterator[tuple[str, Image.Image]]:
        for name, image in score.reference():
            reference.append(f"reference {name}")
            if reference[-1] not in known:
                yield reference[-1], image

    reference: list[str] = []
    for source in (others(), drawn()):
        with tqdm(desc=f"{score.name}: features", unit="picture") as progress:
            while batch := list(itertools.islice(source, score.batch)):
                found = score.features([image for _, image in batch])
                new = [
                    {"key": key, "features": base64.b85encode(row.astype("<f4").tobytes()).decode()}
                    for (key, _), row in zip(batch, found)
                ]
                lines.append(new)
                known |= {line["key"]: line["features"] for line in new}
                progress.update(len(new))

    def features(names: Iterable[str]) -> np.ndarray:
        return np.stack([np.frombuffer(base64.b85decode(known[n]), "<f4") for n in names])

    far = features(reference)
    values = {}
    for text, each in sets.items():
        value = score.distance(features(each), far)
        values[text] = {**asdict(value), "n": len(each), "of": key_of({"keys": each})}
    written(where / "sets.json", json.dumps(values, indent=1).encode())
    return len(values)


def read_sets(folder: Path, score: str, digest: str) -> dict[str, dict[str, Any]]:
    """What a score of whole sets gave by method; empty where it never ran."""
    try:
        text = (folder_of(folder, score) / digest / "sets.json").read_text("utf-8")
        return json.loads(text)
    except (OSError, ValueError):
        return {}


def _pictures(plan: Plan, store: Store) -> Iterator[tuple[str, Any]]:
    seen = set()
    for method in plan.drawn:
        for prompt, keys in zip(plan.prompts, plan.keys(method)):
            for key in keys:
                if key in store.records and key not in seen:
                    seen.add(key)
                    yield key, prompt


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise SettingsError(
            f"folder: {path} cannot be read ({error}); draw it again by 'bench alignment run'."
        ) from None


def folder_of(folder: Path, score: str) -> Path:
    """Where the values of a score lie."""
    return folder / "scores" / "".join(c if c.isalnum() or c in "-_" else "-" for c in score)


def read_values(folder: Path, score: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a score declared, and its lines by picture; both empty where it never ran."""
    where = folder_of(folder, score)
    try:
        declared = json.loads((where / "score.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}, {}
    lines = Lines(where / declared["hash"]).new()
    return declared, {line["key"]: line for line in lines}
