"""The clock: the six statements about the schedules, and noise levels at fractional clocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from core_toys import PARAMETRISATIONS, alphas_cumprod
from hypothesis import given
from hypothesis import strategies as st

from asyndm.core.parametrisation import EpsParametrisation
from asyndm.core.schedule import PixelClock, PixelTime, Steering, advance_distance, resample
from asyndm.core.settings import CURVES
from asyndm.core.sigma_scale import SigmaScale
from asyndm.core.sigmas import make_sigmas

EPS = PARAMETRISATIONS["eps"]
BATCH, GRID = 2, (3, 4)
CELLS = BATCH * GRID[0] * GRID[1]
curvature = st.floats(0, 1) | st.sampled_from([0.0, 1e-9, 0.5, 1.0])
curves = st.sampled_from(CURVES)
intervals = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)


def make_clock(n: int, curvatures, curve="quadratic", origin="host", grid=GRID) -> PixelClock:
    scale = SigmaScale(make_sigmas("uniform", n + 1, EPS), EPS)
    return PixelClock(scale, BATCH, grid, (6, 8), curvatures, curve, origin)


def random_steering(rng: np.random.Generator, levels: int, soft: bool, allow=1.0) -> Steering:
    shape = (BATCH, *GRID)
    if rng.random() < 0.2:  # long stretches inside or outside an object are the extreme histories
        level = torch.full(shape, int(rng.integers(0, levels + 1)))
    else:
        level = torch.from_numpy(rng.integers(0, levels + 1, shape))
    return Steering(level, torch.from_numpy(rng.random(shape)).float() if soft else None)


def histories(n, curvatures, curve, seed, soft, origin="host"):
    """(step, clocks [B, gh, gw], pixel time) of each call under random masks."""
    rng = np.random.default_rng(seed)
    clock = make_clock(n, curvatures, curve, origin)
    while clock.step < 0:
        clock.advance(random_steering(rng, len(curvatures), soft))
    for _ in range(n):
        yield clock.step, clock.clocks(), clock.pixel_time
        clock.advance(random_steering(rng, len(curvatures), soft))
    yield clock.step, clock.clocks(), clock.pixel_time


@given(n=intervals, k=curvature, curve=curves, seed=seeds, soft=st.booleans())
def test_1_every_pixel_arrives(n, k, curve, seed, soft):
    *_, (step, clocks, time) = histories(n, (k,), curve, seed, soft)
    assert step == n
    assert torch.allclose(clocks, torch.full_like(clocks, n), atol=1e-9, rtol=0)
    last = make_sigmas("uniform", n + 1, EPS)[n]
    assert torch.allclose(time.sigma_map(), last.expand(BATCH, 1, 6, 8), rtol=1e-6)


@given(n=intervals, k=curvature, curve=curves, seed=seeds, soft=st.booleans())
def test_2_clocks_never_run_backwards(n, k, curve, seed, soft):
    # Only the piecewise curve may stand still, at k = 1; near it a step is too short to resolve.
    least = -1e-9 if curve == "piecewise" and k > 1 - 1e-6 else 1e-9
    before = None
    for _, clocks, time in histories(n, (k,), curve, seed, soft):
        if before is not None:
            assert (clocks - before[0]).min() > least
            assert (time.sigma_map() <= before[1].sigma_map() * (1 + 1e-6)).all()
        before = clocks, time


@given(n=intervals, k=curvature, curve=curves, seed=seeds, soft=st.booleans(), paper=st.booleans())
def test_3_an_object_is_never_ahead_of_the_background_nor_outside(n, k, curve, seed, soft, paper):
    origin, start = ("paper", -1) if paper else ("host", 0)
    for step, clocks, time in histories(n, (k,), curve, seed, soft, origin):
        assert clocks.min() >= start and clocks.max() <= step
        assert (time.sigma_table >= EPS.sigmas[0] * (1 - 1e-6)).all()


@given(n=intervals, curve=curves, k=curvature)
def test_4_no_mask_is_the_synchronous_schedule(n, curve, k):
    clock = make_clock(n, (k,), curve)
    host = make_sigmas("uniform", n + 1, EPS)
    for i in range(n + 1):
        assert (clock.clocks() == i).all()
        assert (clock.pixel_time.sigma_map() == host[i]).all()  # the host's entry, exactly
        clock.advance(Steering(torch.zeros(1, *GRID, dtype=torch.long)))
    assert (clock.pixel_time.sigma_map() == 0).all()


@given(n=intervals)
def test_4_all_object_at_k_1_is_the_papers_curve(n):
    clock = make_clock(n, (1.0,))
    for i in range(n + 1):
        expected = 1 - (i / n) ** 2  # of T, the paper's concave f
        assert torch.allclose((n - clock.clocks()) / n, torch.tensor(expected, dtype=torch.float64))
        clock.advance(Steering(torch.ones(1, *GRID, dtype=torch.long)))


@given(n=intervals, k=curvature, seed=seeds, soft=st.booleans())
def test_5_the_disparity_is_bounded_by_omega(n, k, seed, soft):
    for step, clocks, _ in histories(n, (k,), "quadratic", seed, soft):
        assert step - clocks.min() <= k * step * (n - step) / n + 1e-9


@given(n=intervals, k=curvature)
def test_5_the_bound_is_reached_by_objects_from_the_start(n, k):
    clock = make_clock(n, (k,))
    levels = torch.zeros(1, *GRID, dtype=torch.long)
    levels[:, 0] = 1
    for i in range(n + 1):
        assert (clock.clocks()[:, 1:] == i).all()
        lag = torch.tensor(k * i * (n - i) / n, dtype=torch.float64)
        assert torch.allclose(i - clock.clocks()[:, 0], lag, atol=1e-9)
        clock.advance(Steering(levels))


@given(n=intervals, ks=st.lists(curvature, min_size=0, max_size=3), seed=seeds, paper=st.booleans())
def test_6_few_different_noise_levels(n, ks, seed, paper):
    ks = tuple(sorted(set(ks)))
    origin, extra = ("paper", 1) if paper else ("host", 0)
    for step, _, time in histories(n, ks, "quadratic", seed, False, origin):
        rows, advances = len(time.sigma_table), step + extra
        assert rows <= CELLS
        if len(ks) <= 1:
            assert rows <= advances + 1
        elif len(ks) == 2:
            assert rows <= (advances + 1) * (advances + 2) // 2
        assert 0 <= time.index.min() and time.index.max() < rows


@given(n=intervals, k=curvature, curve=curves, seed=seeds)
def test_6_at_most_one_noise_level_a_cell_otherwise(n, k, curve, seed):
    for _, _, time in histories(n, (k,), curve, seed, soft=True):
        assert len(time.sigma_table) <= CELLS


def naive_distance(d, r, n, k, weight, curve):
    """One step of one pixel, as the formulae stand, mixed with the straight line by ``weight``."""
    straight = d - d / r
    if curve == "linear":
        curved = straight
    elif curve == "quadratic":  # through (r, d) and (0, 0) with second derivative -2k/n
        curved = (r - 1) * d / r + k * (r - 1) / n
    elif curve == "piecewise":
        curved = min(d - 1 + k, r - 1 + k * (r - 1))
    else:
        grow = math.exp(1 / n)
        curved = d - (1 - k) + ((1 - k) * r - d) * (grow - 1) / (grow**r - 1)
    return (1 - weight) * straight + weight * curved


@given(
    n=st.integers(1, 20),
    ks=st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
    curve=curves,
    seed=seeds,
    soft_from=st.integers(0, 20),
)
def test_state_equals_a_naive_accumulation_pixel_by_pixel(n, ks, curve, seed, soft_from):
    """Counting, and changing from counts to distances in the middle, alters nothing."""
    rng = np.random.default_rng(seed)
    clock = make_clock(n, tuple(ks), curve)
    distance = np.full((BATCH, *GRID), float(n))
    for i in range(n):
        steering = random_steering(rng, len(ks), soft=i >= soft_from)
        clock.advance(steering)
        for cell in np.ndindex(*distance.shape):
            level = int(steering.levels[cell])
            weight = 1.0 if steering.weight is None else float(steering.weight[cell])
            k = ks[level - 1] if level else 0.0
            weight = weight if level else 0.0
            distance[cell] = naive_distance(distance[cell], n - i, n, k, weight, curve)
        assert np.allclose(n - clock.clocks().numpy(), distance, atol=1e-8)


def test_counts_table_and_one_row_a_cell_agree():
    """The table is left where one row a cell is fewer: the same noise levels either way."""
    rng = np.random.default_rng(3)
    small = make_clock(30, (0.3, 0.7))
    large = make_clock(30, (0.3, 0.7), grid=(24, 32))
    kinds = set()
    for _ in range(30):
        steering = random_steering(rng, 2, soft=False)
        one, many = small.advance(steering), large.advance(steering)
        kinds.add(len(one.sigma_table) < len(many.sigma_table))
        fine = many.sigma_table[many.index][:, 4::8, 4::8]
        assert torch.allclose(one.sigma_table[one.index], fine, rtol=1e-6)
    assert kinds == {True, False}


@pytest.mark.parametrize("ks", [(), (0.3,), (0.3, 0.7)])
@pytest.mark.parametrize("curve", ["quadratic", "exponential"])
def test_refining_a_clock_alters_nothing(curve, ks):
    rng = np.random.default_rng(4)
    fine, coarse = make_clock(12, ks, curve, grid=(6, 8)), make_clock(12, ks, curve)
    for i in range(12):
        if i == 4:
            coarse.refine((6, 8))
        steering = random_steering(rng, len(ks), soft=False)
        fine.advance(steering)
        coarse.advance(steering)
        assert torch.allclose(fine.pixel_time.clock_map(), coarse.pixel_time.clock_map())


@pytest.mark.parametrize("curve", CURVES)
def test_advance_distance_takes_floats_and_tensors(curve):
    single = advance_distance(7.5, 6, 10, 0.4, curve)
    many = advance_distance(torch.tensor([7.5, 7.5]), 6, 10, torch.tensor([0.4, 0.4]), curve)
    assert torch.allclose(many, torch.full((2,), float(single)))


@pytest.mark.parametrize("k", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("curve", CURVES)
def test_the_last_interval_always_ends_at_zero(curve, k):
    assert advance_distance(1.7, 1, 10, k, curve) == pytest.approx(0, abs=1e-12)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="curve"):
        advance_distance(1.0, 1, 1, 0.5, "cubic")
    with pytest.raises(ValueError, match="curve"):
        make_clock(3, (0.5,), curve="cubic")
    with pytest.raises(ValueError, match="origin"):
        make_clock(3, (0.5,), origin="elsewhere")
    with pytest.raises(ValueError, match="curvatures"):
        make_clock(3, (1.5,))


@pytest.mark.parametrize("origin, calls", [("host", 4), ("paper", 5)])
def test_the_run_ends_at_the_lists_last_entry(origin, calls):
    clock = make_clock(3, (0.5,), origin=origin)
    steering = Steering(torch.ones(1, *GRID, dtype=torch.long))
    for _ in range(calls):
        time = clock.advance(steering)
    assert time.uniform and (time.sigma_map() == 0).all()
    with pytest.raises(RuntimeError, match="over"):
        clock.advance(steering)


@pytest.mark.parametrize("origin", ["host", "paper"])
def test_a_single_step_has_nothing_to_be_asynchronous_about(origin):
    scale = SigmaScale(torch.tensor([5.0, 0.0]), EPS)
    clock = PixelClock(scale, 1, (2, 2), (4, 4), (0.5,), origin=origin)
    steering = Steering(torch.ones(1, 2, 2, dtype=torch.long))
    while clock.step < 0:
        clock.advance(steering)
    assert (clock.pixel_time.sigma_map() == 5.0).all()
    assert (clock.advance(steering).sigma_map() == 0).all()


# --- noise levels at fractional clocks ---


@given(
    name=st.sampled_from(["uniform", "karras", "kl_optimal", "exponential"]),
    kind=st.sampled_from(["eps", "v", "flow"]),
    n=intervals,
    drop=st.floats(0, 1),
)
def test_sigma_at_whole_clocks_is_the_hosts_and_monotone_between(name, kind, n, drop):
    p = PARAMETRISATIONS[kind]
    sigmas = make_sigmas(name, n + 1, p)[int(drop * n) :]  # also lists that start in the middle
    scale = SigmaScale(sigmas, p)
    whole = torch.arange(scale.intervals + 1, dtype=torch.float64)
    assert torch.equal(scale.at(whole), sigmas[:-1].double())  # exactly, not to rounding
    fine = scale.at(torch.linspace(0, scale.intervals, 500, dtype=torch.float64))
    assert (fine.diff() <= 1e-12).all()
    assert fine.max() <= sigmas[0] and fine.min() >= sigmas[-2]


def test_sigma_between_is_linear_in_timesteps_and_in_sigma_for_flow():
    scale = SigmaScale(make_sigmas("uniform", 11, EPS), EPS)
    t = EPS.timestep(scale.at(torch.tensor([2.0, 2.25, 3.0], dtype=torch.float64)))
    assert t[1].item() == pytest.approx(0.75 * t[0].item() + 0.25 * t[2].item(), abs=1e-6)
    flow = PARAMETRISATIONS["flow"]
    s = SigmaScale(make_sigmas("uniform", 11, flow), flow)
    a, b, c = s.at(torch.tensor([2.0, 2.25, 3.0], dtype=torch.float64)).tolist()
    assert b == pytest.approx(0.75 * a + 0.25 * c, abs=1e-9)


class Crooked(EpsParametrisation):
    """A table whose way back from timesteps is 20% off, as a host's other table would be."""

    def sigma(self, timestep):
        return super().sigma(timestep) * 1.2


