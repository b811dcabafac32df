"""What a timestep sampler's call is to the rules: noise levels, and latents of another scale."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_toys import PARAMETRISATIONS, alphas_cumprod

from asyndm.core.settings import SettingsError
from asyndm.hosts.calls import Grid, TimestepCall, noise_levels, timesteps_between

ALPHAS = torch.as_tensor(alphas_cumprod()).double()
LEVELS = noise_levels(ALPHAS)


def call(asked, forge=False):
    """A call whose denoiser keeps what it is shown, and answers with a known noise."""
    seen = []

    class Denoiser:
        inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=ALPHAS))
        classic_ddim_eps_estimation = forge
        mask_before_denoising = not forge

        def __call__(self, x, timestep):
            seen.append((x, timestep))
            return x * 0.25

    whole = [*asked, 0]
    t = torch.tensor(whole, dtype=torch.float64)
    low = t.floor().long()
    logs = ALPHAS.log()
    log = logs[low] + (t - low) * (logs[(low + 1).clamp(max=999)] - logs[low])
    grid = Grid(noise_levels(log.exp()), asked, {"eta": 0.0})
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TimestepCall("ddim", None, Denoiser(), x, lambda: grid, None, None, True), seen


def test_timesteps_lie_between_as_unipcs_authors_have_them():
    """log alpha is linear in time: numpy's interpolation of the inverse."""
    sigma = torch.linspace(0.03, 14.6, 300, dtype=torch.float64)
    wanted = -0.5 * np.log1p(sigma.numpy() ** 2)
    theirs = np.interp(-wanted, -0.5 * ALPHAS.log().numpy(), np.arange(1000))
    assert np.allclose(timesteps_between(sigma, ALPHAS).numpy(), theirs, atol=1e-6)
    assert torch.allclose(timesteps_between(LEVELS, ALPHAS), torch.arange(1000.0).double())


@pytest.mark.parametrize("forge", [False, True])
def test_latents_and_prediction_in_both_scales(forge):
    job, seen = call([900.5, 600.0, 300.25], forge)
    begun = job.x
    assert torch.allclose(begun, job.latents * (1 + job.sigmas[0].double() ** 2) ** 0.5)
    sigma = job.sigmas[:1].expand(2)
    clean = job.ask(0, begun, sigma)
    shown, timestep = seen[0]
    # Forge scales by the nearest level of its table, so that its network sees begun itself.
    level = LEVELS[round(900.5)] if forge else job.sigmas[0].double()
    assert torch.allclose(shown, begun / (1 + level**2) ** 0.5)
    assert timestep.tolist() == [900.5, 900.5]
    assert torch.allclose(clean, begun - level * shown * 0.25)
    assert torch.allclose(job.leave(begun), begun / math.sqrt(1 + float(job.sigmas[-1]) ** 2))
    assert job.shows_clean is not forge


def test_a_call_of_the_hosts_has_exactly_its_timestep():
    job, _ = call([900.5, 600.0, 300.25])
    assert job.timesteps(job.sigmas[:-1]).tolist() == [900.5, 600.0, 300.25]
    between = job.timesteps(PARAMETRISATIONS["eps"].sigma(torch.tensor([750.0])))
    assert float(between) == pytest.approx(750, abs=1e-2)


def test_nothing_to_do_is_said():
    job, _ = call([])
    with pytest.raises(SettingsError, match="timesteps"):
        job.sigmas  # noqa: B018
