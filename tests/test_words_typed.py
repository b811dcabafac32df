"""Object words as people write them, in every script, against CLIP's bytes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import clip_pieces
import pytest

from asyndm.core.settings import Settings, SettingsError
from asyndm.core.words import auto_objects, find_tokens, parse_objects, read_expression
from asyndm.hosts import infotext, webui

_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_ALPHABET = {b: chr(b) for b in _PRINTED}
_ALPHABET |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in _PRINTED)}


def clip(text: str, most: int | None = None) -> list[str]:
    """CLIP's tokens; in place of its pieces, each word cut after ``most`` bytes."""
    if most is None:
        return clip_pieces.prompt_pieces(text)
    tokens = ["<|startoftext|>"]
    for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]+|_", text.lower()):
        letters = [_ALPHABET[b] for b in word.encode()]
        cut = ["".join(letters[at : at + most]) for at in range(0, len(letters), most)]
        tokens += [*cut[:-1], cut[-1] + "</w>"]
    return [*tokens, "<|endoftext|>"]


def names(text):
    return [(word.text, word.curvature) for word in parse_objects(text)]


@pytest.mark.parametrize("most", [None, 1, 2, 3, 4, 50])
@pytest.mark.parametrize(
    ("word", "prompt"),
    [
        ("pokémon", "a pokémon on a bike"),
        ("кошка", "кошка и собака"),
        ("猫", "一只猫坐在椅子上"),
        ("🦈", "a 🦈 here"),
        ("cat", "a “cat” here"),
        ("cat's tail", "the cat’s tail"),
        ("고양이", "고양이 두 마리"),
        ("बिल्ली", "लाल बिल्ली"),
        ("قطة", "قطة و كلب"),
        ("แมว", "แมวสองตัว"),
    ],
)
def test_words_of_every_script_are_found(word, prompt, most):
    (positions,) = find_tokens(word, clip(prompt, most))
    assert positions and 0 not in positions


def test_the_pieces_are_clips():
    """Ids as the authors' own tokeniser gives them."""
    ids = [clip_pieces.ids()[piece] for piece in clip_pieces.pieces("a pokémon, 猫 кошка")]
    assert ids == [320, 22066, 267, 163, 234, 360, 27152, 13506, 141, 230, 27152, 27080]
    assert len(clip_pieces.vocabulary()) == 49408


def test_a_piece_of_a_word_is_no_word():
    assert find_tokens("o", clip("a jalapeño")) == []
    assert find_tokens("pokémon", ["a</w>", "pok", "emon</w>"]) == [[1, 2]]  # a host stripped it
    assert find_tokens("猫", ["Ġa", "çĮ", "«"]) == [[1, 2]]
    assert find_tokens("猫", ["▁a", "<0xE7>", "<0x8C>", "<0xAB>"]) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        *((f"shark{sign}bike", [("shark", None), ("bike", None)]) for sign in "，、；"),
        ("shark：0.7", [("shark", 0.7)]),
        ("shark:0,7", [("shark", 0.7)]),
        ("shark:0,7, bike", [("shark", 0.7), ("bike", None)]),
        *(
            (typed, [("cat", None), ("dog", None)])
            for typed in (
                *("[cat:dog:0.5]", "[cat|dog]", "{cat|dog}", "cat AND dog", "cat and dog"),
                *("cat & dog", "cat/dog", "cat, <lora:x:1>, dog", "cat, !, dog"),
            )
        ),
        ("black and white cat", [("black and white cat", None)]),
        ("salt and pepper shaker", [("salt and pepper shaker", None)]),
        ("fluffy and white cat", [("fluffy and white cat", None)]),
        ("cute and tiny dog:0.3", [("cute and tiny dog", 0.3)]),
        ("dog and white cat", [("dog", None), ("white cat", None)]),
        ("beauty and the beast", [("beauty", None), ("the beast", None)]),
        *(
            (typed, [("cat", None), ("dog", None), ("bike", None)])
            for typed in (
                *("[cat:dog:0.5] and bike", "{cat|dog} & bike", "[cat|dog] AND bike"),
                *("cat, dog, and bike", "cat and [dog:bike:5]", "cat and, dog, bike and"),
                *("{2::cat|1::dog}, bike", "{2$$cat|dog} and bike"),
            )
        ),
        ("and", [("and", None)]),
        ("1/2 moon", [("1/2 moon", None)]),
        # A name ends behind its number, whatever parts it from the next.
        *(
            (typed, [("cat", 0.7), ("dog", None)])
            for typed in (
                *("cat:0,7 dog", "cat:.7 dog", "cat：０.７ dog", "cat:0.7 and dog"),
                *(
                    "cat:0.7 & dog",
                    "cat :0.7 AND dog",
                    "cat:0.7|dog",
                    "cat:0.7 / dog",
                    "cat::0.7, dog",
                ),
            )
        ),
        ("cat:0.7 the dog:0.2", [("cat", 0.7), ("the dog", 0.2)]),
        *((typed, [("cat", None), ("dog", None)]) for typed in ("cat + dog", "cat BREAK dog")),
        ("black & white cat", [("black & white cat", None)]),
        ("M&M, R&B singer", [("M&M", None), ("R&B singer", None)]),
        ("salt & pepper shaker", [("salt & pepper shaker", None)]),
        ("un chat et un chien", [("un chat", None), ("un chien", None)]),
        ("кот и собака:0,3", [("кот", 0.3), ("собака", 0.3)]),
        ("Hund und Katze und Maus", [("Hund", None), ("Katze", None), ("Maus", None)]),
        ("чёрный и белый кот", [("чёрный и белый кот", None)]),
        ("nier:automata", [("nier:automata", None)]),
        ("re:zero:0.4", [("re:zero", 0.4)]),
        ("cat, -dog", [("cat", None)]),
    ],
)
def test_object_words_as_people_write_them(typed, expected):
    assert names(typed) == expected


