"""Words that an earlier automatic choice took, tied to the prompt it took them from.

An image's parameters tell them, so that a later noun list does not change old pictures. They hold
for one prompt (and what the object words take out) only; another one is chosen for anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from asyndm.core.expression import MOST_LETTERS
from asyndm.core.order import ObjectWord

_EXTRA_NETWORK = re.compile(r"<\w+:[^<>]*>")


@dataclass(frozen=True)
class Found:
    """What a choice took, by :func:`mark` of prompt and object words.

    Attributes:
        words: None where an image of an old version does not tell them.
    """

    words: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.words)

    @property
    def told(self) -> bool:
        """Whether there are words, for whatever prompt."""
        return any(words is not None for words in self.words.values())

    def holds(self, prompt: str, expression: str) -> bool:
        """Whether something is known of this prompt."""
        return mark(prompt, expression) in self.words

    def of(self, prompt: str, expression: str) -> tuple[ObjectWord, ...] | None:
        """The words for a prompt; None where they are not known."""
        words = self.words.get(mark(prompt, expression))
        return None if words is None else tuple(map(ObjectWord, words))

    def to_text(self) -> str:
        """For a control that nobody sees; "" for nothing."""
        return json.dumps(self.words, ensure_ascii=False) if self.words else ""

    @classmethod
    def from_text(cls, text: object) -> Found:
        """The inverse of :meth:`to_text`; nothing for what is none of ours. Never raises."""
        try:
            read = json.loads(text) if isinstance(text, str) and text else {}
            return cls(
                {key: words if words is None else _texts(words) for key, words in read.items()}
            )
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()


def mark(prompt: str, expression: str) -> str:
    """A short mark of a prompt's words and of the object words beside it.

    Extra networks (``<lora:x:1>``) and the number of spaces are not looked at.
    """
    text = "\n".join(
        " ".join(part.split()) for part in (_EXTRA_NETWORK.sub("", prompt), expression)
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def join_found(words: Sequence[str]) -> str:
    """The words as one text, "" where there are too many to keep."""
    text = ", ".join(words)
    return text if len(text) <= MOST_LETTERS else ""


def split_found(text: str) -> tuple[str, ...]:
    """The inverse of :func:`join_found`."""
    return tuple(filter(None, (word.strip() for word in text[:MOST_LETTERS].split(","))))


def _texts(words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TypeError(words)
    return tuple(words)
