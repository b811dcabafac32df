"""The studio's Edit tab without a browser: what a click makes of what the page holds."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")

import numpy as np  # noqa: E402
from fake_scenes import FakePipeline  # noqa: E402
from PIL import Image  # noqa: E402

from asyndm.page import editing  # noqa: E402
from asyndm.page import gradio_shim as shim  # noqa: E402
from asyndm.page.preview import enlarge, outlined  # noqa: E402
from asyndm.scenes.pipeline import ScenePipeline  # noqa: E402

PROMPT = "a red circle and a blue square"
SIDE = editing.SHOWN_SIZE


@pytest.fixture(scope="module")
def pipeline():
    return ScenePipeline.load()


@pytest.fixture
def held():
    first = editing.first()
    return editing.replace(first, request=editing.replace(first.request, steps=2))


def canvas(picture, painted=None, size=SIDE):
    """What a canvas of either Gradio hands over."""
    mask = np.zeros((size, size), bool) if painted is None else painted
    if shim.GRADIO_4:
        layer = np.zeros((*mask.shape, 4), np.uint8)
        layer[mask] = (43, 108, 176, 255)
        ground = None if picture is None else picture.convert("RGBA")
        return {"background": ground, "layers": [Image.fromarray(layer)], "composite": ground}
    if picture is None:
        return None
    return {"image": picture, "mask": Image.fromarray(np.uint8(mask) * 255).convert("RGB")}


def square(size=SIDE):
    mask = np.zeros((size, size), bool)
    mask[size // 2 : size * 3 // 4, : size // 2] = True
    return mask


def redraw(pipeline, held, drawing, **more):
    given = {"prompt": PROMPT, "seed": 3, "curvature": 0.9, **more}
    return editing.redraw(pipeline, held, drawing, *given.values())


def test_what_is_painted_is_drawn_anew_on_the_picture_itself(pipeline, held):
    held = editing.Held(held.picture, held.request)
    made = redraw(pipeline, held, canvas(enlarge(held.picture, SIDE), square()))
    assert made.errors == [] and made.notes == []
    assert made.before is held.picture  # not its enlarged copy
    assert made.edited.region.sum() == 32 and made.edited.region[8:12, :8].all()


def test_a_loaded_picture_is_the_one_that_is_edited(pipeline, held):
    other = Image.new("RGB", (128, 128), "white")
    made = redraw(pipeline, held, canvas(other, square(128)))
    assert made.before.getpixel((5, 5)) == (255, 255, 255)
    kept = np.asarray(made.edited.images["plain"], float)[4:20, 4:60]
    assert kept.mean() > 200
    nothing = redraw(pipeline, held, canvas(other, size=128))  # the example's region is not its own
    assert nothing.errors[0].startswith("region: nothing is painted")


def test_the_example_can_be_made_again_without_painting_and_says_so(pipeline, held):
    made = redraw(pipeline, held, canvas(enlarge(held.picture, SIDE)))
    assert made.errors == [] and "example's own region" in made.notes[0]
    np.testing.assert_array_equal(made.edited.region, held.region)
    painted = redraw(pipeline, held, canvas(enlarge(held.picture, SIDE), square()))
    assert painted.notes == [] and (painted.edited.region != held.region).any()


@pytest.mark.parametrize(
    ("more", "begins"),
    [
        ({"drawing": "no picture"}, "picture: there is none yet"),
        ({"drawing": "nothing painted"}, "region: nothing is painted"),
        ({"prompt": "  "}, "prompt: it is empty"),
        ({"prompt": "a red dragon"}, "prompt: "),
        ({"seed": None}, "seed: "),
        ({"seed": -1}, "seed: -1 is out of range"),
        ({"curvature": 2}, "curvature: 2 is out of range"),
    ],
)
def test_bad_input_is_one_line_and_no_picture(pipeline, held, more, begins):
    held = editing.Held(held.picture, held.request)
    drawings = {
        "painted": canvas(enlarge(held.picture, SIDE), square()),
        "nothing painted": canvas(enlarge(held.picture, SIDE)),
        "no picture": canvas(None),
    }
    made = redraw(pipeline, held, drawings[more.pop("drawing", "painted")], **more)
    assert made.edited is None and len(made.errors) == 1
    assert made.errors[0].startswith(begins) and "\n" not in made.errors[0]
    assert editing.show(made)[:3] == [None] * 3


def test_lines_stand_in_page_and_terminal_and_faults_are_said(held, capsys, pipeline):
    work = editing._work(FakePipeline())  # it has no model
    drawing = canvas(enlarge(held.picture, SIDE), square())
    text, made = work(lambda *a, **k: None, held, drawing, PROMPT, 1, 0.5)
    assert made.edited is None and "Error: AttributeError" in text
    assert "asyndm: Error: AttributeError" in capsys.readouterr().err
    text, made = editing._work(pipeline)(lambda *a, **k: None, held, drawing, PROMPT, 1, 0.5)
    assert "2 images in" in text and len(editing.show(made)) == 7


def test_the_outline_is_on_the_border_of_the_region():
    region = np.zeros((16, 16), bool)
    region[4:8, 4:8] = True
    plain = Image.new("RGB", (64, 64), (90, 90, 90))
    changed = (np.asarray(outlined(plain, region, 256)) != 90).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 127, 64, 127)
    assert not changed[70:120, 70:120].any()
    region[:] = True  # at the edge of the picture too
    assert (np.asarray(outlined(plain, region, 256)) != 90).any(-1)[0].any()
