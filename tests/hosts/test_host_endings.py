"""Inside a WebUI: what cannot be used, what fails, what is interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import (
    TWINS,
    make,
    ticked,
)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"curvature": 7}, "curvature"),
        ({"colour": "red"}, "colour"),
        ({"mask_source": "given"}, "mask"),
        ({"mask_source": "given", "mask": "no picture"}, "mask"),
        ({"objects": "unicorn"}, "unicorn"),
        ({"objects": "cat:2"}, "cat"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_a_synchronous_image(host, traces, settings, named):
    plain, made = make(host, "txt2img"), make(host, "txt2img", **ticked(**settings))
    assert np.array_equal(plain.images[0], made.images[0])
    note = made.parameters["AsynDM note"]
    assert named in note and "\n" not in note and note.endswith("The image is synchronous.")
    assert note in made.info["infotexts"][0]


@pytest.fixture
def unseen(host, request):
    """A network that hooks cannot see into: a part compiled for real, or one of nunchaku's name."""
    network = host.network()
    if request.param == "torch.compile":
        network.out.compile(backend="eager")
    elif request.param == "torch.compile's mark":  # what that leaves on a module, in less time
        network.out._compiled_call_impl = network.out._call_impl
    else:
        own = {"__module__": "nunchaku.models.linear"}
        network.part = type("SVDQW4A4Linear", (torch.nn.Identity,), own)()
    yield request.param
    network.out._compiled_call_impl = None
    vars(network)["_modules"].pop("part", None)


UNSEEN = [("torch.compile", "Euler a"), ("nunchaku", "AsynDM")]
UNSEEN += [("torch.compile's mark", name) for name in ("DDIM", "UniPC", "AsynDM")]


@pytest.mark.parametrize(("unseen", "sampler"), UNSEEN, indirect=["unseen"])
def test_a_network_nobody_sees_into_is_one_line_and_a_synchronous_image(
    host, unseen, traces, sampler
):
    """With the sampler the user chose: nothing takes its place if nothing can be gained."""
    plain = make(host, "txt2img", sampler_name="Euler a" if sampler == "AsynDM" else sampler)
    made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.8))
    assert np.array_equal(plain.images[0], made.images[0])
    assert made.info["sampler_name"] == sampler
    note = made.parameters["AsynDM note"]
    assert unseen.split("'")[0] in note and "is used instead" not in note and "\n" not in note
    assert note.count("The image is synchronous.") == 1


@pytest.mark.parametrize(
    ("module", "name", "sampler", "error"),
    [
        ("infotext", "to_text", "Euler a", KeyError()),  # the plan is made
        ("samplers", "attach", "Euler a", IndexError("list index\nout of range")),  # a job begins
        ("faces", "face_for", "PLMS", KeyError("PLMS")),  # a sampler is chosen in its place
        ("samplers.HostSamplers", "_function", "UniPC", TypeError()),  # its function is exchanged
        ("hosted", "attach", "UniPC", IndexError("list index out of range")),  # sampling begins
    ],
)
def test_whatever_fails_before_the_first_call_is_one_line_and_the_image(
    host, traces, monkeypatch, caplog, module, name, sampler, error
):
    from modules import sd_samplers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")

    def fail(*given, **named):
        raise error

    plain = make(host, "txt2img", sampler_name=sampler)
    monkeypatch.setattr(f"asyndm.hosts.{module}.{name}", fail)
    made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.8))
    assert np.array_equal(plain.images[0], made.images[0])
    assert made.info["sampler_name"] == sampler
    said = made.parameters["AsynDM note"]
    assert type(error).__name__ in said and "(see the log)" in said and "\n" not in said
    assert said.count("The image is synchronous.") == 1
    assert [r for r in caplog.records if r.name == "asyndm" and r.exc_info]  # and there it is


def test_a_failure_in_the_hosts_callback_is_not_swallowed(host, traces):
    """The host logs what a callback raises and goes on: half a run would be a broken image."""
    from asyndm.hosts.hosted import HostRun
    from asyndm.network import RowsMismatch

    before = HostRun.before_network

    def fail(self, params):
        before(self, params)
        if self.denoiser.step == 2:
            raise RowsMismatch("injected")

    HostRun.before_network = fail
    try:
        with pytest.raises(RowsMismatch, match="injected"):
            make(host, "txt2img", **ticked(curvature=0.8))
    finally:
        HostRun.before_network = before


@pytest.mark.parametrize("own", [own for own, _ in TWINS])
@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("way", ["interrupt", "error"])
def test_an_interrupt_or_an_error_leaves_nothing_behind(host, traces, own, step, way):
    from modules import script_callbacks
    from modules.shared import state

    def stop(params):
        if params.denoiser.step == step:
            if way == "error":
                raise RuntimeError("injected")
            state.interrupted = True

    # The host reports errors of callbacks and goes on, so the error comes from inside the network.
    def fail(module, args):
        if denoiser_step[0] == step:
            raise RuntimeError("injected")

    denoiser_step = [-1]

    def watch(params):
        denoiser_step[0] = params.denoiser.step
        if way == "interrupt":
            stop(params)

    script_callbacks.on_cfg_denoiser(watch)
    unet = host.network()
    handle = unet.register_forward_pre_hook(fail) if way == "error" else None
    try:
        if way == "error":
            with pytest.raises(RuntimeError, match="injected"):
                make(host, "txt2img", sampler_name=own, **ticked(curvature=0.8))
        else:
            made = make(host, "txt2img", sampler_name=own, **ticked(curvature=0.8))
            assert made.images[0].std() > 0
    finally:
        script_callbacks.remove_callbacks_for_function(watch)
        if handle is not None:
            handle.remove()
    traces.check()
    make(
        host, "txt2img", sampler_name=own, **ticked(curvature=0.8)
    )  # the next job is none the worse
