"""The shipped noun list, and what is the plural of what.

Plurals are undone by the rules of WordNet's ``morphy`` and by its list of exceptions, as far as
the noun list holds their nouns.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

# Rules of WordNet's morphy(7) for nouns, and -ves, which it leaves to its exceptions.
_ENDINGS = (
    *(("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man")),
    *(("ies", "y"), ("oes", "o"), ("ves", "f"), ("ves", "fe")),
)
# Far commoner than the plurals WordNet lists.
_BY_HEART = {"people": ("person",), "folks": ("person",)}


@dataclass(frozen=True)
class Nouns:
    """Nouns for physical things. ``forms``: every singular or irregular plural form;
    ``compounds``: those of several words, as tuples of words; ``food``: those one eats;
    ``others``: common words that name no thing; ``scenery``: what things stand in or before;
    ``verbs``: things whose word is mostly a verb."""

    forms: frozenset[str]
    compounds: frozenset[tuple[str, ...]]
    food: frozenset[str] = field(default=frozenset())
    others: frozenset[str] = field(default=frozenset())
    scenery: frozenset[str] = field(default=frozenset())
    verbs: frozenset[str] = field(default=frozenset())


def read_list() -> dict[str, list[list[str]]]:
    """The lines of ``nouns.txt`` as [noun, *irregular plurals], by section."""
    text = resources.files("asyndm.core").joinpath("nouns.txt").read_text("ascii")
    sections: dict[str, list[list[str]]] = {}
    lines: list[list[str]] = sections.setdefault("thing", [])
    for line in text.splitlines():
        if line.startswith("#"):
            lines = sections.setdefault(line[1:], [])
        else:
            lines.append(line.split())
    return sections


@lru_cache(maxsize=1)
def load_nouns() -> Nouns:
    """The shipped list (``nouns.txt``, made from WordNet by ``tools/make_nouns.py``)."""
    sections = read_list()
    things = [*sections["thing"], *sections.get("food", ())]
    entries = [tuple(re.split(r"[-_]", form)) for line in things for form in line]
    return Nouns(
        frozenset(entry[0] for entry in entries if len(entry) == 1),
        frozenset(entry for entry in entries if len(entry) > 1),
        frozenset(line[0] for line in sections.get("food", ())),
        frozenset(form for line in sections.get("other", ()) for form in line),
        frozenset(form for line in sections.get("scenery", ()) for form in line),
        frozenset(form for line in sections.get("verb", ()) for form in line),
    )


@lru_cache(maxsize=8192)
def singular_forms(word: str) -> frozenset[str]:
    """The word, casefolded, and what it may be the plural of (rules, and the irregulars listed)."""
    word = unicodedata.normalize("NFKC", word).casefold()
    return regular_singulars(word) | set(_irregular().get(word, ()))


def regular_singulars(word: str) -> frozenset[str]:
    """The word and what English rules make it the plural of."""
    forms = {word}
    if len(word) > 2 and word.endswith("s") and not word.endswith("ss"):
        if len(word) > 3:
            forms.add(word[:-1])
        if len(word) > 4 and word.endswith("es"):
            forms.add(word[:-2])
    if len(word) > 3:
        forms.update(word[: -len(end)] + single for end, single in _ENDINGS if word.endswith(end))
    return frozenset(forms)


@lru_cache(maxsize=1)
def _irregular() -> dict[str, tuple[str, ...]]:
    """Singulars by irregular plural."""
    singulars = dict(_BY_HEART)
    for lines in read_list().values():
        for noun, *plurals in lines:
            for plural in plurals:
                singulars[plural] = (*singulars.get(plural, ()), noun)
    return singulars
