"""Inside a WebUI: the tick takes the asynchronous form of the sampler the user selected."""

from __future__ import annotations

import os

import adams_oracles
import numpy as np
import pytest
import rule_oracles
import torch
from jobs import apart, give_the_jobs_noise, make, ticked

from asyndm.core.rules import REGISTRY
from asyndm.hosts.faces import COMFY, EXCHANGED

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))
# A rule sees its levels only; every schedule is in the table of the real hosts.
SCHEDULES = (
    ("Automatic", "Karras", "Exponential", "KL Optimal") if REAL else ("Automatic", "Karras")
)
pytestmark = pytest.mark.parametrize("sampler", EXCHANGED)


@pytest.fixture(autouse=True)
def listed(host, monkeypatch, sampler):
    from modules import sd_samplers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")
    if not REAL and host.name == "reForge":
        pytest.skip("its stand-in differs from Forge's in nothing a sampler sees")
    give_the_jobs_noise(monkeypatch, sampler)


def test_what_is_written_down_is_the_hosts_own(host, sampler):
    """The oracles of samplers that k-diffusion lacks, on lists of any steps."""
    from modules import sd_samplers, shared

    from asyndm.hosts.inside import options_inside

    rule = EXCHANGED[sampler]
    if rule not in ("ipndm", "ipndm_v", "deis", "ddpm_vp"):
        pytest.skip("k-diffusion, diffusers or a picture of the host's tells")
    own = sd_samplers.create_sampler(sampler, shared.sd_model).func
    oracle = getattr(adams_oracles, rule)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        sigmas = (torch.rand(9, generator=generator) * 12).sort(descending=True).values + 0.03
        sigmas = torch.cat([sigmas, torch.zeros(1)]) if seed % 2 else sigmas
        x = torch.randn(1, 4, 3, 3, generator=generator) * sigmas[0]
        drawn = [torch.randn(x.shape, generator=generator) for _ in sigmas]
        noise = rule_oracles.NextNoise(drawn)
        if rule == "ddpm_vp":
            theirs = own(rule_oracles.pointwise, x, sigmas, disable=True, noise_sampler=noise)
            ours = oracle(rule_oracles.pointwise, x, sigmas, rule_oracles.NextNoise(drawn))
        else:
            theirs = own(rule_oracles.pointwise, x, sigmas, disable=True)
            bounds, more = rule_oracles.Bounds(on=False), options_inside(rule, own, {}, None)
            ours = oracle(
                rule_oracles.pointwise, x.double(), sigmas, sigmas.tolist(), bounds, **more
            )
        assert (ours - theirs).abs().max() <= 2e-3 * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_next_to_nothing_is_the_hosts_own(host, traces, sampler, schedule):
    if not REAL and host.backend != "A1111" and schedule != "Automatic":
        pytest.skip("the stand-ins share their schedules")
    asked = {"sampler_name": sampler, "scheduler": schedule, "steps": 6}
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    assert "AsynDM note" not in made.parameters
    assert apart(plain.images[0], made.images[0]) <= 1
    assert made.info["sampler_name"] == sampler


@pytest.mark.parametrize("kind", ["hires", "img2img", "inpaint"])
def test_next_to_nothing_is_the_hosts_own_in_every_kind_of_job(host, traces, sampler, kind):
    plain = make(host, kind, sampler_name=sampler)
    made = make(host, kind, sampler_name=sampler, **ticked(curvature=1e-9))
    bound = 1 if kind != "inpaint" or host.inpaints_alone_as_in_a_batch else 2
    assert apart(plain.images[0], made.images[0]) <= bound


def test_a_tick_steers_and_keeps_the_samplers_name(host, traces, sampler):
    plain = make(host, "txt2img", sampler_name=sampler, steps=6)
    made = make(host, "txt2img", sampler_name=sampler, steps=6, **ticked(curvature=0.8))
    assert apart(plain.images[0], made.images[0]) > 3
    assert np.isfinite(made.images[0]).all() and made.images[0].std() > 0
    assert made.info["sampler_name"] == sampler
    assert "AsynDM note" not in made.parameters


