"""Masks that steer part of a run, and kept regions of inpainting that run ahead."""

from __future__ import annotations

import pytest
import torch
from core_toys import PARAMETRISATIONS, ToyDenoiser, random_masks
from hypothesis import given
from hypothesis import strategies as st

from asyndm.core.masks import CallableMasks, GivenMasks
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm, seeded_noise
from asyndm.core.settings import FIRST_STEPS, ORIGINS, Settings, SettingsError
from asyndm.core.sigma_scale import SigmaScale
from asyndm.core.sigmas import make_sigmas
from asyndm.core.window import steering_steps

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


def clocks(director: Director, sigmas: torch.Tensor) -> list[float]:
    """The clock of one pixel at every call."""
    x = torch.zeros(1, 4, 8, 8)
    seen = []
    with director.run(x, sigmas) as time:
        for i in range(len(sigmas) - 1):
            seen.append(float(time.clock_map().flatten()[0]))
            time = director.advance(i, x)
    return seen


@given(st.integers(3, 40), st.floats(0, 0.9), st.floats(0.05, 1), st.floats(0.05, 1))
def test_exposure_grows_inside_the_window_alone(n, start, length, k):
    end = min(1.0, start + length)
    parametrisation = PARAMETRISATIONS["eps"]
    director = Director(parametrisation, GivenMasks(EVERYWHERE, k), window=(start, end))
    first, last = round(start * n), max(round(end * n), round(start * n) + 1)
    for i, clock in enumerate(clocks(director, make_sigmas("uniform", n + 1, parametrisation))):
        exposure = k / n * len(range(first, min(i, last)))
        assert clock == pytest.approx(n - (n - i) * (1 + exposure), abs=1e-9)


@given(
    st.integers(1, 12), st.floats(0, 1), st.floats(0.01, 1),
    st.sampled_from(FIRST_STEPS), st.sampled_from(ORIGINS), st.booleans(),
)  # fmt: skip
def test_the_steps_that_steer_are_those_that_move_a_clock(n, start, length, first, origin, ready):
    end = min(1.0, start + length)
    settings = Settings(start=min(start, end - 0.01), end=end, first_step=first, origin=origin)
    parametrisation = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("uniform", n + 1, parametrisation)

    def moved(k: float) -> list[float]:
        here = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        source = GivenMasks(EVERYWHERE, k) if ready else CallableMasks(lambda i, x: here, [k])
        return clocks(Director.from_settings(settings, parametrisation, source), sigmas)

    differ = moved(0.7) != pytest.approx(moved(1e-12), abs=1e-9)
    assert bool(steering_steps(settings, n, ready)) == differ


def test_a_window_must_have_a_beginning_and_an_end():
    with pytest.raises(SettingsError, match="start"):
        Settings(start=0.5, end=0.5)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@pytest.mark.parametrize("rule", ["ddpm", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("lead", [0.3, 1.0])
def test_a_kept_region_is_the_known_latents_at_its_own_noise_level(kind, rule, lead):
    """Whatever the rule, the kept pixels stay on clean + noise at (1 - lead) of the way to go."""
    parametrisation = PARAMETRISATIONS[kind]
    sigmas = make_sigmas("uniform", 10, parametrisation)[3:]
    known = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    allowed = torch.zeros(8, 8, dtype=torch.bool)
    allowed[:, 4:] = True
    director = Director(
        parametrisation,
        random_masks(3, [0.7]),
        allowed=allowed,
        lead=lead,
        known=known,
    )
    toy = ToyDenoiser(parametrisation, director)
    noise = seeded_noise(known, [5, 6])
    start = noise(None, None)
    clean = 1 - sigmas[0] if parametrisation.flow else 1.0
    scale, n = SigmaScale(sigmas, parametrisation), len(sigmas) - 2
    seen = []

    def inpainting(x, sigma):
        return torch.where(allowed, toy(x, sigma), known)

    def watch(state):
        time = director.call.pixel_time
        i = state["i"]
        ahead = float(scale.at(torch.tensor(n - (1 - lead) * (n - i), dtype=torch.float64)))
        kept = time.sigma_map()[:, :, :, :4]
        torch.testing.assert_close(kept, torch.full_like(kept, ahead))
        assert (time.sigma_map()[..., 4:] >= float(sigmas[i]) - 1e-5).all()
        share = 1 - ahead if parametrisation.flow else 1.0
        seen.append((state["x"] - share * known)[..., :4] / ahead)

    image = sample_asyndm(
        inpainting,
        known * clean + start * sigmas[0],
        sigmas,
        callback=watch,
        disable=True,
        director=director,
        rule=rule,
        noise_sampler=noise,
    )
    assert len(seen) == n + 1
    torch.testing.assert_close(seen[0], start[..., :4], rtol=1e-3, atol=1e-3)
    if rule != "ddpm":  # without fresh noise it stays the noise of the start
        torch.testing.assert_close(seen[-1], start[..., :4], rtol=1e-2, atol=1e-2)
    else:
        assert 0.7 < float(seen[-1].std()) < 1.3
    torch.testing.assert_close(image[..., :4], known[..., :4], rtol=1e-4, atol=1e-4)


def test_without_a_lead_nothing_changes():
    parametrisation = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("uniform", 8, parametrisation)
    known = torch.randn(1, 4, 8, 8)
    allowed = torch.arange(64).view(8, 8) % 3 > 0
    maps = []
    for extra in ({}, {"lead": 0.0, "known": known}):
        director = Director(parametrisation, random_masks(1, [0.5]), allowed=allowed, **extra)
        with director.run(known, sigmas):
            for i in range(4):
                time = director.advance(i, known)
        maps.append(time.sigma_map())
        assert time.sigma_map()[0, 0][~allowed] == pytest.approx(float(sigmas[4]))
    assert torch.equal(*maps)


def test_a_lead_needs_something_to_keep():
    parametrisation = PARAMETRISATIONS["eps"]
    with pytest.raises(ValueError, match="lead"):
        Director(parametrisation, random_masks(1, [0.5]), lead=0.5)
    director = Director.from_settings(
        Settings(lead=0.5), parametrisation, random_masks(1, [0.5]), allowed=torch.ones(8, 8)
    )
    assert director.lead == 0  # text to image keeps nothing: the setting waits


@pytest.mark.parametrize("soft_region", [False, True])
@pytest.mark.parametrize("soft_masks", [False, True])
def test_one_region_for_a_batch_is_the_region_of_each_image(soft_region, soft_masks):
    """Soft inpainting of a batch: one mask [H, W] with values between 0 and 1 for all images."""
    parametrisation = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("karras", 6, parametrisation)
    region = torch.linspace(0, 1, 64).view(8, 8)
    region = region if soft_region else region > 0.4
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * sigmas[0]
    source = random_masks(5, [0.8], soft=soft_masks, batch=3)

    def of(images: slice):
        def masks(i, denoised):
            return source.function(i, denoised)[images]

        chosen = CallableMasks(masks, [0.8])
        director = Director(parametrisation, chosen, allowed=region)
        toy = ToyDenoiser(parametrisation, director)
        return sample_asyndm(toy, x[images], sigmas, disable=True, director=director, rule="euler")

    together = of(slice(0, 3))
    for j in range(3):
        torch.testing.assert_close(of(slice(j, j + 1))[0], together[j], rtol=1e-4, atol=1e-4)
