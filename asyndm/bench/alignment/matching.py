"""CFG beside a method at equal rows or equal effective guidance, measured on development prompts.

Most gains of guidance vanish beside CFG of the same effective scale (arXiv 2602.22570), and a
method with a third prediction pays for steps that CFG could have taken.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from asyndm.core.settings import SettingsError

from . import drawing, prompt_sets
from .backends import Backend
from .methods import Method, parse
from .plan import Plan
from .store import Store

KINDS = ("steps", "rows", "guidance")
TOLERANCE = 0.02
LEVEL = 0.95
_FIRST = {"rows": 1, "guidance": 24}  # development prompts; doubled while they do not tell


def match(plan: Plan, kinds: list[str], backend: Backend, store: Store, most: int) -> None:
    """Give the plan's methods their companions; the pictures that tell are kept in the folder.

    Args:
        most: development prompts that effective guidance is measured on.

    Raises:
        SettingsError: the backend counts no rows.
    """
    for kind in KINDS[1:]:
        if kind not in kinds:
            continue
        records = _pilot(plan, kind, backend, store, most)
        each = _rows_a_step(plan, records)
        for method in plan.methods:
            if method.plain:
                continue
            companion, why = _companion(plan, method, kind, records[method.text], each)
            if companion is None:
                plan.unmatched[f"{method.text} by {kind}"] = why
                continue
            plan.companions.setdefault(method.text, {})[kind] = companion
            if kind == "guidance":
                told = known(_guided(records[method.text]))
                here = {one.text for one in plan.prompts}
                shared = sum(one.get("prompt") in here for one in records[method.text])
                plan.pilots[method.text] = {**told, "here": shared}


def _pilot(
    plan: Plan, kind: str, backend: Backend, store: Store, most: int
) -> dict[str, list[dict]]:
    """Records of every method on development prompts, on more of them where its guidance varies."""
    records: dict[str, list[dict]] = {}
    waiting, count = plan.methods, min(_FIRST[kind], most)
    while waiting:
        if plan.source["split"] == "development":
            prompts = plan.prompts[:count]
        else:
            prompts = prompt_sets.load(plan.source["name"], "development", count)
        backend.check(waiting, prompts)
        pilot = replace(plan, methods=waiting, prompts=prompts, seeds=[0], companions={})
        drawing.draw(pilot, backend, store)
        for method in waiting:
            records[method.text] = [store.records[keys[0]] for keys in pilot.keys(method)]
        if kind == "rows" or count >= most or len(prompts) < count:
            break
        waiting = [method for method in waiting if not _told(records[method.text])]
        count = min(2 * count, most)
    return records


def _guided(records: list[dict]) -> list[float]:
    return [one["w_eff"] for one in records if one["w_eff"] is not None]


def known(values: list[float]) -> dict[str, Any]:
    """How well the mean effective guidance of some prompts tells that of others.

    Returns:
        ``prompts``: how many; ``w_eff``: the mean; ``error``: half of its 95% interval (Student's),
        as a share of it, None = one prompt tells none; ``needs``: prompts that would bring the
        error to the tolerance.
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return {"prompts": count, "w_eff": mean, "error": None, "needs": None}
    spread = float(np.std(values, ddof=1)) / max(abs(mean), 1e-9)
    error = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * spread / math.sqrt(count)
    needs = math.ceil((stats.norm.ppf((1 + LEVEL) / 2) * spread / TOLERANCE) ** 2)
    return {"prompts": count, "w_eff": mean, "error": error, "needs": max(needs, 1)}


def _told(records: list[dict]) -> bool:
    """Whether the mean effective guidance is known to half the tolerance, with 95%."""
    values = _guided(records)
    return len(values) < 2 or known(values)["error"] <= TOLERANCE / 2


def _companion(
    plan: Plan, method: Method, kind: str, records: list[dict], each: int
) -> tuple[Method | None, str]:
    if kind == "guidance":
        if method.zigzags:
            return None, "Z-Sampling's calls are at other latents: it has no effective guidance"
        values = _guided(records)
        if not values:
            return None, "no effective guidance was measured"
        w = float(np.mean(values))
        if abs(w - plan.setup.cfg) <= 0.001 * plan.setup.cfg:
            return parse("cfg")[0], ""
        if not 0 <= w <= 30:
            return None, f"its effective guidance is {w:.3g}, which CFG is not run at"
        return parse(f"cfg:w={w:.4g}")[0], ""
    rows = [one["rows"] for one in records]
    if None in rows:
        raise SettingsError("match: this backend counts no rows; match by steps or guidance.")
    steps = max(1, round(float(np.mean(rows)) / each))
    w = "" if method.w is None else f",w={method.w:g}"
    if steps == plan.setup.steps:
        return parse(f"cfg{':' if w else ''}{w[1:]}")[0], ""
    return parse(f"cfg:steps={steps}{w}")[0], ""


def _rows_a_step(plan: Plan, records: dict[str, list[dict]]) -> int:
    """Of plain guidance: as counted where it is among the methods (Flux has 1), else 2."""
    for method in plan.methods:
        rows = records[method.text][0]["rows"]
        if method.plain and rows is not None and method.w is None:
            return max(1, rows // (method.steps or plan.setup.steps))
    return 2 if plan.setup.cfg != 1 else 1


def reached(wanted: float | None, got: float | None) -> bool:
    """Whether two means are within 2%."""
    if wanted is None or got is None:
        return False
    return abs(got - wanted) <= TOLERANCE * abs(wanted)


def why_not(wanted: list[float], got: float, pilot: dict[str, Any]) -> str:
    """How far off CFG's guidance is, and whether these prompts could have shown it nearer.

    Args:
        wanted: the method's effective guidance, one a prompt of the report.
        got: CFG's.
        pilot: what was known of the method's when CFG's was chosen, see :func:`known`.
    """
    here = known(wanted)
    line = f"off by {got / here['w_eff'] - 1:+.1%}; the method's own is {_shown(here)}"
    if pilot:
        line += f", and was {_shown(pilot)} in development"
    if (here["error"] or 0) > TOLERANCE:
        line += f": it varies so much that 2% takes {here['needs']} prompts of each"
    return line


def _shown(one: dict[str, Any]) -> str:
    error = "" if one["error"] is None else f" ±{one['error']:.1%}"
    return f"{one['w_eff']:.3g}{error} on {one['prompts']} prompts"
