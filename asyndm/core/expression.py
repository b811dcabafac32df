"""Object expressions as people write them: ``shark:0.7, bike``.

Also with the signs of other keyboards (``shark，bike``), a decimal comma, and pieces copied from
a prompt: ``[cat:dog:0.5]``, ``cat|dog``, ``cat AND dog``. ``-dog`` takes an object out,
``bike > shark`` lets the shark wait for the bike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from asyndm.core.matching import ARTICLES
from asyndm.core.nouns import Nouns, load_nouns, singular_forms
from asyndm.core.order import Edge, ObjectWord, edges_of, in_order, sides_of
from asyndm.core.pieces import atoms_of, fold, kind_of
from asyndm.core.settings import SettingsError, check_number
from asyndm.core.wildcards import WILDCARD

MOST_LETTERS = 2000  # of an expression
# The signs of Chinese, Japanese, Arabic keyboards.
_SIGNS = {ord(a): b for a, b in zip("、،؛︰", ",,;:")}
_SIGNS |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+|nan|inf(?:inity)?)(?:e[-+]?\d+)?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"(:[ \t]*[-+]?\d),(?=\d)")
# "cat:0.5 dog": a name ends behind its number.
_BEHIND_NUMBER = re.compile(
    r"(:[ \t]*[-+]?(?:\d+(?:\.\d*)?|\.\d+))(?=[ \t]+[^\W\d_]|[ \t]*[&|]|[ \t]*[/+](?!\d))"
)
_BREAK = re.compile(r"(?<!\S)BREAK(?!\S)")  # the prompt's own; it parts as a comma does
_EXTRA_NETWORK = re.compile(r"<\w+:[^<>]*>")
_ESCAPED = re.compile(r"\\([()\[\]\\:])")
_BETWEEN = re.compile(r"\s+AND\s+|\||(?<!\d)/|/(?!\d)|\s+\+\s+")
_JOINING = re.compile(r"(?:and|AND)\s+(?=\S)|&\s*")  # what a bracket or a comma left in front
# {2::cat|dog}, {2$$cat|dog}: how often, how many.
_CHANCE = re.compile(r"\d*(?:\.\d+)?::|\d*(?:-\d*)?\$\$(?:[^$]{0,20}\$\$)?")
# "M&M" is a name.
_AND = re.compile(r"\s+and\s+|\s+&\s*|\s*&\s+|(?<=\w\w)&(?=\w\w)", re.IGNORECASE)
# Of other languages, whose adjectives no list here knows: they join single words only.
_FOREIGN_AND = frozenset("et und y e och og ve oraz и і й та और و".split())
_OPEN = {"(": ")", "[": "]", "{": "}"}
# Endings of adjectives, and the commonest without.
_ADJECTIVE = re.compile(
    r"[a-z]{2,}(?:y|ed|ing|ous|ful|ish|less|ic|al|ive|ant|ent|en|some|able|ible)|"
    r"cute|huge|tiny|big|small|fat|thin|sad|mad|calm|brave|fierce|pale|dark|bright|plump|sleek"
)
# Before "and" they tell what the next noun is like: "black and white cat" is one.
_COLOURS = frozenset(
    """
    black white red green blue yellow orange purple pink brown gray grey cyan magenta teal beige
    gold golden silver violet turquoise crimson scarlet navy maroon
    """.split()
)


@dataclass(frozen=True)
class Expression:
    """What an expression says.

    Attributes:
        objects: in order, each once.
        excluded: names after a minus.
        notes: one line for each piece that is no word.
        order: (who goes ahead, who waits) of the objects.
    """

    objects: tuple[ObjectWord, ...]
    excluded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    order: tuple[Edge, ...] = ()


def parse_objects(text: str) -> tuple[ObjectWord, ...]:
    """The objects of an expression; see :func:`read_expression`."""
    return read_expression(text).objects


def read_expression(text: str) -> Expression:
    """The meaning of an expression such as ``"shark:0.7, bike"``; empty for empty text.

    A prompt's weight, ``(cat:1.2)``, is no curvature and is left out; a colon means a curvature
    only before a number. What is no word is left out and told.

    Raises:
        SettingsError: too long, a curvature that is no number from 0 to 1, objects that wait for
            each other, or no word in it at all.
    """
    if len(text) > MOST_LETTERS:
        raise SettingsError(
            f"objects: {len(text)} letters are too many; name the objects in {MOST_LETTERS} or "
            "fewer."
        )
    typed = text.strip()
    text = text.translate(_SIGNS)
    text = _DECIMAL_COMMA.sub(r"\1.", text)
    text = _BEHIND_NUMBER.sub(r"\1,", _BREAK.sub(",", text))
    notes: dict[str, None] = {}
    for pattern, what in (
        (_EXTRA_NETWORK, "is no word; it is left out."),
        (WILDCARD, "is a wildcard; write the word it became."),
    ):
        for match in pattern.finditer(text):
            notes[f"objects: {short(match.group())!r} {what}"] = None
        text = pattern.sub(" ", text)
    found: dict[ObjectWord, None] = {}
    excluded: dict[str, None] = {}
    edges: list[Edge] = []
    for item in _items(_ESCAPED.sub(" ", text)):
        sides, loose = sides_of(item)
        if loose:
            notes[f"objects: {short(item)!r} lacks an object; write e.g. 'bike > shark'."] = None
        groups: list[list[str]] = []
        for side in sides:
            minus = side.startswith(("-", "−", "–"))
            name, curvature = _named(side[1:].strip() if minus else side)
            if name is None:
                if not loose:
                    line = f"objects: {short(side)!r} does not name an object; it is left out."
                    notes[line] = None
            elif minus:
                excluded.update(dict.fromkeys(_several(name)))
            else:
                groups.append(_several(name))
                found.update(dict.fromkeys(ObjectWord(one, curvature) for one in groups[-1]))
        edges += edges_of(groups)
    if not found and not excluded and (notes or has_word(typed)):
        notes = notes or {f"objects: {short(typed)!r} does not name an object": None}
        line = next(iter(notes)).removesuffix("; it is left out.").rstrip(".")
        raise SettingsError(f"{line}; write e.g. 'shark:0.7, bike'.")
    objects, order = in_order(_without(found, excluded), edges)
    return Expression(objects, tuple(excluded), tuple(notes), order)


def is_excluded(text: str, excluded: tuple[str, ...]) -> bool:
    """Whether an object is one that the user took out."""
    return bool(excluded) and not _without([ObjectWord(text)], excluded)


def short(text: str, most: int = 40) -> str:
    """Text for a one-line message."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def listed(words: list[str], most: int = 160) -> str:
    """Words for a one-line message: as many as have room, and how many more there are."""
    shown: list[str] = []
    for word in (short(word, 120) for word in words):
        if shown and len(", ".join([*shown, word])) > most:
            return f"{', '.join(shown)} and {len(words) - len(shown)} more"
        shown.append(word)
    return ", ".join(shown)


