"""What a user reads in the accordion is translated: the built page is walked, piece by piece."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from asyndm.core.found import Found, mark
from asyndm.page.chips import BROKEN, UNSTYLED, chips_html
from asyndm.page.controls import FACES

REPO = Path(__file__).resolve().parents[2]
LANGUAGES = ("zh_CN", "ja_JP")
pytestmark = pytest.mark.skipif(
    bool(os.environ.get("ASYNDM_WEBUI_DIR")), reason="the page is the same in every host"
)


class Texts(HTMLParser):
    """The text nodes a host's localisation sees, and titles and placeholders."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(source)

    def handle_data(self, data: str) -> None:
        self.found.add(data.strip())

    def handle_starttag(self, tag, attrs) -> None:
        named = dict(attrs)
        self.found |= {(named.get(name) or "").strip() for name in ("title", "placeholder")}
        assert not named.get("aria-label"), "no host translates an aria-label: use a title"


def texts_of(block) -> set[str]:
    """Every string of one component."""
    found = {getattr(block, name, None) for name in ("label", "info", "placeholder")}
    if not getattr(block, "show_label", True):
        found.discard(block.label)
    kind = type(block).__name__
    if kind in ("HTML", "Markdown"):
        return Texts(block.value or "").found
    if kind == "Button":
        found.add(block.value)
    for choice in getattr(block, "choices", None) or ():
        found.add(choice[0] if isinstance(choice, tuple | list) else choice)
    return found


def shown() -> set[str]:
    """Every string of the accordions of both tabs, of the chips, and of the measuring script."""
    import gradio as gr
    from modules import scripts

    found: set[str] = set()
    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        measuring = [s for s in runner.selectable_scripts if s.title().startswith("AsynDM")]
        found |= {script.title() for script in measuring}
        with gr.Blocks() as page:
            for script in (*runner.alwayson_scripts, *measuring):
                if script.title().startswith("AsynDM"):
                    script.ui(runner.is_img2img)
        for block in page.blocks.values():
            found |= texts_of(block)
    prompt, pasted = "a cat near it", Found({mark("a cat near it", ""): ("cat",)}).to_text()
    for written, told in (("cat:0.7, unicorn", ""), ("", ""), ("", pasted), ("cat > dog", "")):
        for words in (prompt, "a cat was near it"):  # shown when asked for, so not in the page
            found |= Texts(chips_html(words, written, told)).found
    found |= {UNSTYLED, BROKEN}  # where something fails: tests/test_chips.py sees them
    found -= {
        "cat",
        "near",
        "was",
        "k 0.7",
        "unicorn.",
        "dog.",
        "cat · 1/2 k",
        "dog · k",
    }  # the user's
    found -= {None, "", "AsynDM", "foreground"}  # the last is a label of Forge's own canvas
    found.add(FACES["enabled"].label)  # the accordion's own box, which a host writes "AsynDM" at
    return {text for text in found if not re.fullmatch(r"[.\d]+", text)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_string_of_the_page_is_translated_and_none_is_left_over(host, language):
    words = json.loads((REPO / "localizations" / f"{language}.json").read_text("utf-8"))
    seen = shown()
    assert len(seen) > 60
    assert seen - set(words) == set(), "not translated"
    assert set(words) - seen == set(), "nothing of the page says this any more"
    same = {text for text, said in words.items() if said.strip() in ("", text)}
    names = r"[A-Z][A-Z+-]+"  # of methods, which are the same everywhere
    assert all(re.fullmatch(rf"[\w=:.#, -]*=[\w=:.#, -]*|{names}", text) for text in same), same


def test_the_plots_words_are_nobody_elses():
    """A host translates by whole texts: a common word would get another extension's meaning."""
    from asyndm.page.plot import curve_svg

    words = Texts(curve_svg("quadratic", 0.5)).found - {"", "0"}
    assert len(words) >= 5
    others = {text for face in FACES.values() for text in (face.choices or {}).values()}
    assert all(" " in word and word not in others for word in words)


def test_languages_have_the_same_words():
    files = [
        json.loads((REPO / "localizations" / f"{n}.json").read_text("utf-8")) for n in LANGUAGES
    ]
    assert set(files[0]) == set(files[1])
