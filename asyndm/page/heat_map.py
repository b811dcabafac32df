"""The context map as one picture, drawn without matplotlib, which a WebUI may lack."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from asyndm.page.preview import font

_INK, _FAINT, _GROUND = "#e6e9ee", "#a2abb8", "#1b1f27"
_BETTER, _ALIKE, _WORSE = (61, 132, 198), (232, 234, 238), (205, 76, 60)
_CELL, _LEFT, _TOP, _PAD = 58, 64, 74, 34
PATHS = (0.3, 0.5, 0.7, 0.9)
PARTS = {"objects": "error of objects", "background": "error of the background"}


def heat_map(
    report: Mapping[str, Any], said: str, path: Callable[[float, float, int], float]
) -> Image.Image:
    """Both maps side by side, the paths of runs in them, and what may be said below.

    Args:
        report: of :class:`asyndm.network.context_map.ContextMeter`.
        said: the sentence.
        path: (t_object, k, steps) -> the background's timestep.
    """
    levels = report["levels"]
    side = _CELL * len(levels)
    lines = textwrap.wrap(said, max(48, (2 * side + _LEFT) // 9))
    width = 2 * (side + _LEFT) + _PAD
    height = _TOP + side + 56 + 24 * len(lines) + 12
    picture = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(picture)
    for number, (part, title) in enumerate(PARTS.items()):
        left = _LEFT + number * (side + _LEFT)
        draw.text((left, 10), title, _INK, font(20))
        draw.text((left, 38), "change in %, against one timestep for all", _FAINT, font(13))
        _draw_cells(draw, report[part], levels, left)
        _draw_paths(draw, levels, report["steps"], left, path)
        _draw_figures(draw, report[part], levels, left)
    for number, line in enumerate(lines):
        draw.text((16, _TOP + side + 56 + 24 * number), line, _INK, font(16))
    return picture


def colour_of(value: float, reach: float) -> tuple[int, int, int]:
    """Blue below zero, red above, grey at it."""
    part = min(abs(value) / reach, 1.0)
    end = _BETTER if value < 0 else _WORSE
    return tuple(round(a + (b - a) * part) for a, b in zip(_ALIKE, end))


def _draw_cells(draw: ImageDraw.ImageDraw, rows: list, levels: list, left: int) -> None:
    changes = [abs(row["change"]) for row in rows if row["t_object"] != row["t_background"]]
    reach = max(float(np.percentile(changes, 75)), 1e-6)
    for row in rows:
        y, x = (levels.index(row[name]) for name in ("t_object", "t_background"))
        corner = left + x * _CELL, _TOP + y * _CELL
        box = [*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2]
        draw.rectangle(box, colour_of(row["change"], reach))
    for place, level in enumerate(levels):
        middle = place * _CELL + _CELL // 2
        draw.text((left - 8, _TOP + middle), str(level), _FAINT, font(14), anchor="rm")
        below = _TOP + len(levels) * _CELL + 4
        draw.text((left + middle, below), str(level), _FAINT, font(14), anchor="ma")
    below = _TOP + len(levels) * _CELL + 24
    draw.text((left, below), "down: objects' timestep; across: background's", _FAINT, font(13))


def _draw_figures(draw: ImageDraw.ImageDraw, rows: list, levels: list, left: int) -> None:
    """Pale where a change is within two standard errors."""
    for row in rows:
        y, x = (levels.index(row[name]) for name in ("t_object", "t_background"))
        if x != y:
            ink = "#14181f" if abs(row["change"]) > 2 * row["se"] else "#8b93a0"
            middle = left + x * _CELL + _CELL // 2, _TOP + y * _CELL + _CELL // 2
            draw.text(middle, f"{100 * row['change']:+.0f}", ink, font(15), anchor="mm")


def _draw_paths(
    draw: ImageDraw.ImageDraw, levels: list, steps: int, left: int, path: Callable
) -> None:
    rising = np.array(levels[::-1], float)
    places = np.arange(len(levels))[::-1] * _CELL + _CELL / 2
    for k in PATHS:
        points = []
        for t_object in np.linspace(levels[0], levels[-1], 60):
            background = path(float(t_object), k, steps)
            if background >= levels[-1]:
                points.append(
                    (
                        left + float(np.interp(background, rising, places)),
                        _TOP + float(np.interp(t_object, rising, places)),
                    )
                )
        draw.line(points, fill="#7d8794", width=1 + round(2 * k))
