"""Methods of guidance beside what a host has itself: its own PAG and CFG++, its own scales."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import REAL
from jobs import apart, make, note, ticked
from test_host_guidance import (
    ALONE,
    NEUTRAL,
    STEPS,
    WAYS,
    drops_rows,
    measured,
    once,  # noqa: F401 - of all tests
)


def samplers() -> set[str]:
    from modules import sd_samplers

    return {sampler.name for sampler in sd_samplers.all_samplers}


def test_pag_is_forges_own(host, traces):
    from modules import scripts

    title = "perturbedattentionguidance integrated"
    if title not in {s.title().lower() for s in scripts.scripts_txt2img.alwayson_scripts}:
        pytest.skip("this host has no PAG of its own")
    asked = {"sampler_name": "Euler", "steps": 6, "prompt": "a cat"}
    own = {title: {"args": [True, 3.0, 0.0, 0.0, 1.0]}}
    plain = make(host, "txt2img", **asked)
    theirs = make(host, "txt2img", **asked, alwayson_scripts=own)
    ours = make(host, "txt2img", **asked, **ticked(**ALONE, guidance="pag"))
    far = apart(plain.images[0], theirs.images[0])
    print(f"PAG: {apart(theirs.images[0], ours.images[0])} from ours, {far} from CFG")
    assert apart(theirs.images[0], ours.images[0]) <= 1 < far


# (the host's sampler, ours, the host's CFG scale for lambda .6); reForge spells "a" out.
CFGPP = [("DDIM CFG++", "DDIM", 7.5), ("Euler CFG++", "Euler", 0.6)]
CFGPP += [(f"Euler {a} CFG++", "Euler a", 0.6) for a in ("a", "Ancestral")]
CFGPP += [("DPM++ 2M CFG++", "DPM++ 2M", 0.6)]


@pytest.mark.parametrize("theirs,ours,scale", CFGPP)
def test_cfgpp_is_the_hosts_own(host, traces, monkeypatch, theirs, ours, scale):
    """A1111 divides its scale by 12.5; Neo and reForge take it as lambda; Forge main does not
    read its divisor, so that its lambda is the scale. reForge's ancestral one draws noise that
    no seed fixes; here it draws the job's."""
    if theirs not in samplers():
        pytest.skip(f"this host has no {theirs}")
    if theirs == "Euler Ancestral CFG++":
        from ldm_patched.k_diffusion import sampling
        from modules import sd_samplers_common

        def of_the_job(x, seed=None):
            return lambda *levels: sd_samplers_common.sampling.torch.randn_like(x)  # as its Euler a

        monkeypatch.setattr(sampling, "default_noise_sampler", of_the_job)
    if theirs == "DDIM CFG++" and host.backend != "A1111":
        scale = 0.6
    asked = {"steps": 6, "prompt": "a cat"}
    if ours != "DDIM":
        asked["scheduler"] = "Karras"  # theirs may have none of its own
    own = make(host, "txt2img", **asked, sampler_name=theirs, cfg_scale=scale)
    plain, made = (
        make(host, "txt2img", **asked, sampler_name=ours, cfg_scale=7.5, **more)
        for more in ({}, ticked(**ALONE, guidance="cfg++", cfgpp_lambda=0.6))
    )
    assert not note(made)
    far = apart(own.images[0], plain.images[0])
    print(f"{theirs}: {apart(own.images[0], made.images[0])} from ours, {far} from CFG 7.5")
    assert apart(own.images[0], made.images[0]) <= 1 < far


def test_no_cfgpp_of_the_host_is_left_out():
    """Every one whose sampler has a form of ours is compared above."""
    if not REAL:
        pytest.skip("a stand-in has no CFG++")
    theirs = {name for name in samplers() if name.endswith(" CFG++")}
    forms = {name for name, *_ in CFGPP}
    # Others are of samplers without a form, or of their own kind.
    bases = {"DDIM", "Euler", "Euler a", "Euler Ancestral", "DPM++ 2M"}
    assert {name for name in theirs if name.removesuffix(" CFG++") in bases} <= forms


def test_ddim_cfgpp_of_forge_main_runs_at_its_scale(host):
    """A known difference: at CFG 7 its lambda is 7, and not 7 / 12.5 as in A1111."""
    if "DDIM CFG++" not in samplers() or host.backend != "Forge":
        pytest.skip("Forge main's alone")
    asked = {"steps": 6, "prompt": "a cat"}
    theirs = [
        make(host, "txt2img", **asked, sampler_name="DDIM CFG++", cfg_scale=scale).images[0]
        for scale in (7, 7 / 12.5)
    ]
    settings = {**ALONE, "guidance": "cfg++", "cfgpp_lambda": 7 / 12.5}
    made = make(host, "txt2img", **asked, sampler_name="DDIM", cfg_scale=7, **ticked(**settings))
    away = [apart(each, made.images[0]) for each in theirs]
    mean = np.abs(theirs[0].astype(int) - made.images[0]).mean()
    print(f"DDIM CFG++ at CFG 7: {away[0]} of 255 from lambda .56, {mean:.1f} on average")
    assert away[1] <= 1 < 20 < away[0]


APG = '"APG\'s now your CFG" and Guidance Limiter for reForge'


