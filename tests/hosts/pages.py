"""A running WebUI's page in headless Chromium: what the tests of it share."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright in this Python")

REAL = os.environ.get("ASYNDM_WEBUI_DIR")
CHROMIUM = shutil.which("chromium")
ON_REAL_PAGE = [
    pytest.mark.skipif(not REAL, reason="no real WebUI: set ASYNDM_WEBUI_DIR"),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium"),
]
PROMPT = "a (red:1.2) cat beside a <b>dog</b> on a sofa"
VIEWPORT = {"width": 1400, "height": 1500}
PATIENCE = 600  # seconds for anything a page or a host's start may take on a busy machine
SHOTS = os.environ.get("ASYNDM_SHOTS")  # a folder for screenshots to look at


def size(path: Path) -> int:
    return path.stat().st_size


@contextmanager
def served(
    *options: str, extension: bool = True, data: Path | None = None
) -> Iterator[tuple[str, Path]]:
    """(the address, the data folder) of a host started with some more options.

    Args:
        options: of its command line.
        extension: with AsynDM.
        data: the folder of an earlier start; default: a new one.
    """
    from real_hosts import checkpoints, make_data, places, real_host

    kind, folder = real_host(), Path(REAL)
    checkpoint = min(checkpoints(folder).glob("*-sd1.safetensors"), key=size)
    # Neo keeps a checkpoint for each of its presets.
    chosen = dict.fromkeys(("sd_model_checkpoint", "forge_checkpoint_sd"), checkpoint.name)
    data = data or make_data(extension, **chosen)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "launch.py", "--skip-prepare-environment", "--skip-install"]
    command += [*kind.flags, *places(folder, data), "--port", port, "--ckpt", checkpoint, *options]
    with open(data / "log", "w") as log:
        server = subprocess.Popen(list(map(str, command)), cwd=REAL, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(PATIENCE):
            assert server.poll() is None, (data / "log").read_text()[-2000:]
            if "Startup time" in (data / "log").read_text():
                break
            time.sleep(1)
        urllib.request.urlopen(address, timeout=PATIENCE)
        yield address, data
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)


@pytest.fixture(scope="module")
def host_page():
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def url(host_page):
    return host_page[0]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(url, browser):
    with tab(browser, url) as page:
        yield page


@contextmanager
def tab(browser, url: str, beside=None):
    """A fresh page of a host, in a browser of its own or beside another page in the same one."""
    context = beside.context if beside else browser.new_context(viewport=VIEWPORT)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{error} {error.stack}"))
    page.goto(url)
    page.wait_for_selector("#txt2img_prompt textarea")
    yield page
    page.close() if beside else context.close()
    assert not [error for error in errors if "asyndm" in error.lower()], errors


def number(page, name: str, value) -> None:
    field = page.locator(f"#{name} input[type=number]").first
    field.fill(str(value))
    field.press("Tab")


def small(page, tab: str = "txt2img") -> None:
    page.fill(f"#{tab}_prompt textarea", PROMPT)
    for name, value in (("width", 128), ("height", 128), ("steps", 5)):
        number(page, f"{tab}_{name}", value)


def tick(page, tab: str = "txt2img") -> None:
    page.locator(f"#{tab}_asyndm .label-wrap").first.click()
    page.locator(f"#{tab}_asyndm_objects").wait_for(state="visible")


def generate(page, tab: str = "txt2img") -> None:
    before = info(page, tab)
    page.click(f"#{tab}_generate")
    finished(page, before, tab)


def finished(page, before: str = "", tab: str = "txt2img") -> None:
    """Wait for a picture whose parameters are not ``before``."""
    page.wait_for_function(
        "([before, tab]) => { const now = document.querySelector(`#html_info_${tab}`).innerText;"
        " return now.includes('Steps:') && now !== before }",
        arg=[before, tab],
    )
    page.locator(f"#{tab}_interrupt").wait_for(state="hidden")
    pictures(page, tab).first.wait_for()


def paint(page, canvas: str) -> None:
    """A short stroke across the middle of a canvas."""
    place = page.locator(canvas).first
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for step in range(3):  # some canvases listen only once the pointer has come in
        page.mouse.move(x - 60 + 10 * step, y - 20)
        page.wait_for_timeout(200)
    page.mouse.move(x - 30, y)
    page.mouse.down()
    for step in range(-30, 31, 5):
        page.mouse.move(x + step, y + step / 3)
    page.mouse.up()
    page.wait_for_timeout(800)


def choose(page, selector: str, name: str) -> None:
    """In a drop-down that is searched by typing."""
    field = page.locator(selector).first
    field.click()
    field.fill(name)
    field.press("Enter")
    field.press("Tab")


def info(page, tab: str = "txt2img") -> str:
    return page.locator(f"#html_info_{tab}").first.inner_text()


def said(page, tab: str = "txt2img") -> str:
    """The lines below the image."""
    return page.locator(f"#html_log_{tab}").first.inner_text()


def pictures(page, tab: str = "txt2img"):
    """The gallery's; a live preview in front of it can stay when progress is restored."""
    return page.locator(f"#{tab}_gallery img:not(.livePreview img)")


def first_picture(page, tab: str = "txt2img") -> np.ndarray:
    source = pictures(page, tab).first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))


def shoot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)
