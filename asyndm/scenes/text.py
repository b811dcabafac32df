"""Prompts of the small world: vocabulary, tokens, grammar.

A prompt names groups of objects ("two red circles and a blue square"), perhaps a relation
between two of them ("left of") and perhaps the scene ("on a lake at night").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOURS = ("red", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star")
NUMBERS = ("one", "two", "three", "four")
RELATIONS = ("left of", "right of", "above", "below")
PLACES = {
    "meadow": "in a meadow",
    "lake": "on a lake",
    "beach": "on a beach",
    "snow": "in the snow",
}
TIMES = {"day": "", "sunset": "at sunset", "night": "at night"}
COUPLINGS = (0.0, 0.5, 1.0)
MAX_OBJECTS = 4
MAX_TOKENS = 26

_GRAMMAR_WORDS = ("a", "an", "and", ",", "left", "right", "of", "above", "below", "the")
_SCENE_WORDS = ("in", "on", "at", "meadow", "lake", "beach", "snow", "sunset", "night")
_PAD, _END = "<pad>", "<end>"
_STARTS = tuple(f"<context {coupling:g}>" for coupling in COUPLINGS)
_SHAPE_WORDS = tuple(word for shape in SHAPES for word in (shape, shape + "s"))
VOCABULARY = (
    (_PAD, _END, *_STARTS) + _GRAMMAR_WORDS + _SCENE_WORDS + NUMBERS + COLOURS + _SHAPE_WORDS
)
_INDEX = {word: index for index, word in enumerate(VOCABULARY)}
_SINGULAR = {word: shape for shape in SHAPES for word in (shape, shape + "s")}
_COUNT = {"a": 1, "an": 1, **{word: count for count, word in enumerate(NUMBERS, start=1)}}


class PromptError(ValueError):
    """A prompt the small model cannot read. The message is one line: which word, and the remedy."""


@dataclass(frozen=True)
class Group:
    """``count`` objects of one shape and colour; colour None = any."""

    count: int
    colour: str | None
    shape: str

    def __str__(self) -> str:
        plural = "" if self.count == 1 else "s"
        number = "" if self.count == 1 else NUMBERS[self.count - 1] + " "
        colour = self.colour + " " if self.colour else ""
        return f"{number}{colour}{self.shape}{plural}"


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for: groups of objects, a relation between two, the scene."""

    groups: tuple[Group, ...]
    relation: str | None = None
    place: str | None = None
    time: str | None = None

    @property
    def total(self) -> int:
        return sum(group.count for group in self.groups)

    def prompt(self) -> str:
        """The sentence that asks for this."""
        names = [
            f"{'a' if group.count == 1 else NUMBERS[group.count - 1]} "
            + (f"{group.colour} " if group.colour else "")
            + group.shape
            + ("" if group.count == 1 else "s")
            for group in self.groups
        ]
        if self.relation:
            text = f"{names[0]} {self.relation} {names[1]}"
        elif len(names) > 1:
            text = ", ".join(names[:-1]) + " and " + names[-1]
        else:
            text = names[0]
        scene = [PLACES[self.place]] if self.place else []
        scene += [TIMES[self.time]] if self.time and TIMES[self.time] else []
        return " ".join([text, *scene])


def words_of(prompt: str) -> list[str]:
    """The prompt's words and commas in lower case.

    Raises:
        PromptError: nothing to read, an unknown word, or more words than the model reads.
    """
    words = re.findall(r"[^\s,.]+|,", prompt.lower())
    if not any(word != "," for word in words):
        raise PromptError("prompt: it is empty; write e.g. 'two red circles and a blue square'.")
    for word in words:
        if word not in _INDEX or word.startswith("<"):
            shown = word if len(word) <= 40 else word[:39] + "…"
            raise PromptError(
                f"prompt: the small model does not know {shown!r}; it knows numbers to four, "
                f"{', '.join(COLOURS)}, {', '.join(SHAPES)}, {', '.join(RELATIONS)}, "
                "and scenes such as 'on a lake at night'."
            )
    if len(words) > MAX_TOKENS - 2:
        raise PromptError(
            f"prompt: {len(words)} words are too many; the small model reads {MAX_TOKENS - 2}."
        )
    return words


def tokenize(prompt: str, coupling: float = 1.0) -> list[str]:
    """The tokens the text encoder sees: context level, words, end; not padded.

    The first token tells the model how much its backgrounds know about the objects
    (one of ``COUPLINGS``). An empty prompt gives the unconditional tokens.

    Raises:
        PromptError: see :func:`words_of`.
    """
    words = words_of(prompt) if prompt else []
    return [_STARTS[COUPLINGS.index(coupling)], *words, _END]


def token_ids(tokens: list[str]) -> list[int]:
    """Vocabulary indices, padded to ``MAX_TOKENS``."""
    return [_INDEX[token] for token in tokens] + [_INDEX[_PAD]] * (MAX_TOKENS - len(tokens))


def parse_prompt(prompt: str) -> Wish:
    """Read a prompt back into what it asks for.

    Raises:
        PromptError: unknown words, no object, or more objects than fit.
    """
    words = words_of(prompt)
    groups: list[Group] = []
    count, colour, relation = 1, None, None
    for word in words:
        if word in _COUNT:
            count = _COUNT[word]
        elif word in COLOURS:
            colour = word
        elif word in _SINGULAR:
            groups.append(Group(count, colour, _SINGULAR[word]))
            count, colour = 1, None
    if not groups:
        raise PromptError(f"prompt: it names no object; use one of {', '.join(SHAPES)}.")
    text = " ".join(words)
    relation = next((r for r in RELATIONS if re.search(rf"\b{r}\b", text)), None)
    if relation and len(groups) != 2:
        raise PromptError(f"prompt: '{relation}' stands between two objects; name exactly two.")
    wish = Wish(
        tuple(groups),
        relation,
        next((place for place in PLACES if place in words), None),
        next((time for time in TIMES if time in words), None),
    )
    if wish.total > MAX_OBJECTS:
        raise PromptError(
            f"prompt: {wish.total} objects are too many; the small model draws {MAX_OBJECTS}."
        )
    return wish
