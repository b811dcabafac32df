"""Prompt sets by name, and from files; development and test prompts never meet.

``grammar`` is the embedded model's, ``geneval`` the published 553, ``animals`` DDPO's 45 animals by
3 activities, ``animals40`` the choice AsynDM's authors published. Anything else is a file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyndm.core.settings import SettingsError, check_whole

from . import geneval

SPLITS = ("test", "development")
_GRAMMAR = 2000  # prompts a split
# Black et al. 2023, "Training Diffusion Models with Reinforcement Learning" (2305.13301, MIT).
ANIMALS = tuple(
    "cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox "
    "wolf lizard beetle ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle "
    "frog chicken duck goose bee pig turkey fly llama camel bat gorilla hedgehog kangaroo".split()
)
ACTIVITIES = ("washing dishes", "riding a bike", "playing chess")
# AsynDM's authors draw from three more activities; their 40 by animal and activity's number.
MORE_ACTIVITIES = ("eating a sandwich", "driving a car", "playing basketball")
_S, _D, _B, _W, _R, _C = 3, 4, 5, 0, 1, 2  # indices into both tuples above
_AUTHORS = (
    ("cat", _S), ("dog", _B), ("horse", _B), ("horse", _S), ("monkey", _D), ("rabbit", _B),
    ("sheep", _S), ("sheep", _D), ("deer", _D), ("cow", _S), ("goat", _S), ("goat", _D),
    ("tiger", _B), ("tiger", _S), ("fox", _S), ("wolf", _S), ("wolf", _D), ("lizard", _B),
    ("shark", _B), ("shark", _S), ("whale", _D), ("horse", _D), ("zebra", _D), ("deer", _S),
    ("cow", _D), ("tiger", _D), ("raccoon", _S), ("fox", _D), ("wolf", _B), ("lizard", _S),
    ("shark", _D), ("dolphin", _S), ("turtle", _D), ("chicken", _S), ("goose", _B), ("bear", _C),
    ("fox", _R), ("lizard", _W), ("shark", _R), ("dolphin", _W),
)  # fmt: skip
_COLUMNS = ("prompt", "prompts", "caption", "captions", "text", "sentence")
_TASKS = ("tag", "task", "category", "type")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set.

    Attributes:
        text: what is drawn.
        number: its place in the set, from 0.
        task: what it tests, "" where the set has no tasks.
        asks: how it is judged, where the set says so (GenEval's ``include`` and ``exclude``).
    """

    text: str
    number: int
    task: str = ""
    asks: dict[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, "number": self.number, "task": self.task, "asks": self.asks}


def load(
    name: str, split: str = "test", limit: int | None = None, without: Collection[str] = ()
) -> list[Prompt]:
    """The prompts of a set, each text once.

    Args:
        name: of a set, or a file (txt, csv, tsv, json, jsonl).
        split: "test" or "development", for sets of other prompts; of a file the whole, or half of
            it by hash.
        limit: at most so many; a larger limit keeps those of a smaller one.
        without: texts to leave out, as settings were chosen on them.

    Raises:
        SettingsError: no such set or file, or what is wrong in which of its lines.
    """
    if limit is not None:
        limit = check_whole("limit", limit, 1, 1_000_000)
    makers = {
        "grammar": lambda split: _grammar(split, limit),
        "geneval": _geneval,
        "animals": _animals,
        "animals40": _animals40,
    }
    if name in makers:
        prompts = makers[name](split)
    elif Path(name).is_file():
        prompts = _of_file(Path(name))
        if split != "test":
            prompts = [one for one in prompts if is_development(one.text)]
    else:
        raise SettingsError(
            f"prompts: {name!r} is neither a file nor a set; the sets are {', '.join(makers)}."
        )
    prompts = list({one.text: one for one in reversed(prompts)}.values())
    prompts.sort(key=lambda one: one.number)
    prompts = [one for one in prompts if one.text not in without]
    if limit is not None:
        drawn = prompts if name == "grammar" else sorted(prompts, key=lambda one: _hash(one.text))
        prompts = sorted(drawn[:limit], key=lambda one: one.number)
    if not prompts:
        raise SettingsError(f"prompts: {name} has no {split} prompt.")
    return prompts


def is_development(text: str) -> bool:
    """Which half of a file a prompt belongs to where settings are chosen on one of them."""
    return _hash(text)[0] < 128


