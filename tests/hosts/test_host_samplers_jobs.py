"""Inside a WebUI: every sampler in every kind of job, prompt form and ending, by pairs."""

from __future__ import annotations

import os

import pytest
from jobs import TWINS, make, ticked
from matrix import ENDINGS, PROMPTS, pairs, run

from asyndm.hosts.faces import EXCHANGED, NO_FORM

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))
# Those the stand-in has, and one that is replaced.
SAMPLERS = [twin for _, twin in TWINS] + [*EXCHANGED, "PLMS"]
CELLS = pairs(SAMPLERS)
# Those whose way to the network is another one in Forge, and one of several calls a step.
OTHERS = ("DDIM", "UniPC", "LCM", "DPM++ SDE")


def test_all_pairs_are_there():
    for other in range(1, 4):
        there = {(cell[0], cell[other]) for cell in CELLS}
        assert len(there) == len(SAMPLERS) * len({cell[other] for cell in CELLS})
    assert {cell[2] for cell in CELLS} == set(PROMPTS)
    assert {cell[3] for cell in CELLS} == set(ENDINGS)


def cells():
    """On the stand-in most of them are slow truth."""
    quick = (*OTHERS, "PLMS")
    marks = {name: () if REAL or name in quick else pytest.mark.slow for name in SAMPLERS}
    return [pytest.param(*cell, marks=marks[cell[0]]) for cell in CELLS]


@pytest.mark.parametrize(("sampler", "kind", "prompt", "ending"), cells())
def test_nothing_is_left_behind(request, host, sampler, kind, prompt, ending):
    from modules import sd_samplers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")
    if not REAL and (host.name == "reForge" or (host.name == "Forge" and sampler not in OTHERS)):
        pytest.skip("its stand-in differs from the one before in nothing this sampler sees")
    # DDIM makes one call less than it has timesteps, and in img2img has less of those.
    assert run(host, kind, 1, prompt, ending, 64, sampler, steps=5) is None


@pytest.mark.parametrize("sampler", [*NO_FORM, "of another extension"])
def test_what_has_no_form_says_why(sampler):
    from asyndm.hosts.faces import face_for

    face, equal = face_for(sampler)
    assert face.name == "AsynDM" and not equal
    assert sampler not in NO_FORM or len(NO_FORM[sampler]) > 20


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"uni_pc_variant": "vary_coeff"}, "vary_coeff"),
        ({"uni_pc_order": 5}, "order 5"),
    ],
)
def test_unipcs_options_without_a_form_are_one_line(host, traces, options, named):
    if host.name == "Neo":
        pytest.skip("its UniPC has no settings")
    before = {name: getattr(host.shared.opts, name) for name in options}
    asked = {"sampler_name": "UniPC", "steps": 6}
    try:
        for name, value in options.items():
            setattr(host.shared.opts, name, value)
        plain = make(host, "txt2img", **asked)
        made = make(host, "txt2img", **asked, **ticked(curvature=0.8))
    finally:
        for name, value in before.items():
            setattr(host.shared.opts, name, value)
    assert (plain.images[0] == made.images[0]).all()
    note = made.parameters["AsynDM note"]
    assert named in note and "UniPC" in note and note.endswith("The image is synchronous.")


@pytest.mark.parametrize(
    "options",
    [
        {"uni_pc_variant": "bh2", "uni_pc_order": 2},
        {"uni_pc_order": 1, "uni_pc_skip_type": "time_quadratic"},
    ],
)
def test_unipcs_options_are_the_hosts(host, traces, options):
    from jobs import apart

    if host.name in ("Neo", "reForge") and not REAL:
        pytest.skip("as Forge's")
    if host.name == "Neo":
        pytest.skip("its UniPC has no settings")
    before = {name: getattr(host.shared.opts, name) for name in options}
    asked = {"sampler_name": "UniPC", "steps": 6}
    try:
        plain = make(host, "txt2img", **asked)
        for name, value in options.items():
            setattr(host.shared.opts, name, value)
        other = make(host, "txt2img", **asked)
        made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    finally:
        for name, value in before.items():
            setattr(host.shared.opts, name, value)
    assert apart(other.images[0], made.images[0]) <= 1
    assert apart(other.images[0], plain.images[0]) > 1
