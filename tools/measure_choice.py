"""How well the automatic choice finds a prompt's objects, on files you give.

    python tools/measure_choice.py animal_item.json ... --tsv PartiPrompts.tsv
        --tags tests/data/tag-prompts.json --judged tests/data/choice-judged.json

JSON files are of hu-zijing/AsynDM's kind: ``{"item_idx": {prompt: [place of a word]}}``, places
are numbers of words and hyphens, from 0; told is the recall of those words. Of a TSV with a column
"Prompt" the number of words taken a prompt is told. ``--tags``: prompts with their objects; told
are the recall and the words wrongly taken. ``--judged``: words told right or wrong by a reader who
did not know which code took them, by the hash of their prompt; told are the words wrongly taken
in those of the given prompts that were judged. A prompt lies in the half "seen" or "unseen" by its
hash, too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asyndm.core.words import auto_objects, find_tokens, singular_forms  # noqa: E402


def half(prompt: str) -> str:
    """Which half of its set a prompt lies in: rules were written on the seen one alone."""
    return "unseen" if int(_hash(prompt)[-1], 16) % 2 else "seen"


def _hash(prompt: str) -> str:
    return hashlib.sha256(prompt.strip().encode()).hexdigest()


def recall(items: dict[str, list[int]]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """(found, all) by half, and what was missed; places start at 0."""
    counts = {"seen": (0, 0), "unseen": (0, 0)}
    missed = []
    for prompt, places in items.items():
        tokens = re.findall(r"[^\W_]+|-", prompt.lower())
        taken = {p for word in auto_objects(prompt) for at in find_tokens(word, tokens) for p in at}
        for place in places:
            hit, total = counts[half(prompt)]
            counts[half(prompt)] = (hit + (place in taken), total + 1)
            if place not in taken:
                word = tokens[place] if place < len(tokens) else place
                missed.append(f"{word}: {prompt.strip()}")
    return counts, missed


def tags(rows: list[dict]) -> dict[str, int]:
    """Of prompts with their ``objects``: how many were found, of how many; how many words were
    wrongly taken (none of the objects, nor of what ``may`` be taken); how many prompts."""
    out = {"found": 0, "objects": 0, "wrong": 0, "prompts": len(rows)}
    for row in rows:
        taken = auto_objects(row["prompt"])
        out["objects"] += len(row["objects"])
        out["found"] += sum(any(_same(word, thing) for word in taken) for thing in row["objects"])
        allowed = [*row["objects"], *row["may"]]
        out["wrong"] += sum(not any(_same(word, thing) for thing in allowed) for word in taken)
    return out


def _same(word: str, thing: str) -> bool:
    """Whether both are called by the same last word."""
    heads = [re.split(r"[\s-]+", text.casefold())[-1] for text in (word, thing)]
    return bool(singular_forms(heads[0]) & singular_forms(heads[1]))


def judged(prompts: list[str], told: dict[str, dict]) -> dict[str, list[int]]:
    """[words wrongly taken, words nobody judged, words taken, prompts] by set."""
    out: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for prompt in {p.strip(): p for p in prompts}.values():
        entry = told.get(_hash(prompt)[:16])
        if entry is None:
            continue
        taken = auto_objects(prompt)
        sums = out[entry["set"]]
        sums[0] += sum(word in entry["wrong"] for word in taken)
        sums[1] += sum(word not in entry["wrong"] + entry["right"] for word in taken)
        sums[2] += len(taken)
        sums[3] += 1
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--tsv", type=Path)
    parser.add_argument("--tags", type=Path)
    parser.add_argument("--judged", type=Path)
    args = parser.parse_args()
    prompts: list[str] = []
    sums = {"seen": (0, 0), "unseen": (0, 0)}
    for path in args.files:
        items = json.loads(path.read_text("utf-8"))["item_idx"]
        prompts += items
        counts, missed = recall(items)
        for name, (hit, total) in counts.items():
            sums[name] = (sums[name][0] + hit, sums[name][1] + total)
            print(f"{path.name}, {name}: {hit} of {total}")
        for line in missed:
            print(f"  missed {line}")
    if args.files:
        hits, totals = (sum(pair[i] for pair in sums.values()) for i in (0, 1))
        print(f"all: {hits} of {totals}; by half {sums}")
    if args.tsv:
        with args.tsv.open(encoding="utf-8", newline="") as file:
            rows = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t")]
        prompts += rows
        taken = sum(len(auto_objects(prompt)) for prompt in rows)
        print(f"{args.tsv.name}: {taken / len(rows):.2f} words taken a prompt")
    if args.tags:
        told = json.loads(args.tags.read_text("utf-8"))
        for name in ("seen", "unseen"):
            sum_ = tags([row for row in told if half(row["prompt"]) == name])
            print(
                f"{args.tags.name}, {name}: {sum_['found']} of {sum_['objects']} found,"
                f" {sum_['wrong'] / sum_['prompts']:.2f} words wrongly taken a prompt"
            )
    if args.judged:
        told = json.loads(args.judged.read_text("utf-8"))
        for name, (wrong, open_, words, count) in sorted(judged(prompts, told).items()):
            print(
                f"{name}: {wrong / count:.2f} of {words / count:.2f} words taken a prompt are wrong"
                f" ({count} prompts, {open_} words not judged)"
            )


if __name__ == "__main__":
    main()
