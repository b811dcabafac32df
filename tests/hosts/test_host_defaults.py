"""Settings > Defaults in a host that keeps no accordion: Forge main compares types with a function.

It keeps plain tick boxes, by tab and label; by a look-alike, written anew. The stand-in only.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType

import gradio as gr
import pytest
from driver import REPO, StandIn, missing

pytestmark = [
    pytest.mark.skipif(bool(os.environ.get("ASYNDM_WEBUI_DIR")), reason="of the stand-in"),
    pytest.mark.skipif(bool(missing()), reason=f"the stand-in needs {missing()}"),
]
TABS = ("txt2img", "img2img")
KEY = "customscript/asyndm_script.py/{}/AsynDM/value"


def accordion_of_forge(value=None, **options):
    """There a function makes them; no type is equal to it."""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """(the scripts of both tabs, each freshly loaded; the host's file of defaults)."""
    file, running = tmp_path / "ui-config.json", []

    def begin(accordion, kept: dict | str | None = None):
        host = StandIn(style="Forge")
        running.append(host)
        module = ModuleType("modules.ui_loadsave")
        module.InputAccordion = accordion
        monkeypatch.setitem(sys.modules, "modules.ui_loadsave", module)
        monkeypatch.setattr(host.shared.cmd_opts, "ui_config_file", str(file), raising=False)
        if kept is not None:
            file.write_text(kept if isinstance(kept, str) else json.dumps(kept), "utf-8")
        from modules import scripts

        scripts.load_scripts([REPO / "scripts" / "asyndm_script.py"])
        return {tab: getattr(scripts, f"scripts_{tab}").alwayson_scripts[0] for tab in TABS}

    yield begin
    for host in running:
        host.close()


def drawn(script, tab: str):
    """(the page, its accordion's tick, what such a host keeps of it: the value by its key)."""
    with gr.Blocks(analytics_enabled=False) as page:
        enabled = script.ui(tab == "img2img")[0]
    kept = {
        f"customscript/{block.custom_script_source}/{tab}/{block.label}/value": block
        for block in page.blocks.values()
        if type(block) is gr.Checkbox and getattr(block, "custom_script_source", None)
    }
    return page, enabled, kept


def test_a_plain_box_follows_the_accordion(start):
    for tab, script in start(accordion_of_forge).items():
        page, enabled, kept = drawn(script, tab)
        assert not enabled.value and [*kept] == [KEY.format(tab)]
        (box,) = kept.values()
        assert not box.visible and not box.value
        config = page.get_config_file()["dependencies"]
        follows = [d for d in config if d["outputs"] == [box._id]]
        assert [d["inputs"] for d in follows] == [[enabled._id]] and follows[0]["js"]


def test_what_the_user_kept_is_there_after_the_next_start(start):
    scripts = start(accordion_of_forge, {KEY.format("img2img"): True})
    for tab, script in scripts.items():
        page, enabled, kept = drawn(script, tab)
        (box,) = kept.values()
        assert enabled.value is enabled.accordion.open is box.value is (tab == "img2img")
        # The API draws the controls once more to learn what a request leaves out.
        assert not drawn(script, tab)[1].value


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({KEY.format("txt2img"): "yes"})])
def test_a_file_that_cannot_be_read_ticks_nothing(start, text):
    script = start(accordion_of_forge, text)["txt2img"]
    assert not drawn(script, "txt2img")[1].value


def test_a_host_that_keeps_its_accordions_gets_no_box_more(start):
    script = start(type("InputAccordion", (), {}), {KEY.format("txt2img"): True})["txt2img"]
    _, enabled, kept = drawn(script, "txt2img")
    assert not enabled.value and not kept
