"""What all WebUIs share: script arguments, twins of samplers, masks, X/Y/Z axes."""

from __future__ import annotations

import ast
import base64
import copy
import dataclasses
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")

import gradio as gr  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import settings as effort  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from asyndm.core.given import mask_cells  # noqa: E402
from asyndm.core.presets import KEPT  # noqa: E402
from asyndm.core.settings import (  # noqa: E402
    CHOICES,
    CURVES,
    LEARNED,
    PRESETS,
    Settings,
    SettingsError,
)
from asyndm.hosts import faces, webui, xyz  # noqa: E402
from asyndm.hosts.schema import schema
from asyndm.page import controls as ui  # noqa: E402
from asyndm.page import plot  # noqa: E402

# Names, labels and aliases of the host's schedules: a sampler's name must not end in one.
SCHEDULES = """Automatic Uniform Karras Exponential Polyexponential Optimal Steps Simple Normal
DDIM Beta Turbo""".split()


def base64_of(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_no_samplers_name_is_cut_by_the_host():
    for face in faces.SAMPLERS:
        assert not any(face.name.endswith(f" {word}") for word in SCHEDULES)


@pytest.mark.parametrize(
    ("selected", "rule", "equal"),
    [
        ("AsynDM", "ddpm", True),
        ("Euler a", "ddpm", True),
        ("Euler", "euler", True),
        ("DDIM", "ddim", True),
        ("DPM++ 2M", "dpmpp_2m", True),
        ("AsynDM DPM++ 2M", "dpmpp_2m", True),
        ("DPM++ 2M SDE Heun", "dpmpp_2m_sde", True),
        ("Heun", "heun", True),
        ("Restart", "ddpm", False),
        ("UniPC", "unipc", True),
        ("LCM", "lcm", True),
        ("Res Multistep", "res_multistep", True),
        ("RES Multistep", "res_multistep", True),
        ("ER SDE", "er_sde", True),
        ("IPNDM", "ipndm", True),
        ("DDPM", "ddpm_vp", True),
        ("Euler A Comfy", "ddpm", True),
        ("SEEDS 3 DP", "seeds_3", True),
        ("DDIM CFG++", "ddpm", False),
    ],
)
def test_the_twin_of_what_the_user_selected(selected, rule, equal):
    face, same = faces.face_for(selected)
    assert (face.rule, same) == (rule, equal)


def test_where_no_function_can_be_exchanged():
    assert faces.face_for("DDIM", exchanges=False) == (faces.SAMPLERS[1], True)
    assert faces.face_for("Euler", exchanges=False) == (faces.SAMPLERS[1], True)
    for sampler in ("Heun", "UniPC", "LCM", "Restart"):
        assert faces.face_for(sampler, exchanges=False) == (faces.SAMPLERS[0], False)


def test_positions_and_dictionary_say_the_same():
    chosen = Settings(True, "cat:0.3, dog", "exponential", 0.7)
    first, later = (ui.values_of(chosen, names) for names in (ui.POSITIONAL, ui.LATER))
    positional, _ = webui.read_arguments([*first, None, *later])
    by_name, _ = webui.read_arguments(
        [{"objects": "cat:0.3, dog", "curve": "exponential", "curvature": 0.7}]
    )
    assert positional == by_name == chosen
    assert webui.read_arguments([])[0] == Settings()
    assert webui.read_arguments([True])[0] == Settings(enabled=True)
    assert not webui.read_arguments([{"enabled": False}])[0].enabled


NAMES = json.loads((Path(__file__).parent / "data" / "names-0.1.0.json").read_text("utf-8"))


def test_names_and_places_of_the_first_version_stay_for_ever():
    """API clients, images, plots and users' style sheets hold on to them."""
    assert list(ui.POSITIONAL) == NAMES["positional"]
    assert [face.name for face in faces.SAMPLERS][: len(NAMES["samplers"])] == NAMES["samplers"]
    grid = SimpleNamespace(axis_options=[], AxisOption=AxisOption)
    xyz.add_axes(grid)
    assert {*NAMES["axes"]} <= {option.label for option in grid.axis_options}
    for prefix, ids in NAMES["element_ids"].items():
        with gr.Blocks() as page:
            ui.build_controls(fields=ui.WEBUI_FIELDS, prefix=f"{prefix}_asyndm")
        built = {getattr(block, "elem_id", None) for block in page.blocks.values()}
        ends = ("asyndm", "checkbox", "_mask", "_painting")  # made by the script and its host
        assert {name for name in ids if not name.endswith(ends)} <= built


@pytest.mark.parametrize("parts", [1, 2])
def test_settings_that_came_later_stand_behind_the_mask(monkeypatch, parts):
    """As if the last two settings were younger than the rest: the mask keeps its place."""
    monkeypatch.setattr(webui, "POSITIONAL", ui.POSITIONAL[:-2])
    monkeypatch.setattr(webui, "LATER", ui.POSITIONAL[-2:])
    chosen = Settings(True, "cat", mask_source="given", show_masks=True)
    values = ui.values_of(chosen, ui.POSITIONAL)
    mask = [Image.new("L", (8, 8), 255), None][:parts]
    given, painted = webui.read_arguments([*values[:-2], *mask, *values[-2:]], parts)
    assert given == chosen and painted[0].mask.all()
    given, painted = webui.read_arguments([*values[:-2], *mask], parts)  # an older client
    assert given == dataclasses.replace(chosen, show_masks=False) and painted[0].mask.all()


def test_selecting_a_sampler_of_ours_means_on():
    off = ui.values_of(Settings(), ui.POSITIONAL)
    assert not webui.make_plan(off, "Euler a").on
    assert webui.make_plan(off, "AsynDM Euler").on
    assert not webui.make_plan(off, "AsynDM", {"enabled": False}).on  # an axis over enabling


@pytest.mark.parametrize(
    "arguments",
    [
        [{"curvature": 7}],
        [{"colour": "red"}],
        [{"mask": "no picture", "mask_source": "given"}],
        [{"enabled": "yes"}],
        [True, 7, "quadratic"],
    ],
)
def test_a_wrong_value_is_one_line_and_nothing_else(arguments):
    plan = webui.make_plan(arguments, "Euler a")
    assert plan.settings is None and not plan.on
    (line,) = plan.notes
    assert line.startswith("AsynDM: ") and line.endswith("The image is synchronous.")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"mask_source": "fixed", "smoothing": 0.5}, "smoothing"),
        ({"mask_source": "fixed", "first_step": "background"}, "first_step"),
        ({"start": 0.5, "first_step": "background"}, "first_step"),
        ({"threshold": 0}, "threshold"),
        ({"curve": "linear"}, "curve"),
        ({"only_hires": True, "hires": False}, "only_hires"),
        ({"mask_invert": True, "mask_feather": 3}, "mask_invert, mask_feather"),
        ({"mask": np.ones((8, 8)).tolist(), "threshold": 2, "objects": "cat"}, "objects"),
    ],
)
def test_settings_that_change_nothing_are_said(asked, line):
    plan = webui.make_plan([asked], "Euler a")
    assert plan.on and any(said.startswith(f"AsynDM: {line}") for said in plan.notes)


