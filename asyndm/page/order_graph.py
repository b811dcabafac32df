"""The small graph under the chips: who goes ahead, who waits, and with which share of k."""

from __future__ import annotations

import html
import unicodedata
from fractions import Fraction

from asyndm.core.expression import Expression, short
from asyndm.core.order import depths

MOST_NODES = 40
TITLE = "Objects in order: who waits, and the share of the curvature"
_ROW, _HEIGHT, _GAP, _PAD = 30, 22, 34, 2


def order_svg(said: Expression) -> str:
    """The graph as SVG, left to right by depth; "" where there is no order, or too much of one."""
    depth = depths(said.order)
    if not depth or len(depth) > MOST_NODES:
        return ""
    words = {word.text: word for word in said.objects}
    columns: list[list[str]] = [[] for _ in range(max(depth.values()))]
    for name in words:  # as they were written
        if name in depth:
            columns[depth[name] - 1].append(name)
    label = {name: _label(name, words[name].curvature, words[name].share) for name in depth}
    box: dict[str, tuple[float, float, float]] = {}  # left, middle, width
    tallest, x = max(map(len, columns)), float(_PAD)
    for column in columns:
        width = max(_width(label[name]) for name in column)
        top = _PAD + (tallest - len(column)) * _ROW / 2
        for row, name in enumerate(column):
            box[name] = (x, top + row * _ROW + _HEIGHT / 2, width)
        x += width + _GAP
    width, height = x - _GAP + _PAD, 2 * _PAD + (tallest - 1) * _ROW + _HEIGHT
    arrows = "".join(_arrow(box[a], box[b]) for a, b in said.order)
    nodes = "".join(_node(label[name], words[name].share, box[name]) for name in box)
    return (
        f'<svg class="asyndm-order" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="width:100%;max-width:{width:g}px;display:block;margin:4px 0 8px;color:inherit" '
        f'font-size="12" font-family="system-ui, sans-serif" fill="currentColor">'
        f"<title>{TITLE}</title>"
        f"{arrows}{nodes}</svg>"
    )


def _label(name: str, curvature: float | None, share: float) -> str:
    own = f"{Fraction(share).limit_denominator(MOST_NODES)} k" if share < 1 else "k"
    return f"{short(name, 18)} · {own if curvature is None else f'k {curvature:g}'}"


def _width(text: str) -> float:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return 18 + 6.6 * (len(text) - wide) + 12.5 * wide


def _node(text: str, share: float, box: tuple[float, float, float]) -> str:
    x, middle, width = box
    return (
        f'<rect x="{x:g}" y="{middle - _HEIGHT / 2:g}" width="{width:g}" height="{_HEIGHT}" '
        f'rx="11" fill="#e07a3f" fill-opacity="{0.06 + 0.3 * share:.2f}" stroke="#e07a3f"/>'
        f'<text x="{x + width / 2:g}" y="{middle + 4:g}" text-anchor="middle">'
        f"{html.escape(text)}</text>"
    )


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x, y, tip, to = start[0] + start[2], start[1], end[0] - 1, end[1]
    bend = (tip - x) / 2
    return (
        f'<path d="M{x:g} {y:g}C{x + bend:g} {y:g} {tip - bend:g} {to:g} {tip - 6:g} {to:g}" '
        f'fill="none" stroke="currentColor" stroke-opacity=".55" stroke-width="1.5"/>'
        f'<path d="M{tip:g} {to:g}l-7 -3.5v7z" fill-opacity=".55"/>'
    )
