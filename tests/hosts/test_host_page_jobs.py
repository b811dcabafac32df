"""What people do in a running WebUI's page, plain, ticked and with masks; a real host only.

``ASYNDM_TABLE=docs/works-with.json`` writes what was measured there, see ``works.py``: *plain* is
beside the page of the same host without the extension.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from pages import (  # noqa: F401 - fixtures among them
    ON_REAL_PAGE,
    browser,
    choose,
    finished,
    first_picture,
    generate,
    info,
    number,
    served,
    shoot,
    small,
    tab,
    tick,
)
from works import CELLS, Table, difference

pytestmark = ON_REAL_PAGE
# ruff: noqa: F811 - arguments of the fixtures' names
LONG = 60  # steps: long enough to load a page anew


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """(the host's address, that of the same host without the extension)."""
    styles = tmp_path_factory.mktemp("styles") / "styles.csv"
    styles.write_text("name,prompt,negative_prompt\nrainy,{prompt} and a horse in rain,\n")
    options = ("--styles-file", str(styles))
    with served(*options) as (url, _), served(*options, extension=False) as (bare, _):
        yield url, bare


@pytest.fixture(scope="module")
def table():
    from real_hosts import real_host

    made = Table(real_host().name)
    yield made
    if os.environ.get("ASYNDM_TABLE"):
        made.write(Path(os.environ["ASYNDM_TABLE"]))


def ready(page, cell: str, tab: str = "txt2img", steps: int = 5) -> None:
    """A small job of a cell of the table, before the button is pressed."""
    small(page, tab)
    number(page, f"{tab}_steps", steps)
    number(page, f"{tab}_seed", 7)
    if cell != "plain":
        tick(page, tab)
        number(page, f"{tab}_asyndm_curvature", 0.9)
    if cell == "masks":
        page.locator(f"#{tab}_asyndm_show_masks input").first.check()


def version(page, tab: str = "txt2img") -> str:
    return (re.search(r"Version: ([^,\n]+)", info(page, tab)) or [None, "unknown"])[1]


def judged(table, row: str, found: tuple) -> None:
    for cell, value in zip(CELLS, found):
        table.tell(row, cell, value)
    assert found[0] == 0 and isinstance(found[1], int) and found[1] > 3 and found[2] == 0, found


def a_style(browser, url, cell, others):
    with tab(browser, url) as page:
        ready(page, cell)
        choose(page, "#txt2img_styles input", "rainy")
        generate(page)
        assert "and a horse in rain" in info(page)
        return [first_picture(page)], version(page)


def restored(browser, url, cell, others):
    """The page is loaded anew while the host works, and the button of the task is pressed."""
    with tab(browser, url) as page:
        ready(page, cell, steps=LONG)
        page.click("#txt2img_generate")
        page.locator("#txt2img_interrupt").wait_for(state="visible")
        page.wait_for_timeout(1500)
        page.reload()
        page.wait_for_selector("#txt2img_prompt textarea")
        assert "Steps:" not in info(page)
        button = page.locator("#txt2img_restore_progress")
        button.wait_for(state="visible")
        button.click()
        finished(page)
        assert ("AsynDM:" in info(page)) == (cell != "plain")
        return [first_picture(page)], version(page)


# How many components a button of the page fills at most.
FILLS = """name => {
  const {components, dependencies} = window.gradio_config;
  const button = components.find(c => c.props.elem_id === name).id;
  const its = dependencies.filter(d => d.targets.flat().includes(button));
  return Math.max(...its.map(d => d.outputs.length));
}"""


def restores(browser, url) -> bool:
    """Whether the host's button for it fills what a job fills: Neo 2.26's lacks the video, so that
    every result but the first goes into the component before its own."""
    with tab(browser, url) as page:
        buttons = ("txt2img_generate", "txt2img_restore_progress")
        return len({page.evaluate(FILLS, name) for name in buttons}) == 1


def two_tabs(browser, url, cell, others):
    """One ticked and one not, both at work: each gets its own."""
    with tab(browser, url) as page, tab(browser, url, beside=page) as other:
        ready(page, cell, steps=20)
        # without the extension there is nothing to tick
        there = page.locator("#txt2img_asyndm").count()
        ready(other, "ticked" if cell == "plain" and there else "plain", steps=20)
        for each in (page, other):
            each.click("#txt2img_generate")
        for each in (page, other):
            each.bring_to_front()
            finished(each)
        if there:
            others[cell] = first_picture(other)
        return [first_picture(page)], version(page)


@pytest.mark.parametrize(
    ("row", "job"),
    [
        ("style (page)", a_style),
        ("restore progress (page)", restored),
        ("two tabs at once (page)", two_tabs),
    ],
)
def test_a_job_in_the_page(browser, urls, table, row, job):
    for cell in CELLS:
        table.tell(row, cell, "not run")
    if job is restored and not restores(browser, urls[1]):
        with tab(browser, urls[1]) as page:
            ready(page, "plain", steps=1)
            generate(page)
            table.version = version(page)
        for cell in CELLS:
            table.tell(row, cell, "fails without AsynDM")
        pytest.skip("this host's own page does not restore")
    others: dict[str, np.ndarray] = {}
    made = {}
    for cell in CELLS:
        made[cell], table.version = job(browser, urls[0], cell, others)
    bare, _ = job(browser, urls[1], "plain", {})
    plain, ticked, masks = (made[cell] for cell in CELLS)
    found = (difference(plain, bare), difference(ticked, plain), difference(masks, ticked))
    judged(table, row, found)
    if others:  # what the other tab was given is its own, too
        assert difference([others["plain"]], ticked) == 0
        assert difference([others["ticked"]], plain) == difference([others["masks"]], plain) == 0


def test_the_hosts_defaults_keep_the_users_own(browser, urls, table):
    """Settings > Defaults: what a user has set of AsynDM is there after the next start."""
    row = "Settings > Defaults (page)"
    with served() as (url, data), tab(browser, url) as page:
        ready(page, "plain")
        generate(page)
        plain, table.version = [first_picture(page)], version(page)
        ready(page, "ticked")
        generate(page)
        ticked = [first_picture(page)]
        page.locator("#tabs button").filter(
            has_text=re.compile("^ *settings *$", re.I)
        ).first.click()
        search = page.locator("#settings button").filter(
            has_text=re.compile("^ *defaults *$", re.I)
        )
        search.first.click()
        page.click("#ui_defaults_view")
        page.locator("#tab_defaults table, #settings table").filter(
            has_text="asyndm"
        ).first.wait_for()
        shoot(page, "defaults")
        page.click("#ui_defaults_apply")
        page.wait_for_function("() => document.body.innerText.includes('Wrote ')")
    made = []
    with served(data=data) as (url, _):
        for show_masks in (False, True):
            with tab(browser, url) as page:
                assert page.locator("#txt2img_asyndm-visible-checkbox").is_checked()
                small(page)  # Forge's presets set sizes and steps anew when a page is loaded
                number(page, "txt2img_seed", 7)
                if show_masks:
                    page.locator("#txt2img_asyndm_show_masks input").first.check()
                generate(page)
                made.append([first_picture(page)])
    kept, masks = made
    with tab(browser, urls[1]) as page:
        ready(page, "plain")
        generate(page)
        bare = [first_picture(page)]
    assert difference(kept, ticked) == 0
    found = (difference(plain, bare), difference(kept, plain), difference(masks, kept))
    judged(table, row, found)
