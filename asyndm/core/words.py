"""From prompt text to object words to token positions. Knows no host and no tokeniser.

Prompts are written in the WebUI's syntax: ``(cat:1.2)``, ``[cat]``, ``[cat:dog:0.5]``,
``<lora:name:1>``, ``BREAK``, ``AND``. Hosts tokenise themselves and hand the pieces over. This is
the face of ``expression``, ``choice``, ``matching``, ``nouns``, ``order``, ``pieces`` and
``prompt_syntax``.
"""

from __future__ import annotations

from asyndm.core.choice import STOP_WORDS, auto_objects
from asyndm.core.expression import (
    Expression,
    listed,
    parse_objects,
    read_expression,
    short,
)
from asyndm.core.matching import find_tokens, match_objects
from asyndm.core.nouns import Nouns, load_nouns, regular_singulars, singular_forms
from asyndm.core.order import ObjectWord
from asyndm.core.prompt_syntax import plain_prompt

__all__ = [
    "STOP_WORDS",
    "Expression",
    "Nouns",
    "ObjectWord",
    "auto_objects",
    "find_tokens",
    "listed",
    "load_nouns",
    "match_objects",
    "objects_of",
    "parse_objects",
    "plain_prompt",
    "read_expression",
    "regular_singulars",
    "short",
    "singular_forms",
]


def objects_of(prompt: str, expression: str, nouns: Nouns | None = None) -> tuple[ObjectWord, ...]:
    """The objects the user wrote, or the automatic choice where nothing is written.

    Args:
        prompt: of one image.
        expression: of the user; where it only takes objects out, the others are chosen.
        nouns: the noun list.

    Raises:
        SettingsError: as :func:`read_expression`.
    """
    said = read_expression(expression)
    if said.objects:
        return said.objects
    return tuple(ObjectWord(word) for word in auto_objects(prompt, nouns, said.excluded))
