"""The studio's page without a browser: what a click makes of what the page holds."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")

import numpy as np  # noqa: E402
from fake_scenes import FakePipeline  # noqa: E402
from PIL import Image  # noqa: E402

from asyndm.core.settings import Settings, SettingsError  # noqa: E402
from asyndm.page import controls as ui  # noqa: E402
from asyndm.page import serving, studio  # noqa: E402
from asyndm.page.preview import chosen_steps, enlarge, film_strip  # noqa: E402
from asyndm.scenes.pipeline import Film  # noqa: E402

PROMPT = "two red circles and a blue square"
FORM = {"prompt": PROMPT, "steps": 3, "cfg": 4.0, "seed": 5}
ON = Settings(enabled=True)
SQUARE = Image.new("L", (64, 64), "white")


def click(form=None, settings=ON, pipeline=None, **more):
    values = ui.values_of(settings, ui.STUDIO_FIELDS)
    return studio.make(pipeline or FakePipeline(), {**FORM, **(form or {})}, values, **more)


def test_ticked_gives_all_three_methods():
    made = click()
    assert list(made.result.images) == ["synchronous", "concave", "asyndm"]
    assert made.errors == [] and made.notes == []


def test_not_ticked_gives_the_synchronous_image_and_says_so():
    made = click(settings=Settings())
    assert list(made.result.images) == ["synchronous"]
    assert len(made.notes) == 1 and "off" in made.notes[0]


@pytest.mark.parametrize(
    ("form", "settings", "more", "begins", "image"),
    [
        ({"prompt": " "}, ON, {}, "prompt: it is empty", False),
        ({"prompt": "a red dragon"}, ON, {}, "prompt: ", False),
        ({"steps": 0}, ON, {}, "steps: 0 is out of range", False),
        ({"steps": None}, ON, {}, "steps: ", False),
        ({"seed": -1}, ON, {}, "seed: -1 is out of range", False),
        ({}, Settings(True, "circle:7"), {}, "objects: curvature of 'circle'", True),
        ({}, Settings(True, mask_source="given"), {}, "painted mask: it is empty", True),
        (
            {},
            Settings(True, mask_source="given"),
            {"loaded": Image.new("L", (64, 40), "white")},
            "painted mask: it is 64x40",
            True,
        ),
    ],
)
def test_bad_input_is_one_line_and_an_image_where_possible(form, settings, more, begins, image):
    made = click(form, settings, **more)
    assert len(made.errors) == 1
    assert made.errors[0].startswith(begins) and "\n" not in made.errors[0]
    assert (made.result is not None) == image
    if image:
        assert list(made.result.images) == ["synchronous"]


def test_a_curvature_out_of_range_from_the_page_is_one_line():
    values = ui.values_of(ON, ui.STUDIO_FIELDS)
    values[ui.STUDIO_FIELDS.index("curvature")] = 1.5
    made = studio.make(FakePipeline(), FORM, values)
    assert made.errors == ["curvature: 1.5 is out of range; give a number from 0 to 1."]
    assert list(made.result.images) == ["synchronous"]


def test_an_unknown_object_word_is_told_and_the_images_are_made():
    made = click(settings=Settings(True, "circles, dragon"))
    assert list(made.result.images) == ["synchronous", "concave", "asyndm"]
    assert made.notes == ["objects: 'dragon' is not in the prompt."]


@pytest.fixture(scope="module")
def real():
    from asyndm.scenes.pipeline import ScenePipeline

    return ScenePipeline.random(3)


@pytest.mark.parametrize("name", ["s-cfg", "pag", "cfg++", "z"])
def test_a_method_of_guidance_guides_and_tells_what_it_cost(real, name):
    ways = {"zigzag": 1.0} if name == "z" else {"guidance": name}
    made = click(settings=Settings(True, **ways), pipeline=real)
    assert made.errors == []
    rows = {"pag": 9, "z": 5 + 5 + 2}.get(name, 6)  # of 3 steps
    assert list(made.result.images) == ["synchronous", "concave", "asyndm"]
    for method in made.result.images:
        (cost,) = made.result.measured[method]
        assert cost.rows == rows and f"{rows} rows" in studio.verdict_html(method, None, cost)
        # Plain guidance would be of 4.
        assert cost.w_eff is None if name == "z" else cost.w_eff != pytest.approx(4, abs=1e-4)


def test_a_method_is_governed_by_the_tick_and_says_what_excludes_it(real):
    off = click(settings=Settings(guidance="seg", zigzag=1.0), pipeline=real)
    (plain,) = click(settings=Settings(), pipeline=real).result.images.values()
    assert list(off.result.images) == ["synchronous"] and off.errors == []
    assert np.array_equal(off.result.images["synchronous"], plain)
    both = click(settings=Settings(True, guidance="cfg++", zigzag=1.0), pipeline=real)
    (line,) = both.errors
    assert line.startswith("zigzag: cfg++ cannot zigzag") and "\n" not in line
    assert np.array_equal(both.result.images["synchronous"], plain)


def test_a_loaded_mask_reaches_the_pipeline():
    pipeline = FakePipeline()
    made = click(settings=Settings(True, mask_source="given"), pipeline=pipeline, loaded=SQUARE)
    assert made.errors == []
    assert pipeline.asked[0][0].painted.shape == (64, 64)


def test_a_fault_of_ours_is_said_in_the_page_and_logged(capsys, caplog):
    work = studio._work(FakePipeline(RuntimeError("cable\ncut")), ["coupling", *FORM])
    values = ["1", *FORM.values(), *ui.values_of(ON, ui.STUDIO_FIELDS)]
    shown, result = work(lambda *a, **k: None, None, None, *values)
    assert result is None and "RuntimeError: cable" in shown and "\ncut" not in shown
    assert "asyndm: Error: RuntimeError: cable" in capsys.readouterr().err
    assert "generate failed" in caplog.text


def test_the_same_lines_stand_in_the_page_and_the_terminal(capsys):
    work = studio._work(FakePipeline(), ["coupling", *FORM])
    values = ["1", *{**FORM, "steps": 0}.values(), *ui.values_of(ON, ui.STUDIO_FIELDS)]
    shown, _ = work(lambda *a, **k: None, None, None, *values)
    line = capsys.readouterr().err.strip()
    assert line.startswith("asyndm: steps: 0") and "\n" not in line
    assert line.removeprefix("asyndm: ") in shown


def test_shown_places_are_empty_where_nothing_was_made():
    shown = studio._show(click(settings=Settings()).result)
    assert shown[0].size == (studio.SHOWN_SIZE,) * 2 and shown[1:3] == [None, None]
    assert "circle: yes" in shown[3] and "missing" not in shown[4]
    assert studio._show(None)[:3] == [None] * 3
    assert studio._show(None)[6:8] == [None] * 2


def test_a_strip_is_there_for_either_theme():
    light, dark = studio._show(click().result)[6:8]
    assert light.size == dark.size
    assert light.getpixel((0, 0)) == (255, 255, 255) and max(dark.getpixel((0, 0))) < 48


def test_tokens_are_shown_as_the_prompt_is_typed():
    assert "circles, square" in studio.tokens_view(FakePipeline(), PROMPT, "")
    assert "asyndm-missing" in studio.tokens_view(FakePipeline(), "a dragon", "")
    assert "out of range" in studio.tokens_view(FakePipeline(), PROMPT, "circles:3")
    assert studio.tokens_view(FakePipeline(), "  ", "") == ""


def test_user_text_is_escaped():
    assert "<script>" not in studio.messages_html(["<script>"], ["<script>"])
    assert "<script>" not in studio.tokens_view(FakePipeline(), "<script>", "")


def test_the_page_can_be_built_and_asks_no_other_server():
    page = studio.build_page(FakePipeline())
    assert not [font for font in page.theme._stylesheets if font]
    assert page.analytics_enabled is False


def test_a_port_in_use_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"^port: 127.0.0.1:{port} cannot be used"):
            serving.serve(studio.build_page(FakePipeline()), port=port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none_is_one_line(port):
    with pytest.raises(SettingsError, match="^port: "):
        serving.serve(studio.build_page(FakePipeline()), port=port)


# --- the picture of the run ---------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "size"), [(1, (16, 16)), (3, (12, 20)), (60, (20, 12))])
def test_the_strip_fits_any_number_of_steps_and_any_shape(steps, size):
    maps = [np.full(size, i / steps) for i in range(steps)]
    strip = film_strip(Film(maps, [1000 * m for m in maps], []), cell=40)
    bare = film_strip(Film(maps, maps, [Image.new("RGB", (64, 64))] * steps), cell=40)
    assert bare.height > strip.height  # one row more
    assert strip.width == bare.width < 8 * 48 + 400


def test_the_strip_shows_first_and_last_step():
    assert chosen_steps(25)[0] == 0 and chosen_steps(25)[-1] == 24
    assert chosen_steps(1) == [0] and len(chosen_steps(500)) <= 10


def test_an_empty_film_is_refused():
    with pytest.raises(ValueError, match="no step"):
        film_strip(Film([], [], []))


def test_small_images_are_enlarged_and_large_ones_left_alone():
    assert enlarge(Image.new("RGB", (64, 32)), 384).size == (384, 192)
    large = Image.new("RGB", (512, 512))
    assert enlarge(large, 384) is large


@pytest.mark.parametrize("name", ["Oranges", "viridis", "magma"])
def test_the_films_colours_are_matplotlibs(name):
    import matplotlib

    from asyndm.page.palettes import colours

    at = np.linspace(0, 1, 256)
    theirs = matplotlib.colormaps[name](at, bytes=True)[:, :3].astype(int)
    assert np.abs(colours(at, name).astype(int) - theirs).max() <= 2
    assert np.array_equal(colours(np.array([-1.0, 2.0]), name), colours(np.array([0.0, 1.0]), name))
