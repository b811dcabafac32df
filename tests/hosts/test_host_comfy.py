"""Samplers that read the settings themselves and draw torch's own noise, as reForge's do."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from jobs import apart, make, ticked

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))
SET = [
    ("Euler A Comfy", {"euler_ancestral_og_eta": 0.4, "euler_ancestral_og_s_noise": 1.1}),
    (
        "Heun Comfy",
        {"heun_og_s_churn": 1.5, "heun_og_s_tmin": 0.5, "heun_og_s_noise": 1.1},
    ),
    (
        "DPM++ SDE Comfy",
        {"dpmpp_sde_og_eta": 0.6, "dpmpp_sde_og_s_noise": 0.8, "dpmpp_sde_og_r": 0.3},
    ),
    ("DPM++ SDE Comfy", {"dpmpp_sde_og_eta": 0.0}),
    (
        "DPM++ 2M SDE Comfy",
        {"dpmpp_2m_sde_og_eta": 0.6, "dpmpp_2m_sde_og_solver_type": "heun"},
    ),
    ("DPM2 a", {"dpm2_ancestral_s_noise": 0.7}),
    # The real host's alone:
    ("DPM++ SDE Classic", {"dpmpp_sde_og_eta": 0.6, "dpmpp_sde_og_r": 0.7}),
    (
        "DPM++ 3M SDE Comfy",
        {"dpmpp_3m_sde_og_eta": 0.6, "dpmpp_3m_sde_og_s_noise": 0.9},
    ),
    (
        "DPM++ 2S Ancestral Comfy",
        {"dpm_2s_ancestral_og_eta": 0.4, "dpm_2s_ancestral_og_s_noise": 1.1},
    ),
    ("Euler Comfy", {"euler_og_s_churn": 1.5, "euler_og_s_tmin": 0.5, "euler_og_s_noise": 1.1}),
    ("DPM++ 2M SDE Turbo", {"dpmpp_2m_sde_og_solver_type": "heun"}),
    ("IPNDM", {"ipndm_max_order": 2}),
    ("IPNDM_V", {"ipndm_v_max_order": 2}),
    ("DEIS", {"deis_max_order": 2}),
]


@pytest.fixture
def comfy(host, monkeypatch):
    """The stand-in with such samplers in its list."""
    if REAL:
        yield
        return
    if host.name != "reForge":
        pytest.skip("only reForge has such samplers")
    from modules import sd_samplers
    from modules.sd_samplers_common import SamplerData
    from modules.sd_samplers_kdiffusion import KDiffusionSampler

    sys.modules.pop("comfy", None)  # made of the host's modules, which are others every time
    import comfy

    for name, value in comfy.SETTINGS.items():
        monkeypatch.setitem(host.shared.DEFAULTS, name, value)
    for name, function in comfy.NAMES.items():
        made = SamplerData(name, lambda m, f=function: KDiffusionSampler(f, m), [], {})
        monkeypatch.setitem(sd_samplers.all_samplers_map, name, made)
    yield
    sys.modules.pop("comfy", None)


@pytest.fixture
def pictured(host, comfy, monkeypatch):
    """(sampler, settings, more) -> what is made, from torch's own generator as it was."""

    def make_one(sampler, settings=None, **more):
        from modules import sd_samplers

        if sampler not in sd_samplers.all_samplers_map:
            pytest.skip(f"this host has no {sampler}")
        with monkeypatch.context() as patch:
            for name, value in (settings or {}).items():
                if not hasattr(host.shared.opts, name):
                    pytest.skip(f"this host has no setting {name}")
                if REAL and name.startswith("dpm2") and host.shared.opts.sd_sampling == "A1111":
                    pytest.skip("this host's own function, which reads no setting")
                patch.setitem(host.shared.opts.data, name, value)
            torch.manual_seed(0)
            return make(host, "txt2img", sampler_name=sampler, steps=5, **more)

    return make_one


@pytest.mark.parametrize(("sampler", "settings"), SET)
def test_a_setting_that_is_read_inside_is_the_twins(pictured, traces, sampler, settings):
    plain = pictured(sampler)
    other = pictured(sampler, settings)
    made = pictured(sampler, settings, **ticked(curvature=1e-9))
    assert "AsynDM note" not in made.parameters and made.info["sampler_name"] == sampler
    assert apart(other.images[0], made.images[0]) <= 1 < apart(other.images[0], plain.images[0])
    lagging = pictured(sampler, settings, **ticked(curvature=0.8))
    assert apart(other.images[0], lagging.images[0]) > 3


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("DPM++ SDE Comfy", {"dpmpp_sde_og_r": -0.5}),
        ("DPM++ 2M SDE Comfy", {"dpmpp_2m_sde_og_eta": -0.5}),
        ("Euler A Comfy", {"euler_ancestral_og_eta": 1.5}),
        # Of the stand-in; reForge's own DEIS fails by itself in every mode but its first.
        ("DPM++ 2M Comfy", {"dpmpp_2m_mode": "first"}),
    ],
)
def test_a_setting_without_a_form_is_one_line(pictured, traces, sampler, settings):
    plain = pictured(sampler, settings)
    made = pictured(sampler, settings, **ticked(curvature=0.8))
    assert apart(plain.images[0], made.images[0]) == 0
    note = made.parameters["AsynDM note"]
    value = next(iter(settings.values()))
    assert str(value) in note and note.endswith("The image is synchronous.")


@pytest.mark.parametrize("sampler", ["DPM++ SDE Comfy", "Euler A Comfy"])
def test_noise_of_a_batch_is_the_twins(pictured, traces, sampler):
    """One draw of torch's generator, or one tree, for all images."""
    plain, made = (pictured(sampler, batch_size=2, **m) for m in ({}, ticked(curvature=1e-9)))
    for one, other in zip(plain.images, made.images):
        assert apart(one, other) <= 1


def test_a_tree_that_the_host_does_not_hand_in_is_the_twins_own(host, traces, monkeypatch):
    """The setting of AUTOMATIC1111 that makes an image depend on its batch again."""
    from modules import sd_samplers

    options = sd_samplers.all_samplers_map["DPM++ SDE"].options
    if REAL:
        if not hasattr(host.shared.opts, "no_dpmpp_sde_batch_determinism"):
            pytest.skip("this host has no such setting")
        monkeypatch.setitem(host.shared.opts.data, "no_dpmpp_sde_batch_determinism", True)
    else:  # whose sampler is handed none then, too
        monkeypatch.setitem(options, "brownian_noise", False)
    pictures = []
    for more in ({}, ticked(curvature=1e-9)):
        torch.manual_seed(0)
        pictures.append(make(host, "txt2img", sampler_name="DPM++ SDE", steps=4, **more).images[0])
    assert apart(*pictures) <= 1
