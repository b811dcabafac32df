"""report.json, report.html, CSV files, and GenEval's folder layout."""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape
from PIL import Image

from asyndm.core.settings import SettingsError

from . import deviations, summary
from .plan import Plan
from .store import Store, written

_GRID = 8  # prompts
_SIDE = 192  # pixels of a picture in the page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a report can leave besides the page."""
    report = parser.add_argument_group("report")
    report.add_argument(
        "--choose",
        metavar="SCORE",
        help="write chosen.json: of each method's settings the best by SCORE on development "
        "prompts; for --chosen of another folder",
    )
    report.add_argument(
        "--export", type=Path, metavar="FOLDER", help="pictures in GenEval's layout, by method"
    )


def main(args: argparse.Namespace) -> int:
    """Write what there is to say.

    Returns:
        1 where none of the scores that were asked for has a value.

    Raises:
        SettingsError: nothing to report, or it cannot be written.
    """
    plan, store = Plan.load(args.folder), Store(args.folder)
    store.refresh()
    report = summary.summarise(plan, store)
    if args.choose:
        chosen = summary.choose(plan, store, args.choose, args.folder)
        written(args.folder / "chosen.json", _json(chosen))
        print(f"chose {', '.join(chosen['methods'])}: {args.folder / 'chosen.json'}")
    written(args.folder / "report.json", _json(report))
    written(args.folder / "report.html", page(report, plan, store).encode())
    written(args.folder / "means.csv", _csv(_mean_rows(report)))
    written(args.folder / "differences.csv", _csv(_difference_rows(report)))
    if args.export:
        export(plan, store, args.export)
    for line in told(report):
        print(line)
    print(f"wrote {args.folder / 'report.json'} and {args.folder / 'report.html'}")
    if not report["scores"]:
        print(
            f"asyndm: scores: none of {', '.join(plan.scores)} has a value; run 'bench alignment "
            "score' with their weights.",
            file=sys.stderr,
        )
        return 1
    return 0


def told(report: dict[str, Any]) -> list[str]:
    """The tested score, a line a method."""
    lines = []
    for score in report["scores"][:1]:
        differences = {o["method"]: o for o in score["beside"] if o["by"] == "steps"}
        for text in report["asked"]:
            mean = score["means"].get(text)
            if mean is None:
                continue
            line = f"{text:<34} {score['name']} {mean['value']:.3f}"
            if mean["low"] is not None:
                line += f" [{mean['low']:.3f}, {mean['high']:.3f}]"
            if text in differences:
                one = differences[text]
                line += f"  {one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
                line += f" p={one['p']:.2g}"
                if one.get("p_holm") is not None:
                    line += f" (Holm {one['p_holm']:.2g})"
            lines.append(line)
    return lines


def page(report: dict[str, Any], plan: Plan, store: Store) -> str:
    """One page that needs nothing but itself; names and prompts are escaped."""
    from .plots import forest

    environment = Environment(
        loader=PackageLoader("asyndm.bench", "templates"), autoescape=select_autoescape()
    )
    environment.filters["breakable"] = _breakable
    plots = {}
    for score in report["scores"]:
        for kind in ("steps", "rows", "guidance"):
            rows = [one for one in score["beside"] if one["by"] == kind]
            if rows and kind == "steps":
                title = f"{score['name']} {kind}"
                plots[score["name"]] = forest(rows, title, score["direction"] < 0)
    thumbnails = _Thumbnails(store)
    for score in report["scores"]:
        for one in score["failures"]:
            one["picture"] = thumbnails.of(one["key"])
    return environment.get_template("alignment.html").render(
        report=report, plots=plots, grid=_grid(report, plan, store, thumbnails),
        general=deviations.OF_PAPER,
    )  # fmt: skip


def _breakable(text: str) -> Markup:
    """A method's name, escaped, that may go on in the next line behind its signs."""
    return Markup(re.sub(r"([:,+])", r"\1<wbr>", str(escape(text))))


def _grid(
    report: dict[str, Any], plan: Plan, store: Store, thumbnails: _Thumbnails
) -> list[dict[str, Any]]:
    """The first prompts of which all is drawn, each with every method's picture and mask."""
    rows = []
    for prompt in plan.prompts:
        keys = {m.text: plan.key(m, prompt, plan.seeds[0]) for m in plan.methods}
        if len(rows) < _GRID and all(key in store.records for key in keys.values()):
            cells = [
                {"method": text, "picture": thumbnails.of(key), "mask": thumbnails.mask(key)}
                for text, key in keys.items()
            ]
            rows.append({"prompt": prompt.text, "cells": cells})
    return rows


class _Thumbnails:
    """Small pictures as data URIs, each made once."""

    def __init__(self, store: Store) -> None:
        self._store, self._made = store, {}

    def of(self, key: str) -> str:
        return self._uri(self._store.picture(key))

    def mask(self, key: str) -> str | None:
        path = self._store.mask(key)
        return self._uri(path) if path.exists() else None

    def _uri(self, path: Path) -> str:
        if path not in self._made:
            try:
                with Image.open(path) as image:
                    image.load()
                    image.thumbnail((_SIDE, _SIDE))
                    out, kind = io.BytesIO(), "png" if max(image.size) < _SIDE else "jpeg"
                    image.save(out, kind.upper())
            except OSError as error:
                raise SettingsError(f"folder: {path} cannot be read ({error}).") from None
            content = base64.b64encode(out.getvalue()).decode()
            self._made[path] = f"data:image/{kind};base64,{content}"
        return self._made[path]


def export(plan: Plan, store: Store, folder: Path) -> None:
    """``METHOD/00000/samples/0000.png`` and ``metadata.jsonl``, which GenEval's own code scores.

    Raises:
        SettingsError: it cannot be written.
    """
    for method in plan.methods:
        name = "".join(c if c.isalnum() or c in "+-=.," else "_" for c in method.text)
        for prompt, keys in zip(plan.prompts, plan.keys(method)):
            where = folder / name / f"{prompt.number:05}"
            asks = prompt.asks or {"tag": prompt.task, "include": [], "prompt": prompt.text}
            written(where / "metadata.jsonl", json.dumps(asks).encode())
            for number, key in enumerate(keys):
                if key in store.records:
                    content = store.picture(key).read_bytes()
                    written(where / "samples" / f"{number:04}.png", content)


def _mean_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    costs = {one["text"]: one for one in report["methods"]}
    return [
        {
            "score": score["name"], "method": text, **mean,
            **{name: costs[text][name] for name in ("rows", "seconds", "w_eff")},
        }
        for score in report["scores"]
        for text, mean in score["means"].items()
    ]  # fmt: skip


def _difference_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"score": score["name"], **{"p_holm": None, **one}}
        for score in report["scores"]
        for one in score["beside"]
    ]


def _csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue().encode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