def test_settings_that_do_something_are_not():
    for asked in ({}, {"smoothing": 0.5, "soft": True}, {"mask_source": "fixed", "threshold": 1.2}):
        assert not webui.make_plan([asked], "Euler a").notes


def test_the_settings_of_a_line_are_those_that_are_accepted():
    (line,) = webui.make_plan([{"glow": 1}], "Euler a").notes
    named = re.search(r"the settings are (.*)\. The image", line).group(1).split(", ")
    assert set(named) == set(schema()["properties"]) and "eta" not in named


def test_whatever_is_sent_ends_in_one_line(monkeypatch):
    (line,) = webui.make_plan([{"curvature": 10**400}], "Euler a").notes
    assert line.startswith("AsynDM: curvature") and len(line) < 200
    monkeypatch.setattr(webui, "read_arguments", lambda *_: 1 / 0)
    (line,) = webui.make_plan([{}], "Euler a").notes
    assert "ZeroDivisionError" in line and line.endswith("The image is synchronous.")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
names = st.sampled_from([*ui.WEBUI_FIELDS, "mask", "masks", "x"])


@effort(max_examples=1400)
@given(
    st.lists(json_values, max_size=20)
    | st.dictionaries(names, json_values, max_size=6).map(lambda values: [values])
)
def test_no_payload_crashes(arguments):
    plan = webui.make_plan(arguments, "AsynDM")
    assert plan.on or plan.notes or plan.settings == Settings(enabled=False)


