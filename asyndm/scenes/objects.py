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


def capture_of(
    prompts: Sequence[str], objects: Sequence[Sequence[ObjectWord]], coupling: float
) -> AttentionCapture:
    """Columns of each prompt's objects; shorter prompts are filled up with empty objects."""
    columns = [
        [at for _, at in occurrences(prompt, words, coupling)]
        for prompt, words in zip(prompts, objects)
    ]
    most = max(map(len, columns))
    return AttentionCapture([[each + [[]] * (most - len(each))] for each in columns])


def curvatures_of(
    prompts: Sequence[str],
    objects: Sequence[Sequence[ObjectWord]],
    settings: Settings,
    coupling: float,
) -> list[float]:
    """One curvature for each object of the capture.

    A batch of several prompts shares the general curvature; an object's own curvature
    belongs to a single prompt (its batch repeats it).
    """
    found = [occurrences(*both, coupling) for both in zip(prompts, objects)]
    if len(set(prompts)) == 1:
        return [word.k(settings.curvature) for word, _ in found[0]]
    return [settings.curvature] * max(map(len, found))
