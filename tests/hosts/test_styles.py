"""The two others of the Forge family, in the stand-in.

Forge Neo (2.26, 2026-08) has Forge's backend and inpainting, and prompts that are scheduled by
functions with fewer arguments; Forge Classic has the older backend and Forge's inpainting.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from driver import StandIn, missing
from jobs import KINDS, TWINS, Traces, apart, make, ticked

pytestmark = [
    pytest.mark.skipif(bool(os.environ.get("ASYNDM_WEBUI_DIR")), reason="of the stand-in"),
    pytest.mark.skipif(bool(missing()), reason=f"the stand-in needs {missing()}"),
]


@pytest.fixture(params=["Neo", "Classic"], scope="module")
def host(request):
    made = StandIn(style=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("own", "twin"), TWINS)
def test_almost_no_curvature_is_the_built_in_twin(host, own, twin, kind):
    traces = Traces(host)
    plain = make(host, kind, sampler_name=twin)
    same = make(host, kind, sampler_name=own, **ticked(curvature=1e-9))
    lead = {"lead": 0.5} if kind == "inpaint" else {}  # elsewhere nothing is kept, and that is said
    made = make(host, kind, sampler_name=twin, **ticked(curvature=0.8, **lead))
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters
    traces.check()


def test_edited_prompts_steer_by_what_each_step_shows(host):
    asked = {"prompt": "a [cat:dog:0.5] AND a shark", "steps": 6}
    made = make(host, "txt2img", **asked, **ticked(curvature=0.8, objects="cat, dog, shark"))
    assert apart(make(host, "txt2img", **asked).images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters


def test_whatever_fails_before_the_first_call_is_one_line_and_the_hosts_image(host, monkeypatch):
    """A host that changed again: the image is still made, and the log tells the cause."""
    from modules import prompt_parser

    def changed(*arguments, **named):
        raise LookupError("asked for\nsomething else")

    plain = make(host, "txt2img")
    monkeypatch.setattr(prompt_parser, "get_multicond_prompt_list", _but_once(changed))
    traces = Traces(host)
    made = make(host, "txt2img", **ticked(curvature=0.8))
    note = made.parameters["AsynDM note"]
    assert np.array_equal(plain.images[0], made.images[0])
    assert "LookupError: asked for something else" in note and "\n" not in note
    assert note.endswith("The image is synchronous.")
    traces.check()


def _but_once(fails):
    """The host's own parser for the host, a failing one for whoever else asks."""
    import inspect

    from modules import prompt_parser

    own = prompt_parser.get_multicond_prompt_list

    def asked(*arguments, **named):
        caller = inspect.stack()[1].filename
        return (fails if "asyndm" in caller else own)(*arguments, **named)

    return asked


def test_a_prediction_of_v(host):
    host.checkpoint("v")
    try:
        plain = make(host, "txt2img")
        assert apart(plain.images[0], make(host, "txt2img", **ticked(curvature=1e-9)).images[0]) < 2
    finally:
        host.checkpoint("sd1")


def test_the_older_backend_says_by_classes_what_it_cannot_be_steered_by(host):
    if host.name != "Classic":
        pytest.skip("Neo says it by a name")
    model = host.root()
    kind = type(model.model_sampling)
    model.model_sampling.__class__ = type("ModelSamplingContinuousEDM", (kind,), {})
    try:
        plain, made = make(host, "txt2img"), make(host, "txt2img", **ticked(curvature=0.8))
    finally:
        model.model_sampling.__class__ = kind
    assert np.array_equal(plain.images[0], made.images[0])
    assert "no formula for what this model" in made.parameters["AsynDM note"]


def test_a_host_without_the_hook_before_sampling(monkeypatch):
    """AUTOMATIC1111 before v1.10: a tick exchanges the sampler when the job begins."""
    made = StandIn(style="A1111")
    try:
        from modules import scripts

        named = make(made, "hires", sampler_name="AsynDM Euler", **ticked(curvature=0.8))
        hook = "process_before_every_sampling"
        monkeypatch.delattr(scripts.Script, hook)
        call = scripts.ScriptRunner.call
        monkeypatch.setattr(
            scripts.ScriptRunner, "call", lambda s, h, *a, **k: h == hook or call(s, h, *a, **k)
        )
        tick = make(made, "hires", sampler_name="Euler", **ticked(curvature=0.8))
        assert np.array_equal(named.images[0], tick.images[0])
        assert "AsynDM note" not in tick.parameters
    finally:
        made.close()