def test_the_schema_is_what_is_read_and_what_the_readme_says():
    made = schema()
    assert set(made["properties"]) == {*ui.WEBUI_FIELDS, "preset", "mask", "masks"}
    for name, described in made["properties"].items():
        if name in ("mask", "masks", "mask_source", "start", "end", "lead", "origin", "preset"):
            continue
        accepted = described.get("enum") or [described["default"]]
        refused = ["?"] if "enum" in described else []
        if described.get("type") == "number":
            accepted = [described["minimum"], described["maximum"]]
            refused = [described["minimum"] - 0.1, described["maximum"] + 0.1, "much"]
        elif described.get("type") == "boolean":
            accepted, refused = [True, False], ["?"]
        for value in accepted:
            assert getattr(webui.read_arguments([{name: value}])[0], name) == value
        for value in refused:
            with pytest.raises(SettingsError, match=f"^{name}"):
                webui.read_arguments([{name: value}])
    with pytest.raises(SettingsError, match="^eta"):
        webui.read_arguments([{"eta": 1}])
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    block = re.search(r"```json schema\n(.*?)```", readme, re.DOTALL).group(1)
    assert json.loads(block) == made


@pytest.mark.parametrize("language", ["zh_CN", "ja_JP"])
def test_everything_a_user_reads_is_translated(language):
    path = Path(__file__).parents[1] / "localizations" / f"{language}.json"
    words = json.loads(path.read_text("utf-8"))
    shown = {"More", "Preset", *PRESETS}
    for name in ui.WEBUI_FIELDS:
        face = ui.FACES[name]
        shown |= {face.label, face.info, face.placeholder, *(face.choices or {}).values()}
    script = (Path(__file__).parents[1] / "scripts" / "asyndm_script.py").read_text()
    shown |= {"Mask for 'painted'", "Paint over the last image"}
    assert all(text in script for text in ("Mask for 'painted'", "Paint over the last image"))
    shown |= {
        *CHOICES["curve"],
        *re.findall(r"<text[^>]*>([^<]+)</text>", plot.curve_svg("linear", 0)),
    }
    painting = ast.parse(script)
    shown |= {
        node.value.value
        for node in painting.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "PAINTING"
    }
    assert shown - {None, "0"} <= set(words)
    assert all(words.values())


def test_masks_from_a_client():
    picture = Image.new("L", (20, 10))
    picture.paste(255, (0, 0, 10, 10))
    for value in (base64_of(picture), "data:image/png;base64," + base64_of(picture), picture):
        mask = webui.decode_mask(value)
        assert mask.shape == (10, 20) and mask[:, :10].all() and not mask[:, 10:].any()
    assert webui.decode_mask(None) is None and webui.decode_mask(" ") is None
    with pytest.raises(SettingsError, match="empty"):
        webui.decode_mask(Image.new("L", (8, 8)))
    for value in ("&&&", base64.b64encode(b"text").decode(), np.zeros((2, 2, 2)), 3):
        with pytest.raises(SettingsError, match="^mask"):
            webui.decode_mask(value)


def test_masks_from_a_canvas():
    photo = Image.new("RGB", (20, 10), "red")
    sketch = Image.new("RGB", (20, 10))  # Gradio 3: white strokes on black
    sketch.paste((255, 255, 255), (0, 0, 10, 10))
    strokes = Image.new("RGBA", (20, 10))  # Forge: strokes are what is opaque
    strokes.paste((10, 20, 30, 200), (0, 0, 10, 10))
    nothing = Image.new("RGBA", (20, 10))
    drawn = Image.new("L", (20, 10))
    drawn.paste(255, (0, 0, 10, 10))
    left = np.arange(20) < 10
    for values in (
        [{"image": photo, "mask": sketch}],
        [{"image": drawn, "mask": Image.new("RGB", (20, 10))}],
        [photo, strokes],
        [None, strokes],
        [drawn, nothing],
        [drawn, None],
        [base64_of(drawn)],
    ):
        assert np.array_equal(webui.painted_mask(values) > 0.5, np.tile(left, (10, 1)))
    for values in ([], [None], [None, None], [None, nothing], [{"image": None, "mask": None}]):
        assert webui.painted_mask(values) is None
    for values in ([{"image": photo, "mask": Image.new("RGB", (20, 10))}], [photo, nothing]):
        with pytest.raises(SettingsError, match="nothing is painted"):
            webui.painted_mask(values)


def test_mask_cells_cover_half_or_the_most_covered():
    painted = np.zeros((64, 96))
    painted[:32, :48] = 1
    cells = mask_cells(painted, (8, 12))
    assert cells[:4, :6].all() and cells.sum() == 24
    stroke = np.zeros((64, 64))
    stroke[3, 3] = 1
    assert mask_cells(stroke, (8, 8)).sum() == 1


class AxisOption(SimpleNamespace):
    """The host's, as far as an axis of ours uses it."""

    def __init__(self, label, type, apply, format_value=None, confirm=None, choices=None):
        super().__init__(**{k: v for k, v in locals().items() if k not in ("self", "__class__")})


