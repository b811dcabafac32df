"""The WebUI's accordion in headless Chromium: the stand-in's page, its real script and style.

``ASYNDM_SHOTS=DIR`` keeps a picture of every page.
"""

from __future__ import annotations

import json
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

import gradio as gr  # noqa: E402
from chrome import NEEDED  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "hosts"))
from driver import missing  # noqa: E402

pytestmark = [
    NEEDED,
    pytest.mark.skipif(bool(missing()), reason=f"the stand-in of a WebUI needs {missing()}"),
]
PROMPT = "a red cat beside a dog on a sofa"
# As the hosts' javascript does it: whole texts, titles and placeholders, exactly as they are.
LOCALISE = """words => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walk.nextNode()) nodes.push(walk.currentNode);
  for (const node of nodes) {
    const parent = node.parentElement.nodeName;
    const said = words[node.textContent.trim()];
    if (said !== undefined && !['SCRIPT', 'STYLE', 'TEXTAREA'].includes(parent))
      node.textContent = said;
  }
  for (const name of ['title', 'placeholder'])
    for (const node of document.querySelectorAll(`[${name}]`))
      if (words[node[name]] !== undefined) node[name] = words[node[name]];
}"""
SLOW = pytest.mark.slow


class Served:
    """The page's program."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = folder / "terminal.txt"
        program = [sys.executable, str(Path(__file__).with_name("webui_page.py")), str(port)]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [*program, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "gradio")},
            )
        self.url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 180
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as client:
                if self.url in self.log.read_text() and not client.connect_ex(("127.0.0.1", port)):
                    return
            time.sleep(0.3)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("webui"))
    yield running
    running.stop()


def opened(chromium, url: str, width: int = 1400, theme: str = "light", tab: str = "txt2img"):
    """A page whose accordion is open and whose prompt is written, so that there are chips."""
    page = chromium.new_page(viewport={"width": width, "height": 1000})
    page.set_default_timeout(120_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(f"{url}/?__theme={theme}")
    page.locator("#txt2img_asyndm .label-wrap").first.wait_for()
    page.wait_for_timeout(1000)  # the page wires its events after its first paint
    page.add_script_tag(path=REPO / "javascript" / "asyndm.js")
    if tab != "txt2img":
        page.locator(".tab-nav button").get_by_text(tab, exact=True).click()  # no role on Gradio 3
    page.fill(f"#{tab}_prompt textarea", PROMPT)
    page.locator(f"#{tab}_asyndm .label-wrap").first.click()
    page.locator(f"#{tab}_asyndm_objects").wait_for()
    page.locator(f"#{tab}_asyndm .asyndm-chip").first.wait_for()
    page.wait_for_timeout(300)
    return page


def localise(page: Page, language: str) -> None:
    if language == "en":
        return
    words = json.loads((REPO / "localizations" / f"{language}.json").read_text("utf-8"))
    page.evaluate(LOCALISE, words)


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("ASYNDM_SHOTS"):
        version = gr.__version__.split(".")[0]
        page.screenshot(path=Path(folder) / f"gradio{version}-{name}.png", full_page=True)


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("language", ["en", "zh_CN", "ja_JP"])
def test_the_accordion_is_low(served, chromium, tab, language):
    page = opened(chromium, served.url, tab=tab)
    localise(page, language)
    assert page.locator(f"#{tab}_asyndm").bounding_box()["height"] <= 500
    for name in ("objects", "curvature", "plot", "mask_source", "show_masks"):
        assert page.locator(f"#{tab}_asyndm_{name}").first.is_visible()
    for name in ("curve", "threshold", "soft", "save_masks", "painting"):
        assert not page.locator(f"#{tab}_asyndm_{name}").first.is_visible()
    assert not page.faults
    page.close()


@pytest.mark.parametrize("width", [1400, 420])
def test_explanations_are_under_their_box(served, chromium, width):
    page = opened(chromium, served.url, width)
    page.locator("#txt2img_asyndm_more .label-wrap").first.click()
    page.locator("#txt2img_asyndm_threshold").wait_for()
    page.wait_for_timeout(500)
    boxes = page.evaluate("""() => [...document.querySelectorAll('#txt2img_asyndm .asyndm-box')]
      .filter(box => box.offsetParent !== null).map(box => {
        const info = box.querySelector('.has-info + div')
          || box.querySelector(':scope > div:not(.wrap)');
        const inputs = [...box.querySelectorAll('input, textarea')].filter(i => i.offsetParent);
        return info && [box.id, info.getBoundingClientRect().top,
          Math.max(...inputs.map(i => i.getBoundingClientRect().bottom))];
      }).filter(Boolean)""")
    assert len(boxes) >= 12
    for name, info, box in boxes:
        assert info >= box - 6, name  # a range's own box is higher than what is drawn
    page.close()


def test_the_canvas_is_there_when_painted_is_chosen(served, chromium):
    page = opened(chromium, served.url)
    source = page.locator("#txt2img_asyndm_mask_source label")
    place = page.locator("#txt2img_asyndm_painting")
    source.filter(has_text="painted").click()
    place.wait_for(state="visible")
    page.locator("#txt2img_asyndm_mask").wait_for(state="visible")
    shoot(page, "painting")
    source.filter(has_text="dynamic").click()
    place.wait_for(state="hidden")
    presets = page.locator("#txt2img_asyndm_preset label")
    presets.filter(has_text="default").locator("input:checked").wait_for(state="attached")
    page.wait_for_timeout(500)  # Gradio drops an event whose listener is still answering
    presets.filter(has_text="edit").click()
    place.wait_for(state="visible")  # also where a preset or pasted parameters chose it
    page.close()


def test_the_canvas_is_there_when_painted_is_the_users_default(tmp_path, chromium):
    running = Served(tmp_path, "given")
    try:
        page = opened(chromium, running.url)
        page.locator("#txt2img_asyndm_painting").wait_for(state="visible", timeout=20_000)
        page.close()
    finally:
        running.stop()


def choose(page: Page, name: str) -> None:
    page.locator("#setting_sd_model_checkpoint input").click()
    page.locator("ul.options li").filter(has_text=name).click()


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("theme", [pytest.param("light", marks=SLOW), "dark"])
def test_settings_of_transformers_are_there_where_one_is_chosen(served, chromium, theme, width):
    page = opened(chromium, served.url, width, theme)
    page.locator("#txt2img_asyndm_more .label-wrap").first.click()
    page.locator("#txt2img_asyndm_threshold").wait_for()
    time_, softmax = (page.locator(f"#txt2img_asyndm_{n}") for n in ("text_timestep", "softmax"))
    page.wait_for_timeout(500)
    assert not time_.is_visible() and not softmax.is_visible()
    shoot(page, f"{theme}-{width}-more-of-a-unet")
    choose(page, "flux")
    time_.wait_for(state="visible")
    softmax.wait_for(state="visible")
    shoot(page, f"{theme}-{width}-more-of-flux")
    wide = page.locator("#txt2img_asyndm").bounding_box()
    assert softmax.bounding_box()["width"] <= wide["width"]
    softmax.locator("label").filter(has_text="among all").click()
    choose(page, "tiny-sd1")
    time_.wait_for(state="hidden")
    assert softmax.is_visible()  # it is set: what is set is not hidden
    softmax.locator("label").filter(has_text="among words").click()
    softmax.wait_for(state="hidden")
    assert not page.faults
    page.close()


@pytest.mark.parametrize(
    "language", ["en", *(pytest.param(n, marks=SLOW) for n in ("zh_CN", "ja_JP"))]
)
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("theme", [pytest.param("light", marks=SLOW), "dark"])
def test_nothing_is_wider_than_its_page(served, chromium, theme, width, language):
    page = opened(chromium, served.url, width, theme)
    page.locator("#txt2img_asyndm_mask_source label").filter(has_text="painted").click()
    page.locator("#txt2img_asyndm_painting").wait_for(state="visible")
    localise(page, language)
    shoot(page, f"{theme}-{width}-{language}")
    page.locator("#txt2img_asyndm_more .label-wrap").first.click()
    page.locator("#txt2img_asyndm_threshold").wait_for()
    page.wait_for_timeout(400)
    localise(page, language)
    shoot(page, f"{theme}-{width}-{language}-more")
    wide = page.evaluate("""() => {
      const place = document.querySelector('#txt2img_asyndm');
      const right = place.getBoundingClientRect().right;
      return [...place.querySelectorAll('.block, .asyndm-chip, label, svg')]
        .filter(e => e.getBoundingClientRect().right > right + 1).map(e => e.id || e.className);
    }""")
    assert not wide
    cut = page.evaluate("""() => {
      const svg = document.querySelector('#txt2img_asyndm_plot svg');
      const whole = svg.getBoundingClientRect();
      return [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()])
        .filter(([_, b]) => b.left < whole.left - 1 || b.right > whole.right + 1)
        .map(([text, _]) => text);
    }""")
    assert not cut
    page.close()
