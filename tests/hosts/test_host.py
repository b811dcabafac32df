"""The extension inside a WebUI: the same tests on every host, and on the stand-in."""

from __future__ import annotations

import inspect
import os

import numpy as np
import pytest
import torch
from jobs import (
    KINDS,
    TWINS,
    UNTICKED,
    apart,
    make,
    request,
    script_of,
    ticked,
)

import asyndm
from asyndm.hosts import faces


@pytest.fixture(scope="module")
def bare(host, tmp_path_factory):
    """Images of a host that has no AsynDM, from a process of its own."""
    from driver import bare_images

    asked = {name: request(kind, **more) for name, (kind, more) in UNTICKED.items()}
    return bare_images(host, {"sd1": asked}, tmp_path_factory.mktemp("bare") / "images.npz")


@pytest.mark.parametrize("name", UNTICKED)
def test_not_ticked_is_the_host_without_the_extension(host, bare, traces, name):
    kind, more = UNTICKED[name]
    made = make(host, kind, **more)
    assert np.array_equal(np.stack(made.images), bare[f"sd1: {name}"])
    assert not any(key.startswith("AsynDM") for key in made.parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("own", "twin"), TWINS)
def test_almost_no_curvature_is_the_built_in_twin(host, traces, own, twin, kind):
    plain = make(host, kind, sampler_name=twin)
    tick = make(host, kind, sampler_name=twin, **ticked(curvature=1e-9))
    named = make(host, kind, sampler_name=own, **ticked(curvature=1e-9))
    assert apart(plain.images[0], tick.images[0]) <= 1
    assert apart(plain.images[0], named.images[0]) <= 1
    assert tick.parameters["AsynDM"] == "curvature=1e-09; found=cat, dog"


@pytest.mark.parametrize("kind", KINDS)
def test_ticked_is_another_image_and_says_how(host, traces, kind):
    plain, made = make(host, kind), make(host, kind, **ticked(curvature=0.8))
    assert apart(plain.images[0], made.images[0]) > 8
    assert made.parameters["AsynDM"] == "curvature=0.8; found=cat, dog"
    assert made.parameters["AsynDM version"] == asyndm.__version__
    assert "AsynDM note" not in made.parameters
    again = make(host, kind, **ticked(curvature=0.8))
    assert np.array_equal(made.images[0], again.images[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("own", "twin"), TWINS)
def test_image_j_of_a_batch_is_the_image_alone(host, traces, own, twin, kind):
    if kind == "inpaint" and not host.inpaints_alone_as_in_a_batch:
        pytest.skip("this host's own inpainting noise is drawn for the whole batch")
    together = make(host, kind, sampler_name=own, batch_size=3, **ticked(curvature=0.9))
    together = together.images[-3:]  # behind the grid, if any
    for j in range(3):
        alone = make(host, kind, sampler_name=own, seed=1 + j, **ticked(curvature=0.9))
        assert apart(alone.images[0], together[j]) <= 2


def test_selecting_the_sampler_is_enough(host, traces):
    chosen = make(host, "txt2img", sampler_name="AsynDM")
    tick = make(host, "txt2img", **ticked())
    assert np.array_equal(chosen.images[0], tick.images[0])
    assert chosen.parameters["AsynDM"] == "found=cat, dog"
    assert chosen.info["sampler_name"] == "AsynDM"


def test_the_samplers_are_listed_once_even_after_a_reload(host):
    from asyndm.hosts import detect

    detect.find_host().samplers.register()
    names = [item["name"] for item in host.api.get_samplers()]
    assert [name for name in names if name.startswith("AsynDM")] == [own for own, _ in TWINS]
    from modules import sd_samplers

    for own, _ in TWINS:
        assert sd_samplers.all_samplers_map[own].name == own
        if hasattr(sd_samplers, "get_sampler_and_scheduler"):  # it could cut the name
            assert sd_samplers.get_sampler_and_scheduler(own, None)[0] == own


@pytest.mark.parametrize("scheduler", ["Karras", "KL Optimal", "Exponential", "Uniform", "DDIM"])
@pytest.mark.parametrize(("own", "twin"), TWINS)
def test_the_schedule_type_is_honoured(host, traces, own, twin, scheduler):
    plain = make(host, "txt2img", sampler_name=twin, scheduler=scheduler)
    made = make(host, "txt2img", sampler_name=own, scheduler=scheduler, **ticked(curvature=1e-9))
    assert apart(plain.images[0], made.images[0]) <= 1
    assert made.parameters["Schedule type"] == scheduler


def test_ddim_has_its_own_timesteps_and_old_images_theirs(host, traces):
    """Images made before DDIM had a form of its own say "AsynDM Euler", and get it."""
    made = make(host, "txt2img", sampler_name="DDIM", **ticked(curvature=0.6))
    assert made.info["sampler_name"] == "DDIM" and "AsynDM note" not in made.parameters
    old = make(host, "txt2img", sampler_name="AsynDM Euler", **ticked(curvature=0.6))
    euler = make(host, "txt2img", sampler_name="Euler", **ticked(curvature=0.6))
    assert np.array_equal(old.images[0], euler.images[0])
    assert old.info["sampler_name"] == "AsynDM Euler"
    assert apart(made.images[0], old.images[0]) > 1


def test_any_other_sampler_is_replaced_and_one_line_says_so(host, traces):
    """Whatever the host lists: it has a form, or a line that names it and says why not."""
    from modules import sd_samplers

    others = [s.name for s in sd_samplers.all_samplers if not faces.is_twin(s.name)]
    others = [name for name in others if not faces.is_own(name)]
    assert {"PLMS", "Restart"} <= {*others}
    twin = make(host, "txt2img", sampler_name="AsynDM", **ticked(curvature=0.6))
    for sampler in others:
        made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.6))
        assert np.array_equal(made.images[0], twin.images[0]), sampler
        line = f"sampler {sampler!r} has no asynchronous form ({faces.NO_FORM[sampler]}); "
        assert made.parameters["AsynDM note"] == f"{line}'AsynDM' is used instead."


