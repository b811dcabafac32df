"""The extension inside a WebUI: the same tests on every host, and on the stand-in."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

PROMPT = "a cat beside a dog"
TWINS = [("AsynDM", "Euler a"), ("AsynDM Euler", "Euler"), ("AsynDM DPM++ 2M", "DPM++ 2M")]
KINDS = ("txt2img", "hires", "img2img", "inpaint")


def ticked(**settings) -> dict:
    """The API's way of ticking the box."""
    return {"alwayson_scripts": {"AsynDM": {"args": [settings]}}}


def scene() -> Image.Image:
    picture = Image.new("RGB", (128, 128), "#7090b0")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 80, 128, 128), fill="#506030")
    draw.ellipse((36, 40, 92, 96), fill="#c04030")
    return picture


def painted() -> Image.Image:
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((32, 32, 95, 95), fill=255)
    return mask


def request(kind: str, **more) -> tuple[str, dict]:
    """(the API's function, its request) of one kind of job."""
    more = {"prompt": PROMPT, "sampler_name": "Euler a", "steps": 5, **more}
    if kind == "txt2img":
        return "txt2img", more
    if kind == "hires":
        extra = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6}
        return "txt2img", {**more, **extra, "hr_upscaler": "Latent", "hr_second_pass_steps": 4}
    more = {"init_images": [scene()], "denoising_strength": 0.8, **more}
    if kind == "inpaint":
        whole = {"inpaint_full_res": False}
        more = {"mask": painted(), "mask_blur": 4, "inpainting_fill": 1, **whole, **more}
    return "img2img", more


def make(host, kind: str, **more):
    function, asked = request(kind, **more)
    return getattr(host, function)(**asked)


def apart(one: np.ndarray, two: np.ndarray) -> int:
    """The largest difference of two pictures, in 1/255."""
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two.astype(int)).max())


def own_functions(module) -> list[str]:
    """What is patched on the instance itself."""
    return sorted(name for name, value in vars(module).items() if inspect.isroutine(value))


class Traces:
    """What a run must leave as it found it."""

    def __init__(self, host) -> None:
        self.host = host
        self.before = self.now()

    def now(self) -> dict:
        from modules import script_callbacks

        model = self.host.root()
        hooks = {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), own_functions(m))
            for name, m in model.named_modules()
        }
        callbacks = {key: len(value) for key, value in script_callbacks.callback_map.items()}
        return {"hooks": hooks, "own": sorted(vars(model)), "callbacks": callbacks}

    def check(self) -> None:
        assert self.now() == self.before


@pytest.fixture(scope="module")
def bare(host, tmp_path_factory):
    """Images of a host that has no AsynDM, from a process of its own."""
    from driver import _encoded

    asked = {"checkpoint": "sd1"}
    for kind in KINDS:
        function, values = request(kind)
        asked[kind] = [function, {k: _encoded(v) for k, v in values.items()}]
    out = tmp_path_factory.mktemp("bare") / "images.npz"
    driver = Path(__file__).with_name("driver.py")
    subprocess.run(
        [sys.executable, str(driver)],
        input=json.dumps(asked).encode(),
        env={**os.environ, "OUT": str(out), "ASYNDM_STANDIN": host.name},
        check=True,
        capture_output=True,
    )
    return np.load(out)


@pytest.mark.parametrize("kind", KINDS)
def test_not_ticked_is_the_host_without_the_extension(host, bare, traces, kind):
    made = make(host, kind)
    assert np.array_equal(np.stack(made.images), bare[kind])
    assert not any(key.startswith("AsynDM") for key in made.parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("own", "twin"), TWINS)
def test_almost_no_curvature_is_the_built_in_twin(host, traces, own, twin, kind):
    plain = make(host, kind, sampler_name=twin)
    tick = make(host, kind, sampler_name=twin, **ticked(curvature=1e-9))
    named = make(host, kind, sampler_name=own, **ticked(curvature=1e-9))
    assert apart(plain.images[0], tick.images[0]) <= 1
    assert apart(plain.images[0], named.images[0]) <= 1
    assert tick.parameters["AsynDM"] == "curvature=1e-09"


@pytest.mark.parametrize("kind", KINDS)
def test_ticked_is_another_image_and_says_how(host, traces, kind):
    plain, made = make(host, kind), make(host, kind, **ticked(curvature=0.8))
    assert apart(plain.images[0], made.images[0]) > 8
    assert made.parameters["AsynDM"] == "curvature=0.8"
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
    assert chosen.parameters["AsynDM"] == "on"
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


def test_ddim_takes_the_euler_twin(host, traces):
    made = make(host, "txt2img", sampler_name="DDIM", **ticked(curvature=0.6))
    twin = make(host, "txt2img", sampler_name="AsynDM Euler", **ticked(curvature=0.6))
    assert np.array_equal(made.images[0], twin.images[0])
    assert "AsynDM note" not in made.parameters


