"""All figures of a report, from a plan, its records and its scores' values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from asyndm.core.settings import SettingsError

from . import deviations, matching, statistics
from .methods import Method
from .plan import Plan
from .scoring import read_sets, read_values
from .store import Store, key_of

_FAILURES = 120  # kept a score
_COSTS = ("rows", "seconds", "w_eff", "saturation", "contrast")


class Table:
    """Values as arrays [prompts, seeds], over the prompts of which every method has all seeds."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.records = plan, store.records
        self.keys = {method.text: plan.keys(method) for method in plan.drawn}
        there = store.records
        self.rows = [
            row
            for row in range(len(plan.prompts))
            if all(key in there for keys in self.keys.values() for key in keys[row])
        ]
        if not self.rows:
            raise SettingsError(
                f"folder: no prompt of {store.folder} is drawn by every method yet; let "
                "'bench alignment run' go on."
            )

    @property
    def prompts(self) -> list:
        return [self.plan.prompts[row] for row in self.rows]

    def values(self, method: str, of: Callable[[str], float | None]) -> np.ndarray:
        """[prompts, seeds] float; NaN where there is none."""
        cells = [[of(key) for key in self.keys[method][row]] for row in self.rows]
        return np.array([[math.nan if v is None else float(v) for v in row] for row in cells])

    def sets(self) -> dict[str, list[str]]:
        """The keys of each method's pictures of these prompts."""
        return {
            text: [key for row in self.rows for key in keys[row]]
            for text, keys in self.keys.items()
        }


def summarise(plan: Plan, store: Store) -> dict[str, Any]:
    """The content of report.json.

    Raises:
        SettingsError: there is nothing to report.
    """
    table = Table(plan, store)
    scores, absent = [], []
    for name in plan.scores:
        declared, lines = read_values(store.folder, name)
        if declared.get("sets"):
            judged = _set_score(table, declared, store.folder)
            (scores if judged["means"] else absent).append(judged if judged["means"] else name)
            continue
        of = {key: line["value"] for key, line in lines.items()}.get
        judged = any(not np.isnan(table.values(method.text, of)).all() for method in plan.drawn)
        if not declared or not judged:
            absent.append(name)
            continue
        scores.append(_score(table, declared, lines, not any(s["tested"] for s in scores)))
    return {
        "backend": plan.backend,
        "model": plan.identity,
        "setup": plan.setup.as_dict(),
        "source": plan.source,
        "same_noise": plan.same_noise,
        "prompts": len(table.rows),
        "prompts_planned": len(plan.prompts),
        "seeds": len(plan.seeds),
        "baseline": plan.baseline.text,
        "methods": [_method(table, method) for method in plan.drawn],
        "asked": [method.text for method in plan.methods],
        "matched": _matched(table),
        "unmatched": plan.unmatched,
        "pilots": plan.pilots,
        "family": plan.family,
        "named_at": plan.named_at,
        "chosen": plan.chosen,
        "scores": scores,
        "absent": absent,
    }


def _method(table: Table, method: Method) -> dict[str, Any]:
    row: dict[str, Any] = {"text": method.text, "family": method.family, "clock": method.clock}
    for cost in _COSTS:
        values = table.values(method.text, lambda key, c=cost: table.records[key].get(c))
        row[cost] = None if np.isnan(values).all() else float(np.nanmean(values))
    row["deviations"] = deviations.of(method)
    notes = {
        note
        for keys in table.keys[method.text]
        for key in keys
        if key in table.records
        for note in table.records[key].get("notes", ())
    }
    row["notes"] = sorted(notes)[:20]
    return row


def _matched(table: Table) -> list[dict[str, Any]]:
    """Each companion, and whether it reached what it was matched by."""
    found = []
    for name, kinds in table.plan.companions.items():
        for kind, companion in kinds.items():
            what = "rows" if kind == "rows" else "w_eff"
            own, its = (
                table.values(text, lambda k, w=what: table.records[k].get(w))
                for text in (name, companion.text)
            )
            wanted, got = float(np.nanmean(own)), float(np.nanmean(its))
            reached, pilot = matching.reached(wanted, got), table.plan.pilots.get(name, {})
            one = {"method": name, "by": kind, "cfg": companion.text, "wanted": wanted}
            one |= {"got": got, "off": got / wanted - 1, "reached": reached, "why": ""}
            if kind == "guidance":
                one["pilot"] = pilot
                if not reached:
                    one["why"] = matching.why_not([*statistics.by_prompt(own)], got, pilot)
            found.append(one)
    return found


