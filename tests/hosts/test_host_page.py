"""The page of a running WebUI in headless Chromium; a real host only."""

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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright in this Python")

REAL = os.environ.get("ASYNDM_WEBUI_DIR")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(not REAL, reason="no real WebUI: set ASYNDM_WEBUI_DIR"),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium"),
]
PROMPT = "a (red:1.2) cat beside a <b>dog</b> on a sofa"
SHOTS = os.environ.get("ASYNDM_SHOTS")  # a folder for screenshots to look at


@pytest.fixture(scope="module")
def url():
    from driver import make_data, places, real_host

    data, kind, folder = make_data(extension=True), real_host(), Path(REAL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "launch.py", "--skip-prepare-environment", "--skip-install"]
    checkpoint = next((folder / "models" / "Stable-diffusion").glob("*-sd1.safetensors"))
    command += [*kind.flags, *places(folder, data), "--port", port, "--ckpt", checkpoint]
    with open(data / "log", "w") as log:
        server = subprocess.Popen(list(map(str, command)), cwd=REAL, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            assert server.poll() is None, (data / "log").read_text()[-2000:]
            if "Startup time" in (data / "log").read_text():
                break
            time.sleep(1)
        urllib.request.urlopen(address, timeout=30)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(url, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1500})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{error} {error.stack}"))
    page.goto(url, timeout=120_000)
    page.wait_for_selector("#txt2img_prompt textarea", timeout=120_000)
    yield page
    page.close()
    assert not [error for error in errors if "asyndm" in error.lower()], errors


def number(page, name: str, value) -> None:
    field = page.locator(f"#{name} input[type=number]").first
    field.fill(str(value))
    field.press("Tab")


def small(page) -> None:
    page.fill("#txt2img_prompt textarea", PROMPT)
    for name, value in (("width", 128), ("height", 128), ("steps", 5)):
        number(page, f"txt2img_{name}", value)


def tick(page) -> None:
    page.locator("#txt2img_asyndm .label-wrap").first.click()
    page.locator("#txt2img_asyndm_objects").wait_for(state="visible")


def generate(page) -> None:
    before = info(page)
    page.click("#txt2img_generate")
    page.wait_for_function(
        "before => { const now = document.querySelector('#html_info_txt2img').innerText;"
        " return now.includes('Steps:') && now !== before }",
        arg=before,
        timeout=120_000,
    )
    page.locator("#txt2img_gallery img").first.wait_for()


def choose(page, selector: str, name: str) -> None:
    """In a drop-down that is searched by typing."""
    field = page.locator(selector).first
    field.click()
    field.fill(name)
    field.press("Enter")
    field.press("Tab")


def info(page) -> str:
    return page.locator("#html_info_txt2img").first.inner_text()


def said(page) -> str:
    """The lines below the image."""
    return page.locator("#html_log_txt2img").first.inner_text()


def first_picture(page) -> np.ndarray:
    source = page.locator("#txt2img_gallery img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))


def shoot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


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
    plot = page.locator("#txt2img_asyndm_plot svg").get_attribute("aria-label")
    page.locator("#txt2img_asyndm_preset label").filter(has_text="strong").click()
    page.wait_for_function(
        "before => document.querySelector('#txt2img_asyndm_plot svg')"
        ".getAttribute('aria-label') !== before",
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
    assert 'X Values: "0, 0.5, 1"' in info(page)


def test_a_wrong_value_is_one_line_in_the_page(page):
    small(page)
    tick(page)
    page.locator("#txt2img_asyndm_objects").locator("textarea, input").fill("unicorn")
    generate(page)
    shoot(page, "unmatched")
    assert "no object word is in the prompt (unicorn). The image is synchronous." in said(page)
