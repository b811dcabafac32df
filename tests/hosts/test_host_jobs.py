"""Beside the host's own features: scripts with a loop of their own, plots, presets, ADetailer."""

from __future__ import annotations

import copy
import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from jobs import apart, make, note, painted, script_of, ticked

TABS = ("txt2img", "img2img")


@contextmanager
def before_process(change):
    """What another script does to a job before AsynDM sees it."""
    kind = type(script_of())
    before = kind.before_process

    def changed(self, p, *arguments):
        change(p)
        before(self, p, *arguments)

    kind.before_process = changed
    try:
        yield
    finally:
        kind.before_process = before


def grid_module():
    from modules import scripts

    return next(
        d.module for d in scripts.scripts_data if d.script_class.__module__.endswith("xyz_grid.py")
    )


def plot(host, label: str, values: str, chosen=(), **more):
    """A plot over one axis: (labels of the legend, the answer)."""
    grid = grid_module()
    options = [o for o in grid.axis_options if type(o) in (grid.AxisOption, grid.AxisOptionTxt2Img)]
    option = next(o for o in options if o.label == label)
    given = {
        **{"x_type": options.index(option), "x_values": values, "x_values_dropdown": list(chosen)},
        **{"y_type": 0, "y_values": "", "y_values_dropdown": []},
        **{"z_type": 0, "z_values": "", "z_values_dropdown": []},
        **{"include_lone_images": True, "margin_size": 0, "csv_mode": not chosen},
    }
    names = list(inspect.signature(grid.Script.run).parameters)[2:]
    arguments = [given.get(name, False) for name in names]
    labels, before = [], option.format_value

    def listen(p, axis, x):
        labels.append(before(p, axis, x))
        return labels[-1]

    option.format_value = listen
    try:
        made = make(host, "txt2img", script_name="x/y/z plot", script_args=arguments, **more)
    finally:
        option.format_value = before
    return labels, made


def test_a_script_with_a_sampling_function_of_its_own(host, traces):
    """As img2img alternative: it makes the sampler itself, past the hook before sampling."""
    from modules import sd_samplers

    def alternative(p):
        def sample(*given, **named):
            p.sampler = sd_samplers.create_sampler(p.sampler_name, p.sd_model)
            x = p.rng.next()
            image = x.new_zeros(len(x), 5, 1, 1)
            return p.sampler.sample(p, x, p.c, p.uc, image_conditioning=image)

        p.sample = sample

    with before_process(alternative):
        plain = make(host, "txt2img", sampler_name="Euler")
        made = make(host, "txt2img", sampler_name="Euler", **ticked(curvature=0.8))
        same = make(host, "txt2img", sampler_name="Euler", **ticked(curvature=1e-9))
    assert apart(plain.images[0], made.images[0]) > 3
    assert apart(plain.images[0], same.images[0]) <= 1


def test_send_to_another_tab_carries_every_setting(host):
    """A host copies the controls whose names are in ``paste_field_names``, one to one."""
    from asyndm.page.controls import WEBUI_FIELDS

    sent = {}
    for tab in TABS:
        script = script_of(tab)
        sent[tab] = [name for _, name in script.infotext_fields if name in script.paste_field_names]
    assert sent["txt2img"] == sent["img2img"] and len(sent["txt2img"]) == len(WEBUI_FIELDS)
    for field in script_of().infotext_fields:  # and pasting still goes by the parameters
        assert callable(field[1])


@pytest.fixture
def preset(host):
    from asyndm.core.presets import USER

    USER.save("mine", {"curvature": 0.9, "smoothing": 0.3})
    yield "mine"
    USER.remove("mine")


def test_a_preset_of_the_users_own_by_api(host, traces, preset):
    direct = make(host, "txt2img", **ticked(curvature=0.9, smoothing=0.3))
    named = make(host, "txt2img", **ticked(preset=preset))
    assert np.array_equal(direct.images[0], named.images[0])
    assert named.parameters["AsynDM"].startswith("curvature=0.9; smoothing=0.3; found=")
    over = make(host, "txt2img", **ticked(preset=preset, curvature=0.2))
    assert over.parameters["AsynDM"].startswith("curvature=0.2; smoothing=0.3; found=")
    built_in = make(host, "txt2img", **ticked(preset="gentle"))
    assert built_in.parameters["AsynDM"].startswith("curvature=0.25; found=")


