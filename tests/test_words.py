"""Prompt text to object words to token positions."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndm.core.settings import SettingsError
from asyndm.core.words import (
    ObjectWord,
    auto_objects,
    find_tokens,
    load_nouns,
    match_objects,
    objects_of,
    parse_objects,
    plain_prompt,
    singular_forms,
)

WORDNET = Path(os.environ.get("WNSEARCHDIR", "/usr/share/wordnet"))
SYNTAX = st.sampled_from(
    [*"()[]:|<>\\, \n\0é猫🦈", "cat", "cats", "teddy bear", ":1.2", ":0.5", "AND", "BREAK"]
    + ["<lora:a:1>", "<b>", "</b>", "\\(", "\\)"]
)
ANY_TEXT = st.one_of(st.text(), st.lists(SYNTAX, max_size=30).map("".join))


def clip(text: str) -> list[str]:
    """Tokens in CLIP's notation, words longer than four letters cut in two."""
    pieces = ["<|startoftext|>"]
    for word in text.split():
        pieces += [word[:4], word[4:] + "</w>"] if len(word) > 4 else [word + "</w>"]
    return [*pieces, "<|endoftext|>"]


# --- object expressions -----------------------------------------------------------------------


def test_objects_carry_their_own_curvature():
    assert parse_objects("shark:0.7, bike") == (ObjectWord("shark", 0.7), ObjectWord("bike", None))
    assert parse_objects(" teddy  bear : 1 ;; cat\n") == (
        ObjectWord("teddy bear", 1.0),
        ObjectWord("cat"),
    )


def test_a_prompt_weight_is_no_curvature():
    assert parse_objects("(cat:1.2), [dog]") == (ObjectWord("cat"), ObjectWord("dog"))


@pytest.mark.parametrize("empty", ["", "  ", ",", " ,;\n"])
def test_no_objects(empty):
    assert parse_objects(empty) == ()


def test_repeated_objects_count_once():
    assert parse_objects("cat, cat") == (ObjectWord("cat"),)


@pytest.mark.parametrize("wrong", ["cat:2", "cat:-0.1", "cat:", "cat:nan"])
def test_a_wrong_expression_is_told_in_one_line_that_names_it(wrong):
    with pytest.raises(SettingsError) as told:
        parse_objects(f"dog, {wrong}")
    line = str(told.value)
    assert line.startswith("objects: ") and "\n" not in line
    assert wrong.split(":")[0] in line


@given(ANY_TEXT)
def test_no_expression_crashes(text):
    try:
        objects = parse_objects(text)
    except SettingsError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 200
    else:
        assert all(o.text and (o.curvature is None or 0 <= o.curvature <= 1) for o in objects)


# --- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("(cat:1.2) on ((mat))", "cat on mat"),
        ("a [cat:dog:0.5] sits", "a cat, dog sits"),
        ("[cat|dog]", "cat, dog"),
        ("<lora:x:0.8> cat <hypernet:y:1>", "cat"),
        ("<b>cat</b> <a href='x'>", "<b>cat</b> <a href='x'>"),
        ("a cat :1.1 AND a dog :0.4", "a cat, a dog"),
        ("red BREAK cat", "red, cat"),
        (r"cat \(animal\)", "cat animal"),
        ("sand and LAND", "sand and LAND"),
        ("", ""),
    ],
)
def test_the_prompt_without_its_syntax(prompt, plain):
    assert plain_prompt(prompt) == plain


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [
        ("two red circles and a blue square on a lake at night", ["circles", "square"]),
        ("a photo of a shark riding a bike, masterpiece, 8k", ["shark", "bike"]),
        (
            "(cat:1.2), a [wolf:dog:0.5] <lora:horse:1> AND an owl :0.8",
            ["cat", "wolf", "dog", "owl"],
        ),
        ("an orange cat and an orange", ["cat", "orange"]),
        ("three teddy bears, geese and men", ["teddy bears", "geese", "men"]),
        ("a cat and two cats", ["cat"]),
        ("a <b>table</b>", ["table"]),
        ("A DOG", ["dog"]),
        ("", []),
        (",,,", []),
    ],
)
def test_objects_found_in_the_prompt(prompt, objects):
    assert auto_objects(prompt) == objects


def test_without_a_known_noun_every_content_word_counts():
    assert auto_objects("a zorblax beside the qwib, masterpiece") == ["zorblax", "qwib"]


def test_written_objects_win_over_found_ones():
    assert objects_of("a cat and a dog", "dog:0.3") == (ObjectWord("dog", 0.3),)
    assert objects_of("a cat and a dog", " ") == (ObjectWord("cat"), ObjectWord("dog"))


