"""Step caches and compiled networks: steps whose network call nobody sees.

By look-alikes, written anew: one in the wrapper slot of Forge's backends (as Spectrum), one in the
place of the network's ``forward`` (as TeaCache).
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import apart, make, painted, ticked

STEPS = 6


class LeavesOut:
    """Every second step from the third on is answered from what was kept; ``steps``: these."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps or (3, 5)
        self.time, self.step, self.kept = None, 0, {}

    def __call__(self, time, shape, run):
        time = float(time.flatten()[0])
        if self.time is None or time > self.time:  # another pass
            self.step, self.kept = 0, {}
        self.step += time != self.time
        self.time = time
        if self.step in self.steps and (self.step == 1 or shape in self.kept):
            return self.kept.get(shape)
        self.kept[shape] = made = run()
        return made


def in_the_slot(monkeypatch, name: str, *steps: int) -> None:
    """As an extension that clones the U-Net before every sampling call."""
    from modules.scripts import ScriptRunner

    def put(p) -> None:
        left_out = LeavesOut(*steps)

        def wrapper(function, call):
            x, time, given = call["input"], call["timestep"], call["c"]
            key = (tuple(x.shape), tuple(call["cond_or_uncond"]))
            made = left_out(time, key, lambda: function(x, time, **given))
            return x * 0 if made is None else made

        wrapper.__qualname__ = name
        unet = p.sd_model.forge_objects.unet.clone()
        unet.set_model_unet_function_wrapper(wrapper)
        p.sd_model.forge_objects.unet = unet

    hook = "process_before_every_sampling"
    if hasattr(ScriptRunner, "call"):  # the stand-in's
        own = ScriptRunner.call

        def call(self, which, p, *given, **named):
            own(self, which, p, *given, **named)
            if which == hook:
                put(p)

        monkeypatch.setattr(ScriptRunner, "call", call)
    else:
        before = getattr(ScriptRunner, hook)

        def then(self, p, *given, **named):
            before(self, p, *given, **named)
            put(p)

        monkeypatch.setattr(ScriptRunner, hook, then)


@pytest.fixture
def forward(host):
    """Puts a cache in the place of the network's ``forward``."""
    network = host.network()

    def put(name: str, *steps: int) -> None:
        own, left_out = type(network).forward, LeavesOut(*steps)

        def cached(x, timesteps=None, *given, **named):
            kinds = named.get("transformer_options", {}).get("cond_or_uncond", ())
            made = left_out(
                -1 * -timesteps,
                (tuple(x.shape), tuple(kinds)),
                lambda: own(network, x, timesteps, *given, **named),
            )
            return x[:, :4] * 0 if made is None else made

        cached.__qualname__ = name
        network.forward = cached

    yield put
    vars(network).pop("forward", None)


def of_forge(host) -> None:
    if host.backend == "A1111":
        pytest.skip("this host has no such slot")


def test_in_mid_run_the_last_mask_is_kept_and_said(host, traces, monkeypatch):
    of_forge(host)
    in_the_slot(monkeypatch, "unknown.<locals>.wrapper")
    plain = make(host, "txt2img", steps=STEPS)
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8))
    note = made.parameters["AsynDM note"]
    assert "no attention was seen in 2 of 6 steps" in note and "step cache" in note
    assert "the last mask was kept" in note and "\n" not in note
    assert "synchronous" not in note
    assert apart(plain.images[0], made.images[0]) > 3


@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.5}, {"soft": True}])
def test_a_cache_inside_the_network(host, forward, settings):
    forward("Unknown.forward")
    plain = make(host, "txt2img", steps=STEPS)
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8, **settings))
    assert "no attention was seen in 2 of 6 steps" in made.parameters["AsynDM note"]
    assert apart(plain.images[0], made.images[0]) > 3


def test_before_a_mask_was_read_nothing_is_steered(host, forward):
    forward("Unknown.forward", 1)
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8))
    assert "no attention was seen in 1 of 6 steps" in made.parameters["AsynDM note"]
    assert made.images[0].std() > 0


def test_a_mask_that_needs_no_attention(host, forward):
    data = io.BytesIO()
    painted().save(data, "PNG")
    mask = base64.b64encode(data.getvalue()).decode()
    forward("Unknown.forward")
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8, mask=mask))
    note = made.parameters["AsynDM note"]
    assert "the network was left out in 2 of 6 steps" in note and "\n" not in note


@pytest.mark.parametrize(
    "name", ["SpectrumNode.patch.<locals>.spectrum_unet_wrapper", "teacache_forward"]
)
def test_a_cache_that_is_known_leaves_the_image_synchronous(host, traces, monkeypatch, name):
    of_forge(host)
    in_the_slot(monkeypatch, name)
    plain = make(host, "txt2img", steps=STEPS)
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8))
    note = made.parameters["AsynDM note"]
    assert np.array_equal(plain.images[0], made.images[0])
    assert "step cache" in note and note.endswith("The image is synchronous.") and "\n" not in note


def test_a_known_one_inside_the_network(host, forward):
    forward("TeaCache.forward")
    plain = make(host, "txt2img", steps=STEPS)
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8))
    assert np.array_equal(plain.images[0], made.images[0])
    assert "step cache (teacache)" in made.parameters["AsynDM note"]


@pytest.mark.parametrize("sampler", ["Euler a", "UniPC", "AsynDM"])
def test_a_network_that_is_compiled_for_the_length_of_a_call(host, traces, sampler):
    """Forge Neo's way: the plain module tells nothing, the model around it does."""
    of_forge(host)
    if own_script():
        pytest.skip("the host's own script takes off what it did not put on: see the next test")
    model = host.root()
    plain = make(host, "txt2img", sampler_name="Euler a" if sampler == "AsynDM" else sampler)
    own = model.apply_model
    model._torch_compile_config, model._orig_apply_model = ("dynamic",), own
    model.apply_model = lambda *given, **named: model._orig_apply_model(*given, **named)
    try:
        made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.8))
    finally:
        for name in ("apply_model", "_torch_compile_config", "_orig_apply_model"):
            vars(model).pop(name)
    assert np.array_equal(plain.images[0], made.images[0])
    assert made.info["sampler_name"] == sampler
    note = made.parameters["AsynDM note"]
    assert "torch.compile" in note and note.count("The image is synchronous.") == 1


def own_script() -> list:
    """Neo's script of torch.compile, if the host has it."""
    from modules import scripts

    runner = scripts.scripts_txt2img
    return [s for s in runner.alwayson_scripts if Path(s.filename).stem == "compile"]


def test_the_hosts_own_torch_compile(host, monkeypatch):
    """Neo's script of it as it stands, but for the compiler: it wraps where AsynDM looks."""
    found = own_script()
    if not found:
        pytest.skip("this host has none, or no Triton")
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)

    def made(preset: str):
        own = {found[0].title(): {"args": [preset]}}
        steered = ticked(curvature=0.8)["alwayson_scripts"]
        return make(host, "txt2img", alwayson_scripts={**own, **steered})

    plain = make(host, "txt2img")
    try:
        compiled = [made("dynamic"), make(host, "txt2img", **ticked(curvature=0.8))]  # it stays
        free = made("Disable")
    finally:
        vars(host.root()).pop("apply_model", None)  # Neo leaves the plain one on the object
    for each in compiled:
        assert np.array_equal(plain.images[0], each.images[0])
        assert "torch.compile" in each.parameters["AsynDM note"]
    assert "AsynDM note" not in free.parameters
    assert apart(plain.images[0], free.images[0]) > 3
