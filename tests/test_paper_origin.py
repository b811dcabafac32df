"""origin="paper" against the authors' rule, written again from what their code does.

Their rule, in timesteps: start at T + 1 = 1001, one interval before the first call; background
pixels walk a straight line, objects a curve, that reaches timestep 1 after N - 1 more intervals and
0 after N; the mask of the last object word is all ones until the first maps were read; the network
gets the rounded timesteps.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from core_toys import PARAMETRISATIONS

from asyndm.core.masks import CallableMasks
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm, seeded_noise
from asyndm.core.sigmas import make_sigmas

EPS = PARAMETRISATIONS["eps"]
TRAINED, OFFSET = 1000, 1
GRID, SIZE = (4, 4), (8, 8)


def authors_advance(t: float, left: int, steps: int, k: float | None, curve: str) -> float:
    """One pixel's next timestep with ``left`` intervals to the target; k None = background."""
    if left == 0:
        return 0.0
    fall = (t - OFFSET) / left  # of the straight line to the target
    if k is None:
        return t - fall
    interval = TRAINED / steps
    if curve == "quadratic":
        # The parabola with t'' = -2k * interval / steps through (0, t) and (left, OFFSET).
        bend = k * interval / steps
        return t + (bend * left - fall) - bend
    if curve == "piecewise":
        # Slow line through (0, t), or the fast one through (left, OFFSET), whichever is lower.
        return min(t - (1 - k) * interval, OFFSET + (1 + k) * interval * (left - 1))
    # Exponential: y = scale * exp(x / steps) + slope * x + c through both points.
    slope = -(1 - k) * interval
    scale = (OFFSET - t - slope * left) / math.expm1(left / steps)
    return t + scale * math.expm1(1 / steps) + slope


def authors_run(masks, ks, steps: int, curve: str, latest: int) -> list[np.ndarray]:
    """Unrounded timestep maps of every call; masks[i] [O, gh, gw] is read in call i."""

    def level(mask) -> np.ndarray:  # index of the object with the largest k, -1 = background
        order = np.where(mask, np.array(ks)[:, None, None], 0)
        return np.where(mask.any(axis=0), order.argmax(axis=0), -1)

    def advance(t, which, left):
        step = np.vectorize(
            lambda a, o: authors_advance(a, left, steps, None if o < 0 else ks[o], curve)
        )
        return step(t, which)

    which = np.full(GRID, latest)
    t = advance(np.full(GRID, float(TRAINED + OFFSET)), which, steps)
    calls = []
    for i in range(steps):
        calls.append(t)
        t = advance(t, which, steps - i - 1)
        which = level(masks[i])
    return calls


@pytest.mark.parametrize("curve", ["quadratic", "piecewise", "exponential"])
@pytest.mark.parametrize("ks, steps", [((0.7,), 50), ((0.3, 0.7), 50), ((0.2, 0.5, 1.0), 20)])
def test_timestep_maps_equal_the_authors(ks, steps, curve):
    rng = np.random.default_rng(5)
    masks = rng.random((steps, len(ks), *GRID)) > 0.6
    masks[3] = 0
    expected = authors_run(masks, ks, steps, curve, latest=len(ks) - 1)

    source = CallableMasks(lambda i, d: torch.from_numpy(masks[i])[None], ks)
    director = Director(EPS, source, curve=curve, origin="paper", record=True)
    x = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(0)) * 14
    sigmas = make_sigmas("leading", steps, EPS)
    sample_asyndm(
        lambda x, sigma: x * 0.1,
        x,
        sigmas,
        disable=True,
        director=director,
        noise_sampler=seeded_noise(x, [1]),
    )
    frames = director.history.frames()
    assert len(frames) == steps
    for frame, theirs in zip(frames, expected, strict=True):
        ours = frame.timestep[0].double().numpy()
        # sigma travels as float32, which is 2e-5 of a timestep.
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        surely = np.abs(theirs % 1 - 0.5) > 1e-3  # away from where rounding is a coin toss
        assert (ours.round() == theirs.round())[surely].all()
    background = TRAINED + OFFSET - TRAINED / steps
    assert expected[0].max() > background  # objects are late already in the first call


def test_first_call_leaves_the_latents_as_they_are_in_the_networks_scaling():
    """The authors relabel noise that is N(0, 1) in the network's scaling, whatever the timestep."""
    source = CallableMasks(lambda i, d: torch.ones(1, 1, *GRID, dtype=torch.bool), (0.7,))
    director = Director(EPS, source, origin="paper")
    sigmas = make_sigmas("leading", 50, EPS)
    x = torch.randn(1, 4, *SIZE) * sigmas[0]
    seen = []

    def model(x, sigma):
        seen.append(x * EPS.c_in(director.call.pixel_time.sigma_map()))
        return x * 0

    sample_asyndm(model, x, sigmas, disable=True, director=director, rule="euler")
    assert torch.allclose(seen[0], x * EPS.c_in(sigmas[0]), atol=1e-5)


def test_the_default_origin_honours_the_hosts_first_noise_level():
    source = CallableMasks(lambda i, d: torch.ones(1, 1, *GRID, dtype=torch.bool), (0.7,))
    director = Director(EPS, source)
    sigmas = make_sigmas("leading", 50, EPS)
    x = torch.ones(1, 4, *SIZE)
    assert (director.begin(x, sigmas).sigma_map() == sigmas[0]).all()
    assert director.enter(x) is x