@pytest.mark.parametrize("name", ["nobody's", "../mine", "/etc/passwd", 3, None])
def test_a_preset_that_is_not_there_is_one_line(host, traces, preset, name):
    made = make(host, "txt2img", **ticked(preset=name))
    assert np.array_equal(made.images[0], make(host, "txt2img").images[0])
    assert note(made).startswith("preset:") and "mine" in note(made)


def test_a_bad_file_of_a_preset_is_one_line(host, traces, preset):
    from asyndm.core.presets import USER

    (USER.folder / "mine.json").write_text("{")
    made = make(host, "txt2img", **ticked(preset=preset))
    assert np.array_equal(made.images[0], make(host, "txt2img").images[0])
    assert "the file of 'mine' cannot be used" in note(made)


def test_presets_are_an_axis(host, traces, preset):
    _, made = plot(host, "[AsynDM] Preset", "", ["mine", "gentle"])
    mine = make(host, "txt2img", **ticked(curvature=0.9, smoothing=0.3))
    gentle = make(host, "txt2img", **ticked(curvature=0.25))
    for cell, expected in zip(made.images[1:], (mine, gentle), strict=True):
        assert np.array_equal(cell, expected.images[0])


def test_frozen_settings_of_the_host(host, monkeypatch):
    from asyndm.core.presets import USER
    from asyndm.core.settings import SettingsError
    from asyndm.hosts import shims

    assert shims.presets_place() == (USER.folder, "")
    monkeypatch.setattr(host.shared.cmd_opts, "freeze_settings", True, raising=False)
    monkeypatch.setattr(USER, "frozen", shims.presets_place()[1])
    with pytest.raises(SettingsError, match="--freeze-settings"):
        USER.save("mine", {})


def test_the_legend_names_samplers_without_an_asynchronous_form(host, traces):
    axis = "Sampler"
    labels, _ = plot(host, axis, "Euler a, PLMS", ["Euler a", "PLMS"])
    assert labels == ["Euler a", "PLMS"]
    on = ticked(curvature=0.8)
    labels, made = plot(host, axis, "Euler a, PLMS", ["Euler a", "PLMS"], **on)
    assert labels == ["Euler a", "PLMS (no asynchronous form: AsynDM)"]
    # and each cell's own parameters say it, those of no other cell
    first, second = made.info["infotexts"][1:]
    assert "AsynDM note" not in first and "'PLMS' has no asynchronous form" in second


def test_the_mask_is_saved_as_a_plain_picture(host, traces):
    from modules import shared  # noqa: F401

    kept = []
    from modules import images

    before = images.save_image

    def save(image, *given, **named):
        kept.append((named.get("suffix", ""), image))
        return before(image, *given, **named)

    images.save_image = save
    try:
        make(host, "txt2img", **ticked(curvature=0.8, save_masks=True))
    finally:
        images.save_image = before
    masks = [image for suffix, image in kept if suffix == "-asyndm-mask"]
    assert len(masks) == 1
    mask = masks[0]
    values = set(np.unique(np.asarray(mask.convert("L"))))
    assert mask.size == (128, 128) and mask.mode in ("L", "1") and values == {0, 255}
    # sent back, it marks the same cells
    from driver import _encoded

    again = make(host, "txt2img", **ticked(curvature=0.8, mask=_encoded(mask), save_masks=True))
    assert not note(again)


@pytest.mark.parametrize(
    ("arguments", "works"),
    [
        ([True, False, {"ad_model": "x"}], True),
        ([{"ad_model": "x"}], True),
        ([False, False, {}], False),
        ([], False),
    ],
)
def test_whether_adetailer_is_at_work_in_a_job(host, arguments, works):
    from asyndm.hosts import shims

    other = SimpleNamespace(title=lambda: "Seed", args_from=0, args_to=1)
    end = 1 + len(arguments)
    script = SimpleNamespace(title=lambda: "ADetailer", args_from=1, args_to=end)
    job = SimpleNamespace(script_args=(True, *arguments))
    assert not shims.detailed(job)
    job.scripts = SimpleNamespace(alwayson_scripts=[other])
    assert not shims.detailed(job)
    job.scripts.alwayson_scripts.append(script)
    assert shims.detailed(job) == works


