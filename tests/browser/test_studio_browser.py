"""The studio as a person uses it: a real page, the real model, headless Chromium.

``ASYNDM_SHOTS=DIR`` keeps a picture of the page at every stage.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")
pytest.importorskip("playwright", reason="the browser test needs the extra 'dev'")

from chrome import NEEDED  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Page, expect  # noqa: E402

from asyndm.scenes.model import weights_file  # noqa: E402
from asyndm.scenes.pipeline import ScenePipeline  # noqa: E402

pytestmark = NEEDED
PROMPT = "two red circles and a blue square on a lake at night"
PATIENCE = 120_000  # milliseconds, for machines that do other work too


class Studio:
    """The running program, and what it has said on its terminal."""

    def __init__(self, folder: Path) -> None:
        weights = []  # those that a user gets
        if not weights_file(None).exists():  # an untrained model clicks as well
            weights = ["--weights", str(folder / "random.safetensors")]
            ScenePipeline.random().model.save(Path(weights[1]))
        self.log = folder / "terminal.txt"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "asyndm",
                    "studio",
                    "--port",
                    "0",
                    *weights,
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "gradio")},
            )
        self.url = self._wait_for(r"http://[\d.]+:\d+")

    def _wait_for(self, pattern: str, seconds: float = 90) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(pattern, self.log.read_text()):
                return found.group()
            time.sleep(0.2)
        raise AssertionError(f"{pattern!r} was never printed:\n{self.log.read_text()}")

    def says(self, line: str) -> bool:
        """Whether the terminal shows exactly this line."""
        return f"asyndm: {line}" in self.log.read_text().splitlines()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Iterator[Studio]:
    running = Studio(tmp_path_factory.mktemp("studio"))
    yield running
    running.stop()


@pytest.fixture
def page(studio, chromium) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.faults, page.answers = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("response", lambda answer: page.answers.append(answer.url))
    page.goto(studio.url)
    page.locator("#studio_generate").wait_for()
    page.wait_for_timeout(500)  # the page wires its events after its first paint
    yield page
    page.close()


def shot(page: Page, name: str) -> None:
    """Keep a picture of the page where the developer asks for it."""
    if folder := os.environ.get("ASYNDM_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def fill(page: Page, name: str, value: str) -> None:
    page.locator(f"#{name}").locator("input, textarea").first.fill(value)


def write_prompt(page: Page, prompt: str = PROMPT, steps: str = "3") -> None:
    fill(page, "studio_prompt", prompt)
    fill(page, "studio_steps", steps)


def enable(page: Page) -> None:
    page.locator("#asyndm_enabled input").check()


def generate(page: Page) -> None:
    """Click, and wait until the message area shows how it ended."""
    page.evaluate("document.querySelector('.studio-messages').innerHTML = ''")  # of the last click
    page.locator("#studio_generate").click()
    page.locator(".studio-messages p", has_text=re.compile(r"seconds|:")).first.wait_for()


def pictures(page: Page) -> list[str]:
    """The methods whose image is shown."""
    names = ("synchronous", "concave", "asyndm")
    return [name for name in names if page.locator(f"#studio_{name} img").count()]


def test_type_tick_generate_and_see_three_images_and_the_strip(page, studio):
    shot(page, "1-empty")
    write_prompt(page)
    tokens = page.locator("#asyndm_tokens .asyndm-taken")
    expect(tokens).to_have_text(["circles", "square"])
    enable(page)
    generate(page)
    page.locator("#studio_strip img").wait_for()
    assert pictures(page) == ["synchronous", "concave", "asyndm"]
    for method in ("synchronous", "concave", "asyndm"):
        shown = page.locator(f"#studio_{method} img").evaluate(
            "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        )
        assert shown == [384, 384]
        verdict = page.locator(f"#studio_verdict_{method} .chips span")
        assert verdict.count() >= 2 and "two red circles:" in verdict.first.inner_text()
    assert "3 images in" in page.locator(".studio-messages").inner_text()
    shot(page, "2-done")
    assert page.faults == []
    outside = [a for a in page.answers if not a.startswith((studio.url, "data:", "blob:"))]
    assert outside == []


def test_the_strip_is_of_the_pages_theme(page, studio):
    write_prompt(page)
    enable(page)
    generate(page)
    for theme, name in ("light", "studio_strip"), ("dark", "studio_strip_dark"):
        page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        shown = page.locator("#studio_film img:visible")
        expect(shown).to_have_count(1)
        assert page.locator(f"#{name} img").is_visible()
        shot(page, f"strip-{theme}")


def test_on_a_phone_no_arrow_lies_over_the_word_of_its_list(page):
    page.set_viewport_size({"width": 420, "height": 1000})
    for name in ("rule", "schedule", "coupling"):
        field = page.locator(f"#studio_{name}")
        field.scroll_into_view_if_needed()
        ends = field.locator("input").evaluate(
            """input => {
                const pen = document.createElement("canvas").getContext("2d");
                pen.font = getComputedStyle(input).font;
                const inside = parseFloat(getComputedStyle(input).paddingLeft);
                const left = input.getBoundingClientRect().left + inside;
                return left + pen.measureText(input.value).width;
            }"""
        )
        arrow = field.locator("svg.dropdown-arrow path").bounding_box()
        assert arrow["x"] - ends > 2, name
    sizes = [page.locator(f"#studio_{m}").bounding_box() for m in ("synchronous", "asyndm")]
    assert len({round(size["width"]) for size in sizes}) == 1  # compared, so of one size
    assert all(abs(size["width"] - size["height"]) < 2 for size in sizes)


@pytest.mark.slow
def test_another_seed_gives_another_image_and_the_same_seed_the_same(page):
    write_prompt(page)

    def shown() -> str:
        page.locator("#studio_synchronous img").wait_for()
        return page.evaluate(
            """async () => {
                const image = document.querySelector("#studio_synchronous img");
                await image.decode();
                const canvas = document.createElement("canvas");
                canvas.width = canvas.height = 64;
                canvas.getContext("2d").drawImage(image, 0, 0, 64, 64);
                return canvas.toDataURL();
            }"""
        )

    def becomes(wanted) -> bool:
        """The images come a moment after the message, so the last ones may still be there."""
        until = time.monotonic() + 30
        while not wanted(shown()) and time.monotonic() < until:
            page.wait_for_timeout(200)
        return wanted(shown())

    generate(page)
    first = shown()
    fill(page, "studio_seed", "77")
    generate(page)
    assert becomes(lambda picture: picture != first)
    fill(page, "studio_seed", "0")
    generate(page)
    assert becomes(lambda picture: picture == first)


def test_the_curve_follows_the_slider(page):
    plot = page.locator("#asyndm_plot polyline").last
    before = plot.get_attribute("points")
    fill(page, "asyndm_curvature", "0.9")
    page.keyboard.press("Tab")
    expect(plot).not_to_have_attribute("points", before)
    before = plot.get_attribute("points")
    page.locator("#asyndm_more .label-wrap").first.click()
    page.locator("#asyndm_curve label", has_text="exponential").click()
    expect(plot).not_to_have_attribute("points", before)


def test_not_ticked_shows_the_synchronous_image_and_says_so(page):
    write_prompt(page)
    generate(page)
    page.locator("#studio_synchronous img").wait_for()
    assert pictures(page) == ["synchronous"]
    assert "AsynDM is off" in page.locator(".studio-messages").inner_text()


def test_the_dice_changes_the_seed(page):
    seed = page.locator("#studio_seed input")
    page.locator("#studio_dice").click()
    expect(seed).not_to_have_value("0")


def test_an_example_fills_the_prompt(page):
    page.get_by_text("three yellow triangles in the snow").first.click()
    expect(page.locator("#studio_prompt textarea")).to_have_value(
        "three yellow triangles in the snow"
    )


def paint_source(page: Page) -> None:
    enable(page)
    page.locator("#asyndm_mask_source label", has_text="painted").click()
    page.locator("#studio_canvas").first.wait_for()


def test_a_mask_painted_on_the_canvas_steers(page):
    write_prompt(page)
    paint_source(page)
    page.wait_for_timeout(1500)  # the canvas sizes itself once it is visible
    canvas = page.locator("#studio_canvas canvas").last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] / 2, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1500)  # the drawing is sent to the server
    shot(page, "3-painted")
    generate(page)
    page.locator("#studio_strip img").wait_for()
    assert page.locator(".studio-messages .error").count() == 0
    assert pictures(page) == ["synchronous", "concave", "asyndm"]
    shot(page, "4-painted-done")


@pytest.mark.parametrize(
    ("prompt", "steps", "objects", "begins", "image"),
    [
        ("", "3", "", "prompt: it is empty", False),
        ("a red dragon", "3", "", "prompt: ", False),
        (PROMPT, "0", "", "steps: 0", False),
        (PROMPT, "3", "circles:7", "objects: curvature of 'circles'", True),
    ],
)
def test_bad_input_is_one_line_in_page_and_terminal(
    page, studio, prompt, steps, objects, begins, image
):
    write_prompt(page, prompt, steps)
    enable(page)
    fill(page, "asyndm_objects", objects)
    generate(page)
    one_line(page, studio, begins)
    if image:
        page.locator("#studio_synchronous img").wait_for()
    shot(page, f"5-bad-{begins.split(':')[0]}-{len(prompt)}")


@pytest.mark.slow
def test_a_mask_of_the_wrong_size_is_one_line_in_page_and_terminal(page, studio, tmp_path):
    Image.new("L", (96, 64), "white").save(tmp_path / "mask.png")
    write_prompt(page)
    paint_source(page)
    page.locator("#studio_mask_file input[type=file]").set_input_files(tmp_path / "mask.png")
    page.locator("#studio_mask_file img").wait_for()
    page.wait_for_timeout(500)
    generate(page)
    one_line(page, studio, "painted mask: it is 96x64")
    page.locator("#studio_synchronous img").wait_for()


def one_line(page: Page, studio: Studio, begins: str) -> None:
    errors = page.locator(".studio-messages .error")
    expect(errors).to_have_count(1)
    line = errors.inner_text()
    assert line.startswith(begins) and "\n" not in line
    assert studio.says(line)


def test_the_program_ends_although_a_page_waits_for_an_image(tmp_path, chromium):
    running = Studio(tmp_path)
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    try:
        page.goto(running.url)
        page.locator("#studio_generate").wait_for()
        page.wait_for_timeout(500)
        write_prompt(page, steps="200")
        enable(page)
        page.locator("#studio_generate").click()
        page.wait_for_timeout(1500)
        running.process.terminate()
        running.process.wait(10)
    finally:
        running.process.kill()
        page.close()