def _score(table: Table, declared: dict, lines: dict[str, dict], first: bool) -> dict[str, Any]:
    plan = table.plan
    sign = declared["direction"] or 1
    of = {key: line["value"] for key, line in lines.items()}.get
    values = {method.text: table.values(method.text, of) for method in plan.drawn}
    means, tasks = {}, {}
    for text, each in values.items():
        if np.isnan(each).all():
            continue
        interval = statistics.mean(each)
        count = int((~np.isnan(each)).sum())
        means[text] = {**asdict(interval), "spread": statistics.spread(each), "n": count}
        tasks[text] = _by_task(table, each)
    beside = [_beside(values, m.text, plan.baseline.text, "steps", sign) for m in plan.methods[1:]]
    for name, kinds in plan.companions.items():
        beside += [_beside(values, name, c.text, kind, sign) for kind, c in kinds.items()]
    beside = [one for one in beside if one]
    if first:
        family = {one["method"]: one["p"] for one in beside
                  if one["by"] == "steps" and one["method"] in plan.family}  # fmt: skip
        corrected = statistics.holm(family)
        for one in beside:
            if one["by"] == "steps":
                one["p_holm"] = corrected.get(one["method"])
    failures, failed = _failures(table, declared, lines)
    return {
        **declared,
        "tested": first,
        "means": means,
        "beside": beside,
        "tasks": tasks,
        "task_mean": _task_mean(tasks),
        "freedom": _freedom(table, values, sign),
        "failures": failures,
        "failed": failed,
        "sets": {},
    }