def test_image_j_of_a_batch_is_the_image_made_alone(host, traces, sampler):
    noisy = REGISTRY[EXCHANGED[sampler]].make().draws_noise
    if REAL and host.name == "reForge" and noisy and sampler in (*COMFY, "ER SDE"):
        asked = {"sampler_name": sampler, "steps": 5, "batch_size": 2}
        pairs = [make(host, "txt2img", **asked, **m).images for m in ({}, ticked(curvature=1e-9))]
        assert max(apart(one, two) for one, two in zip(*pairs)) <= 1
        pytest.skip("its noise is of the whole batch: as the host's own, that was looked at")
    asked = {"sampler_name": sampler, "steps": 5, **ticked(curvature=0.8)}
    batch = make(host, "txt2img", batch_size=2, **asked)
    alone = make(host, "txt2img", seed=2, **asked)
    # The host prepends a grid.
    assert apart(batch.images[-1], alone.images[0]) <= 1


def test_its_own_options_are_the_twins(host, traces, sampler):
    """Churn and noise, where the host hands them to this sampler."""
    asked = {"sampler_name": sampler, "steps": 5, "s_churn": 2.0, "s_noise": 1.01, "eta": 0.7}
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    assert apart(plain.images[0], made.images[0]) <= 1


def test_steps_outside_the_churned_levels_draw_as_the_twin(host, traces, sampler):
    """k-diffusion draws in them, too, and throws it away; ComfyUI's functions draw nothing."""
    if not REAL or sampler not in ("Heun", "DPM2"):
        pytest.skip("only those that churn; the stand-ins hand in none")
    asked = {"sampler_name": sampler, "steps": 6, "s_churn": 3.0, "s_tmin": 0.5, "s_tmax": 8.0}
    plain, quiet = (make(host, "txt2img", **{**asked, **more}) for more in ({}, {"s_churn": 0.0}))
    made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    assert apart(plain.images[0], quiet.images[0]) > 3
    assert apart(plain.images[0], made.images[0]) <= 1


def test_a_model_that_predicts_v(host, sampler):
    """The timestep samplers and LCM have wrappers of their own for it."""
    name = "sd2-v" if REAL else "v"
    if sampler not in ("DDIM", "UniPC", "LCM", "Heun") or not host.has(name):
        pytest.skip("only those whose way to the network is their own, where there is such a model")
    host.checkpoint(name)
    try:
        plain = make(host, "txt2img", sampler_name=sampler)
        made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=1e-9))
    finally:
        host.checkpoint("sd1")
    assert apart(plain.images[0], made.images[0]) <= 1


def test_fixed_masks_and_a_lead_on_timesteps(host, traces, sampler):
    if sampler not in ("DDIM", "UniPC"):
        pytest.skip("only those that know timesteps")
    asked = {"sampler_name": sampler, "steps": 6}
    plain = make(host, "txt2img", **asked)
    fixed = make(host, "txt2img", **asked, **ticked(curvature=0.8, mask_source="fixed"))
    again = make(host, "txt2img", **asked, **ticked(curvature=0.8, mask_source="fixed"))
    assert apart(plain.images[0], fixed.images[0]) > 3
    assert apart(fixed.images[0], again.images[0]) == 0
    assert "AsynDM note" not in fixed.parameters
    led = make(host, "inpaint", **asked, **ticked(curvature=0.8, lead=0.5))
    still = make(host, "inpaint", **asked, **ticked(curvature=0.8))
    if host.backend == "A1111":  # which shows what is kept without noise
        assert led.parameters["AsynDM note"].startswith("lead: with this sampler")
        assert apart(led.images[0], still.images[0]) == 0
    elif host.backend == "Forge":
        assert "AsynDM note" not in led.parameters
        assert apart(led.images[0], still.images[0]) > 3
