"""Chips of a prompt's words: what the run will take, what is picked, and how a click is written."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'studio'")

import gradio as gr  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import settings as effort  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from asyndm.core.found import Found, mark  # noqa: E402
from asyndm.core.words import find_tokens, objects_of, read_expression  # noqa: E402
from asyndm.page import chips, order_graph  # noqa: E402

PROMPT = "a (red:1.2) cat beside a <b>dog</b> on a sofa"


def shown(prompt: str, objects: str = "", found: Found | None = None) -> dict[str, str]:
    """What each chip is, by its text."""
    made = chips.chips_of(prompt, objects, found)[0]
    return {c.text: "picked" if c.names else "auto" if c.found else "" for c in made}


def test_what_will_be_found_is_dashed_and_markup_stays_text():
    assert shown(PROMPT) == {"red": "", "cat": "auto", "dog": "auto", "sofa": "auto"}
    assert "<b>" not in chips.chips_html("a <b>cat</b> & <script>dog", "").replace("<button", "")


def test_what_is_picked_is_solid_and_nothing_else_is_found():
    assert shown(PROMPT, "cats:0.7") == {"red": "", "cat": "picked", "dog": "", "sofa": ""}
    assert shown(PROMPT, "-dog") == {"red": "", "cat": "auto", "dog": "", "sofa": "auto"}
    assert shown(PROMPT, "red cat，dog") == {"red cat": "picked", "dog": "picked", "sofa": ""}


@pytest.mark.parametrize(
    ("prompt", "objects", "expected"),
    [
        ("a Teddy Bear and a bike", "", {"Teddy Bear": "auto", "bike": "auto"}),
        ("a teddy bear and a bike", "teddy bear", {"teddy bear": "picked", "bike": ""}),
        ("a teddy bear and a bike", "bike", {"teddy bear": "", "bike": "picked"}),
        ("公園の猫と自転車", "自転車", {"自転車": "picked"}),
        ("кот и собака", "кот", {"кот": "picked", "собака": ""}),
        ("a cat and a cat", "", {"cat": "auto"}),
        ("a cat <lora:dogs:1>", "", {"cat": "auto"}),
        ("बिल्ली, कुत्ता", "बिल्ली", {"बिल्ली": "picked", "कुत्ता": ""}),
    ],
)
def test_words_of_every_kind(prompt, objects, expected):
    made = shown(prompt, objects)
    assert {word: made.get(word) for word in expected} == expected, made


def test_the_chips_of_the_choice_are_the_runs_own_words():
    """By the run's functions, word for word, for prompts of every kind."""
    for prompt in ("three women and a man", "hatsune miku, umbrella", "公園の猫と自転車", PROMPT):
        taken = [word.text for word in objects_of(prompt, "")]
        dashed = [word for word, kind in shown(prompt).items() if kind == "auto"]
        assert len(dashed) == len(taken)
        for word, text in zip(taken, dashed):
            assert find_tokens(word, [f"{piece}</w>" for piece in text.split()])


def test_a_pasted_images_words_are_shown_as_long_as_they_hold():
    found = Found({mark(PROMPT, ""): ("sofa",)})
    assert shown(PROMPT, "", found) == {"red": "", "cat": "", "dog": "", "sofa": "auto"}
    assert chips.PASTED in chips.chips_html(PROMPT, "", found.to_text())
    edited = chips.chips_html(PROMPT + " at night", "", found.to_text())
    assert chips.EDITED in edited and edited.count("asyndm-auto") == 3
    assert chips.PASTED not in chips.chips_html(PROMPT, "cat", found.to_text())


