"""What typed object words mean and where they lie, told a second time; imports no code it judges.

A prompt is known as the segments it was made of, so that nothing is searched here: the bytes of a
segment are counted, and those of the tokens.
"""

from __future__ import annotations

import re
import unicodedata

import clip_pieces

NOTATIONS = ("clip", "ftfy", "bpe", "t5")


def tokens(prompt: str, notation: str) -> list[tuple[str, int]]:
    """(token, its bytes of text) of a prompt in one of the notations; special tokens have 0."""
    made: list[tuple[str, int]] = []
    for word in _words(prompt, notation):
        if notation == "t5":
            made.append(("▁", 0))
            for c in word:
                data = c.encode()
                if len(data) > 2:
                    made += [(f"<0x{b:02X}>", 1) for b in data]
                else:
                    made.append((c, len(data)))
            continue
        pieces = clip_pieces.pieces_of_word(word)
        lengths = [len(piece.removesuffix("</w>")) for piece in pieces]
        if notation == "bpe":
            pieces = ["Ġ" * (not n) + p.removesuffix("</w>") for n, p in enumerate(pieces)]
        made += zip(pieces, lengths)
    if notation in ("clip", "ftfy"):
        made = [(clip_pieces.START, 0), *made, (clip_pieces.END, 0)]
    return made


def squeezed(text: str, notation: str) -> str:
    """The text as the tokeniser has it, without spaces."""
    return "".join(_words(text, notation))


def _words(text: str, notation: str) -> list[str]:
    return text.split() if notation == "t5" else clip_pieces.words(text, notation == "ftfy")


def speaking(prompt: str, notation: str) -> set[int]:
    """The tokens that letters, digits or symbols lie in; others may count as part of a word."""
    says = [
        unicodedata.category(c)[0] in "LNS" or unicodedata.category(c)[0] == "M" and c != "\ufe0f"
        for c in squeezed(prompt, notation)
        for _ in c.encode()
    ]
    found, end = set(), 0
    for number, (_, length) in enumerate(tokens(prompt, notation)):
        if any(says[end : end + length]):
            found.add(number)
        end += length
    return found


def places(segments: list[tuple[str, str]], name: str, notation: str) -> list[list[int]] | None:
    """The speaking tokens of each segment of that name; None where the tokeniser joins segments."""
    prompt = "".join(text for text, _ in segments)
    parts = [squeezed(text, notation) for text, _ in segments]
    if "".join(parts) != squeezed(prompt, notation):
        return None
    ends, end = [], 0
    for _, length in tokens(prompt, notation):
        end += length
        ends.append((end - length, end))
    heard = speaking(prompt, notation)
    found, at = [], 0
    for (_, its), part in zip(segments, parts):
        start, at = at, at + len(part.encode())
        if its == name:
            found.append(
                [n for n, (a, b) in enumerate(ends) if a < at and b > start and n in heard]
            )
    return found


def curvature(number: str) -> float | None:
    """A typed number; None where it is none from 0 to 1."""
    number = number.strip().replace(",", ".")
    if not re.fullmatch(r"\d*\.?\d+|\d+\.", number):
        return None
    return float(number) if 0 <= float(number) <= 1 else None


def plural(noun: str) -> str:
    """The regular plural of English."""
    if re.search(r"(?:[sxz]|[cs]h)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"