def test_sigma_between_never_leaves_its_neighbours():
    sigmas = make_sigmas("uniform", 11, EPS)
    scale = SigmaScale(sigmas, Crooked(alphas_cumprod()))
    for i in range(10):
        s = scale.at(i + torch.linspace(0, 1, 9, dtype=torch.float64))
        assert s.max() <= sigmas[i] and s.min() >= sigmas[i + 1] and (s.diff() <= 0).all()


def test_lists_outside_the_models_table_still_interpolate():
    """k-diffusion clamps there: all clocks of an interval would get one noise level."""
    scale = SigmaScale(torch.tensor([60.0, 30.0, 0.02, 0.01, 0.0]), EPS)
    s = scale.at(torch.tensor([0.0, 0.5, 1.0, 2.0, 2.5, 3.0], dtype=torch.float64))
    assert (s.diff() < 0).all()


def test_the_virtual_entry_of_the_papers_origin_is_one_interval_up():
    scale = SigmaScale(make_sigmas("leading", 50, EPS), EPS)
    t = EPS.timestep(scale.at(torch.tensor([-1.0, -0.5], dtype=torch.float64)))
    assert torch.allclose(t, torch.tensor([1001.0, 991.0], dtype=torch.float64), atol=1e-3)
    flow = PARAMETRISATIONS["flow"]
    assert SigmaScale(make_sigmas("uniform", 5, flow), flow).at(torch.tensor(-1.0)).item() == 1.0


