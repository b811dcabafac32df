"""The context map as a picture for a WebUI's gallery."""

from __future__ import annotations

import copy

import numpy as np

from asyndm.network.context_claim import background_on_path
from asyndm.page.heat_map import colour_of, heat_map

LEVELS = [900, 600, 300]
ROWS = [
    {"t_object": o, "t_background": b, "error": 1.0, "change": 0.3 * (o != b), "se": 0.01}
    for o in LEVELS for b in LEVELS if b <= o
]  # fmt: skip
REPORT = {"levels": LEVELS, "steps": 1000, "objects": ROWS, "background": copy.deepcopy(ROWS)}


def drawn(report, said="Nothing."):
    return np.asarray(heat_map(report, said, background_on_path), int)


def test_every_row_is_seen_where_it_belongs():
    before = drawn(REPORT)
    for number, row in enumerate(ROWS):
        if row["t_object"] == row["t_background"]:
            continue
        report = copy.deepcopy(REPORT)
        report["objects"][number]["change"] = -0.3
        rows, columns = np.nonzero(np.abs(drawn(report) - before).sum(2))
        o, b = (LEVELS.index(row[name]) for name in ("t_object", "t_background"))
        assert 74 + 58 * o <= rows.min() and rows.max() < 74 + 58 * (o + 1)
        assert 64 + 58 * b <= columns.min() and columns.max() < 64 + 58 * (b + 1)


def test_blue_helps_and_red_harms():
    blue, red = colour_of(-1.0, 0.5), colour_of(1.0, 0.5)
    assert blue[2] > blue[0] and red[0] > red[2] and colour_of(0.0, 0.5) == (232, 234, 238)


def test_a_long_sentence_is_wrapped_below():
    long = drawn(REPORT, "word " * 90)
    assert len(long) > len(drawn(REPORT)) + 100 and long.shape[1] == drawn(REPORT).shape[1]