def _set_score(table: Table, declared: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A score of whole sets: one value a method, where it is of these very pictures."""
    found = read_sets(folder, declared["name"], declared["hash"])
    sets = table.sets()
    mine = {t: v for t, v in found.items() if t in sets and v["of"] == key_of({"keys": sets[t]})}
    return {
        **declared,
        "tested": False,
        "means": {
            text: {"value": one["value"], "low": None, "high": None, "spread": None, "n": one["n"]}
            for text, one in mine.items()
        },
        "sets": {text: {"note": one["reason"], **one["parts"]} for text, one in mine.items()},
        "beside": [],
        "tasks": {},
        "task_mean": {},
        "freedom": [],
        "failures": [],
    }


def _beside(
    values: dict[str, np.ndarray], name: str, other: str, by: str, sign: int
) -> dict[str, Any] | None:
    if name == other:
        return None
    try:
        paired = statistics.compare(values[name], values[other])
    except ValueError:
        return None
    wins = paired.wins if sign > 0 else 1 - paired.wins
    return {"method": name, "against": other, "by": by, **asdict(paired.difference),
            "p": paired.p, "wins": wins}  # fmt: skip


def _by_task(table: Table, values: np.ndarray) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for prompt, row in zip(table.prompts, values):
        if prompt.task and not np.isnan(row).all():
            found.setdefault(prompt.task, []).append(float(np.nanmean(row)))
    return {task: float(np.mean(each)) for task, each in found.items()}


def _task_mean(tasks: dict[str, dict[str, float]]) -> dict[str, float]:
    """The mean of the tasks' means, as GenEval's total is."""
    return {text: float(np.mean(list(each.values()))) for text, each in tasks.items() if each}


def _freedom(table: Table, values: dict[str, np.ndarray], sign: int) -> list[dict[str, Any]]:
    """Settings chosen per prompt, as the authors do, beside controls with the same freedom."""
    families: dict[str, list[str]] = {}
    for method in table.plan.methods:
        families.setdefault(method.family, []).append(method.text)
    baseline = values[table.plan.baseline.text]
    rows, sizes = [], set()
    for family, texts in families.items():
        stack = np.stack([values[text] for text in texts]) * sign
        if len(texts) < 2 or np.isnan(stack).all():
            continue
        sizes.add(len(texts))
        one_for_all = texts[int(np.argmax([np.nanmean(each) for each in stack]))]
        rows.append(_free(family, texts, "same", statistics.chosen_on_same(stack), sign, baseline))
        if stack.shape[2] > 1:
            others = statistics.chosen_on_others(stack)
            rows.append(_free(family, texts, "other", others, sign, baseline))
        rows.append(_free(family, [one_for_all], "one", values[one_for_all] * sign, sign, baseline))
    for size in sorted(sizes):
        if baseline.shape[1] >= size:
            best = statistics.best_seed(baseline * sign, size)
            rows.append(_free("the seed", [""] * size, "same", best, sign, baseline))
    return rows


def _free(
    family: str, texts: list[str], seeds: str, values: np.ndarray, sign: int, baseline: np.ndarray
) -> dict[str, Any]:
    values = values * sign
    by_prompt = np.nanmean(baseline, axis=1, keepdims=True)
    other = baseline if values.shape == baseline.shape else by_prompt
    paired = statistics.compare(values, other)
    return {
        "family": family,
        "settings": len(texts),
        "which": texts[0] if seeds == "one" else None,
        "seeds": seeds,
        "mean": asdict(statistics.mean(values)),
        "difference": asdict(paired.difference),
    }


def _failures(
    table: Table, declared: dict, lines: dict[str, dict]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Pictures with a reason against them: of rates those that fail, else the worst.

    Returns:
        (some of each method, how many there are by method).
    """
    if not declared["direction"]:
        return [], {}
    found = []
    for method in table.plan.methods:
        for row, prompt in zip(table.rows, table.prompts):
            for seed, key in zip(table.plan.seeds, table.keys[method.text][row]):
                line = lines.get(key)
                if line and line.get("reason") and (line["value"] != 1 or not declared["rate"]):
                    said = {"value": line["value"], "reason": line["reason"]}
                    where = {"method": method.text, "prompt": prompt.text, "seed": seed}
                    found.append({**where, "key": key, **said})
    worth = [-math.inf if one["value"] is None else one["value"] for one in found]
    order = sorted(range(len(found)), key=lambda i: worth[i] * declared["direction"])
    each: dict[str, int] = {}
    kept = []
    for index in order:
        name = found[index]["method"]
        each[name] = each.get(name, 0) + 1
        if each[name] <= max(3, _FAILURES // len(table.plan.methods)):
            kept.append(found[index])
    return kept, each


def choose(plan: Plan, store: Store, score: str, folder: Path) -> dict[str, Any]:
    """Each family's best setting by a score, one value for all prompts: chosen.json.

    Raises:
        SettingsError: the prompts are not development ones, or there are no values.
    """
    if plan.source.get("split") != "development":
        raise SettingsError(
            f"choose: {folder} holds test prompts; choose on others, drawn by "
            "'bench alignment run --split development'."
        )
    declared, lines = read_values(folder, score)
    if declared.get("sets"):
        raise SettingsError(f"choose: {score} judges whole sets; choose by a score of pictures.")
    if not declared or not declared["direction"]:
        why = "no value is there; judge by it first" if not declared else "more of it is not better"
        raise SettingsError(f"choose: {score}: {why}.")
    table = Table(plan, store)
    of = {key: line["value"] for key, line in lines.items()}.get
    families: dict[str, dict[str, float]] = {}
    for method in plan.methods:
        values = table.values(method.text, of)
        if np.isnan(values).all():
            raise SettingsError(f"choose: {score}: {method.text} has no value; judge by it first.")
        mean = float(np.nanmean(values)) * declared["direction"]
        families.setdefault(method.family, {})[method.text] = mean
    return {
        "score": score,
        "prompts": [prompt.text for prompt in table.prompts],
        "seeds": len(plan.seeds),
        "methods": [max(each, key=each.get) for each in families.values()],
        "from": {
            family: {text: mean * declared["direction"] for text, mean in each.items()}
            for family, each in families.items()
        },
    }