class Detailer:
    """What ADetailer does after each image: a job of its own that repaints a region, with a copy
    of the outer job's parameters, and the hooks once more on a copy of the outer job."""

    def __init__(self, with_asyndm: bool) -> None:
        self.with_asyndm, self.inner = with_asyndm, []

    def __call__(self, p, pp) -> None:
        from modules.processing import StableDiffusionProcessingImg2Img, process_images

        if getattr(p, "_ad_inner", False):
            return
        inner = StableDiffusionProcessingImg2Img(
            sd_model=p.sd_model,
            prompt=p.prompt,
            negative_prompt="",
            sampler_name=p.sampler_name,
            seed=5,
            steps=5,
            width=128,
            height=128,
            cfg_scale=4,
            denoising_strength=0.8,
            init_images=[pp.image],
            mask=painted(),
            mask_blur=4,
            inpainting_fill=1,
            do_not_save_samples=True,
            do_not_save_grid=True,
            # as its copy_extra_params does
            extra_generation_params={
                k: v for k, v in p.extra_generation_params.items() if not callable(v)
            },
        )
        inner.scripts, inner.script_args = self.scripts(p)
        inner._ad_inner = True
        pp.image = process_images(inner).images[0]
        self.inner.append(inner)
        outer = copy.copy(p)
        p.scripts.before_process(outer)
        p.scripts.process(outer)

    def scripts(self, p):
        runner = copy.copy(p.scripts)
        mine = [s for s in runner.alwayson_scripts if s.title() == "AsynDM"]
        runner.alwayson_scripts = mine if self.with_asyndm else []
        return runner, p.script_args


@pytest.fixture
def detailer(host, monkeypatch):
    """ADetailer's look-alike in the place of one of the host's steps."""
    if hasattr(host, "folder"):
        pytest.skip("the stand-in's hooks are exchanged; a real host lists its callbacks once")
    kind = type(script_of())
    monkeypatch.setattr("asyndm.hosts.shims.detailed", lambda p: True)

    def install(with_asyndm: bool) -> Detailer:
        made = Detailer(with_asyndm)
        kind.postprocess_image = lambda self, p, pp, *arguments: made(p, pp)
        return made

    yield install
    if "postprocess_image" in vars(kind):
        del kind.postprocess_image


def test_adetailers_passes_are_asynchronous_where_asked(host, traces, detailer):
    found = {}
    for with_asyndm in (False, True):
        detailer(with_asyndm)
        for wanted in (False, True):
            settings = ticked(curvature=0.8, adetailer=wanted)
            made = make(host, "txt2img", sampler_name="Euler a", **settings)
            found[with_asyndm, wanted] = made.images[0]
            inner = "adetailer=true; " if wanted else ""
            assert made.parameters["AsynDM"] == f"curvature=0.8; {inner}found=cat, dog"
    inside = found[False, False]
    assert np.array_equal(inside, found[True, False])  # opt-in
    assert apart(inside, found[True, True]) > 3


def test_adetailers_passes_keep_their_sampler_and_the_outer_note(host, traces, detailer):
    made = detailer(True)
    asked = ticked(curvature=0.8, objects="cat, unicorn")
    image = make(host, "txt2img", sampler_name="DPM++ 2M", **asked)
    assert [p.sampler_name for p in made.inner] == ["DPM++ 2M"]
    assert "AsynDM" not in made.inner[0].extra_generation_params
    assert "'unicorn' is not in the prompt" in note(image)
    assert image.parameters["AsynDM"] == "objects=cat, unicorn; curvature=0.8"


def test_what_an_inner_pass_says_joins_the_image(host, traces, detailer):
    detailer(True)
    asked = ticked(curvature=0.8, adetailer=True, objects="cat, unicorn")
    image = make(host, "txt2img", n_iter=2, **asked)
    texts = [text for text in image.info["infotexts"] if "AsynDM note" in text]
    assert len(texts) >= 2
    for text in texts:  # of every batch
        assert "ADetailer's pass: objects: 'unicorn' is not in the prompt" in text
    assert note(image).startswith("objects: 'unicorn'")