@pytest.mark.parametrize("sampler", ["UniPC", "Heun", "DPM++ SDE", "LCM", "PLMS"])
def test_any_other_sampler_is_replaced_and_one_line_says_so(host, traces, sampler):
    made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.6))
    twin = make(host, "txt2img", sampler_name="AsynDM", **ticked(curvature=0.6))
    assert np.array_equal(made.images[0], twin.images[0])
    assert made.parameters["AsynDM note"].count("\n") == 0
    assert sampler in made.parameters["AsynDM note"]


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


@pytest.mark.parametrize("sampler", ["Euler a", "DDIM", "UniPC", "AsynDM"])
def test_a_compiled_network_is_one_line_and_a_synchronous_image(host, traces, sampler):
    """With the sampler the user chose: nothing takes its place if nothing can be gained."""
    part = host.network().out
    plain = make(host, "txt2img", sampler_name="Euler a" if sampler == "AsynDM" else sampler)
    part._compiled_call_impl = part._call_impl  # what torch.compile leaves on a module
    try:
        made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.8))
    finally:
        part._compiled_call_impl = None
    assert np.array_equal(plain.images[0], made.images[0])
    assert made.info["sampler_name"] == sampler
    note = made.parameters["AsynDM note"]
    assert "torch.compile" in note and "is used instead" not in note
    assert note.count("The image is synchronous.") == 1


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


def test_positional_arguments_of_the_page(host, traces):
    from asyndm.core.settings import Settings
    from asyndm.page.controls import WEBUI_FIELDS, values_of

    values = [*values_of(Settings(enabled=True, curvature=0.8), WEBUI_FIELDS), None]
    made = make(host, "txt2img", alwayson_scripts={"AsynDM": {"args": values}})
    assert np.array_equal(made.images[0], make(host, "txt2img", **ticked(curvature=0.8)).images[0])


def test_prompt_editing_keeps_its_time_under_a_sampler_of_two_calls_a_step(host, traces):
    """Heun calls the network twice a step and the host counts that into the schedule."""
    asked = {"prompt": "a [cat:dog:0.5]", **ticked(curvature=0.6)}
    made = make(host, "txt2img", sampler_name="Heun", **asked)
    twin = make(host, "txt2img", sampler_name="AsynDM", **asked)
    assert np.array_equal(made.images[0], twin.images[0])


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
            made.append(make(host, "hires", sampler_name="UniPC", **settings))
    finally:
        sd_samplers.create_sampler = create
    assert seen == ["AsynDM", "AsynDM", "AsynDM", "UniPC"]


PROMPTS = {
    "AND": "a cat on a sofa AND a (dog:1.3) in rain :0.8",
    "BREAK": "a (red:1.2) cat BREAK on a sofa",
    "long": "a cat, " + ", ".join(["very detailed fur and whiskers"] * 22) + ", a dog",
    "editing": "a [cat:dog:0.5] and a [bird|fish] on a table",
    "repeated": "a cat and a cat and another cat",
    "html": "<b>cat</b> & a <script>dog</script>",
}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_prompts_of_every_kind(host, traces, name, batch):
    asked = {"prompt": PROMPTS[name], "negative_prompt": "blurry", "batch_size": batch}
    plain = make(host, "txt2img", **asked)
    same = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    made = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    for one, two, three in zip(plain.images, same.images, made.images):
        assert apart(one, two) <= 1
        assert apart(one, three) > 3
    assert "AsynDM note" not in made.parameters


@pytest.mark.parametrize("separately", [True, False])
def test_cond_and_uncond_in_one_call_or_two(host, traces, separately):
    asked = {"batch_size": 2, "prompt": PROMPTS["AND"]}
    options = {"override_settings": {"batch_cond_uncond": not separately}}
    plain = make(host, "txt2img", **asked, **options)
    same = make(host, "txt2img", **asked, **options, **ticked(curvature=1e-9))
    made = make(host, "txt2img", **asked, **options, **ticked(curvature=0.9))
    other = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    for one, two, three, four in zip(plain.images, same.images, made.images, other.images):
        assert apart(one, two) <= 1 and apart(three, four) <= 2


@pytest.mark.parametrize("option", [{"s_min_uncond": 4.0}, {"skip_early_cond": 0.4}])
def test_steps_without_unconditional_rows(host, traces, option):
    plain = make(host, "txt2img", override_settings=option)
    same = make(host, "txt2img", override_settings=option, **ticked(curvature=1e-9))
    made = make(host, "txt2img", override_settings=option, **ticked(curvature=0.9))
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3


def test_where_words_lie_among_the_tokens(host):
    from asyndm.core.words import find_tokens
    from asyndm.hosts import detect

    tokenize = detect.find_host().samplers.run.tokenize

    def at(word, text):
        return find_tokens(word, tokenize(text)[0])

    assert at("cat", "a (red:1.2) cat BREAK on a sofa") == [[3]]
    assert at("sofa", "a (red:1.2) cat BREAK on a sofa") == [[80]]
    assert at("cats", "one ((cat)), two cats") == [[2], [5]]
    (several,) = at("chrysanthemumlike", "a chrysanthemumlike vase")
    assert several == list(range(2, 2 + len(several))) and len(several) > 1


