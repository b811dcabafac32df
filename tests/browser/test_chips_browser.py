"""The chips in headless Chromium: drawn live, picked by mouse and keyboard, on this Gradio.

``ASYNDM_SHOTS=DIR`` keeps pictures of the accordion, light and dark, wide and narrow.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")
pytest.importorskip("playwright", reason="the browser test needs the extra 'dev'")

from chrome import NEEDED  # noqa: E402
from playwright.sync_api import Page, expect  # noqa: E402

from asyndm.page import chips  # noqa: E402

pytestmark = NEEDED
PROMPT = "a (red:1.2) cat beside a <b>dog</b> and a teddy bear"
TABS = ("txt2img", "img2img")


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("chips") / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("chips_page.py")), str(port)],
            stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    until = time.monotonic() + 90
    while "http://" not in log.read_text():
        assert server.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


@pytest.fixture
def page(url, chromium) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(40_000)
    expect.set_options(timeout=40_000)
    page.faults, page.asked = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(url)
    page.locator("#txt2img_prompt textarea").wait_for()
    page.wait_for_timeout(1000)
    yield page
    assert page.faults == []
    assert all(address.startswith((url, "data:", "blob:")) or "font" in address or "cdn" in address
               for address in page.asked)  # fmt: skip
    page.close()


def open_(page: Page, tab: str = "txt2img") -> None:
    if tab != "txt2img":
        page.locator(".tab-nav button").filter(has_text=tab).click()
    page.locator(f"#{tab}_asyndm .label-wrap").first.click()
    page.locator(f"#{tab}_asyndm_objects").wait_for(state="visible")


def write(page: Page, prompt: str, tab: str = "txt2img") -> None:
    page.fill(f"#{tab}_prompt textarea", prompt)


def objects(page: Page, tab: str = "txt2img"):
    return page.locator(f"#{tab}_asyndm_objects").locator("textarea, input")


def chip(page: Page, text: str, tab: str = "txt2img"):
    return page.locator(f'#{tab}_asyndm .asyndm-chip[data-word="{text}"]')


def border(page: Page, text: str, tab: str = "txt2img") -> str:
    return chip(page, text, tab).evaluate("chip => getComputedStyle(chip).borderTopStyle")


@pytest.mark.parametrize("tab", TABS)
def test_what_will_be_found_is_dashed_and_what_is_picked_is_solid(page, tab):
    open_(page, tab)
    write(page, PROMPT, tab)
    all_chips = page.locator(f"#{tab}_asyndm .asyndm-chip")
    expect(all_chips).to_have_text(["red", "cat", "dog", "teddy bear"])
    assert [border(page, word, tab) for word in ("red", "cat", "teddy bear")] == [
        *("solid", "dashed", "dashed")
    ]
    chip(page, "teddy bear", tab).click()
    expect(chip(page, "teddy bear", tab)).to_have_attribute("aria-pressed", "true")
    expect(objects(page, tab)).to_have_value("teddy bear")
    expect(chip(page, "cat", tab)).not_to_have_class("asyndm-chip asyndm-auto")
    assert [border(page, word, tab) for word in ("cat", "teddy bear")] == ["solid", "solid"]
    chip(page, "teddy bear", tab).click()
    expect(objects(page, tab)).to_have_value("")
    expect(chip(page, "cat", tab)).to_have_class("asyndm-chip asyndm-auto")


def test_by_keyboard_and_faster_than_the_answers(page):
    open_(page)
    write(page, PROMPT)
    chip(page, "dog").wait_for()
    chip(page, "cat").click()
    chip(page, "dog").focus()
    page.keyboard.press("Enter")
    expect(objects(page)).to_have_value("cat, dog")
    pressed = page.locator('#txt2img_asyndm .asyndm-chip[aria-pressed="true"]')
    expect(pressed).to_have_text(["cat", "dog"])
    page.wait_for_timeout(1500)  # the answer has drawn them anew
    assert page.evaluate("document.activeElement.dataset.word") == "dog"
    page.keyboard.press("Space")
    expect(objects(page)).to_have_value("cat")


def test_the_chips_follow_what_is_typed_and_pasted(page):
    open_(page)
    write(page, "a dragon")
    expect(chip(page, "dragon")).to_have_class("asyndm-chip asyndm-auto")
    objects(page).fill("dragon:0.7, unicorn")
    expect(page.locator("#txt2img_asyndm .asyndm-missing")).to_have_text(
        "Not in the prompt: unicorn."
    )
    assert chip(page, "dragon").get_attribute("title") == "picked"
    assert chip(page, "dragon").text_content() == "dragon k 0.7"
    objects(page).fill("dragon:7")
    expect(page.locator("#txt2img_asyndm .asyndm-missing")).to_contain_text("curvature of")
    page.locator("#txt2img_paste").click()  # the values of a pasted image
    expect(page.locator("#txt2img_asyndm .asyndm-auto")).to_have_text(["sofa"])
    expect(page.locator("#txt2img_asyndm .asyndm-pasted")).to_have_text(chips.PASTED)
    write(page, PROMPT)
    expect(page.locator("#txt2img_asyndm .asyndm-pasted")).to_have_text(chips.EDITED)
    expect(page.locator("#txt2img_asyndm .asyndm-auto")).to_have_text(["cat", "dog", "teddy bear"])


def test_a_closed_accordion_asks_nothing_and_typing_asks_seldom(page):
    before = len(page.asked)
    write(page, PROMPT)
    page.wait_for_timeout(1500)
    assert len(page.asked) == before
    open_(page)
    chip(page, "cat").wait_for()
    page.wait_for_timeout(1500)
    before = len(page.asked)
    page.locator("#txt2img_prompt textarea").press_sequentially(" " + "x" * 40, delay=20)
    page.wait_for_timeout(2500)
    assert 0 < len(page.asked) - before < 20


def test_a_hundred_thousand_digits_do_not_stop_the_page(page):
    """The page's script reads no prompt: its work is one comparison, whatever was typed."""
    open_(page)
    write(page, "a cat :" + "1" * 100_000)
    chip(page, "cat").wait_for()
    write(page, "a dog")
    chip(page, "dog").wait_for()
    script = (Path(__file__).resolve().parents[2] / "javascript" / "asyndm.js").read_text()
    assert "prompt.value" in script and "match(" not in script and "exec(" not in script


