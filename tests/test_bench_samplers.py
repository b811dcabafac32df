"""What every sampler costs: the benchmark itself, on a narrow network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from asyndm.bench.overhead import paired_ratio
from asyndm.bench.sampler_cost import describe, sampler_costs
from asyndm.core.rules import REGISTRY


@pytest.mark.slow
def test_every_rule_is_measured():
    figures = sampler_costs(paired_ratio, 0.1, tiny=True, progress=False)
    assert set(figures["samplers"]) == set(REGISTRY)
    for rule, found in figures["samplers"].items():
        low, high = found["time_ratio_interval_sd15"]
        assert low <= found["time_ratio_sd15"] <= high and found["pairs_sd15"] >= 3
        assert 1 <= found["operations_ratio_sd15"] < 1.05  # narrow: the capture weighs more
        assert f"{rule}: operations" in describe(figures)


def test_the_readme_says_what_the_file_says():
    root = Path(__file__).resolve().parents[1]
    kept = json.loads((root / "docs" / "overhead-samplers.json").read_text("utf-8"))["samplers"]
    assert set(kept) == set(REGISTRY)
    text = (root / "README.md").read_text("utf-8")
    said = re.search(r"at most ([\d.]+) at Stable Diffusion 1.5's shape, ([\d.]+) at SDXL's", text)
    for value, shape in zip(said.groups(), ("sd15", "sdxl"), strict=True):
        most = max(found[f"operations_ratio_{shape}"] for found in kept.values())
        assert f"{most:.4f}" == value and most <= 1.02


def test_the_readme_says_what_a_fast_card_took():
    root = Path(__file__).resolve().parents[1]
    kept = json.loads((root / "docs" / "overhead-h200.json").read_text("utf-8"))["samplers"]
    text = " ".join((root / "README.md").read_text("utf-8").split())
    said = re.search(
        r"took ([\d.]+) to ([\d.]+) times its twin's time at the first shape, ([\d.]+) to ([\d.]+)",
        text,
    )
    ratios = [[found[f"time_ratio_{s}"] for found in kept.values()] for s in ("sd15", "sdxl")]
    assert list(said.groups()) == [f"{end(each):.2f}" for each in ratios for end in (min, max)]
