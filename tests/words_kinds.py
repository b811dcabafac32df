"""Kinds of object expressions and prompts people write, made at random, with what they mean."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import words_reference as reference

ASCII = """cat dog bike shark umbrella raccoon lamp teapot castle guitar lighthouse skateboard
helicopter penguin pumpkin snowman robot violin tractor""".split()
SCRIPTS = {
    "accents": "pokémon jalapeño château éléphant könig señorita żubr façade İstanbul",
    "cyrillic": "кошка собака велосипед зонт замок",
    "greek": "γάτα βάρκα ποδήλατο",
    "hebrew": "חתולה כדור אופניים",
    "arabic": "قطة دراجة قلعة",
    "hindi": "बिल्ली साइकिल कुत्ता",
    "korean": "고양이 자전거 강아지",
    "chinese": "猫 自行车 城堡 雨伞",
    "japanese": "ネコ 犬 自転車 うさぎ",
    "thai": "แมว จักรยาน",
    "emoji": "🦈 🐈 🚲 ☂️ 🏰",
}
SCRIPTS = {name: words.split() for name, words in SCRIPTS.items()}
UNSPACED = ("chinese", "japanese", "thai")
FILLERS = {
    "chinese": "上有 看着 旁边 漂亮".split(),
    "japanese": "の上 と美しい を見る".split(),
    "thai": "บน สวย ข้าง".split(),
    "cyrillic": "красивая рядом под".split(),
}
LATIN_FILLERS = "a the on beside very photo of with under tall painted near".split()
IRREGULAR = [
    *(("woman", "women"), ("person", "people"), ("child", "children"), ("goose", "geese")),
    *(("mouse", "mice"), ("wolf", "wolves"), ("knife", "knives"), ("tomato", "tomatoes")),
]
REGULAR = "box church lady bench fox witch pony brush zorblax vubby grimp flonch tarly cat".split()
HOLDING = {
    **{"cat": "category", "dog": "dogma", "bike": "bikers", "o": "jalapeño", "e": "pokémon"},
    **{"lamp": "clampdown", "кош": "кошка", "mon": "pokémon", "n": "señor", "ö": "köln"},
}


@dataclass
class Case:
    """``objects``: (name, curvature); ``lines``: what each note holds; or ``error``, part of one.

    ``segments``: the prompt in pieces, each with the name of the object it is or "";
    ``automatic``: the prompt is given alone; (words chosen, words not).
    """

    typed: str
    objects: list[tuple[str, float | None]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    error: str = ""
    segments: list[tuple[str, str]] = field(default_factory=list)
    notation: str = "clip"
    automatic: tuple[list[str], list[str]] | None = None


KINDS: dict[str, Callable[[random.Random], Case]] = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def names(rng: random.Random, count: int) -> list[str]:
    """Words of all scripts."""
    every = [*ASCII, *(word for words in SCRIPTS.values() for word in words)]
    return rng.sample(every, count)


def number(rng: random.Random) -> str:
    return rng.choice(["0.7", "0,7", ".5", "0", "1", "1.0", "0,25", "0.05"])


def case_of(rng: random.Random, word: str) -> str:
    return rng.choice([word, word, word.capitalize(), word.upper()])


def prompt(
    rng: random.Random, shown: list[tuple[str, str]], script: str = "", borders: str = " "
) -> list[tuple[str, str]]:
    """Segments: (as shown, name) among fillers, parted by spaces or by nothing."""
    gap = "" if script in UNSPACED and rng.random() < 0.7 else " "
    fillers = FILLERS.get(script, LATIN_FILLERS)
    made: list[tuple[str, str]] = []
    for text, name in shown:
        for _ in range(rng.randrange(1, 4)):
            made += [(rng.choice(fillers), ""), (gap or "", "")]
        made += [(text, name), (rng.choice([gap, ", ", " "]) if borders == " " else borders, "")]
    made.append((rng.choice(fillers), ""))
    return [(text, name) for text, name in made if text]


def located(rng: random.Random, typed: str, word: str, shown: list[str], script="", **more) -> Case:
    """A case of one object, shown as given."""
    segments = prompt(rng, [(text, word) for text in shown], script)
    return Case(typed, [(typed, None)], segments=segments, **more)


@kind
def scripts(rng):
    script = rng.choice(list(SCRIPTS))
    word = rng.choice(SCRIPTS[script])
    notation = rng.choice(reference.NOTATIONS)
    shown = [case_of(rng, word) for _ in range(rng.randrange(1, 3))]
    return located(rng, word, word, shown, script, notation=notation)


@kind
def emoji(rng):
    word = rng.choice(SCRIPTS["emoji"])
    glued = [("a ", ""), (word, word), (rng.choice(["!", " ", "cat", ", "]), ""), ("here", "")]
    return Case(word, [(word, None)], segments=glued, notation=rng.choice(["clip", "bpe"]))


@kind
def quotes(rng):
    few = [*"shark moon dog teapot table lamp llama mouse reindeer vest".split()]
    word = rng.choice([*ASCII, *few, *SCRIPTS["cyrillic"], *SCRIPTS["accents"][:3]])
    left, right = rng.choice(["“”", "‘’", "«»", "„“", "「」", '""', "''"])
    typed = rng.choice([word, f"{left}{word}{right}"])
    segments = [("a ", ""), (left, ""), (word, typed), (right, ""), (" beside it", "")]
    return Case(typed, [(typed, None)], segments=segments, notation=rng.choice(["clip", "ftfy"]))


@kind
def apostrophes(rng):
    word = rng.choice(ASCII)
    mark, other = rng.choice("'’"), rng.choice("'’")
    typed = f"{word}{other}s hat"
    segments = [("the ", ""), (f"{word}{mark}s hat", typed), (" here", "")]
    return Case(typed, [(typed, None)], segments=segments, notation=rng.choice(["clip", "ftfy"]))


@kind
def stripped_accents(rng):
    word, shown = rng.choice([("pokémon", "pokemon"), ("château", "chateau"), ("señor", "senor")])
    return located(rng, word, word, [shown], notation=rng.choice(reference.NOTATIONS))


@kind
def inside_words(rng):
    word, holding = rng.choice(list(HOLDING.items()))
    segments = prompt(rng, [(holding, "")] * rng.randrange(1, 3))
    return Case(word, [(word, None)], segments=segments, notation=rng.choice(["clip", "bpe"]))


@kind
def separators(rng):
    words = names(rng, rng.randrange(2, 5))
    typed = ""
    for word in words:
        space = " " * rng.randrange(2)
        typed += word + space + rng.choice(["，", "、", "；", "،", ",", ";", "\n", ",,"]) + space
    return Case(
        typed, [(word, None) for word in words], segments=prompt(rng, [(w, w) for w in words])
    )


@kind
def curvatures(rng):
    words = names(rng, rng.randrange(1, 4))
    numbers = [number(rng) for _ in words]
    colon = rng.choice([":", "：", " : ", ": "])
    typed = rng.choice([", ", "; ", "，"]).join(f"{w}{colon}{n}" for w, n in zip(words, numbers))
    return Case(typed, [(w, reference.curvature(n)) for w, n in zip(words, numbers)])


@kind
def wrong_curvatures(rng):
    word = rng.choice(ASCII)
    wrong = rng.choice(["1,5", "7", "-0.5", "nan", "1.01", "", "0,7e9", "inf", "1,2,3"])
    return Case(f"{word}:{wrong}", error=word)


@kind
def never_zero(rng):
    word, other = rng.sample(ASCII, 2)
    number = f"0,{rng.randrange(1, 100)}"
    typed = f"{word}:{number} {other}"
    return Case(typed, [(word, reference.curvature(number)), (other, None)])


@kind
def behind_numbers(rng):
    """The next name begins behind a number, with or without a sign between."""
    words = rng.sample(ASCII, 3)
    numbers = [number(rng) for _ in words]
    joining = [rng.choice([" ", " and ", " & ", "|", " / ", ", ", " AND "]) for _ in words[1:]]
    typed = "".join(f"{w}:{n}{j}" for w, n, j in zip(words, numbers, [*joining, ""]))
    return Case(typed, [(w, reference.curvature(n)) for w, n in zip(words, numbers)])


@kind
def alternations(rng):
    a, b, c = names(rng, 3)
    number = rng.choice(["0.5", "10", "5"])
    typed, meant = rng.choice(
        [
            *(
                (f"[{a}:{b}:{number}]", [a, b]),
                (f"[{a}|{b}]", [a, b]),
                (f"{{{a}|{b}|{c}}}", [a, b, c]),
            ),
            *((f"[{a}:{b}:{number}], {c}", [a, b, c]), (f"[{a}|{b}] and {c}", [a, b, c])),
            *(
                (f"[{a}:{number}]", [a]),
                (f"({a}:1.2), [{b}]", [a, b]),
                (f"{a} and [{b}|{c}]", [a, b, c]),
            ),
        ]
    )
    return Case(typed, [(word, None) for word in meant])


@kind
def joined(rng):
    a, b, c = rng.sample(ASCII, 3)
    sign = rng.choice([" AND ", " and ", " & ", "/", "&", " + ", " BREAK "])
    if rng.random() < 0.2:
        (a, b), sign = rng.choice(
            [
                (rng.sample(SCRIPTS["cyrillic"], 2), " и "),
                (rng.sample(["chat", "oiseau", "chien"], 2), " et "),
                (rng.sample(["ein Hund", "die Katze", "Vogel"], 2), " und "),
                (rng.sample(["gato", "el perro", "una vaca"], 2), " y "),
            ]
        )
        return Case(f"{a}{sign}{b}:0,3", [(a, 0.3), (b, 0.3)])
    if rng.random() < 0.5:
        return Case(f"{a}{sign}{b}", [(a, None), (b, None)])
    held = [None if "BREAK" in sign else 0.3] * 2  # what parts sentences parts their numbers
    return Case(f"{a}{sign}{b}{sign}{c}:0.3", [(a, held[0]), (b, held[1]), (c, 0.3)])


@kind
def one_thing(rng):
    first = rng.choice("black red fluffy cute old shiny wooden big happy golden".split())
    second = rng.choice("white green tiny rusty round striped heavy young".split())
    noun = rng.choice(ASCII)
    typed = rng.choice(
        [f"{first}{rng.choice([' and ', ' & '])}{second} {noun}", "salt and pepper shaker"]
    )
    if rng.random() < 0.5:
        return located(rng, typed, typed, [typed])
    other = rng.choice(["pizza", "moon", "кошка", "猫"])
    return Case(
        f"{other}{rng.choice([' & ', '/', ' AND ', ' and '])}{typed}",
        [(other, None), (typed, None)],
    )


@kind
def names_with_colons(rng):
    name = rng.choice(
        ["nier:automata", "re:zero", "star wars:andor", "fate:grand order", "umineko:when"]
    )
    if rng.random() < 0.5:
        return Case(name, [(name, None)], segments=[("see ", ""), (name, name), (" here", "")])
    return Case(f"{name}:0.4", [(name, 0.4)])


@kind
def no_words(rng):
    word = rng.choice(ASCII)
    junk = rng.choice(
        ["<lora:x:1>", "<hypernet:some_name:0.8>", "!", "...", "???", "<lora:a b:1:2>"]
    )
    typed = rng.choice([f"{word}, {junk}", f"{junk}, {word}"])
    return Case(typed, [(word, None)], lines=[junk])


@kind
def articles(rng):
    word = rng.choice([*ASCII, "teddy bear"])
    typed = f"{rng.choice(['a', 'the', 'an', 'The', 'A'])} {word}"
    segments = prompt(rng, [(word, word)] * rng.randrange(1, 3))
    return Case(typed, [(typed, None)], segments=[(t, typed if n else "") for t, n in segments])


@kind
def plurals(rng):
    one, many = rng.choice([*IRREGULAR, *((noun, reference.plural(noun)) for noun in REGULAR)])
    typed, shown = rng.choice([(one, many), (many, one), (one, one), (many, many)])
    return located(rng, typed, typed, [case_of(rng, shown)])


@kind
def several_words(rng):
    several = [
        "sofa bed",
        "pizza slice",
        "man in the moon",
        "sea otter",
        "teddy bear",
        "panda mask",
    ]
    word = rng.choice([*several, "crème brûlée", "красная машина", "red fire truck", "t-shirt"])
    notation = rng.choice(["clip", "ftfy", "bpe"])
    return located(rng, word, word, [word] * rng.randrange(1, 3), notation=notation)


@kind
def numbers_before(rng):
    one = rng.choice(REGULAR)
    typed = f"{rng.choice(['two', 'three', 'several', '4', 'a few'])} {reference.plural(one)}"
    segments = [("a ", ""), (one, typed), (" here", "")]
    return Case(typed, [(typed, None)], segments=segments)


@kind
def wildcards(rng):
    word, card = rng.choice(ASCII), rng.choice(["__animal__", "__things/of-a kind__", "__a*__"])
    if " " in card:
        card = "__things/of-a_kind__"
    return Case(f"{word}, {card}", [(word, None)], lines=[card])


@kind
def minus(rng):
    a, b, c = rng.sample(ASCII, 3)
    return Case(rng.choice([f"{a}, -{b}", f"-{b}, {a}", f"{a}, {b}, -{b}"]), [(a, None)])


@kind
def unwanted(rng):
    a, b = rng.sample(ASCII[:4], 2)
    shown = rng.choice(
        [
            *(f"a {a}, ({b}:-1.5)", f"a {a}, ({b}:0)", f"a {a} AND a {b} :-1", f"a {a} -{b}"),
            *(f"(a {b}:-0.2) beside a {a}", f"a {b} :0 AND a {a} :1.2", f"a {a}, ((big {b}):-2)"),
        ]
    )
    return Case(shown, automatic=([a], [b]))


@kind
def very_long(rng):
    typed = rng.choice(
        ["x" * 10_000, "word " * 20_000, ":" * 9999, "(" * 5000, "猫" * 10_000, "a," * 5000]
    )
    return Case(typed, error="too many")


def cases(count: int, seed: int = 0):
    """(kind, case), the kinds in turn; those whose segments a tokeniser joins are left out."""
    every = list(KINDS.items())
    made = 0
    while made < count:
        name, make = every[made % len(every)]
        for attempt in range(50):
            case = make(random.Random(f"{seed} {made} {attempt}"))
            if not case.segments or reference.places(case.segments, "", case.notation) is not None:
                break
        else:
            raise AssertionError(name)
        yield name, case
        made += 1