def test_an_axis_for_every_setting_once():
    grid = SimpleNamespace(AxisOption=AxisOption, axis_options=[])
    xyz.add_axes(grid)
    xyz.add_axes(grid)
    assert len(grid.axis_options) == len(ui.WEBUI_FIELDS) + 2  # and for presets and methods
    assert len({option.label for option in grid.axis_options}) == len(grid.axis_options)


def test_an_axis_changes_its_own_cell_alone():
    grid = SimpleNamespace(AxisOption=AxisOption, axis_options=[])
    xyz.add_axes(grid)
    options = dict(zip(ui.WEBUI_FIELDS, grid.axis_options))
    job = SimpleNamespace(prompt="x")
    first, second = copy.copy(job), copy.copy(job)
    options["curvature"].apply(first, 0.9, [0.9])
    options["soft"].apply(first, "true", ["true"])
    options["curvature"].apply(second, 0.1, [0.1])
    off = ui.values_of(Settings(), ui.POSITIONAL)
    plan = webui.make_plan(off, "AsynDM", getattr(first, xyz.ATTRIBUTE))
    assert plan.settings == Settings(enabled=True, curvature=0.9, soft=True)
    assert getattr(second, xyz.ATTRIBUTE) == {"curvature": 0.1}
    assert not hasattr(job, xyz.ATTRIBUTE)
    ticked = webui.make_plan(off, "Euler a", {"curvature": 0.9})
    assert ticked.on and ticked.settings.curvature == 0.9  # an axis means on
    assert not webui.make_plan(off, "Euler a", {"enabled": False, "curvature": 0.9}).on
    with pytest.raises(RuntimeError, match="curvature"):
        options["curvature"].confirm(job, [0.2, 3.0])
    assert options["curve"].choices() == [*CURVES, LEARNED]


def test_the_axis_of_methods_sets_clock_and_guidance():
    grid = SimpleNamespace(AxisOption=AxisOption, axis_options=[])
    xyz.add_axes(grid)
    (axis,) = [option for option in grid.axis_options if option.label == "[AsynDM] Method"]
    off = ui.values_of(Settings(), ui.POSITIONAL)
    for name in axis.choices():
        job = SimpleNamespace()
        axis.apply(job, name, [name])
        plan = webui.make_plan(off, "Euler a", getattr(job, xyz.ATTRIBUTE))
        assert plan.on and not plan.notes
        assert webui.is_plain(plan.settings) == (name == "CFG")
        assert (plan.settings.clock == "asynchronous") == name.startswith("AsynDM")
        # what only other cells of the plot take is not said to be idle in this one
        others = [{"curvature": 0.9, "perturbed_scale": 5.0, "cfgpp_lambda": 0.4}]
        assert not webui.make_plan(others, "Euler a", getattr(job, xyz.ATTRIBUTE)).notes
    axis.confirm(job, ["seg", "AsynDM + Z-Sampling"])
    with pytest.raises(RuntimeError, match="method: 'SAG' is unknown; choose one of CFG"):
        axis.confirm(job, ["SAG"])


def test_one_clock_for_all_says_what_it_leaves_idle():
    lines = webui.idle_settings(Settings(enabled=True, clock="concave", threshold=2.0, soft=True))
    assert lines == ["clock: it is concave; threshold, soft: nothing is changed."]
    lines = webui.idle_settings(Settings(enabled=True, clock="synchronous", curvature=0.9))
    assert lines == ["clock: it is synchronous; curvature: nothing is changed."]


def test_methods_that_exclude_each_other_are_refused_where_the_box_is_ticked_alone():
    chosen = {"guidance": "cfg++", "zigzag": 0.5}
    (note,) = webui.make_plan([chosen], "Euler a").notes
    assert note.startswith("AsynDM: zigzag: cfg++ cannot zigzag")
    assert not webui.make_plan([{**chosen, "enabled": False}], "Euler a").notes


def test_the_preset_of_the_present_values_is_shown():
    fields = [name for name in ui.WEBUI_FIELDS if name not in KEPT]
    for name in PRESETS:
        assert ui.preset_of(ui.preset_values(name, fields), fields) == name
    other = ui.values_of(Settings(curvature=0.33), fields)
    assert ui.preset_of(other, fields) is None
    with gr.Blocks() as page:
        ui.build_controls(fields=ui.WEBUI_FIELDS, prefix="x")
    (radio,) = [b for b in page.blocks.values() if getattr(b, "elem_id", "") == "x_preset"]
    assert radio.value == "default"