def has_word(text: str) -> bool:
    """Whether there is a letter, a digit or a symbol in it that tokens could be of."""
    return any(kind_of(c) in "LNS" for c in fold(text))


def _items(text: str) -> list[str]:
    """What lies between separators; both sides of ``[a:b:0.5]``, without a bracket's number."""
    items: list[str] = []
    open_: list[list] = []  # [what closes it, whether it held several]
    piece: list[str] = []

    def close() -> None:
        item = " ".join("".join(piece).split())
        if chance := _CHANCE.match(item):
            item = item[chance.end() :].lstrip()
        if joining := _JOINING.match(item):
            item = item[joining.end() :]
        item = _without_end(item)
        if item:
            items.append(item)
        piece.clear()

    for c in text:
        if c in _OPEN:
            open_.append([_OPEN[c], False])
            piece.append(" ")
        elif c in ")]}":
            if open_ and open_[-1][0] == c:
                _take_number(piece)
                if open_.pop()[1]:
                    close()
                    if items and _NUMBER.fullmatch(items[-1]):
                        items.pop()
            piece.append(" ")
        elif c in ",;\n":
            close()
        elif open_ and (c == "|" or (c == ":" and open_[-1][0] == "]")):
            open_[-1][1] = True
            close()
        else:
            piece.append(c)
    close()
    return items


def _without_end(item: str) -> str:
    """Without an "and" after which nothing comes."""
    for end in (" and", " AND", "&"):
        if item.endswith(end) and len(item) > len(end):
            return item[: -len(end)].rstrip()
    return item


def _take_number(piece: list[str]) -> None:
    """Remove ``:1.2`` at the end of what a bracket held."""
    tail = "".join(piece[-64:])
    head, colon, number = tail.rpartition(":")
    if colon and _NUMBER.fullmatch(number.strip()):
        del piece[-(len(tail) - len(head)) :]


