"""Tables by count: for many steps at once what each step's own formula gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.core import count_tables
from asyndm.core.count_tables import CountTables, counts_of, row_of, rows_of
from asyndm.core.masks import CallableMasks
from asyndm.core.parametrisation import EpsParametrisation
from asyndm.core.run import Director
from asyndm.core.sigma_scale import SigmaScale

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2
P = EpsParametrisation((1 - BETAS).cumprod(0))


def levels(calls: int) -> torch.Tensor:
    return torch.cat([P.sigma(torch.linspace(990, 3, calls)), torch.zeros(1)])


@settings(deadline=None, max_examples=40)
@given(
    calls=st.integers(2, 30),
    curvatures=st.lists(st.floats(0.01, 1), max_size=2, unique=True),
    start=st.sampled_from([0, -1]),
    block=st.sampled_from([1, 7, 60, 2048]),
    order=st.randoms(use_true_random=False),
)
def test_a_steps_rows_are_the_formulas(calls, curvatures, start, block, order) -> None:
    scale, kinds = SigmaScale(levels(calls), P), len(curvatures)
    tables = CountTables(scale, curvatures, start, torch.device("cpu"), P.timestep)
    steps = list(range(start, scale.intervals + 1))
    if order.random() < 0.3:  # nobody has to ask in order
        order.shuffle(steps)
    before, count_tables.BLOCK = count_tables.BLOCK, block
    try:
        for step in steps:
            sigma, clock, timestep = tables.at(step)
            counts = counts_of(step - start, kinds)
            assert len(clock) == len(counts) == rows_of(step - start, kinds)
            for row, spent in enumerate(counts.tolist()):
                pace = 1 + sum(n * k for n, k in zip(spent, curvatures)) / (scale.intervals - start)
                distance = (scale.intervals - step) * pace
                wanted = min(max(scale.intervals - distance, start), step)
                assert clock[row].item() == pytest.approx(wanted, abs=1e-9)
            assert torch.equal(sigma, scale.at(clock).float())
            assert torch.equal(timestep, P.timestep(sigma))
    finally:
        count_tables.BLOCK = before


@given(st.integers(0, 40), st.integers(1, 2))
def test_counts_are_found_in_their_row(advances, kinds) -> None:
    counts = counts_of(advances, kinds).long().T
    assert row_of(counts).tolist() == list(range(int(rows_of(advances, kinds))))


def test_the_network_is_asked_for_timesteps_once_and_again_where_it_was_changed() -> None:
    asked, rounding = [], {"by": 1.0}

    def timestep(sigma: torch.Tensor) -> torch.Tensor:
        asked.append(len(sigma))
        return (P.timestep(sigma) / rounding["by"]).round() * rounding["by"]

    masks = CallableMasks(lambda i, d: torch.rand(1, 1, 8, 8) > 0.5, (0.5,))
    director = Director(P, masks, timestep=timestep)
    x = torch.randn(1, 4, 8, 8)
    with director.run(x, levels(20)):
        for i in range(20):
            if i == 10:
                rounding["by"] = 10.0
                director.clock.forget_timesteps()
            table, time = director.call.timestep_table, director.call.pixel_time
            if i != 10:  # announced before
                wanted = (P.timestep(time.sigma_table) / rounding["by"]).round() * rounding["by"]
                assert torch.equal(table, wanted)
            director.advance(i, x)
    assert len(asked) == 3  # the first call's, and all others' twice