@pytest.mark.parametrize(
    "theirs,ours",
    [
        # (APG, momentum, adaptive, norm, eta, limiter, its start and end)
        ((True, -0.5, 0, 2, 1, False, -1, -1), {"apg_eta": 1, "apg_momentum": -0.5, "apg_norm": 2}),
        ((True, 0.3, 0, 0, 1, False, -1, -1), {"apg_eta": 1, "apg_momentum": 0.3, "apg_norm": 0}),
        ((False, 0, 0, 0, 1, True, 5.42, 0.28), {"interval_low": 0.28, "interval_high": 5.42}),
    ],
    ids=["norm", "momentum", "interval"],
)
def test_apg_and_the_interval_are_reforges_own(host, traces, theirs, ours):
    from modules import scripts

    if APG.lower() not in {s.title().lower() for s in scripts.scripts_txt2img.alwayson_scripts}:
        pytest.skip("this host has no APG of its own")
    asked = {"sampler_name": "Euler", "steps": 6, "prompt": "a cat", "cfg_scale": 7}
    plain = make(host, "txt2img", **asked)
    own = make(host, "txt2img", **asked, alwayson_scripts={APG: {"args": list(theirs)}})
    if "apg_eta" in ours:
        ours = {"guidance": "apg", **ours}
    made = make(host, "txt2img", **asked, **ticked(**ALONE, **ours))
    assert not note(made)
    far = apart(plain.images[0], own.images[0])
    print(f"{ours}: {apart(own.images[0], made.images[0])} from ours, {far} from CFG")
    assert apart(own.images[0], made.images[0]) <= 1 < far


def test_apg_of_reforge_projects_onto_the_noise(host):
    """A known difference below eta 1: ours projects onto D, as the paper has it."""
    from modules import scripts

    if APG.lower() not in {s.title().lower() for s in scripts.scripts_txt2img.alwayson_scripts}:
        pytest.skip("this host has no APG of its own")
    asked = {"sampler_name": "Euler", "steps": 6, "prompt": "a cat", "cfg_scale": 7}
    own = {APG: {"args": [True, 0, 0, 0, 0, False, -1, -1]}}
    theirs = make(host, "txt2img", **asked, alwayson_scripts=own)
    settings = {"guidance": "apg", "apg_eta": 0, "apg_momentum": 0, "apg_norm": 0}
    made = make(host, "txt2img", **asked, **ticked(**ALONE, **settings))
    away = np.abs(theirs.images[0].astype(int) - made.images[0])
    print(f"APG at eta 0: {away.max()} of 255 from ours, {away.mean():.1f} on average")
    assert away.max() > 1


@pytest.mark.parametrize("name", WAYS)
def test_the_hires_pass_has_its_own_scale(host, traces, monkeypatch, name):
    """Forge's family: the method guides by the first pass's scale, then by the hires pass's.

    Where it is without strength its picture is the host's own with these scales; CFG++ reads none.
    """
    from asyndm.guidance import Guide

    if host.backend == "A1111":
        pytest.skip("this host has one CFG scale")
    combine, seen = Guide.combine, []

    def watch(self, cond, uncond, sigma, scale, perturbed=None):
        seen.append((tuple(cond.shape[-2:]), scale))
        return combine(self, cond, uncond, sigma, scale, perturbed)

    monkeypatch.setattr(Guide, "combine", watch)
    asked = {"cfg_scale": 7, "steps": STEPS, "hr_second_pass_steps": 3, "sampler_name": "Euler"}
    one, other = (
        make(host, "hires", hr_cfg=scale, **asked, **ticked(curvature=0.8, **WAYS[name]))
        for scale in (3, 5)
    )
    assert not note(one)
    # A zigzag's way up has a scale of its own: 0.
    up = {((16, 16), 0.0), ((24, 24), 0.0)} if name == "z" else set()
    assert {*seen} == {((16, 16), 7), ((24, 24), 3), ((24, 24), 5)} | up
    one, other = one.images[0], other.images[0]
    assert apart(one, other) <= 1 if name.startswith("cfg++") else apart(one, other) > 1
    if name in NEUTRAL:
        plain = make(host, "hires", hr_cfg=3, **asked)
        made = make(
            host, "hires", hr_cfg=3, **asked, **ticked(**ALONE, guidance=name, **NEUTRAL[name])
        )
        assert apart(plain.images[0], made.images[0]) <= 1
        passes = re.findall(r"w_eff ([\d.]+)", made.info["infotexts"][-1])
        assert [float(w) for w in passes] == pytest.approx([7, 3], rel=1e-3)


def test_cfgpp_says_where_a_host_makes_nothing_without_the_prompt(host, monkeypatch):
    """As Forge at CFG 1, where the hires pass of its API is, too."""
    if drops_rows(host):
        pytest.skip("this host always has it")
    from modules.sd_samplers_common import Sampler

    plain = Sampler.launch_sampling

    def launch(self, steps, func):
        self.sampler_extra_args["uncond"] = None
        return plain(self, steps, func)

    if not REAL:  # a stand-in makes it all the same
        monkeypatch.setattr(Sampler, "launch_sampling", launch)
    made = make(host, "txt2img", cfg_scale=1, steps=3, **ticked(**ALONE, guidance="cfg++"))
    assert "at CFG 1" in note(made) and measured(made)[0] == 3