def test_photographs(page, url):
    folder = os.environ.get("ASYNDM_SHOTS")
    for theme in ("light", "dark") if folder else ("light",):
        for width in (1400, 420):
            page.set_viewport_size({"width": width, "height": 1100})
            page.goto(f"{url}/?__theme={theme}")
            page.locator("#txt2img_prompt textarea").wait_for()
            page.wait_for_timeout(1000)
            open_(page)
            long = PROMPT + ", hatsune miku, umbrella, a bicycle, a castle, a moonlit fisherman"
            states = {
                **{"auto": "", "picked": "cat:0.7, teddy bear, unicorn"},
                "ordered": "castle > bicycle > cat, castle > umbrella:0.7, fisherman",
            }
            for state, words in states.items():
                write(page, long)
                objects(page).fill(words)
                chip(page, "umbrella").wait_for()
                page.wait_for_timeout(1500)
                bar = page.locator("#txt2img_asyndm .asyndm-chips")
                box = bar.bounding_box()
                heights = set()
                for each in bar.locator(".asyndm-chip").all():
                    inner = each.bounding_box()
                    heights.add(round(inner["height"]))
                    assert inner["x"] >= box["x"] - 1
                    assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
                assert len(heights) == 1
                graph = page.locator("#txt2img_asyndm svg.asyndm-order")
                assert graph.count() == (state == "ordered")
                if state == "ordered":  # as large as it has room
                    drawn = graph.bounding_box()
                    assert drawn["x"] + drawn["width"] <= box["x"] + box["width"] + 1
                    assert drawn["height"] > 20
                if folder:
                    name = f"chips-{state}-{theme}-{width}.png"
                    page.screenshot(path=Path(folder) / name)