def _named(item: str) -> tuple[str | None, float | None]:
    """(name, curvature) of one piece; no name where it holds no word."""
    head, colon, number = item.rpartition(":")
    curvature = None
    if colon and (_NUMBER.fullmatch(number.strip()) or not number.strip()):
        item = " ".join(head.split()).rstrip(": ")
        if not has_word(item):
            return None, None
        name, colon, other = item.rpartition(":")
        if colon and _NUMBER.fullmatch(other.strip()):
            raise SettingsError(
                f"objects: {short(name)!r} has two curvatures, {short(other)} and "
                f"{short(number)}; give one."
            )
        curvature = check_number(f"objects: curvature of {short(item)!r}", number.strip(), 0, 1)
    return (item, curvature) if has_word(item) else (None, None)


def _several(name: str) -> list[str]:
    """One name, or the several that "and" joins."""
    names: list[str] = []
    for part in _BETWEEN.split(name):
        for piece in _joined(part.strip()):
            names += _without_foreign_and(piece.split())
    return [one for one in names if has_word(one)] or [name]


def _without_foreign_and(words: list[str]) -> list[str]:
    """What "et", "und", "и" join: single words, with an article; else all of it is one name."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word.casefold() in _FOREIGN_AND:
            parts.append([])
        else:
            parts[-1].append(word)
    single = all(len([w for w in part if w.casefold() not in ARTICLES]) == 1 for part in parts)
    return [" ".join(part) for part in (parts if single else [words])]


def _joined(text: str) -> list[str]:
    """The names that "and" parts; where it joins what one thing is like, it stays inside."""
    nouns = load_nouns()
    ends = [match.span() for match in _AND.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(start for start, _ in ends), len(text)]
    pieces = [
        [atom.text for atom in atoms_of(text[a:b]) if atom.text] for a, b in zip(starts, stops)
    ]
    names: list[str] = []
    last = len(pieces) - 1
    while last >= 0:
        first = last
        while first and _is_quality_of(pieces[first - 1], pieces[last], nouns):
            first -= 1
            if pieces[first][0] in ARTICLES:
                break
        if first and first == last and _is_food_of(pieces[first - 1], pieces[last], nouns):
            first -= 1
        names.append(text[starts[first] : stops[last]])
        last = first - 1
    return names[::-1]


def _is_quality_of(before: list[str], last: list[str], nouns: Nouns) -> bool:
    """Whether words before "and" tell what the thing behind it is like: "black and white cat"."""
    one = bool(before) and len(last) > 1 and last[0] not in ARTICLES
    return one and _is_quality(before[-1], nouns)


def _is_food_of(before: list[str], last: list[str], nouns: Nouns) -> bool:
    """Two kinds of food before what is made of them or holds them: "salt and pepper shaker"."""
    one = bool(before) and len(last) > 1
    return one and all(singular_forms(word) & nouns.food for word in (before[-1], last[0]))


def _is_quality(word: str, nouns: Nouns) -> bool:
    """Whether a word tells what a thing is like: a colour or another adjective."""
    if word in _COLOURS:
        return True
    known = word in nouns.others or bool(_ADJECTIVE.fullmatch(word))
    return known and not _is_noun(word, nouns)


def _is_noun(word: str, nouns: Nouns) -> bool:
    return bool(singular_forms(word) & nouns.forms)


def _words_of(text: str) -> list[frozenset[str]]:
    """The forms of each word but the articles."""
    return [
        singular_forms(atom.text)
        for atom in atoms_of(text)
        if atom.text and atom.text not in ARTICLES
    ]


def _without(found: Iterable[ObjectWord], excluded: Iterable[str]) -> tuple[ObjectWord, ...]:
    """The objects that were not taken out; looks each up by the forms of its first word."""
    out: dict[str, list[list[frozenset[str]]]] = {}
    for other in excluded:
        words = _words_of(other)
        for form in words[0] if words else ():
            out.setdefault(form, []).append(words)
    if not out:
        return tuple(found)

    def is_out(text: str) -> bool:
        mine = _words_of(text)
        its = (words for form in (mine[0] if mine else ()) for words in out.get(form, ()))
        return any(
            len(mine) == len(words) and all(a & b for a, b in zip(mine, words)) for words in its
        )

    return tuple(word for word in found if not is_out(word.text))
