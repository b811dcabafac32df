"""Prompts in several scripts inside a WebUI: the words are named, and the picture is steered."""

from __future__ import annotations

import pytest
from jobs import apart, make, ticked

# (prompt, typed, what the note names); nothing typed: the automatic choice.
PROMPTS = {
    "Latin with accents": ("a pokémon beside a jalapeño", "pokémon", "pokémon"),
    "Cyrillic": ("красивая кошка рядом с велосипедом", "кошка", "кошка"),
    "Greek": ("μια γάτα πάνω σε ποδήλατο", "γάτα", "γάτα"),
    "Chinese": ("一只猫坐在椅子上", "猫", "猫"),
    "Korean": ("빨간 고양이 자전거", "고양이", "고양이"),
    "Arabic": ("قطة على دراجة", "قطة", "قطة"),
    "Hebrew": ("חתולה על אופניים", "חתולה", "חתולה"),
    "emoji": ("a 🦈 on the beach", "🦈", "🦈"),
    "quotes": ("a “dog” and a ‘shark’", "shark", "shark"),
    "chosen": ("кошка, велосипед", "", "кошка"),
}


@pytest.fixture
def said(host, monkeypatch):
    """The comments of the jobs, which a page shows below the image."""
    from modules import processing

    lines: list[str] = []
    inner = processing.StableDiffusionProcessing.comment

    def comment(p, text):
        lines.append(text)
        return inner(p, text)

    monkeypatch.setattr(processing.StableDiffusionProcessing, "comment", comment)
    return lines


@pytest.mark.parametrize("name", PROMPTS)
def test_words_of_every_script_are_named_and_steer(host, traces, said, name):
    prompt, typed, named = PROMPTS[name]
    plain = make(host, "txt2img", prompt=prompt)
    made = make(host, "txt2img", prompt=prompt, **ticked(curvature=0.9, objects=typed))
    assert apart(plain.images[0], made.images[0]) > 3
    (line,) = {line for line in said if line.startswith("AsynDM objects: ")}
    assert f"{named} (token" in line
    assert "AsynDM note" not in made.parameters
