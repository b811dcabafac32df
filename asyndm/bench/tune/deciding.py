"""Whether a strength by prompt is worth more than one for all: on fresh prompts, in pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asyndm.bench.alignment import scoring, statistics
from asyndm.bench.alignment.methods import ADAPTIVE
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.store import Store
from asyndm.bench.alignment.summary import Table


def difference(folder: Path, score: str, methods: dict[str, str]) -> dict[str, Any] | None:
    """Adaptive minus constant in a confirmation.

    Args:
        folder: of the confirmation.
        score: it was judged by.
        methods: what each arm found.

    Returns:
        The paired difference, more is better, its interval and p; ``kept``: whether the interval
        lies above 0; ``strengths``: pictures by k. None where there was no constant arm, or
        nothing has a value.
    """
    if "constant" not in methods:
        return None
    plan, store = Plan.load(folder), Store(folder)
    store.refresh()
    table = Table(plan, store)
    declared, lines = scoring.read_values(folder, score)
    if not declared:
        return None
    of = {key: line["value"] for key, line in lines.items()}.get
    sign = declared["direction"] or 1
    own, other = (sign * table.values(methods[arm], of) for arm in (ADAPTIVE, "constant"))
    try:
        paired = statistics.compare(own, other)
    except ValueError:
        return None
    keys = [key for row in table.rows for key in table.keys[methods[ADAPTIVE]][row]]
    strengths = Counter(store.records[key]["adaptive"]["k"] for key in keys)
    return {
        "against": methods["constant"],
        **asdict(paired.difference),
        "p": paired.p,
        "wins": paired.wins,
        "prompts": len(table.rows),
        "kept": paired.difference.low > 0,
        "strengths": {f"{k:g}": count for k, count in sorted(strengths.items())},
    }


def told(found: dict[str, Any] | None) -> str:
    """One line: the difference, and whether adaptive is kept."""
    if found is None:
        return (
            "tune: adaptive minus constant: it cannot be told without both arms' values; adaptive "
            "is not kept"
        )
    ends = f"[{found['low']:+.3f}, {found['high']:+.3f}], p={found['p']:.2g}"
    verdict = "it is kept"
    if not found["kept"]:
        why = "the constant is better" if found["high"] < 0 else "the interval is not above 0"
        verdict = f"it is not kept: {why}"
    return (
        f"tune: adaptive minus constant on {found['prompts']} fresh prompts: "
        f"{found['value']:+.3f} {ends}; {verdict}"
    )
