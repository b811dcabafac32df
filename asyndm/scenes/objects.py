"""The objects of a batch of scene prompts, one an occurrence, as the capture reads them."""

from __future__ import annotations

from collections.abc import Sequence

from asyndm.core.settings import Settings
from asyndm.core.words import ObjectWord, find_tokens
from asyndm.network import AttentionCapture

from .text import tokenize


def occurrences(
    prompt: str, words: Sequence[ObjectWord], coupling: float
) -> list[tuple[ObjectWord, list[int]]]:
    """(word, its token positions), a word that occurs several times as often, never less than once.

    One mask an occurrence and their union, as in the paper; a word that is not there has no
    positions.
    """
    tokens = tokenize(prompt, coupling)
    return [(word, at) for word in words for at in find_tokens(word.text, tokens) or [[]]]


def _slots(
    prompts: Sequence[str], objects: Sequence[Sequence[ObjectWord]], coupling: float
) -> list[list[tuple[ObjectWord | None, list[int]]]]:
    """The occurrences of every prompt, equally many: where a prompt has fewer, there are none.

    Words that are the same in all prompts, as written ones are, have the same places in each.
    """
    rows = [
        [occurrences(prompt, [word], coupling) for word in words]
        for prompt, words in zip(prompts, objects)
    ]
    if len(set(map(tuple, objects))) == 1:
        times = [max(map(len, same)) for same in zip(*rows)]
        rows = [
            [at + [(at[0][0], [])] * (n - len(at)) for at, n in zip(row, times)] for row in rows
        ]
    flat = [[one for at in row for one in at] for row in rows]
    most = max(map(len, flat))
    return [row + [(None, [])] * (most - len(row)) for row in flat]


def capture_of(
    prompts: Sequence[str],
    objects: Sequence[Sequence[ObjectWord]],
    coupling: float,
    grid: int | None = None,
) -> AttentionCapture:
    """Columns of each prompt's objects; shorter prompts are filled up with empty objects."""
    slots = _slots(prompts, objects, coupling)
    return AttentionCapture([[[at for _, at in row]] for row in slots], grid)


def curvatures_of(
    prompts: Sequence[str],
    objects: Sequence[Sequence[ObjectWord]],
    settings: Settings,
    coupling: float,
) -> list[float]:
    """One curvature for each object of the capture.

    Only words that somebody wrote have a curvature or a share of their own, and those are the same
    in all prompts; chosen ones have the general curvature.
    """
    general = settings.curvature
    first = _slots(prompts, objects, coupling)[0]
    if len(set(map(tuple, objects))) > 1:
        return [general] * len(first)
    return [general if word is None else word.k(general) for word, _ in first]
