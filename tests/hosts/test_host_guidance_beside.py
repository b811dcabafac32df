"""Methods of guidance beside what a host has itself: its own PAG and CFG++, its own scales."""

from __future__ import annotations

import re

import pytest
from conftest import REAL
from jobs import apart, make, note, ticked
from test_host_guidance import (
    ALONE,
    NEUTRAL,
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
    assert apart(plain.images[0], theirs.images[0]) > 1
    assert apart(theirs.images[0], ours.images[0]) <= 1


# (the host's sampler, ours, the host's CFG scale for lambda .6)
CFGPP = [("DDIM CFG++", "DDIM", 7.5)]
CFGPP += [(f"{name} CFG++", name, 0.6) for name in ("Euler", "Euler a")]


@pytest.mark.parametrize("theirs,ours,scale", CFGPP)
def test_cfgpp_is_the_hosts_own(host, traces, theirs, ours, scale):
    """A1111 divides its scale by 12.5; Neo and reForge take it as lambda; Forge main does not
    read its divisor, so that its lambda is the scale."""
    if theirs not in samplers():
        pytest.skip(f"this host has no {theirs}")
    if theirs == "DDIM CFG++" and host.backend != "A1111":
        scale = 0.6
    asked = {"steps": 6, "prompt": "a cat"}
    own = make(host, "txt2img", **asked, sampler_name=theirs, cfg_scale=scale)
    made = make(
        host, "txt2img", **asked, sampler_name=ours, cfg_scale=7.5,
        **ticked(**ALONE, guidance="cfg++", cfgpp_lambda=0.6),
    )  # fmt: skip
    assert not note(made)
    assert apart(own.images[0], made.images[0]) <= 1


def test_the_hires_pass_has_its_own_scale(host, traces):
    if not REAL or host.backend == "A1111":
        pytest.skip("this host has one CFG scale")
    cfg = {**ALONE, "guidance": "apg", **NEUTRAL["apg"]}  # CFG, measured
    made = make(host, "hires", cfg_scale=7, hr_cfg=3, **ticked(**cfg))
    first, hires = re.findall(r"w_eff ([\d.]+)", made.info["infotexts"][-1])
    assert float(first) == pytest.approx(7, rel=1e-3) and float(hires) == pytest.approx(3, rel=1e-3)
    zigzag = make(host, "hires", cfg_scale=7, hr_cfg=3, **ticked(**ALONE, zigzag=1.0))
    assert not note(zigzag) and zigzag.images[0].std() > 0


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
