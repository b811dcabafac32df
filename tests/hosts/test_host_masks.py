"""Masks inside a WebUI, and what shows them: gallery, parameters, plots."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from jobs import (
    apart,
    make,
    painted,
    ticked,
)


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

        return settings_of(values[: len(WEBUI_FIELDS)], WEBUI_FIELDS), values[len(WEBUI_FIELDS) :]

    asked = Settings(True, "cat:0.9, dog", "linear", 0.7)
    assert pasted(made.info["infotexts"][0]) == (asked, [""])  # words were written, not found
    assert pasted(make(host, "txt2img").info["infotexts"][0]) == (Settings(), [""])
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
