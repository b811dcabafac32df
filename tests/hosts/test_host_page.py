"""The page of a running WebUI in headless Chromium; a real host only."""

from __future__ import annotations

import re

import numpy as np
from pages import (  # noqa: F401 - fixtures among them
    ON_REAL_PAGE,
    PROMPT,
    browser,
    choose,
    first_picture,
    generate,
    host_page,
    info,
    number,
    page,
    paint,
    said,
    shoot,
    small,
    tick,
    url,
)
from PIL import Image

pytestmark = ON_REAL_PAGE
# ruff: noqa: F811 - arguments of the fixtures' names


def test_tick_pick_chips_generate_and_paste_back(page, url, browser):
    small(page)
    number(page, "txt2img_seed", 7)
    tick(page)
    chips = page.locator("#txt2img_asyndm .asyndm-chip")
    chips.filter(has_text="cat").wait_for()
    assert chips.all_inner_texts() == ["red", "cat", "dog", "sofa"]  # and <b> stayed text
    chips.filter(has_text="cat").click()
    chips.filter(has_text="dog").focus()
    page.keyboard.press("Enter")
    objects = page.locator("#txt2img_asyndm_objects").locator("textarea, input")
    assert objects.input_value() == "cat, dog"
    page.wait_for_function(
        "document.querySelectorAll('#txt2img_asyndm .asyndm-chip[aria-pressed=true]').length == 2"
    )
    plot = page.locator("#txt2img_asyndm_plot polyline").last.get_attribute("points")
    page.locator("#txt2img_asyndm_preset label").filter(has_text="strong").click()
    page.wait_for_function(
        "before => [...document.querySelectorAll('#txt2img_asyndm_plot polyline')].pop()"
        ".getAttribute('points') !== before",
        arg=plot,
    )
    page.get_by_label("Show masks").first.check()
    generate(page)
    shoot(page, "ticked")
    text = info(page)
    assert "AsynDM objects: cat (token 3), dog (token 9)" in said(page)
    assert 'AsynDM: "objects=cat, dog; curvature=0.9"' in text
    assert page.locator("#txt2img_gallery .thumbnail-small").count() == 3  # image, heat map, film
    made = first_picture(page)

    fresh = browser.new_page(viewport={"width": 1400, "height": 1500})
    fresh.goto(url)
    fresh.fill("#txt2img_prompt textarea", text)
    fresh.click("#paste")
    fresh.wait_for_function(
        "document.querySelector('#txt2img_asyndm_objects textarea, #txt2img_asyndm_objects input')"
        ".value === 'cat, dog'"
    )
    generate(fresh)
    shoot(fresh, "pasted")
    assert np.array_equal(first_picture(fresh), made)
    # parameters without the key reset the accordion
    fresh.fill(
        "#txt2img_prompt textarea", "a cat\nSteps: 5, Sampler: Euler a, Seed: 7, Size: 128x128"
    )
    fresh.click("#paste")
    fresh.wait_for_function(
        "document.querySelector('#txt2img_asyndm_objects textarea, #txt2img_asyndm_objects input')"
        ".value === ''"
    )
    assert not fresh.locator("#txt2img_asyndm-visible-checkbox").is_checked()
    fresh.close()


def test_a_plot_over_curvature(page):
    small(page)
    number(page, "txt2img_seed", 7)
    tick(page)
    choose(page, "#txt2img_script_container #script_list input", "X/Y/Z plot")
    choose(page, "#script_txt2img_xyz_plot_x_type input", "[AsynDM] Curvature k")
    page.locator("#script_txt2img_xyz_plot_x_values textarea").fill("0, 0.5, 1")
    generate(page)
    shoot(page, "plot")
    assert "AsynDM: curvature=0" in info(page)  # the first cell's
    grid = first_picture(page)
    cells = [grid[-128:, x : x + 128] for x in range(grid.shape[1] - 3 * 128, grid.shape[1], 128)]
    assert len({cell.tobytes() for cell in cells}) == 3


def test_a_wrong_value_is_one_line_in_the_page(page):
    small(page)
    tick(page)
    page.locator("#txt2img_asyndm_objects").locator("textarea, input").fill("unicorn")
    generate(page)
    shoot(page, "unmatched")
    assert "no object word is in the prompt (unicorn). The image is synchronous." in said(page)


def test_a_mask_is_painted_over_the_last_image(page):
    """A region repaired at the same seed: the rest of the clock is the plain image's."""
    small(page)
    number(page, "txt2img_seed", 7)
    generate(page)
    before = first_picture(page)
    tick(page)
    page.locator("#txt2img_asyndm_mask_source label").filter(has_text="painted").click()
    page.get_by_role("button", name="Paint over the last image").first.click()
    page.wait_for_timeout(2500)
    page.locator("#txt2img_asyndm_mask").scroll_into_view_if_needed()
    paint(page, "#txt2img_asyndm_mask canvas")
    shoot(page, "painting")
    generate(page)
    shoot(page, "painted")
    assert "mask_source=given" in info(page) and "AsynDM note" not in info(page)
    assert not np.array_equal(first_picture(page), before)


def test_inpainting_with_the_canvas(page, tmp_path):
    from real_hosts import real_host

    picture = tmp_path / "picture.png"
    Image.fromarray(np.uint8(np.indices((128, 128)).sum(0)[..., None] * [1, 0.5, 0])).save(picture)
    tabs = page.locator("#tabs button").filter(has_text=re.compile("^ *img2img *$", re.I))
    tabs.first.click()
    small(page, "img2img")
    modes = page.locator("#mode_img2img button").filter(has_text=re.compile("^ *inpaint *$", re.I))
    modes.first.click()
    page.locator("#img2maskimg input[type=file]").first.set_input_files(picture)
    page.wait_for_timeout(2500)
    paint(page, "#img2maskimg canvas")
    tick(page, "img2img")
    page.locator("#img2img_asyndm_preset label").filter(has_text="edit").click()
    generate(page, "img2img")
    shoot(page, "inpaint")
    assert "AsynDM:" in info(page, "img2img") and "AsynDM note" not in info(page, "img2img")
    made, plain = first_picture(page, "img2img").astype(int), np.asarray(Image.open(picture))
    changed = np.abs(made - plain).max(axis=2) > 8
    kept = [changed[:16], changed[-16:]]
    if real_host().name == "Neo":  # its brush paints over all but the corners of so small a picture
        kept = [rows[:, side] for rows in kept for side in (slice(16), slice(-16, None))]
    assert changed.any() and max(part.mean() for part in kept) < 0.05
