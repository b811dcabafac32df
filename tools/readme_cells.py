"""Figures as the README writes them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from asyndm.scenes.model import TRAINED
from asyndm.scenes.world import FIRST_WORLD


@lru_cache
def _digests() -> dict[str, str]:
    return {world: hashlib.sha256(path.read_bytes()).hexdigest() for world, path in TRAINED.items()}


def world_of(report: dict[str, Any]) -> str:
    """The small world whose network a bench's report is of; other weights are made from shadows'.

    Reports from before there was a choice say nothing.
    """
    model = report.get("model")
    named = model["weights"] if isinstance(model, dict) else report.get("weights")
    if named is None:
        return str(report.get("world") or (model if model in TRAINED else FIRST_WORLD))
    whose = [
        world for world, full in _digests().items() if named == world or full.startswith(named)
    ]
    return whose[0] if whose else f"{FIRST_WORLD}, fine-tuned"


def number(value: float, digits: int, sign: str = "") -> str:
    """As the README writes it: no zero before the point."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def p_value(value: float) -> str:
    """Two digits, no zero before the point; small ones by their power of ten."""
    return f"{value:.2g}".removeprefix("0").replace("e-0", "e-")


def change(cell: dict | None, digits: int, with_p: bool = False) -> str:
    """A difference with its interval, and where asked its p; nothing where there is none."""
    if cell is None:
        return ""
    value, low, high = (number(cell[end], digits, "+") for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" + (f", p {p_value(cell['p_value'])}" if with_p else "")


def level(cell: dict, digits: int) -> str:
    """A mean with its interval."""
    value, low, high = (number(cell[end], digits) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(cell: dict) -> str:
    """A change with twice its standard error."""
    return f"{cell['change']:+.0%} ±{1.96 * cell['se']:.0%}"