def attributes(bar: str, word: str) -> dict[str, str]:
    button = re.search(rf'<button[^>]*data-word="{word}"[^>]*>', bar).group()
    return {name: html.unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', button)}


@pytest.mark.parametrize(
    ("objects", "word", "after"),
    [
        ("cat", "cat", ""),
        ("cat:0.7, dog", "cat", "dog"),
        ("cat，dog:0,4", "cat", "dog:0.4"),
        ("cats:0.7; dog, -sofa", "cat", "dog, -sofa"),
        ("cat and dog", "dog", "cat"),
        ("cat, cats", "cat", ""),
    ],
)
def test_a_click_on_a_picked_chip_takes_it_out(objects, word, after):
    found = attributes(chips.chips_html(PROMPT, objects), word)
    assert found["aria-pressed"] == "true" and found["data-next"] == after


def test_what_is_wrong_is_one_line_and_the_chips_stay():
    bar = chips.chips_html(PROMPT, "cat:7")
    assert bar.count("<button") == 4 and "curvature of" in bar and "asyndm-auto" not in bar
    assert "<span>Not in the prompt: </span>unicorn." in chips.chips_html(PROMPT, "unicorn, cat")
    assert "Not in the prompt" not in chips.chips_html(PROMPT, "")
    assert chips.chips_html("cat " * 9, "x" * 30_000).count("<p") == 1


@pytest.mark.parametrize(
    "typed, picked, left",
    [
        ("cat > dog, sofa", "sofa", "cat > dog"),
        ("cat > dog > sofa", "dog", "cat > sofa"),
        ("cat:0.2 > dog, cat > sofa:0.9, -red", "dog", "cat:0.2 > sofa:0.9, -red"),
        ("cat > dog, sofa > dog", "dog", "cat, sofa"),
        ("cat > dog", "cat", "dog"),
    ],
)
def test_a_word_is_clicked_away_and_the_order_of_the_others_stays(typed, picked, left):
    said = read_expression(typed)
    assert chips.without(said, [picked]) == left
    now = read_expression(left)
    gone = {edge for edge in said.order if picked not in edge}
    assert gone <= set(now.order)


def test_an_order_is_drawn_below_the_chips():
    """Every object in the column of its depth, with its share, and an arrow an edge."""
    drawn = chips.chips_html(PROMPT, "cat > dog > sofa, cat > red:0.4, <b>&")
    graph = ElementTree.fromstring(re.search(r"<svg.*?</svg>", drawn, re.DOTALL).group())
    text = [node.text for node in graph.iter("text")]
    assert text == ["cat · 1/3 k", "dog · 2/3 k", "red · k 0.4", "sofa · k"]
    left = [float(node.get("x")) for node in graph.iter("rect")]
    assert left[0] < left[1] == left[2] < left[3]
    assert len([p for p in graph.iter("path") if p.get("stroke")]) == 3
    assert "<svg" not in chips.chips_html(PROMPT, "cat, dog")
    wrong = chips.chips_html(PROMPT, "cat > dog > cat")
    assert "<svg" not in wrong and wrong.count("<p") == 1 and "is a circle" in wrong
    nasty = chips.chips_html(PROMPT, "a&quot;<b> > c\"d > e'f")
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", nasty, re.DOTALL).group())
    many = " > ".join(f"w{n}" for n in range(order_graph.MOST_NODES + 1))
    assert "<svg" not in chips.chips_html(PROMPT, many)


def test_nothing_breaks_the_page(monkeypatch):
    for values in ((None, None, None), (3, [], {}), ("a cat", "", "[1]"), ("", "", "{")):
        assert chips.chips_html(*values).startswith('<div class="asyndm-chips"')
    monkeypatch.setattr(chips, "plain_prompt", lambda text: 1 / 0)
    bar = chips.chips_html("a cat", "")
    assert bar.count("<button") == 0 and bar.count("<p") == 1 and chips.BROKEN in bar


def answer_of(styled):
    """What the page shows of a prompt, the words and a style, by the event that is wired."""
    with gr.Blocks(analytics_enabled=False) as page:
        boxes = [gr.Textbox() for _ in range(4)]
        chips.wire_chips(chips.asking_button("x"), gr.HTML(), *boxes, styled)
    (event,) = page.fns if isinstance(page.fns, list) else page.fns.values()
    return event.fn(PROMPT, "", "", ["rainy"])


def test_styles_that_cannot_be_applied_are_one_line_and_the_chips_stay(caplog):
    def refuse(prompt, names):
        raise KeyError(names[0])

    bar = answer_of(refuse)
    assert bar.count("<button") == 4 and bar.count("<p") == 1
    assert html.escape(chips.UNSTYLED) in bar and "rainy" in caplog.text
    styled = answer_of(lambda prompt, names: f"{prompt} and a horse")
    assert styled.count("<button") == 5 and "<p" not in styled


@effort(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.text(max_size=30), st.text(max_size=10))
def test_no_text_crashes(prompt, objects, found):
    bar = chips.chips_html(prompt, objects, found)
    assert bar.startswith("<div") and bar.count("<button") == bar.count("</button>")


def test_a_long_prompt_is_capped():
    prompt = ", ".join(f"w{number}thing cat{number}x" for number in range(3000))
    bar = chips.chips_html(prompt, "")
    assert 0 < bar.count("<button") <= chips.MOST_CHIPS and len(bar) < 60_000


HARD = {
    "digits behind a colon": lambda n: "cat :" + "1" * n,
    "brackets": lambda n: "(" * n,
    "closed brackets": lambda n: "cat" + ")" * n,
    "networks": lambda n: "<a:" * (n // 3),
    "spaces": lambda n: "cat" + " " * n + "dog",
    "words": lambda n: " ".join(f"cat dog{i}" for i in range(n // 8)),
    "one word": lambda n: "cat" * (n // 3),
}


@pytest.mark.parametrize("kind", HARD)
def test_the_work_grows_no_faster_than_the_prompt(monkeypatch, kind):
    """Steps of Python, counted, for a prompt and one of twice its length."""
    monkeypatch.setattr(chips, "LONGEST_PROMPT", 10**6)

    def steps(prompt: str) -> int:
        count = 0

        def watch(frame, event, argument):
            nonlocal count
            count += 1
            return watch

        chips.chips_html("warm up", "")
        sys.settrace(watch)
        try:
            chips.chips_html(prompt, "")
        finally:
            sys.settrace(None)
        return count

    assert steps(HARD[kind](4000)) < 2.5 * steps(HARD[kind](2000))


def test_every_line_of_the_chips_is_translated():
    for language in ("zh_CN", "ja_JP"):
        path = Path(__file__).parents[1] / "localizations" / f"{language}.json"
        words = json.loads(path.read_text("utf-8"))
        lines = {chips.GROUP, chips.PASTED, chips.EDITED, chips.MISSING}
        lines |= {chips.UNSTYLED, chips.BROKEN}
        assert lines | {chips.PICKED, chips.FOUND, chips.OTHER, order_graph.TITLE} <= set(words)


def test_no_selector_of_the_style_sheet_misses_what_is_drawn():
    """Each class a chip's rule names is on the chip or above it, in that order."""
    css = (Path(__file__).parents[1] / "style.css").read_text()
    dashed = re.search(r"([^{}]*)\{[^}]*border-style: dashed", css).group(1).strip()
    assert dashed.endswith('.asyndm-chips .asyndm-chip.asyndm-auto[aria-pressed="false"]')
    bar = chips.chips_html(PROMPT, "")
    assert 'class="asyndm-chip asyndm-auto" aria-pressed="false"' in bar
