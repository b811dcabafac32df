"""The row that saves presets: what the page is told after each button."""

from __future__ import annotations

import gradio as gr
import pytest

from asyndm.core.presets import USER
from asyndm.core.settings import PRESETS, Settings
from asyndm.page import controls, saving


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(USER, "folder", tmp_path / "presets")


def built():
    with gr.Blocks() as blocks:
        made = controls.build_controls(fields=controls.WEBUI_FIELDS, prefix="t")
    ids = {getattr(b, "elem_id", None) for b in blocks.blocks.values()}
    return made, ids, {b.elem_id: b for b in blocks.blocks.values() if hasattr(b, "elem_id")}


def test_the_row_is_there_only_where_there_is_a_folder(folder, monkeypatch):
    assert {"t_preset_name", "t_preset_save", "t_preset_remove", "t_preset_list"} <= built()[1]
    monkeypatch.setattr(USER, "folder", None)
    assert "t_preset_name" not in built()[1]


def test_saved_presets_are_choices_and_are_recognised(folder):
    USER.save("mine", {"curvature": 0.35, "soft": True})
    radio = built()[2]["t_preset"]
    assert [c[0] if isinstance(c, tuple) else c for c in radio.choices] == [*PRESETS, "mine"]
    fields = ["curvature", "soft", "smoothing"]
    assert controls.preset_values("mine", fields) == [0.35, True, 0.0]
    assert controls.preset_of([0.35, True, 0.0], fields) == "mine"


def test_a_button_shows_the_new_list_or_one_line(folder):
    choices, line = saving._change(lambda: USER.save("mine", {"curvature": 0.35}))
    assert choices["choices"] == [*PRESETS, "mine"] and choices["value"] == "mine"
    assert line["visible"] is False and not line["value"]
    choices, line = saving._change(lambda: USER.save("../<b>", {}))
    assert "choices" not in choices and line["visible"] and "give a name" in line["value"]
    choices, line = saving._change(lambda: USER.remove("mine"))
    assert choices["choices"] == list(PRESETS)


def test_a_bad_file_shows_one_line_and_the_defaults(folder):
    USER.save("mine", {"curvature": 0.35})
    (USER.folder / "mine.json").write_text("{")
    line = saving.problem_of("mine")
    assert line["visible"] and "cannot be used" in line["value"]
    assert controls.preset_values("mine", ["curvature"]) == [Settings().curvature]
    assert not saving.problem_of("default")["visible"]
    assert controls.preset_of([Settings().curvature], ["curvature"]) == "default"