@pytest.mark.parametrize("source", ["dynamic", "fixed", "given"])
def test_every_mask_source(host, traces, source):
    from driver import _encoded

    mask = {"mask": _encoded(painted())} if source == "given" else {}
    plain = make(host, "txt2img")
    same = make(host, "txt2img", **ticked(mask_source=source, curvature=1e-9, **mask))
    made = make(host, "txt2img", **ticked(mask_source=source, curvature=0.8, **mask))
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters


@pytest.mark.parametrize("lead", [0.5, 1.0])
def test_inpainting_keeps_what_it_must_while_its_context_leads(host, traces, lead):
    plain = make(host, "inpaint")
    made = make(host, "inpaint", **ticked(mask_source="given", curvature=0.6, lead=lead))
    inside = np.zeros((128, 128), bool)
    inside[22:106, 22:106] = True  # the painted square and the 10 pixels its blur reaches
    assert apart(plain.images[0][~inside], made.images[0][~inside]) <= 1
    assert apart(plain.images[0][inside], made.images[0][inside]) > 3


def test_a_line_about_one_batch_stays_with_it(host, traces):
    """The first batch's prompt has no object; the second's is none the worse for it."""
    asked = {"n_iter": 2, "prompt": "a cat", **ticked(objects="dog", curvature=0.8)}
    from modules import scripts

    script = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "AsynDM")
    before = type(script).before_process

    def change(self, p, *arguments):
        before(self, p, *arguments)
        p.prompt = ["a cat", "a dog"]

    type(script).before_process = change
    try:
        made = make(host, "txt2img", **asked)
    finally:
        type(script).before_process = before
    first, second = made.info["infotexts"][-2:]
    assert "no object word" in first and "no object word" not in second


def test_masks_join_the_gallery(host, traces):
    made = make(host, "txt2img", batch_size=2, **ticked(curvature=0.8, show_masks=True))
    plain = make(host, "txt2img", batch_size=2, **ticked(curvature=0.8))
    assert len(made.images) == len(plain.images) + 2 * 2
    for one, two in zip(plain.images, made.images):
        assert np.array_equal(one, two)
    assert len(made.info["infotexts"]) == len(made.images)


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


def test_pasting_restores_and_resets(host):
    from modules import scripts
    from modules.infotext_utils import parse_generation_parameters

    from asyndm.core.settings import Settings

    made = make(host, "txt2img", **ticked(curvature=0.7, objects="cat:0.9, dog", curve="linear"))
    script = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "AsynDM")

    def pasted(text):
        parameters = parse_generation_parameters(text)
        values = [field.function(parameters) for field in script.infotext_fields]
        from asyndm.page.controls import WEBUI_FIELDS, settings_of

        return settings_of(values, WEBUI_FIELDS)

    assert pasted(made.info["infotexts"][0]) == Settings(True, "cat:0.9, dog", "linear", 0.7)
    assert pasted(make(host, "txt2img").info["infotexts"][0]) == Settings()
    if host.name not in ("Forge", "Neo"):  # their own API fails on this ("parameterized generic")
        again = host.txt2img(infotext=made.info["infotexts"][0])
        assert np.array_equal(again.images[0], made.images[0])


def test_a_plot_over_curvature(host, traces):
    from modules import scripts

    grid = next(
        d.module for d in scripts.scripts_data if d.script_class.__module__.endswith("xyz_grid.py")
    )
    options = [o for o in grid.axis_options if type(o) in (grid.AxisOption, grid.AxisOptionTxt2Img)]
    labels = [option.label for option in options]
    ours = [label for label in labels if label.startswith("[AsynDM]")]
    assert len(set(ours)) == len(ours) > 10
    curvature = labels.index("[AsynDM] Curvature k")
    enable = labels.index("[AsynDM] Enable AsynDM")
    given = {
        **{"x_type": curvature, "x_values": "0, 0.9", "x_values_dropdown": []},
        **{"y_type": enable, "y_values": "", "y_values_dropdown": ["true", "false"]},
        **{"z_type": 0, "z_values": "", "z_values_dropdown": []},
        **{"include_lone_images": True, "margin_size": 0},
    }
    names = list(inspect.signature(grid.Script.run).parameters)[2:]  # hosts have more and more
    arguments = [given.get(name, False) for name in names]
    made = make(host, "txt2img", script_name="x/y/z plot", script_args=arguments)
    cells = made.images[1:]
    plain, on = make(host, "txt2img"), make(host, "txt2img", **ticked(curvature=0.9))
    expected = [plain, on, plain, plain]
    assert len(cells) == 4
    for cell, image in zip(cells, expected):
        assert np.array_equal(cell, image.images[0])
    assert "AsynDM" not in make(host, "txt2img").parameters
