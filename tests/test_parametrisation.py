"""Latents, network output, noise level and timestep."""

from __future__ import annotations

import pytest
import torch
from core_toys import PARAMETRISATIONS, alphas_cumprod
from hypothesis import given
from hypothesis import strategies as st

from asyndm.core.parametrisation import (
    EpsParametrisation,
    FlowParametrisation,
    VParametrisation,
    align,
)
from asyndm.core.settings import SettingsError
from asyndm.core.sigmas import SCHEDULES, make_sigmas

kinds = pytest.mark.parametrize("kind", PARAMETRISATIONS)


@kinds
def test_timesteps_of_the_table_are_its_rows(kind):
    p = PARAMETRISATIONS[kind]
    if kind == "flow":
        assert torch.allclose(p.timestep(p.sigmas), p.sigmas * 1000)
    else:
        rows = torch.arange(1000, dtype=torch.float64)
        assert torch.allclose(p.timestep(p.sigmas), rows, atol=1e-6)
        assert torch.allclose(p.sigma(rows), p.sigmas, rtol=1e-9)


@given(t=st.floats(-150, 1500), kind=st.sampled_from(["eps", "v"]))
def test_there_and_back_inside_and_far_outside_the_table(t, kind):
    p = PARAMETRISATIONS[kind]
    t = torch.tensor(t, dtype=torch.float64)
    assert torch.allclose(p.timestep(p.sigma(t)), t, atol=1e-6)


@kinds
def test_monotone_and_continuous_across_both_ends(kind):
    p = PARAMETRISATIONS[kind]
    sigma = torch.logspace(-6, 3, 20_000, dtype=torch.float64)
    t = p.timestep(sigma)
    assert (t.diff() > 0).all() and torch.isfinite(t).all()
    for end in (p.sigmas[0], p.sigmas[-1]):
        around = p.timestep(end * torch.tensor([1 - 1e-9, 1 + 1e-9], dtype=torch.float64))
        assert around.diff().item() < 1e-4
    assert torch.isfinite(p.timestep(torch.zeros(2))).all()


@pytest.mark.parametrize("kind, wrapper", [("eps", "CompVisDenoiser"), ("v", "CompVisVDenoiser")])
def test_the_denoised_prediction_and_timesteps_are_k_diffusions(kdiff, kind, wrapper):
    p = PARAMETRISATIONS[kind]
    seen = []

    class Model(torch.nn.Module):
        alphas_cumprod = alphas_cumprod().float()

        def apply_model(self, x, t, cond=None):
            seen.append((x, t))
            return x.tanh() + 0.1

    x = torch.randn(3, 4, 5, 6)
    sigma = torch.tensor([0.05, 1.3, 12.0])
    inputs = {} if kind == "eps" else {"cond": None}
    theirs = getattr(kdiff.external, wrapper)(Model())(x, sigma, **inputs)
    network_input = x * align(p.c_in(sigma), x)
    assert torch.allclose(network_input, seen[0][0], atol=1e-6)
    assert torch.allclose(p.timestep(sigma).float(), seen[0][1], atol=2e-2)
    ours = p.denoised(x, network_input.tanh() + 0.1, sigma)
    assert torch.allclose(ours, theirs, atol=1e-5)


@kinds
def test_scalar_one_an_image_and_map_agree(kind):
    p = PARAMETRISATIONS[kind]
    x, output = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    sigma = torch.tensor(0.6)
    expected = p.denoised(x, output, sigma)
    for same in (sigma.expand(2), sigma.expand(2, 1, 4, 4)):
        assert torch.allclose(p.denoised(x, output, same), expected)
        assert torch.allclose(p.timestep(same), p.timestep(sigma).expand(same.shape))


@kinds
def test_the_true_output_gives_back_the_clean_latents(kind):
    """With x made from x0 and noise, the output the model was trained on denoises to x0."""
    p = PARAMETRISATIONS[kind]
    x0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    sigma = torch.rand(2, 1, 4, 4) * 0.8 + 0.1
    if kind == "flow":
        x, output = (1 - sigma) * x0 + sigma * noise, noise - x0
    else:
        x = x0 + sigma * noise
        alpha = (sigma**2 + 1).rsqrt()
        output = noise if kind == "eps" else alpha * noise - alpha * sigma * x0
    assert torch.allclose(p.denoised(x, output, sigma), x0, atol=1e-5)


@pytest.mark.parametrize("make", [EpsParametrisation, VParametrisation])
@pytest.mark.parametrize("alphas", [[0.5], [0.5, 0.6], [0.5, 0.0], [1.0, 0.5], [0.5, float("nan")]])
def test_tables_that_cannot_be_used_are_refused(make, alphas):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        make(torch.tensor(alphas))


def test_flow_tables():
    p = FlowParametrisation(shift=3.0)
    assert p.sigmas[-1] == 1 and (p.sigmas.diff() > 0).all()
    u = 0.5
    assert p.sigmas[499].item() == pytest.approx(3 * u / (1 + 2 * u))
    assert FlowParametrisation(multiplier=1.0).timestep(torch.tensor(0.3)).item() == pytest.approx(
        0.3
    )
    for wrong in ({"shift": 0.0}, {"multiplier": -1.0}, {"steps": 1}):
        with pytest.raises(ValueError, match="positive"):
            FlowParametrisation(**wrong)


@kinds
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_lists_of_noise_levels(name, steps, kind):
    p = PARAMETRISATIONS[kind]
    sigmas = make_sigmas(name, steps, p)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    if name == "kl_optimal":
        assert sigmas[-1].item() == pytest.approx(float(p.sigmas[0]), rel=1e-4)
    else:
        assert sigmas[-1] == 0


def test_the_authors_spacing():
    t = PARAMETRISATIONS["eps"].timestep(make_sigmas("leading", 50, PARAMETRISATIONS["eps"])[:-1])
    assert torch.allclose(t, torch.arange(981, 0, -20, dtype=torch.float64), atol=1e-3)


def test_lists_that_cannot_be_made_are_refused():
    p = PARAMETRISATIONS["eps"]
    with pytest.raises(SettingsError, match="schedule"):
        make_sigmas("cosine", 5, p)
    for steps in (0, 1001, 2.5):
        with pytest.raises(SettingsError, match="steps"):
            make_sigmas("karras", steps, p)
