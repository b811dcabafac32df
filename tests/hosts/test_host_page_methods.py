"""Methods and measuring in a running WebUI's page; a real host only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pages import (  # noqa: F401 - fixtures among them
    ON_REAL_PAGE,
    SHOTS,
    browser,
    choose,
    first_picture,
    generate,
    host_page,
    number,
    page,
    said,
    shoot,
    small,
    tab,
    tick,
    url,
)
from PIL import Image

from asyndm.guidance.methods import READY

pytestmark = ON_REAL_PAGE
# ruff: noqa: F811 - arguments of the fixtures' names
SCRIPTS = "#txt2img_script_container #script_list input"


def saved(data: Path) -> list[Path]:
    """The pictures of txt2img in a host's data folder, the oldest first."""
    found = [path for path in data.rglob("*.png") if "txt2img-images" in str(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def place_in(grid: np.ndarray, picture: np.ndarray) -> tuple[int, int] | None:
    """(y, x) of a picture in a plot; Neo breaks a plot's only axis into rows."""
    height, width = picture.shape[:2]
    corners = (grid[: 1 - height, : 1 - width] == picture[0, 0]).all(axis=2)
    for y, x in np.argwhere(corners).tolist():
        if np.array_equal(grid[y : y + height, x : x + width], picture):
            return y, x
    return None


def test_a_plot_over_every_method(page, host_page):
    """Each cell is a picture of its own, and its parameters tell its method and its cost."""
    before = set(saved(host_page[1]))
    small(page)
    number(page, "txt2img_steps", 4)
    number(page, "txt2img_seed", 7)
    tick(page)
    number(page, "txt2img_asyndm_curvature", 0.9)
    choose(page, SCRIPTS, "X/Y/Z plot")
    choose(page, "#script_txt2img_xyz_plot_x_type input", "[AsynDM] Method")
    page.click("#xyz_grid_fill_x_tool_button")
    page.wait_for_function(
        "count => document.querySelectorAll('#txt2img_script_container .token').length === count",
        arg=len(READY),
    )
    generate(page)
    shoot(page, "methods")
    grid = first_picture(page)
    if SHOTS:
        Image.fromarray(grid).save(Path(SHOTS) / "methods-grid.png")
    files = [path for path in saved(host_page[1]) if path not in before]
    assert len(files) == len(READY)
    cells, places = set(), []
    for path, (name, method) in zip(files, READY.items()):
        picture = Image.open(path)
        text, pixels = picture.text["parameters"], np.asarray(picture.convert("RGB"))
        places.append(place_in(grid, pixels))
        assert places[-1], name
        cells.add(pixels.tobytes())
        told = text.partition("AsynDM: ")[2].partition("AsynDM version")[0]
        for setting, usual in (("clock", "asynchronous"), ("guidance", "cfg"), ("zigzag", 0.0)):
            value = "1" if method[setting] == 1.0 else method[setting]
            assert (f"{setting}={value}" in told) == (method[setting] != usual), (name, text)
        # CFG with one clock is the host's own run, which nothing is measured of.
        assert ("AsynDM measured: " in text) == (name != "CFG"), (name, text)
        assert "AsynDM note" not in text
    assert len(cells) == len(READY)
    assert places == sorted(places)


@pytest.mark.parametrize(("theme", "width"), [("light", 1400), ("dark", 1400), ("dark", 420)])
def test_guidance_is_no_wider_than_its_page(browser, url, theme, width):
    with tab(browser, f"{url}/?__theme={theme}") as page:
        page.set_viewport_size({"width": width, "height": 1500})
        tick(page)
        page.locator("#txt2img_asyndm_more .label-wrap").first.click()
        page.locator("#txt2img_asyndm_guiding .label-wrap").first.click()
        page.locator("#txt2img_asyndm_guidance").wait_for(state="visible")
        page.wait_for_timeout(500)
        if SHOTS:
            part = page.locator("#txt2img_asyndm_guiding")
            part.screenshot(path=Path(SHOTS) / f"guidance-{theme}-{width}.png")
        wide = page.evaluate(
            "() => [...document.querySelectorAll('#txt2img_asyndm_guiding *')]"
            ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 99))"
        )
        assert wide == []


@pytest.mark.parametrize(("theme", "width"), [("light", 1400), ("dark", 420)])
def test_a_checkpoint_is_measured_in_the_page(browser, url, theme, width):
    with tab(browser, f"{url}/?__theme={theme}") as page:
        page.set_viewport_size({"width": width, "height": 1500})
        small(page)
        number(page, "txt2img_steps", 3)
        choose(page, SCRIPTS, "AsynDM: measure this checkpoint")
        fields = page.locator("#txt2img_script_container").get_by_label("Pictures to measure")
        fields.first.fill("2")
        fields.first.press("Tab")
        page.click("#txt2img_generate")
        says = "the map's rows are in "
        page.wait_for_function(
            "says => document.querySelector('#html_log_txt2img').innerText.includes(says)",
            arg=says,
        )
        page.wait_for_timeout(1500)
        shoot(page, f"measured-{theme}-{width}")
        lines = said(page).splitlines()
        (line,) = [line for line in lines if says in line]
        rows = json.loads(Path(line.partition(says)[2].strip()).read_text("utf-8"))
        assert rows["pictures"] == 2 and rows["sentence"] in said(page)
        assert first_picture(page).shape[1] > 600  # the map
