"""Sent masks, against a reading that knows nothing of ours; see mask_kinds.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")
sys.path.insert(0, str(Path(__file__).parent))

from mask_kinds import KINDS, Case  # noqa: E402

from asyndm.core.given import cut_out, shaped  # noqa: E402
from asyndm.hosts import webui  # noqa: E402

COUNT = 5000
# Made seldom: what takes long.
FEW = {"too_long": 12, "a_tiny_stroke": 60}


def count_of(kind: str) -> int:
    rest = (COUNT - sum(FEW.values())) // (len(KINDS) - len(FEW)) + 1
    return FEW.get(kind, rest)


def judge(case: Case) -> None:
    """AssertionError where the payload became something else."""
    plan = webui.make_plan([case.payload], "Euler a")
    lines = " ".join(plan.notes)
    if case.line:
        assert case.line in lines, lines
        assert all("\n" not in line and len(line) < 700 for line in plan.notes)
        assert plan.settings is None or plan.settings.mask_source == case.source
        return
    assert plan.settings is not None and plan.settings.mask_source == "given", lines
    made = [shaped(each.mask, case.size, plan.settings) for each in plan.painted]
    assert len(made) == len(case.masks)
    for number, (mine, its) in enumerate(zip(made, case.masks)):
        assert mine.shape == its.shape
        if its.dtype == bool:
            assert mine.dtype == bool
            unsure = case.unsure[number] if case.unsure else np.zeros(its.shape, bool)
            assert (mine == its)[~unsure].all()
        else:
            assert np.abs(mine - its).max() <= case.near
    if case.curvatures is not None:
        assert [each.curvature for each in plan.painted] == case.curvatures


@pytest.mark.parametrize("kind", KINDS)
def test_sent_masks_are_what_another_reading_says(kind):
    for seed in range(count_of(kind)):
        judge(KINDS[kind](random.Random(f"{kind} {seed}")))


def test_there_are_five_thousand():
    assert sum(map(count_of, KINDS)) >= COUNT


def test_a_part_that_only_masked_inpainting_cuts_out():
    mask = np.zeros((64, 96), np.float32)
    mask[16:32, 48:96] = 1
    part = cut_out(mask, (96, 32, 96, 64), (192, 128))  # the picture is twice as large
    assert part.shape == (32, 48) and part[:16].all() and not part[16:].any()