@pytest.mark.parametrize("typed", ["cat, <lora:x:1>", "cat, !", "cat, __animal__"])
def test_what_is_no_word_is_told_in_one_line(typed):
    said = read_expression(typed)
    assert [word.text for word in said.objects] == ["cat"]
    (line,) = said.notes
    assert "\n" not in line and len(line) < 120


@pytest.mark.parametrize("typed", ["<lora:x:1>", "!", ":0.5", "__animal__", "BREAK"])
def test_an_expression_without_a_word_is_told(typed):
    with pytest.raises(SettingsError, match="^objects: "):
        parse_objects(typed)


def test_two_curvatures_of_one_object_are_told():
    with pytest.raises(SettingsError, match="'shark' has two curvatures, 0.7 and 0.8; give one"):
        parse_objects("bike, shark:0.7:0.8")


@pytest.mark.parametrize(
    ("typed", "prompt"),
    [
        *(("the cat", "a cat"), ("woman", "two women"), ("people", "a person"), ("box", "boxes")),
        *(("two cats", "a cat"), ("3 cats", "the cat"), ("a pair of dogs", "one dog")),
    ],
)
def test_articles_plurals_and_numbers_do_not_matter(typed, prompt):
    assert find_tokens(typed, clip(prompt)) == [[2]] or typed == "box"
    assert find_tokens(typed, clip(prompt, 2))


def test_a_number_counts_where_the_whole_is_there():
    assert find_tokens("two cats", clip("two cats and a cat")) == [[1, 2]]


def test_the_notes_of_a_job_fit_into_a_line_of_the_parameters():
    plan = SimpleNamespace(notes=[], outer=None)
    p = SimpleNamespace(comments=[], extra_generation_params={})
    p.comment = p.comments.append
    for number in range(20):
        webui.note(p, plan, f"objects: {'word' * 12}{number} is not in the prompt.")
    line = p.extra_generation_params[infotext.NOTE_KEY]
    assert (
        len(line) <= 300
        and line.startswith("objects: word")
        and re.search(r"And 1\d more\.$", line)
    )
    assert len(p.comments) == 20


@pytest.mark.parametrize("typed", ["word " * 20_000, "x" * 10_000])
def test_too_long_an_expression_is_one_short_line_and_no_parameter(typed):
    with pytest.raises(SettingsError) as told:
        parse_objects(typed)
    assert len(str(told.value)) < 120
    assert infotext.to_text(Settings(enabled=True, objects=typed)) == "on"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat, (dog:-1.5)", ["cat"]),
        ("a cat AND a dog :-1", ["cat"]),
        ("a cat -dog", ["cat"]),
        ("a raccoon eating a sandwich", ["raccoon", "sandwich"]),
        ("three women and a man", ["women", "man"]),
        ("hatsune miku, umbrella", ["hatsune miku", "umbrella"]),
        ("a cat under a blue sky, looking at viewer", ["cat"]),
    ],
)
def test_the_automatic_choice(prompt, expected):
    assert auto_objects(prompt) == expected


def test_the_parameters_keep_words_readable():
    line = infotext.to_text(Settings(enabled=True, objects="猫, кошка"))
    assert line == "objects=猫, кошка"
    assert infotext.from_text("objects=%E7%8C%AB").objects == "猫"
