"""The result of ``bench scenes`` as figures (JSON) and as one HTML page with plots."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from .flaws import KINDS
from .paired import compare, dose_response, mean_over_prompts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEASURES = ("right", "objects", "noise", "sharpness")
_COLOURS = ("#6b7280", "#d97706", "#2563eb", "#0d9488", "#9333ea", "#be123c", "#4d7c0f", "#0369a1")


def summarise(
    lines: list[dict], arms: list[str], couplings: list[float], setup: dict
) -> dict | None:
    """Means, and differences to the first arm, over the prompts and seeds that all arms have.

    Returns:
        None where no prompt is complete.
    """
    table = {(line["arm"], line["coupling"], line["prompt"], line["seed"]): line for line in lines}
    pairs = [
        (prompt, seed)
        for prompt in range(setup["prompts"])
        for seed in range(setup["seeds"])
        if all((arm, coupling, prompt, seed) in table for arm in arms for coupling in couplings)
    ]
    seeds = [seed for seed in range(setup["seeds"]) if any(s == seed for _, s in pairs)]
    complete = set(pairs)
    prompts = [p for p in range(setup["prompts"]) if all((p, s) in complete for s in seeds)]
    if not prompts or not seeds:
        return None

    def values(arm: str, coupling: float, measure: str) -> np.ndarray:
        cells = [[table[arm, coupling, p, s][measure] for s in seeds] for p in prompts]
        return np.array(cells, float)

    held = np.array([table[arms[0], couplings[0], p, seeds[0]]["held_out"] for p in prompts])
    rows = []
    for coupling in couplings:
        beside = {measure: values(arms[0], coupling, measure) for measure in MEASURES}
        for arm in arms:
            row: dict = {"arm": arm, "coupling": coupling}
            mine = {measure: values(arm, coupling, measure) for measure in MEASURES}
            for measure in MEASURES:
                row[measure] = mean_over_prompts(mine[measure]).as_dict()
                row[f"{measure}_difference"] = (
                    None if arm == arms[0] else compare(mine[measure], beside[measure]).as_dict()
                )
            if all(kind in table[arm, coupling, p, s] for kind in KINDS for p, s in complete):
                row["failures"] = {k: float(values(arm, coupling, k).mean()) for k in KINDS}
            right = mine["right"]
            row["right_seen"] = float(right[~held].mean()) if (~held).any() else None
            row["right_held_out"] = float(right[held].mean()) if held.any() else None
            row["right_held_out_difference"] = (
                compare(right[held], beside["right"][held]).as_dict()
                if held.any() and arm != arms[0]
                else None
            )
            rows.append(row)
    slopes = {}
    for arm in arms[1:]:
        differences = {c: values(arm, c, "right") - values(arms[0], c, "right") for c in couplings}
        slope = dose_response(differences)
        if slope is not None:
            slopes[arm] = slope.as_dict()
    return {
        "setup": setup,
        "baseline": arms[0],
        "images_an_arm": len(prompts) * len(seeds),
        "prompts": len(prompts),
        "seeds": len(seeds),
        "arms": arms,
        "couplings": couplings,
        "rows": rows,
        "dose_response": slopes,
    }


def write_html(summary: dict, path: Path) -> None:
    """The page; it needs nothing but itself."""
    environment = Environment(
        loader=PackageLoader("asyndm.bench", "templates"), autoescape=select_autoescape()
    )
    page = environment.get_template("scenes.html").render(
        summary=summary,
        plots=[
            ("Fraction of prompts fully right", _plot(summary, "right", difference=False)),
            (f"Difference to {summary['baseline']}", _plot(summary, "right", difference=True)),
        ],
    )
    path.write_text(page, encoding="utf-8")


def _plot(summary: dict, measure: str, difference: bool) -> str:
    """A PNG as data URI: one point with its interval for each arm, coupling by coupling."""
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110)
    arms = summary["arms"][1:] if difference else summary["arms"]
    width = 0.7 / max(len(arms), 1)
    for number, arm in enumerate(arms):
        rows = [row for row in summary["rows"] if row["arm"] == arm]
        cells = [row[f"{measure}_difference"] if difference else row[measure] for row in rows]
        value = np.array([cell["value"] for cell in cells])
        reach = np.array(
            [[cell["value"] - cell["low"], cell["high"] - cell["value"]] for cell in cells]
        )
        x = np.arange(len(rows)) + (number - (len(arms) - 1) / 2) * width
        colour = _COLOURS[(number + difference) % len(_COLOURS)]
        axes.errorbar(x, value, np.abs(reach.T), fmt="o", ms=5, capsize=3, color=colour, label=arm)
    axes.set_xticks(range(len(summary["couplings"])))
    axes.set_xticklabels([f"{coupling:g}" for coupling in summary["couplings"]])
    axes.set_xlim(-0.5, len(summary["couplings"]) - 0.5)
    axes.set_xlabel("coupling: how much the background knows of the objects")
    axes.set_ylabel("difference" if difference else "fraction right")
    if difference:
        axes.axhline(0, color="#9ca3af", lw=1)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