def test_positional_arguments_of_the_page(host, traces):
    from asyndm.core.settings import Settings
    from asyndm.page.controls import POSITIONAL, values_of

    values = [*values_of(Settings(enabled=True, curvature=0.8), POSITIONAL), None]
    made = make(host, "txt2img", alwayson_scripts={"AsynDM": {"args": values}})
    assert np.array_equal(made.images[0], make(host, "txt2img", **ticked(curvature=0.8)).images[0])


def test_a_second_pass_that_stays_synchronous_has_the_sampler_the_user_chose(host, traces):
    from modules import sd_samplers

    made, seen, create = [], [], sd_samplers.create_sampler

    def watch(name, model):
        seen.append(name)
        return create(name, model)

    sd_samplers.create_sampler = watch
    try:
        for hires in (True, False):
            settings = ticked(curvature=0.6, hires=hires)
            made.append(make(host, "hires", sampler_name="PLMS", **settings))
    finally:
        sd_samplers.create_sampler = create
    assert seen == ["AsynDM", "AsynDM", "AsynDM", "PLMS"]


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_chips_are_wired_to_the_pages_prompt(host, tab):
    """The host keeps what ui() gave as ``script.controls``, then tells of what it draws itself."""
    import gradio as gr

    script = script_of(tab)
    before = dict(vars(script))
    try:
        with gr.Blocks() as page:
            prompt = gr.Textbox(elem_id=f"{tab}_prompt")
            script.after_component(prompt, elem_id=f"{tab}_prompt")
            script.controls = script.ui(tab == "img2img")
            gallery = gr.Gallery(elem_id=f"{tab}_gallery")
            script.after_component(gallery, elem_id=f"{tab}_gallery")
        (bar,) = (b for b in page.blocks.values() if b.elem_id == f"{tab}_asyndm_tokens")
        events = page.get_config_file()["dependencies"]
        assert [e for e in events if prompt._id in e["inputs"] and bar._id in e["outputs"]]
    finally:
        vars(script).clear()
        vars(script).update(before)


def test_a_sampler_with_noise_of_its_own_keeps_it(host, traces, monkeypatch):
    """As reForge's ER SDE, of ComfyUI: torch's own generator, one draw for the batch."""
    if os.environ.get("ASYNDM_WEBUI_DIR"):
        pytest.skip("the table of samplers has it")
    from asyndm.hosts.samplers import _host_functions

    names = inspect.unwrap(_host_functions().sample_euler_ancestral).__globals__
    made_of = {"default_noise_sampler": lambda x, seed=None: lambda *_: torch.randn(x.size())}
    monkeypatch.setitem(names, *made_of.popitem())
    pictures = []
    for more in ({}, ticked(curvature=1e-9), ticked(curvature=0.9)):
        torch.manual_seed(0)
        pictures.append(make(host, "txt2img", batch_size=2, **more).images[-2:])
    for plain, same, made in zip(*pictures):
        assert apart(plain, same) <= 1 and apart(plain, made) > 3
