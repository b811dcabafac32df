"""Forest plots as inline SVG that takes the page's colours."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import rc_context
from matplotlib.figure import Figure

_INK, _MARK = "#010203", "#040506"  # stand-ins: the page's text and accent
_STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}


def forest(rows: list[dict[str, Any]], title: str, low_is_better: bool = False) -> str:
    """One point with its interval a row, around zero.

    Args:
        rows: each with ``method``, ``against``, ``value``, ``low``, ``high``.
    """
    with rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.3, 0.7 + 0.25 * len(rows)))
        axes = figure.add_subplot()
        places = list(range(len(rows)))[::-1]
        for place, row in zip(places, rows):
            axes.plot([row["low"], row["high"]], [place, place], color=_MARK, lw=1.6)
            axes.plot([row["value"]], [place], "o", ms=4.5, color=_MARK)
        axes.axvline(0, color=_INK, lw=0.8, alpha=0.6)
        axes.set_yticks(places, [_plain(row["method"]) for row in rows])
        axes.locator_params(axis="x", nbins=5)  # more labels than that overlap
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"difference to {_plain(rows[0]['against'])}"
                        f"{', less is better' if low_is_better else ''}")  # fmt: skip
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_INK)
        axes.tick_params(colors=_INK, left=False)
        axes.xaxis.label.set_color(_INK)
        axes.grid(axis="x", alpha=0.15, color=_INK)
        out = io.StringIO()
        figure.savefig(out, format="svg", bbox_inches="tight", transparent=True,
                       metadata={"Date": None})  # fmt: skip
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_MARK, "var(--accent)")
    return svg.replace("<svg ", '<svg role="img" class="plot" ', 1)


def _plain(text: str) -> str:
    """Without what matplotlib takes for mathematics."""
    return text.replace("$", r"\$")
