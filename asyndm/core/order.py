"""Objects in order: in ``bike > shark`` the shark waits for the bike.

Several such pieces make a directed graph. How deep an object lies in it (the longest way from one
that waits for nobody) sets its share of the curvature: with three in a row 1/3, 2/3 and all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from asyndm.core.pieces import fold
from asyndm.core.settings import SettingsError

# Between words, with or without spaces; alone with spaces only, for ">_<" and ">:3" are names too.
_ARROW = re.compile(
    r"(?<=[\w)\]\"'])[ \t]*(?:[-=]?>|→|⇒)[ \t]*(?=[^\W\d_])|"
    r"(?<=\S)[ \t]+(?:[-=]?>|→|⇒)[ \t]+(?=[^\s<>=_])"
)
_LOOSE = re.compile(r"^(?:[-=]?>|→|⇒)[ \t]+|[ \t]+(?:[-=]?>|→|⇒)$")
Edge = tuple[str, str]  # who goes ahead, who waits


@dataclass(frozen=True)
class ObjectWord:
    """An object the user (or the automatic choice) named.

    Attributes:
        text: the word.
        curvature: its own; None = its share of the general one.
        share: of the general curvature, by its place in an order.
    """

    text: str
    curvature: float | None = None
    share: float = 1.0

    def k(self, general: float) -> float:
        """The curvature that it has where the general one is ``general``."""
        return general * self.share if self.curvature is None else self.curvature


def sides_of(item: str) -> tuple[list[str], bool]:
    """(what stands between the arrows of one piece, whether an arrow has nothing on a side)."""
    inner = _LOOSE.sub("", _LOOSE.sub("", item)).strip()
    return _ARROW.split(inner), inner != item.strip()


def edges_of(groups: Sequence[Sequence[str]]) -> list[Edge]:
    """Everybody of a group waits for everybody of the group before."""
    return [(a, b) for one, two in zip(groups, groups[1:]) for a in one for b in two]


def in_order(
    words: Iterable[ObjectWord], edges: Iterable[Edge]
) -> tuple[tuple[ObjectWord, ...], tuple[Edge, ...]]:
    """The words, each once and with its share, and the edges between words that are there.

    A number wins over the share. Words in no order have all of the general curvature.

    Args:
        words: as written; one in an order may stand several times, with a number once.
        edges: by text, in any case of letters.

    Raises:
        SettingsError: objects that wait for each other, or one with two curvatures.
    """
    words = tuple(words)
    texts = {fold(word.text): word.text for word in reversed(words)}
    known = {
        (fold(a), fold(b)): None for a, b in edges if fold(a) in texts and fold(b) in texts
    }  # a dict, as sets have no order
    if not known:
        return words, ()
    ordered = {name for edge in known for name in edge}
    merged: dict[tuple, ObjectWord] = {}
    for word in words:
        name = fold(word.text)
        key = (name,) if name in ordered else (word.text, word.curvature)
        there = merged.setdefault(key, word)
        if word.curvature is None or there.curvature == word.curvature:
            continue
        if there.curvature is not None:
            raise SettingsError(
                f"objects: {word.text!r} has two curvatures, {there.curvature:g} and "
                f"{word.curvature:g}; give one."
            )
        merged[key] = replace(there, curvature=word.curvature)
    shares = _shares(tuple(known), texts)
    found = [replace(word, share=shares.get(fold(word.text), 1.0)) for word in merged.values()]
    return tuple(found), tuple((texts[a], texts[b]) for a, b in known)


def depths(edges: Iterable[Edge]) -> dict[str, int]:
    """By name the longest way to it, 1 for those who wait for nobody.

    Raises:
        graphlib.CycleError: there is a circle.
    """
    before: dict[str, list[str]] = {}
    for first, second in edges:
        before.setdefault(first, [])
        before.setdefault(second, []).append(first)
    found: dict[str, int] = {}
    for name in TopologicalSorter(before).static_order():
        found[name] = 1 + max((found[other] for other in before[name]), default=0)
    return found


def _shares(edges: Sequence[Edge], texts: dict[str, str]) -> dict[str, float]:
    try:
        depth = depths(edges)
    except CycleError as error:
        circle = [texts[name] for name in reversed(error.args[1])]
        shown = " > ".join([*circle[:4], *(["…"] if len(circle) > 4 else []), *circle[4:][-1:]])
        raise SettingsError(
            f"objects: {shown} is a circle, each waits for the other; take one '>' out."
        ) from None
    group = {name: {name} for name in depth}  # who hangs together
    for first, second in edges:
        if group[first] is not group[second]:
            group[first] |= group[second]
            for name in group[second]:
                group[name] = group[first]
    return {name: level / max(depth[one] for one in group[name]) for name, level in depth.items()}