@given(ANY_TEXT)
def test_no_prompt_crashes_and_found_words_are_in_it(text):
    for word in auto_objects(text):
        assert find_tokens(word, plain_prompt(text).replace("_", " ").split()) or not word.isascii()


@given(ANY_TEXT)
def test_plain_prompt_holds_no_weight_brackets(text):
    assert not set("()[]|") & set(plain_prompt(text))


# --- tokens ------------------------------------------------------------------------------------


def test_a_word_of_several_tokens():
    assert find_tokens("skateboard", clip("a skateboard here")) == [[2, 3]]


def test_every_occurrence_is_found_plural_or_not():
    assert find_tokens("cat", ["a", "cat", "and", "two", "cats", ",", "category"]) == [[1], [4]]
    assert find_tokens("boxes", ["box"]) == [[0]]
    assert find_tokens("wolf", ["wolves"]) == [[0]]
    assert find_tokens("goose", ["▁three", "▁gee", "se"]) == [[1, 2]]
    assert find_tokens("mice", ["Ġa", "Ġmouse"]) == [[1]]


def test_an_object_of_several_words():
    tokens = clip("a red car , the car was red")
    assert find_tokens("red car", tokens) == [[2, 3]]
    assert find_tokens("t-shirt", ["t</w>", "-</w>", "shirts</w>"]) == [[0, 2]]
    assert find_tokens("cat's tail", ["cat</w>", "'s</w>", "tail</w>"]) == [[0, 1, 2]]


@pytest.mark.parametrize("between", [",", ".", "<|endoftext|>", "[SEP]", "</s>"])
def test_words_apart_are_no_object(between):
    assert find_tokens("red car", ["red", between, "car"]) == []


def test_special_tokens_are_never_taken():
    tokens = ["<|startoftext|>", "start</w>", "<|endoftext|>", "<pad>", "<context 0.5>"]
    for word in ("startoftext", "endoftext", "pad", "context"):
        assert find_tokens(word, tokens) == []


def test_scripts_without_spaces_match_by_character():
    assert find_tokens("猫", ["黒い", "猫が", "座る</w>"]) == [[1]]
    assert find_tokens("黒い猫", ["黒", "い猫", "犬</w>"]) == [[0, 1]]


def test_unmatched_objects_are_told():
    matched, unmatched = match_objects(
        [ObjectWord("cat", 0.4), "dog", "dog", ObjectWord("owl")], ["a", "cat", "an", "owl", "cat"]
    )
    assert matched == {"cat": [1, 4], "owl": [3]}
    assert unmatched == ["dog"]


@given(ANY_TEXT, st.lists(st.one_of(st.text(max_size=8), SYNTAX, st.just("cat</w>")), max_size=20))
def test_no_tokens_crash_and_positions_lie_within(text, tokens):
    for occurrence in find_tokens(text, tokens):
        assert occurrence and occurrence == sorted(set(occurrence))
        assert 0 <= occurrence[0] and occurrence[-1] < len(tokens)


@given(
    st.lists(st.sampled_from(["cat", "dog", "skateboard", "on", "the"]), min_size=1, max_size=12)
)
def test_cutting_words_into_tokens_changes_nothing(words):
    whole = [len(find_tokens(word, words)) for word in words]
    assert whole == [len(find_tokens(word, clip(" ".join(words)))) for word in words]


@given(st.text(max_size=20))
def test_a_word_is_one_of_its_own_forms(word):
    assert singular_forms(word) & singular_forms(word.upper().lower())


# --- the noun list -----------------------------------------------------------------------------


def test_the_noun_list_is_small_sorted_and_free_of_style_words():
    text = resources.files("asyndm.core").joinpath("nouns.txt").read_bytes()
    assert len(text) <= 120_000
    nouns = [line.split()[0] for line in text.decode("ascii").splitlines()]
    assert len(nouns) > 10_000 and len(set(nouns)) == len(nouns)
    for word in "photo painting masterpiece background lighting style portrait art".split():
        assert word not in load_nouns().forms


@pytest.mark.skipif(not WORDNET.exists(), reason="no WordNet (Debian: wordnet-base)")
def test_the_noun_list_is_what_its_script_makes(tmp_path):
    root = Path(__file__).resolve().parents[1]
    made = tmp_path / "nouns.txt"
    argv = [sys.executable, "tools/make_nouns.py", str(WORDNET), "--out", str(made)]
    subprocess.run(argv, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
    assert made.read_text() == (root / "asyndm" / "core" / "nouns.txt").read_text()


def test_the_noun_list_keeps_its_licence():
    licence = resources.files("asyndm.core").joinpath("nouns.LICENSE").read_text("utf-8")
    assert "WordNet" in licence and "Princeton University" in licence