@pytest.mark.parametrize(
    "sigmas", [[1.0], [], [[1.0, 0.0]], [1.0, 2.0, 0.0], [math.nan, 1.0, 0.0], [1.0, 0.0, 0.0],
               [math.inf, 1.0, 0.0], [2.0, 1.0, -1.0]],
)  # fmt: skip
def test_lists_that_cannot_be_sampled_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        SigmaScale(torch.tensor(sigmas), EPS)


def test_equal_neighbours_are_a_list_too():
    scale = SigmaScale(torch.tensor([3.0, 3.0, 1.0, 0.0]), EPS)
    assert scale.at(torch.tensor(0.5)).item() == pytest.approx(3.0)


# --- one call's noise levels ---


def pixel_time(grid, size) -> PixelTime:
    cells = grid[0] * grid[1]
    table = torch.arange(cells, dtype=torch.float32)
    return PixelTime(table, torch.arange(cells).view(1, *grid), table, size)


def test_index_at_is_the_identity_where_sizes_agree():
    time = pixel_time((8, 6), (8, 6))
    assert torch.equal(time.index_at(8, 6), time.index)
    assert torch.equal(time.sigma_map()[0, 0], time.index[0].float())


@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    at=st.tuples(st.integers(1, 33), st.integers(1, 33)),
)
def test_index_at_reads_block_centres(grid, size, at):
    index = pixel_time(grid, size).index_at(*at)[0]
    assert index.shape == at
    for y in range(at[0]):
        for x in range(at[1]):
            cell = []
            for place, extent, latent, cells in zip((y, x), at, size, grid, strict=True):
                in_latent = math.floor((2 * place + 1) * latent / (2 * extent))
                cell.append((2 * in_latent + 1) * cells // (2 * latent))
            assert index[y, x] == cell[0] * grid[1] + cell[1]


def test_resample_agrees_with_torch():
    cells = torch.rand(2, 5, 7)
    theirs = torch.nn.functional.interpolate(cells[:, None], (16, 9), mode="nearest-exact")[:, 0]
    assert torch.equal(resample(cells, (16, 9)), theirs)
    assert resample(cells, (5, 7)) is cells