def of_hash(prompts: list[Prompt]) -> str:
    """Tells two sets apart."""
    return hashlib.sha256("\n".join(one.text for one in prompts).encode()).hexdigest()[:16]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _grammar(split: str, limit: int | None) -> list[Prompt]:
    from asyndm.bench.scenes import bench_prompts

    texts = bench_prompts(split, _GRAMMAR if limit is None else min(limit, _GRAMMAR))
    return [Prompt(text, number) for number, text in enumerate(texts)]


def _geneval(split: str) -> list[Prompt]:
    made = geneval.prompts()
    if split == "development":  # the same templates, other draws
        published = {one["prompt"] for one in made}
        made = [one for one in geneval.prompts(geneval.SEED + 1) if one["prompt"] not in published]
    return [Prompt(one["prompt"], number, one["tag"], one) for number, one in enumerate(made)]


def _animals(split: str) -> list[Prompt]:
    activities = ACTIVITIES if split == "test" else MORE_ACTIVITIES
    return _numbered(_animal(a, does) for a in ANIMALS for does in activities)


def _animals40(split: str) -> list[Prompt]:
    every = (*ACTIVITIES, *MORE_ACTIVITIES)
    chosen = [_animal(animal, every[does]) for animal, does in _AUTHORS]
    if split == "test":
        return _numbered(chosen)
    others = (_animal(a, does) for a in ANIMALS for does in every)
    return _numbered(text for text in others if text not in chosen)


def _animal(animal: str, does: str) -> str:
    return f"{'an' if animal[0] in 'aeiou' else 'a'} {animal} {does}"


def _numbered(texts: Iterator[str] | list[str]) -> list[Prompt]:
    return [Prompt(text, number) for number, text in enumerate(texts)]


# --- files ---


def _of_file(path: Path) -> list[Prompt]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"prompts: {path} cannot be read ({why}).") from None
    readers = {".csv": _rows, ".tsv": _rows, ".json": _json, ".jsonl": _json_lines}
    reader = readers.get(path.suffix.lower(), _lines)
    prompts = []
    for where, value in reader(text, path):
        prompts.append(_prompt_of(value, len(prompts), f"prompts: {path.name} {where}"))
    return prompts


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"line {number}", line


def _rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [(name or "").strip().lower() for name in reader.fieldnames or []]
        if not set(names) & set(_COLUMNS):
            raise SettingsError(
                f"prompts: {path.name} line 1: no column {' or '.join(_COLUMNS[:3])} among {names}."
            )
        for row in reader:
            if None in row:  # e.g. a comma in a prompt without quotes: the rest would be lost
                raise SettingsError(
                    f"prompts: {path.name} line {reader.line_num}: {len(row[None])} more columns "
                    "than the first line names; put the prompt in quotes."
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:  # the line that failed is not counted
        raise SettingsError(f"prompts: {path.name} line {reader.line_num + 1}: {error}.") from None


def _json_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                why = getattr(error, "msg", "too deep")
                raise SettingsError(
                    f"prompts: {path.name} line {number}: it is no JSON ({why})."
                ) from None
            yield f"line {number}", value


def _json(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"prompts: {path.name} line {error.lineno}"
        raise SettingsError(f"{where}: it is no JSON ({error.msg}).") from None
    except RecursionError:
        raise SettingsError(f"prompts: {path.name}: it is no list of prompts.") from None
    if isinstance(value, dict):  # COCO's captions, {"prompts": [...]}, or name -> prompt
        for name in ("annotations", *_COLUMNS):
            if isinstance(value.get(name), list):
                value = value[name]
                break
        else:
            value = list(value.values())
    if not isinstance(value, list):
        raise SettingsError(f"prompts: {path.name}: it is no list of prompts.")
    for number, one in enumerate(value, 1):
        yield f"entry {number}", one


def _prompt_of(value: Any, number: int, where: str) -> Prompt:
    task, asks = "", {}
    if isinstance(value, dict):
        fields = {str(name).strip().lower(): each for name, each in value.items()}
        task = next((str(fields[name]) for name in _TASKS if fields.get(name)), "")
        if "include" in fields or "exclude" in fields:
            fault = geneval.fault_of(value)
            if fault:
                raise SettingsError(f"{where}: {fault}.")
            asks = value
        value = next((fields[name] for name in _COLUMNS if name in fields), None)
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{where}: there is no prompt in it; write text, or a field 'prompt'.")
    return Prompt(" ".join(value.split()), number, task, asks)
