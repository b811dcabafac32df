"""What every sampler costs: the benchmark itself, on a narrow network."""

from __future__ import annotations

import pytest

from asyndm.bench.overhead import paired_ratio
from asyndm.bench.sampler_cost import describe, sampler_costs
from asyndm.core.rules import REGISTRY


@pytest.mark.slow
def test_every_rule_is_measured():
    figures = sampler_costs(paired_ratio, 0.1, tiny=True, progress=False)
    assert set(figures["samplers"]) == set(REGISTRY)
    for rule, found in figures["samplers"].items():
        low, high = found["time_ratio_interval"]
        assert low <= found["time_ratio"] <= high and found["pairs"] >= 3
        assert 1 <= found["operations_ratio_sd15"] < 1.05  # narrow: the capture weighs more
        assert f"{rule}: operations" in describe(figures)
