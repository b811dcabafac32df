"""The learned clock: a profile, the rates of a run, and what holds of every pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from core_toys import PARAMETRISATIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.core.masks import GivenMasks
from asyndm.core.profile import PROFILES, Profile, log_snr, read_profile
from asyndm.core.run import Director
from asyndm.core.schedule import EXPOSURES, PixelClock, Steering
from asyndm.core.settings import LEARNED, Settings, SettingsError
from asyndm.core.sigma_scale import SigmaScale
from asyndm.core.sigmas import make_sigmas

EPS = PARAMETRISATIONS["eps"]
FEW, MANY = (3, 4), (17, 16)  # cells of the clock: a row each, or a table
rates_of = st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1.0])


def clock_of(n, curvatures, rates, grid=FEW, curve=LEARNED, schedule="uniform"):
    scale = SigmaScale(make_sigmas(schedule, n + 1, EPS), EPS)
    more = {} if rates is None else {"rates": rates}
    return PixelClock(scale, 1, grid, grid, curvatures, curve, **more)


def masks(rng, grid, levels, soft):
    level = torch.from_numpy(rng.integers(0, levels + 1, (1, *grid)))
    if rng.random() < 0.3:  # long stretches are the extreme histories
        level = torch.full((1, *grid), int(rng.integers(0, levels + 1)))
    return Steering(level, torch.from_numpy(rng.random((1, *grid))).float() if soft else None)


@settings(deadline=None)
@given(
    st.lists(rates_of, min_size=1, max_size=40),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([FEW, MANY]),
)
def test_every_pixel_arrives_none_runs_back_none_is_ahead(rates, curvatures, seed, soft, grid):
    """Of any rates, also those that jump; and the exposure is what a loop over numbers says."""
    n, rng = len(rates), np.random.default_rng(seed)
    clock = clock_of(n, tuple(curvatures), rates, grid)
    exposure, before = np.zeros(grid), np.full((1, *grid), -1e-9)
    most = 0.0
    for step in range(n):
        steering = masks(rng, grid, len(curvatures), soft)
        clock.advance(steering)
        k = np.array([0.0, *curvatures])[steering.levels[0].numpy()]
        m = 1.0 if steering.weight is None else steering.weight[0].double().numpy()
        exposure = np.maximum(0, exposure + rates[step] * k * m / n)
        most += max(rates[step], 0) * max(curvatures) / n
        now = clock.clocks().numpy()
        left = n - step - 1
        wrong = 0.0 if grid == FEW or left == 0 else left * most / (2 * (EXPOSURES - 1))
        expected = np.clip(step + 1 - left * exposure, 0, n)
        assert np.abs(now[0] - expected).max() <= wrong + 1e-9
        assert now.max() <= step + 1 + 1e-9  # not ahead of the background
        assert (now >= before - 2 * wrong - 1e-9).all()
        before = now
        if grid == MANY and left:
            assert len(clock.pixel_time.sigma_table) == EXPOSURES
    assert np.allclose(now, n)
    assert torch.allclose(clock.pixel_time.sigma_map(), torch.tensor(clock.scale.sigmas[n]).float())


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_constant_rate_is_todays_curvature(n, rate, k, seed):
    """And an object's own k is a factor; where masks do not steer, the rate is 0."""
    rng = np.random.default_rng(seed)
    learned, plain = (
        clock_of(n, (k,), [rate] * n),
        clock_of(n, (rate * k,), None, curve="quadratic"),
    )
    for step in range(n):
        steering = masks(rng, FEW, 1, False)
        if step == n // 2:  # as the director does it outside its window
            steering = Steering(torch.zeros_like(steering.levels))
        learned.advance(steering), plain.advance(steering)
        assert torch.allclose(learned.clocks(), plain.clocks(), atol=1e-9, rtol=0)


PROFILE = Profile(((-4.0, -4.2), (-2.0, -2.9), (0.0, -0.8), (3.0, 2.7)))


