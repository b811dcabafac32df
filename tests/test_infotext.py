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


@effort(max_examples=700)
@given(
    st.text(max_size=80) | settings().map(infotext.to_text).flatmap(st.permutations).map("".join)
)
def test_no_text_crashes(text):
    pasted = infotext.pasted({infotext.KEY: text})
    assert dataclasses.is_dataclass(pasted)
