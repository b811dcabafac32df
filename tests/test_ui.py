"""The accordion: one control a setting, on both Gradio versions."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

gr = pytest.importorskip("gradio", reason="the page needs the extra 'studio'")

import numpy as np  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from asyndm.core.settings import CURVES, Settings, SettingsError  # noqa: E402
from asyndm.page import controls as ui  # noqa: E402
from asyndm.page import gradio_shim as shim  # noqa: E402
from asyndm.page import plot  # noqa: E402


@pytest.fixture
def controls() -> ui.Controls:
    with gr.Blocks(analytics_enabled=False):
        return ui.build_accordion()


def test_every_setting_has_a_control_in_the_order_of_declaration(controls):
    assert tuple(controls.components) == ui.FIELDS
    assert set(ui.FACES) == set(ui.FIELDS)  # a new setting gets words of its own


def test_the_controls_show_the_defaults_and_give_them_back(controls):
    values = [component.value for component in controls.inputs()]
    assert ui.settings_of(values) == Settings()


def test_settings_survive_the_way_through_the_controls():
    chosen = Settings(True, "cat:0.3", "exponential", 0.7, 1.4, "fixed", "background", "paper", 0.2)
    assert ui.settings_of(ui.values_of(chosen)) == chosen


def test_a_wrong_value_is_one_line():
    values = ui.values_of(Settings())
    values[ui.FIELDS.index("curvature")] = 7
    with pytest.raises(SettingsError, match="^curvature: 7 is out of range"):
        ui.settings_of(values)


def test_the_host_may_bring_the_enabled_switch():
    with gr.Blocks(analytics_enabled=False):
        own = gr.Checkbox()
        controls = ui.build_controls(enabled=own, prefix="txt2img_asyndm")
    assert controls.components["enabled"] is own
    assert controls.components["curve"].elem_id == "txt2img_asyndm_curve"


@pytest.mark.parametrize("fields", [ui.STUDIO_FIELDS, ui.WEBUI_FIELDS])
def test_studio_and_webui_show_what_they_can_use(fields):
    with gr.Blocks(analytics_enabled=False):
        controls = ui.build_controls(fields=fields)
    assert tuple(controls.components) == fields
    assert ui.settings_of([c.value for c in controls.inputs()], fields) == Settings()


def test_a_setting_without_a_face_is_shown_by_its_type(monkeypatch):
    monkeypatch.setattr(ui, "FACES", {})
    with gr.Blocks(analytics_enabled=False):
        controls = ui.build_accordion()
    kinds = {name: type(part).__name__ for name, part in controls.components.items()}
    assert kinds["soft"] == "Checkbox" and kinds["eta"] == "Number" and kinds["curve"] == "Radio"


def test_sliders_stay_within_what_the_settings_allow():
    for field in dataclasses.fields(Settings):
        if span := ui.FACES[field.name].span:
            for edge in span[:2]:
                Settings(**{field.name: edge})
            assert span[0] <= field.default <= span[1]


@given(st.sampled_from(CURVES), st.floats(0, 1))
def test_the_plotted_curve_falls_from_all_noise_to_none_and_never_leads(curve, k):
    points = plot.curve_points(curve, k)
    assert points[0] == 1 and points[-1] == pytest.approx(0, abs=1e-9)
    assert all(a >= b - 1e-9 for a, b in zip(points, points[1:], strict=False))
    line = plot.curve_points("linear", 0)
    assert all(a >= b - 1e-9 for a, b in zip(points, line, strict=True))


def test_the_plot_is_svg_that_moves_with_the_sliders():
    assert "<svg" in plot.curve_svg("quadratic", 0.5)
    assert plot.curve_svg("quadratic", 0.5) != plot.curve_svg("quadratic", 0.6)
    assert "nan" not in plot.curve_svg("quadratic", None).lower()  # an emptied number field


def test_token_chips_mark_objects_and_name_missing_ones():
    shown = ui.tokens_html(["a", "<b>", "cats"], {"cat": [2]}, ["dog & owl"], auto=False)
    assert len(re.findall("asyndm-taken", shown)) == 1
    assert "&lt;b&gt;" in shown and "dog &amp; owl" in shown and "as you wrote" in shown


def test_the_canvas_of_this_gradio_reads_back_as_a_mask():
    if shim.GRADIO_4:
        layer = np.zeros((8, 8, 4), np.uint8)
        layer[2:4, 5:7] = 255
        drawn, empty = {"layers": [layer]}, {"layers": [np.zeros((8, 8, 4), np.uint8)]}
    else:
        drawn = np.full((8, 8, 3), 255, np.uint8)
        drawn[2:4, 5:7] = (43, 108, 176)
        empty = np.full((8, 8, 3), 255, np.uint8)
    mask = shim.painted(drawn)
    assert mask.dtype == bool and mask.sum() == 4 and mask[2:4, 5:7].all()
    assert shim.painted(empty) is None and shim.painted(None) is None


def test_a_loaded_mask_keeps_its_size_and_transparent_is_background():
    picture = Image.new("RGBA", (6, 4), (255, 255, 255, 0))
    picture.putpixel((1, 2), (255, 255, 255, 255))
    mask = shim.painted(picture)
    assert mask.shape == (4, 6) and mask.sum() == 1 and mask[2, 1]


def test_hosts_and_studio_have_the_same_style():
    """A host reads style.css beside its scripts, the studio what is in the package."""
    root = Path(__file__).parents[1]
    ours = (root / "asyndm" / "page" / "accordion.css").read_text("utf-8")
    assert ours.strip() in (root / "style.css").read_text("utf-8")
    rules = re.sub(r"/\*.*?\*/", "", ours, flags=re.DOTALL)
    for selectors in re.findall(r"([^{}]+)\{", rules):  # the host's own controls are not touched
        assert all("asyndm" in one for one in selectors.split(",")), selectors


def test_what_stands_under_the_tick_and_what_under_more():
    first = [name for name in ui.WEBUI_FIELDS if not ui.FACES[name].advanced]
    assert sorted(first) == sorted(["enabled", "objects", "curvature", "mask_source", "show_masks"])