@pytest.mark.parametrize("kind", sorted(PARAMETRISATIONS))
@pytest.mark.parametrize("n", [9, 29, 59])
@pytest.mark.parametrize("schedule", ["uniform", "karras", "exponential"])
def test_an_object_from_the_start_is_where_the_profile_says(kind, n, schedule):
    """In noise levels: for any number of steps, any schedule, a run that starts in the middle."""
    p = PARAMETRISATIONS[kind]
    whole = make_sigmas(schedule, n + 1, p)
    for sigmas in (whole, whole[n // 3 :]):
        scale = SigmaScale(sigmas, p)
        rates = PROFILE.kappas(scale)
        n_here, pace, reached = scale.intervals, 1.0, 0
        assert len(rates) == n_here and all(-1 <= rate <= 1 for rate in rates)
        for step, rate in enumerate(rates[:-1]):
            pace = max(1.0, pace + rate / n_here)
            clock = torch.tensor(n_here - (n_here - step - 1) * pace, dtype=torch.float64)
            snr = log_snr(float(scale.at(clock)), scale)
            background = log_snr(scale.sigmas[step + 1], scale)
            wanted = max(PROFILE.object_at(background), log_snr(scale.sigmas[0], scale))
            if abs(rate) < 1:
                assert snr == pytest.approx(wanted, abs=0.05) or (pace == 1.0 and snr < wanted)
                reached += 1
            elif rate == 1:
                assert snr > wanted - 0.05  # it comes as near as it can
        assert reached > 0


def test_a_run_takes_it_and_the_plain_curve_does_not(tmp_path, monkeypatch):
    sigmas, x = make_sigmas("uniform", 13, EPS), torch.zeros(1, 4, 8, 8)
    source = GivenMasks(torch.ones(1, 8, 8, dtype=torch.bool), 1.0)
    chosen = Settings(enabled=True, curve=LEARNED, profile="p", curvature=1)
    (tmp_path / "p.json").write_text(PROFILE.to_json())
    monkeypatch.setattr(PROFILES, "folder", tmp_path)
    director = Director.from_settings(chosen, EPS, source)
    scale = SigmaScale(sigmas, EPS)
    with director.run(x, sigmas):
        for i in range(scale.intervals):
            director.advance(i, x)
            if i < scale.intervals - 2:
                snr = log_snr(float(director.call.pixel_time.sigma_map().mean()), scale)
                background = log_snr(scale.sigmas[i + 1], scale)
                assert snr < background - 0.05
    for name, says in (("", "needs one"), ("q", "is unknown; choose one of p")):
        with pytest.raises(SettingsError, match=says):
            Director.from_settings(Settings(curve=LEARNED, profile=name), EPS, source)
    with pytest.raises(SettingsError, match="needs one"):
        Director(EPS, source, curve=LEARNED)
    with pytest.raises(SettingsError, match="has no learned curve"):
        Settings(enabled=True, curve=LEARNED, origin="paper")


@pytest.mark.parametrize(
    "knots, says",
    [
        (((0, -1),), "1 knots"),
        (((0, -1),) * 40, "40 knots"),
        (((0, -1), (1, 2)), "knot 2 has the object ahead"),
        (((0, -1), (0, -1)), "must rise"),
        (((0, -1), (1, -2)), "must rise"),
        (((0, -1), (1, float("nan"))), "out of range"),
        (((0, -1), (1, "x")), "out of range"),
        (((0, -1), (1,)), "no pair"),
        (((0, -1), "12"), "no pair"),
        (((0, -1), (99, 1)), "out of range"),
    ],
)
def test_what_is_no_profile_is_one_line(knots, says):
    with pytest.raises(SettingsError, match=says) as refused:
        Profile(knots, name="mine")
    assert "\n" not in str(refused.value) and "mine" in str(refused.value)


def test_a_profile_is_found_by_its_name_alone(tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "slow start.json").write_text(PROFILE.to_json())
    (tmp_path / "outside.json").write_text(PROFILE.to_json())
    found = read_profile("slow start", folder)
    assert found.knots == PROFILE.knots and found.name == "slow start"
    for name in ("", None, 3, "other", "../outside", "slow start.json", "/etc/passwd", "a/b"):
        with pytest.raises(SettingsError, match="^profile") as refused:
            read_profile(name, folder)
        assert "\n" not in str(refused.value)
    with pytest.raises(SettingsError, match="there is none"):
        read_profile("mine", tmp_path / "missing")
    told = Profile(PROFILE.knots, "abcdef0123456789", "mine")
    assert not told.of_another("abcdef0123") and told.of_another("0123456789")
    assert not told.of_another("") and not PROFILE.of_another("0123456789")
    assert (
        told.told.startswith("mine ") and told.told != Profile(PROFILE.knots[:3], "", "mine").told
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", '{"knots": 3}', '{"knots": [[0, -1], null]}', "{}",
        '{"knots": [[0, -1], [1, 0]], "checkpoint": 3}', "[" * 5000, " " * 20_000,
        json.dumps({"knots": [[0, -1]]}), b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_one_line(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as refused:
        read_profile("bad", tmp_path)
    assert "bad" in str(refused.value) and "\n" not in str(refused.value)
