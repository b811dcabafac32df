"""The studio's Edit tab as a person uses it."""

# ruff: noqa: F811 (fixtures of the page beside)

from __future__ import annotations

from io import BytesIO

from PIL import Image
from playwright.sync_api import Page, expect
from test_studio_browser import (  # noqa: F401
    fill,
    generate,
    page,
    pytestmark,
    shot,
    studio,
    write_prompt,
)

from asyndm.scenes.edit import example


def open_tab(page: Page, name: str) -> None:
    page.locator("#studio_tabs button", has_text=name).first.click()


def messages(page: Page):
    return page.locator("#studio_edit_messages .studio-edit-messages").first


def paint(page: Page) -> None:
    canvas = page.locator("#studio_edit_canvas canvas").last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] * 0.6
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] / 3, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1500)  # the drawing is sent to the server


def redraw(page: Page) -> None:
    """Click, and wait until the message area shows how it ended."""
    page.evaluate("document.querySelector('.studio-edit-messages').innerHTML = ''")
    page.locator("#studio_redraw").click()
    messages(page).locator("p").first.wait_for()


def seen(page: Page, x: float, y: float) -> tuple[int, ...]:
    """The colour at a place (0 to 1) of the canvas, in a picture of the page."""
    box = page.locator("#studio_edit_canvas canvas").last.bounding_box()
    left, top = box["x"] + box["width"] * x, box["y"] + box["height"] * y
    taken = page.screenshot(clip={"x": left - 1, "y": top - 1, "width": 3, "height": 3})
    return Image.open(BytesIO(taken)).convert("RGB").getpixel((1, 1))


def test_it_opens_with_an_example_whose_verdicts_stand_below(page):
    open_tab(page, "Edit")
    for name in ("before", "plain", "slow"):
        page.locator(f"#studio_edit_{name}_picture img").wait_for()
    assert "An example" in messages(page).inner_text()
    chips = page.locator("#studio_edit_slow_verdict .chips span")
    expect(chips).to_have_count(len(example().edited.verdicts["slow"].items))
    expect(page.locator("#studio_edit_canvas canvas").first).to_be_visible()
    picture = example().picture  # the whole of it is there to paint over, once it is drawn
    places = ((10, 6), (9, 36), (45, 40), (58, 58))

    def apart() -> int:
        pairs = [(picture.getpixel((x, y)), seen(page, (x + 0.5) / 64, (y + 0.5) / 64))
                 for x, y in places]  # fmt: skip
        return max(abs(a - b) for wanted, got in pairs for a, b in zip(wanted, got))

    page.wait_for_timeout(2500)
    for _ in range(20):  # a busy machine draws it later
        if (off := apart()) < 40:
            break
        page.wait_for_timeout(1000)
    assert off < 40
    shot(page, "6-edit")
    assert page.faults == []


def test_draw_edit_paint_redraw(page, studio):
    page.locator("#studio_edit_asyndm").click()
    error = page.locator("#studio_messages .error").first
    expect(error).to_have_text("picture: there is none here yet; press Generate first.")
    assert studio.says("picture: there is none here yet; press Generate first.")
    write_prompt(page, "a red circle and a blue square on a beach")
    fill(page, "studio_seed", "7")
    generate(page)
    page.locator("#studio_synchronous img").wait_for()
    page.wait_for_timeout(1000)
    page.locator("#studio_edit_synchronous").click()
    prompt = page.locator("#studio_edit_prompt textarea")
    expect(prompt).to_have_value("a red circle and a blue square on a beach")
    expect(page.locator("#studio_edit_seed input")).to_have_value("7")
    page.wait_for_timeout(3000)
    redraw(page)
    line = "region: nothing is painted; paint over what shall change."
    expect(messages(page).locator(".error")).to_have_text(line)
    assert studio.says(line)
    expect(page.locator("#studio_edit_plain_picture img")).to_have_count(0)
    paint(page)
    fill(page, "studio_edit_prompt", "a red dragon")
    redraw(page)
    expect(messages(page).locator(".error")).to_have_count(1)
    fill(page, "studio_edit_prompt", "a red circle and a green star on a beach")
    redraw(page)
    expect(messages(page)).to_contain_text("2 images in")
    for name in ("before", "plain", "slow"):
        page.locator(f"#studio_edit_{name}_picture img").wait_for()
    for name in ("plain", "slow"):
        chips = page.locator(f"#studio_edit_{name}_verdict .chips span")
        assert (
            "red circle" in chips.nth(0).inner_text() and "green star" in chips.nth(1).inner_text()
        )
    shot(page, "7-edited")
    assert page.faults == []
