"""Masks: from maps to levels, the sources, and the director's handling of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_toys import PARAMETRISATIONS, random_masks
from hypothesis import given
from hypothesis import strategies as st

from asyndm.core.masks import (
    CallableMasks,
    DynamicMasks,
    GivenMasks,
    MapAverage,
    as_mask,
    binary_masks,
    curvature_levels,
    curvature_table,
    soft_masks,
    soft_steering,
)
from asyndm.core.rows import Rows
from asyndm.core.run import Director, NetworkCall
from asyndm.core.settings import Settings
from asyndm.core.sigmas import make_sigmas

EPS = PARAMETRISATIONS["eps"]


def maps(seed=0, batch=2, objects=2, grid=(4, 5)) -> torch.Tensor:
    return torch.rand(batch, objects, *grid, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 999), threshold=st.floats(0, 2))
def test_binary_masks_compare_each_object_with_its_own_mean(seed, threshold):
    a = maps(seed)
    m = binary_masks(a, threshold)
    for b, o in np.ndindex(2, 2):
        assert torch.equal(m[b, o], a[b, o] >= threshold * a[b, o].mean())


@given(seed=st.integers(0, 999), threshold=st.floats(0.5, 1.5), width=st.floats(0.01, 2))
def test_soft_masks_switch_where_binary_ones_do(seed, threshold, width):
    a = maps(seed)
    soft = soft_masks(a, threshold, width)
    assert soft.min() >= 0 and soft.max() <= 1
    clear = (soft - 0.5).abs() > 1e-4
    assert torch.equal((soft > 0.5)[clear], binary_masks(a, threshold)[clear])
    relative = a / a.mean(dim=(-2, -1), keepdim=True)
    assert (soft[relative > threshold + width / 2 + 1e-5] == 1).all()
    assert torch.isfinite(soft_masks(torch.zeros(1, 1, 2, 2))).all()


@given(
    seed=st.integers(0, 999),
    ks=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=1, max_size=4),
)
def test_where_objects_overlap_the_larger_curvature_wins(seed, ks):
    masks = maps(seed, objects=len(ks)) > 0.5
    levels, table = curvature_levels(masks, ks)
    assert table == tuple(sorted({k for k in ks if k > 0}))
    for b, y, x in np.ndindex(*levels.shape):
        here = [k for o, k in enumerate(ks) if masks[b, o, y, x]]
        assert (0.0, *table)[levels[b, y, x]] == max(here, default=0.0)


def test_masks_and_curvatures_must_agree_in_number():
    with pytest.raises(ValueError, match="objects"):
        curvature_levels(maps() > 0.5, (0.5,))
    with pytest.raises(ValueError, match="objects"):
        soft_steering(maps(), (0.5, 0.5, 0.5))


@given(seed=st.integers(0, 999))
def test_soft_steering_of_binary_values_is_the_binary_one(seed):
    masks = maps(seed, objects=3) > 0.5
    ks = (0.7, 0.2, 0.7)
    steering = soft_steering(masks.float(), ks)
    levels, _ = curvature_levels(masks, ks)
    assert torch.equal(steering.levels, levels)
    assert torch.equal(steering.weight, (levels > 0).float())


def test_soft_steering_takes_the_strongest_pull():
    masks = torch.tensor([0.9, 0.5]).view(1, 2, 1, 1)
    steering = soft_steering(masks, (0.2, 0.8))  # 0.18 against 0.40
    assert steering.levels.item() == 2 and steering.weight.item() == 0.5


class Maps:
    def __init__(self, *values) -> None:
        self.values = list(values)

    def read(self):
        return self.values.pop(0)


def test_smoothing_is_a_running_mean_that_each_run_starts_afresh():
    a, b = maps(1), maps(2)
    source = DynamicMasks(Maps(a, b, b), (0.5, 0.7), smoothing=0.75)
    source.reset()
    assert torch.equal(
        source.levels(0, None).levels, curvature_levels(binary_masks(a), (0.5, 0.7))[0]
    )
    mean = 0.75 * a + 0.25 * b
    expected = curvature_levels(binary_masks(mean), (0.5, 0.7))[0]
    assert torch.equal(source.levels(1, None).levels, expected)
    source.reset()
    assert torch.equal(
        source.levels(0, None).levels, curvature_levels(binary_masks(b), (0.5, 0.7))[0]
    )


def test_smoothing_zero_and_threshold_of_dynamic_masks():
    a, b = maps(1), maps(2)
    source = DynamicMasks(Maps(a, b), (0.5, 0.7), threshold=1.3)
    source.levels(0, None)
    expected = curvature_levels(binary_masks(b, 1.3), (0.5, 0.7))[0]
    assert torch.equal(source.levels(1, None).levels, expected)
    soft = DynamicMasks(Maps(a), (0.5, 0.7), soft=True).levels(0, None)
    assert torch.equal(soft.weight, soft_steering(soft_masks(a), (0.5, 0.7)).weight)


def test_map_average_over_all_steps_then_threshold():
    average = MapAverage()
    with pytest.raises(ValueError, match="base pass"):
        average.read()
    many = [maps(seed) for seed in range(5)]
    for a in many:
        average.add(a)
    mean = torch.stack(many).mean(dim=0)
    assert torch.allclose(average.read(), mean)
    fixed = GivenMasks.from_maps(average.read(), (0.5, 0.7))
    assert torch.equal(
        fixed.levels(3, None).levels, curvature_levels(binary_masks(average.read()), (0.5, 0.7))[0]
    )
    assert fixed.curvatures == (0.5, 0.7) and fixed.ready


def test_given_masks_of_any_kind():
    paint = torch.zeros(6, 8)
    paint[2:4] = 1
    for mask in (paint, paint.bool(), paint.numpy(), paint.to(torch.uint8)):
        steering = GivenMasks(mask, 0.4).levels(0, None)
        assert steering.weight is None and torch.equal(steering.levels[0], paint.long())
    soft = GivenMasks(paint * 0.5, 0.4).levels(0, None)
    assert torch.equal(soft.weight[0], paint * 0.5)
    assert GivenMasks(paint, 0.0).curvatures == ()
    for wrong in (paint * 2, paint - 1, paint * float("nan")):
        with pytest.raises(ValueError, match="0 and 1"):
            GivenMasks(wrong, 0.4)
    with pytest.raises(ValueError, match="mask"):
        GivenMasks(paint[0], 0.4)
    assert as_mask(paint).dtype == torch.bool


@pytest.mark.parametrize("grid", [(6, 8), (3, 4), (48, 64)])
def test_a_given_mask_steers_the_first_step_and_need_not_have_the_latents_size(grid):
    paint = torch.zeros(*grid)
    paint[: grid[0] // 3] = 1
    director = Director(EPS, GivenMasks(paint, 0.4))
    x = torch.ones(2, 4, 6, 8)
    director.begin(x, make_sigmas("uniform", 6, EPS))
    time = director.advance(0, x)
    lags = time.clock_map() < 1
    assert lags[:, :2].all() and not lags[:, 2:].any()


def test_masks_from_a_function():
    seen = []

    def oracle(i, denoised):
        seen.append((i, denoised.shape))
        return torch.full((2, 4, 5), 0.5)

    source = CallableMasks(oracle, (0.4,))
    steering = source.levels(3, torch.zeros(2, 4, 8, 10))
    assert seen == [(3, (2, 4, 8, 10))]
    assert (steering.weight == 0.5).all() and (steering.levels == 1).all()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("origin", ["host", "paper"])
@pytest.mark.parametrize("curve", ["quadratic", "exponential"])
def test_kept_pixels_of_inpainting_stay_on_the_hosts_schedule(curve, origin, soft):
    """Every step including the first, although masks are coarser than the repaint region."""
    allowed = torch.zeros(8, 8)
    allowed[1:6, 3:] = 1  # does not end where cells of the 4 x 4 grid do
    source = random_masks(3, (0.5, 0.9), soft=soft)
    director = Director(EPS, source, curve=curve, origin=origin, allowed=allowed)
    x = torch.ones(1, 4, 8, 8)
    sigmas = make_sigmas("uniform", 7, EPS)
    time = director.begin(x, sigmas)
    moved = False
    for i in range(7):
        there = time.sigma_map()[0, 0]
        assert torch.allclose(there[allowed == 0], sigmas[i])
        moved = moved or bool((there[allowed == 1] > sigmas[i] * 1.001).any())
        time = director.advance(i, x)
    assert moved


def test_a_fractional_repaint_region_weighs_the_mask():
    allowed = torch.full((8, 8), 0.25)
    director = Director(EPS, random_masks(3, (0.8,)), allowed=allowed)
    x = torch.ones(1, 4, 8, 8)
    director.begin(x, make_sigmas("uniform", 6, EPS))
    clock = director.advance(0, x).clock_map()
    assert torch.allclose(clock, torch.full_like(clock, 1 - 4 * 0.25 * 0.8 / 5), atol=1e-6)


@pytest.mark.parametrize("first, expected", [("objects", 1 - 4 * 0.8 / 5), ("background", 1.0)])
def test_what_every_pixel_counts_as_before_the_first_mask(first, expected):
    settings = Settings(first_step=first, curvature=0.8)
    director = Director.from_settings(settings, EPS, random_masks(3, (0.2, 0.8)))
    x = torch.ones(1, 4, 8, 8)
    director.begin(x, make_sigmas("uniform", 6, EPS))
    clock = director.advance(0, x).clock_map()
    assert torch.allclose(clock, torch.full_like(clock, expected), atol=1e-6)
    with pytest.raises(ValueError, match="first_step"):
        Director(EPS, random_masks(3, (0.5,)), first_step="maybe")


def test_steps_left_out_or_repeated_are_refused():
    director = Director(EPS, random_masks(3, (0.5,)))
    x = torch.ones(1, 4, 8, 8)
    with pytest.raises(RuntimeError, match="no run"):
        director.advance(0, x)
    director.begin(x, make_sigmas("uniform", 3, EPS))
    director.advance(0, x)
    for i in (0, 2):
        with pytest.raises(RuntimeError, match="step 1 due"):
            director.advance(i, x)


def test_the_hosts_rounding_reaches_the_network_only():
    director = Director(EPS, random_masks(3, (0.5,)), timestep=lambda s: EPS.timestep(s).round())
    x = torch.ones(1, 4, 8, 8)
    director.begin(x, make_sigmas("uniform", 6, EPS))
    director.advance(0, x)
    director.advance(1, x)
    table = director.call.timestep_table
    assert torch.equal(table, table.round())
    exact = EPS.timestep(director.call.pixel_time.sigma_table)
    assert (exact - exact.round()).abs().max() > 0.01


def test_no_history_unless_asked():
    director = Director(EPS, random_masks(3, (0.5,)))
    director.begin(torch.ones(1, 4, 8, 8), make_sigmas("uniform", 3, EPS))
    assert director.history is None


def test_rows_of_batch_3_with_and_prompts():
    """Images with 1, 2 and 1 prompt parts, in the two orders of the hosts."""
    a = Rows.cond_then_uncond(3, [1, 2, 1])
    assert a.images == (0, 1, 1, 2, 0, 1, 2) and a.parts == (0, 0, 1, 0, -1, -1, -1)
    assert a.image.tolist() == list(a.images) and a.part.tolist() == list(a.parts)
    b = Rows.uncond_then_cond(2)
    assert b.images == (0, 1, 0, 1) and b.parts == (-1, -1, 0, 0)
    assert Rows.only_cond(2, 2).parts == (0, 1, 0, 1)
    cut = a[2:5]
    assert cut.images == (1, 2, 0) and cut.part.tolist() == [1, 0, -1] and len(cut) == 3
    with pytest.raises(ValueError, match="rows"):
        Rows.of([0], [0, 1])
    with pytest.raises(ValueError, match="parts"):
        Rows.only_cond(3, [1, 1])


def test_a_network_call_starts_synchronous():
    call = NetworkCall()
    assert call.pixel_time is None and call.timestep_table is None and call.rows is None


def test_curvature_zero_is_background():
    assert curvature_table((0.0, 0.5, 0.5, 0.2)) == (0.2, 0.5)


@pytest.mark.parametrize("soft", [False, True])
def test_an_object_an_image_does_not_name_has_no_pixels(soft):
    """Its map is NaN; the other image of the batch, and its other objects, are not touched."""
    a = maps(1)
    a[1, 0] = float("nan")
    settings = {"soft": soft, "smoothing": 0.5}
    both = DynamicMasks(Maps(a, a), (0.5, 0.7), **settings)
    alone = DynamicMasks(Maps(a[:1], a[:1]), (0.5, 0.7), **settings)
    other = DynamicMasks(Maps(a[1:, 1:], a[1:, 1:]), (0.7,), **settings)
    for i in range(2):
        one, first, second = (source.levels(i, None) for source in (both, alone, other))
        assert torch.equal(one.levels[:1], first.levels)
        assert torch.equal(one.levels[1:] == 2, second.levels == 1)
        assert not (one.levels[1] == 1).any()
        if soft:
            assert torch.equal(one.weight, torch.cat([first.weight, second.weight]))


def edited(*present) -> list[torch.Tensor]:
    """Maps of one object that prompt editing takes out of some steps (NaN)."""
    found = [maps(seed, batch=1, objects=1) for seed in range(len(present))]
    return [m if here else torch.full_like(m, torch.nan) for m, here in zip(found, present)]


class Recorded:
    """A capture that hands out what it was given."""

    def __init__(self, steps) -> None:
        self.steps = list(steps)

    def read(self) -> torch.Tensor:
        return self.steps.pop(0)


@given(present=st.lists(st.booleans(), min_size=1, max_size=8), soft=st.booleans())
def test_a_running_mean_is_over_the_steps_that_have_the_object(present, soft):
    steps = edited(*present)
    source = DynamicMasks(Recorded(steps), [0.5], smoothing=0.6, soft=soft)
    only = [m for m, here in zip(steps, present) if here]
    alone = DynamicMasks(Recorded(only), [0.5], smoothing=0.6, soft=soft)
    for i, here in enumerate(present):
        steering = source.levels(i, None)
        if here:
            expected = alone.levels(i, None)
            assert torch.equal(steering.levels, expected.levels)
            assert not soft or torch.equal(steering.weight, expected.weight)
        else:
            assert not steering.levels.any()
        assert steering.present.tolist() == [here]


@given(present=st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_fixed_mask_is_over_the_steps_that_have_the_object(present):
    average, steps = MapAverage(), edited(*present)
    for each in steps:
        average.add(each)
    only = [m for m, here in zip(steps, present) if here]
    if only:
        assert torch.allclose(average.read(), torch.stack(only).mean(0))
    else:
        assert average.read().isnan().all()


def test_an_image_without_an_object_is_synchronous_from_the_first_step_on():
    x = torch.randn(2, 4, 8, 8)
    steps = [torch.cat([maps(i, 1, 1), torch.full((1, 1, 4, 5), torch.nan)]) for i in range(6)]
    source = DynamicMasks(Recorded(steps), [0.9])
    director = Director(EPS, source, steered=torch.tensor([True, False]))
    sigmas = make_sigmas("uniform", 6, EPS)
    time = director.begin(x, sigmas)
    for i in range(5):
        assert torch.allclose(time.sigma_map()[1], sigmas[i].float().expand(8, 8), rtol=1e-4)
        time = director.advance(i, x)
        assert i in (0, 4) or (time.sigma_map()[0] != sigmas[i + 1]).any()


@given(seed=st.integers(0, 99))
def test_one_mask_an_object_and_the_larger_curvature_wins(seed):
    masks = maps(seed, batch=1) > 0.5
    source = GivenMasks.of_objects(masks, [0.3, 0.8])
    levels = source.levels(-1, None).levels[0]
    assert source.curvatures == (0.3, 0.8)
    assert torch.equal(levels == 2, masks[0, 1])
    assert torch.equal(levels == 1, masks[0, 0] & ~masks[0, 1])
