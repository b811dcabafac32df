"""How well the automatic choice finds a prompt's objects, on files you give.

    python tools/measure_choice.py animal_item.json ... --tsv PartiPrompts.tsv

JSON files are of hu-zijing/AsynDM's kind: ``{"item_idx": {prompt: [place of a word]}}``, places
are numbers of words and hyphens, from 0; told is the recall of those words. Of a TSV with a column
"Prompt" the number of words taken a prompt is told.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path

from asyndm.core.words import auto_objects, find_tokens


def recall(items: dict[str, list[int]]) -> tuple[int, int, list[str]]:
    """(found, all, what was missed); places start at 0."""
    hit = total = 0
    missed = []
    for prompt, places in items.items():
        tokens = re.findall(r"[^\W_]+|-", prompt.lower())
        taken = {p for word in auto_objects(prompt) for at in find_tokens(word, tokens) for p in at}
        for place in places:
            total += 1
            hit += place in taken
            if place not in taken:
                missed.append(
                    f"{tokens[place] if place < len(tokens) else place}: {prompt.strip()}"
                )
    return hit, total, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--tsv", type=Path)
    args = parser.parse_args()
    hits = totals = 0
    for path in args.files:
        hit, total, missed = recall(json.loads(path.read_text("utf-8"))["item_idx"])
        hits, totals = hits + hit, totals + total
        print(f"{path.name}: {hit} of {total}")
        for line in missed:
            print(f"  missed {line}")
    if totals:
        print(f"all: {hits} of {totals}")
    if args.tsv:
        with args.tsv.open(encoding="utf-8", newline="") as file:
            prompts = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t")]
        taken = sum(len(auto_objects(prompt)) for prompt in prompts)
        print(f"{args.tsv.name}: {taken / len(prompts):.2f} words taken a prompt")


if __name__ == "__main__":
    main()
