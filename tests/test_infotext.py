"""The one line in an image's parameters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from asyndm.core.settings import (
    CURVES,
    FIRST_STEPS,
    MASK_SOURCES,
    ORIGINS,
    Settings,
    SettingsError,
)
from asyndm.hosts import infotext

OLD = json.loads((Path(__file__).parent / "data" / "parameters-0.1.0.json").read_text("utf-8"))


@pytest.mark.parametrize("made", OLD, ids=range(len(OLD)))
def test_parameters_of_the_first_version_restore_its_settings(made):
    restored = dataclasses.asdict(infotext.from_text(made["text"]))
    assert {name: restored[name] for name in made["settings"]} == made["settings"]
    assert infotext.pasted({infotext.KEY: made["text"]}) == infotext.from_text(made["text"])


fractions = st.floats(0, 1).map(lambda x: float(f"{x:.4g}"))


@st.composite
def settings(draw) -> Settings:
    start = draw(st.sampled_from([0.0, 0.1, 0.25]))
    return Settings(
        enabled=True,
        objects=draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=40)),
        curve=draw(st.sampled_from(CURVES)),
        curvature=draw(fractions),
        threshold=draw(fractions),
        mask_source=draw(st.sampled_from(MASK_SOURCES)),
        first_step=draw(st.sampled_from(FIRST_STEPS)),
        origin=draw(st.sampled_from(ORIGINS)),
        eta=draw(fractions),
        smoothing=draw(st.sampled_from([0.0, 0.5, 0.99])),
        soft=draw(st.booleans()),
        start=start,
        end=draw(st.sampled_from([0.5, 0.9, 1.0])),
        lead=draw(fractions),
        hires=draw(st.booleans()),
    )


@given(settings())
def test_what_is_written_is_read(chosen):
    text = infotext.to_text(chosen)
    assert infotext.from_text(text) == chosen
    assert infotext.from_text(f" {text} ") == chosen  # a parser may strip or not
    assert "\n" not in text and '"' not in text
    assert infotext.pasted({infotext.KEY: text}) == chosen


def test_defaults_are_left_out():
    assert infotext.to_text(Settings(enabled=True)) == "on"
    text = infotext.to_text(Settings(enabled=True, curvature=0.7, objects="shark:0.7, bike"))
    assert text == "objects=shark:0.7, bike; curvature=0.7"
    assert infotext.to_text(Settings(enabled=True, show_masks=True, save_masks=True)) == "on"


def test_an_absent_key_resets_every_control():
    assert infotext.pasted({}) == Settings()
    assert not infotext.pasted({"AsynDM": "colour=red"}).enabled  # a foreign line is absent


@pytest.mark.parametrize("text", ["colour=red", "curvature", "curvature=2", "soft=maybe", "=1"])
def test_what_cannot_be_read_is_one_line(text):
    with pytest.raises(SettingsError) as caught:
        infotext.from_text(text)
    assert "\n" not in str(caught.value)


def test_a_part_that_is_on_is_no_setting():
    """The word alone is a whole line: all defaults."""
    for text in ("lead=0.6; on", "on; lead=0.6", "hires=false;on;on"):
        settings, unread = infotext.read_text(text)
        assert set(unread) == {"on"} and settings.changed() != {}
    assert infotext.read_text(" on ") == (Settings(enabled=True), [])


@effort(max_examples=700)
@given(
    st.text(max_size=80) | settings().map(infotext.to_text).flatmap(st.permutations).map("".join)
)
def test_no_text_crashes(text):
    pasted = infotext.pasted({infotext.KEY: text})
    assert dataclasses.is_dataclass(pasted)


def parameters(text: str, prompt: str = "a shark beside a bike", **more) -> dict:
    return {infotext.KEY: text, infotext.VERSION_KEY: "0.2.0", "Prompt": prompt, **more}


def texts(words):
    return None if words is None else [word.text for word in words]


def test_what_was_found_stands_apart_from_the_settings_and_is_readable():
    settings = Settings(enabled=True, curvature=0.7)
    text = infotext.to_text(settings, ["shark", "teddy bear"], ["cat"])
    assert text == "curvature=0.7; found=shark, teddy bear; found_hires=cat"
    assert infotext.to_text(settings, ["猫", "кот"]) == "curvature=0.7; found=猫, кот"
    assert infotext.to_text(settings, ["cat"], ["cat"]) == "curvature=0.7; found=cat"
    assert infotext.pasted({infotext.KEY: text}) == settings == infotext.from_text(text)
    assert infotext.read_text(text) == (settings, [])


def test_what_was_found_holds_for_the_pasted_prompt_alone():
    found = infotext.pasted_found(parameters("found=shark; curvature=0.7"))
    again = infotext.Found.from_text(found.to_text())
    assert again == found and found.to_text()
    assert texts(found.of("a shark beside a bike", "")) == ["shark"]
    assert texts(found.of(" a shark  beside\na bike<lora:x:1>", "")) == ["shark"]
    assert found.of("a shark beside a boat", "") is None and found.told
    assert not found.holds("a shark beside a bike", "-shark")


@pytest.mark.parametrize("word", ["猫", "teddy bear", "50%", "pokémon", "🐈"])
def test_found_words_of_every_script_come_back(word):
    text = infotext.to_text(Settings(enabled=True), [word, "bike"])
    found = infotext.pasted_found(parameters(text))
    assert texts(found.of("a shark beside a bike", "")) == [word, "bike"]


def test_the_hires_prompt_has_words_of_its_own():
    text = "found=shark; found_hires=boat"
    found = infotext.pasted_found(parameters(text, **{"Hires prompt": "a boat"}))
    assert texts(found.of("a boat", "")) == ["boat"]
    assert texts(found.of("a shark beside a bike", "")) == ["shark"]
    found = infotext.pasted_found(parameters("found=shark", **{"Hires prompt": "one shark"}))
    assert texts(found.of("one shark", "")) == ["shark"]


def test_styles_belong_to_the_prompt():
    made = parameters("found=shark", **{"Styles array": ["night"]})
    found = infotext.pasted_found(made, lambda prompt, names: f"{prompt}, {', '.join(names)}")
    assert texts(found.of("a shark beside a bike, night", "")) == ["shark"]
    assert found.of("a shark beside a bike", "") is None


def test_styles_that_cannot_be_applied_stop_no_paste(caplog):
    made = parameters("found=shark", **{"Styles array": ["night"]})
    found = infotext.pasted_found(made, lambda prompt, names: names["night"])
    assert texts(found.of("a shark beside a bike", "")) == ["shark"] and "night" in caplog.text


@pytest.mark.parametrize("text", ["objects=shark", "mask_source=given", "colour=red", "objects=;"])
def test_written_words_painted_masks_and_foreign_lines_find_nothing(text):
    assert not infotext.pasted_found({infotext.KEY: text + "; found=bike", "Prompt": 3})
    if text != "objects=;" and text != "colour=red":
        assert not infotext.pasted_found(parameters(text + "; found=bike"))
    assert not infotext.pasted_found({"Prompt": "a cat"})


def test_words_taken_out_leave_the_others_to_the_choice():
    found = infotext.pasted_found(parameters("objects=-dog; found=bike"))
    assert texts(found.of("a shark beside a bike", "-dog")) == ["bike"]


@pytest.mark.parametrize("version", [None, "0.1.0", "0.1"])
def test_an_old_image_does_not_tell_its_words(version):
    old = parameters("on") | {infotext.VERSION_KEY: version}
    found = infotext.pasted_found(old)
    assert found.holds("a shark beside a bike", "") and not found.told
    assert found.of("a shark beside a bike", "") is None
    assert infotext.Found.from_text(found.to_text()) == found
    assert not infotext.pasted_found(parameters("on"))  # a new one found nothing


@given(st.text(max_size=60), st.text(max_size=30))
def test_no_found_text_crashes(text, prompt):
    assert isinstance(infotext.Found.from_text(text), infotext.Found)
    infotext.pasted_found(parameters(text, prompt))
    infotext.Found.from_text(json.dumps({text: prompt, prompt: [1]}))
