"""What a tokeniser's pieces say, as characters and words with their token positions.

Three notations are read: CLIP's (a word ends in ``</w>``), byte-level BPE's (a word starts with
``Ġ``) and T5's (a word starts with ``▁``); whatever has none of the marks is taken as it stands.
CLIP's and byte-level BPE's pieces are *bytes*, each written as one letter of an alphabet of 256;
a character of several bytes may lie in several pieces. T5 writes a byte as ``<0xE7>``.
Source of the alphabet: GPT-2's ``bytes_to_unicode``, which CLIP shares.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_SPECIAL = re.compile(r"<\|?[\w .]*\|?>|\[(?:CLS|SEP|PAD|UNK|MASK)\]|</s>|<pad>", re.IGNORECASE)
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# CLIP cuts these off whatever follows: 'dog' in quotes is "'d" and "og".
_CONTRACTIONS = frozenset(f"'{end}</w>" for end in ("s", "t", "re", "ve", "m", "ll", "d"))
# These do not end a group of words; commas and stops do.
JOINERS = frozenset("-_'’‘‐‑`´\"“”„«»()[]{}*~^")
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_BYTES = {chr(b): b for b in _PRINTED}
_BYTES |= {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in _PRINTED)}
# A character and the tokens its bytes lie in.
Placed = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Atom:
    """The smallest thing compared: a run of letters, one digit, a run of marks, one symbol.

    Attributes:
        text: casefolded; None = punctuation that ends a phrase.
        positions: of its tokens.
        inside: in the middle of a written word, after a mark; no object starts there.
    """

    text: str | None
    positions: tuple[int, ...] = ()
    inside: bool = field(default=False, compare=False)


def fold(text: str) -> str:
    """One spelling for what is one word: composed, compatibility forms resolved, casefolded."""
    return unicodedata.normalize("NFKC", text).casefold()


def without_accents(text: str) -> str:
    """As hosts do it that strip accents before they tokenise."""
    parts = unicodedata.normalize("NFD", text)
    return fold("".join(c for c in parts if unicodedata.category(c) != "Mn"))


def atoms_of(text: str) -> list[Atom]:
    """The atoms of plain text; positions are those of its characters."""
    return _atoms([(c, (at,)) for at, c in enumerate(text)])


def token_atoms(tokens: Sequence[str]) -> list[Atom]:
    """The atoms of a tokenised prompt."""
    return [
        atom
        for word in token_words(tokens)
        for atom in ([Atom(None)] if word is None else _atoms(word))
    ]


def with_quoted_words(tokens: Sequence[str]) -> list[str]:
    """CLIP's tokens with "'d" and "og" as one word."""
    return [t.removesuffix("</w>") if t in _CONTRACTIONS else t for t in tokens]


def token_words(tokens: Sequence[str]) -> list[list[Placed] | None]:
    """Words as characters with their tokens, None for a special token."""
    ends = any(token.endswith("</w>") for token in tokens)
    starts = not ends and any(token[:1] in ("▁", "Ġ") for token in tokens)
    words: list[list[Placed] | None] = []
    open_: list[tuple[str | int, int]] = []  # pieces or single bytes, with their token

    def close() -> None:
        if open_:
            words.append(_characters(open_))
            open_.clear()

    for position, token in enumerate(tokens):
        byte = _BYTE.fullmatch(token)
        if byte is None and _SPECIAL.fullmatch(token):
            close()
            words.append(None)
            continue
        alone = not (starts or ends) and not (open_ and _is_continued(open_, token))
        if (starts and token[:1] in ("▁", "Ġ")) or (alone and byte is None):
            close()
        piece = token.removesuffix("</w>") if ends else token.lstrip("▁Ġ") if starts else token
        open_.append((int(byte.group(1), 16) if byte else piece, position))
        if ends and token.endswith("</w>"):
            close()
    close()
    return words


def _is_continued(pieces: list[tuple[str | int, int]], token: str) -> bool:
    """Without marks: bytes of characters outside ASCII go on in the next token."""
    last = pieces[-1][0]
    if isinstance(last, int) or _BYTE.fullmatch(token):
        return True
    return all(
        not text.isascii() and all(c in _BYTES for c in text) and _starts_apart(text)
        for text in (last, token)
    )


def _starts_apart(text: str) -> bool:
    """Whether letters of the alphabet are no text of their own: bytes that begin or go on."""
    return any(0x80 <= _BYTES[c] for c in text)


def _characters(pieces: Iterable[tuple[str | int, int]]) -> list[Placed]:
    """Pieces of one word to its characters: as bytes where they are some, else as they stand."""
    pieces = list(pieces)
    raw: list[tuple[int, int]] = []
    for piece, position in pieces:
        if isinstance(piece, int):
            raw.append((piece, position))
        elif all(c in _BYTES for c in piece):
            raw += [(_BYTES[c], position) for c in piece]
        elif any(isinstance(other, int) for other, _ in pieces):
            raw += [(b, position) for b in piece.encode("utf-8", "surrogatepass")]
        else:
            return [(c, (p,)) for text, p in pieces for c in str(text)]
    try:
        text = bytes(b for b, _ in raw).decode("utf-8")
    except UnicodeDecodeError:
        if all(isinstance(piece, str) for piece, _ in pieces):
            return [(c, (p,)) for word, p in pieces for c in word]
        text = bytes(b for b, _ in raw).decode("utf-8", "ignore")
        if len(text.encode("utf-8")) != len(raw):  # cut in the middle: no honest positions
            return []
    placed, at = [], 0
    for c in text:
        length = len(c.encode("utf-8"))
        placed.append((c, tuple(sorted({p for _, p in raw[at : at + length]}))))
        at += length
    return placed


def folded(characters: Iterable[Placed]) -> list[Placed]:
    """Characters in one spelling, marks composed with what they stand on."""
    clusters: list[tuple[list[str], set[int]]] = []
    for c, positions in characters:
        if clusters and (unicodedata.combining(c) or "\u1160" <= c <= "\u11ff"):
            clusters[-1][0].append(c)
            clusters[-1][1].update(positions)
        else:
            clusters.append(([c], set(positions)))
    # One tuple a cluster: thousands of marks on one letter do not each hold all of them.
    placed = (("".join(parts), tuple(sorted(at))) for parts, at in clusters)
    return [(c, at) for text, at in placed for c in fold(text)]


def _atoms(characters: Iterable[Placed]) -> list[Atom]:
    atoms: list[Atom] = []
    run, at, kind, added = [], set(), "", None
    before = ""  # the kind of the character before, "" at a border

    def close() -> None:
        nonlocal run, at, kind, added
        if run:
            atoms.append(Atom("".join(run), tuple(sorted(at)), run_inside))
        run, at, kind, added = [], set(), "", None

    run_inside = False
    for c, positions in folded(characters):
        now = kind_of(c)
        if now != kind or now in "NS":
            close()
            run_inside = now == "L" and before == "M"
        if now in "LMNS":
            run.append(c)
            kind = now
            if positions is not added:  # a cluster's are added once
                at.update(positions)
                added = positions
        elif now == "P" and not (atoms and atoms[-1].text is None):
            atoms.append(Atom(None))
        if now != "-":
            before = now
    close()
    return atoms


def kind_of(c: str) -> str:
    """L letter, M mark, N digit, S symbol such as an emoji, P stop, - joiner, "_" nothing."""
    category = unicodedata.category(c)
    if c in JOINERS:
        return "_"
    if category[0] in "LN":
        return "N" if category[0] == "N" else "L"
    if c in "\ufe0e\ufe0f" or category == "Cf":
        return "-"
    if category[0] == "M":
        return "M"
    if "\U0001f3fb" <= c <= "\U0001f3ff":
        return "-"
    if category == "So":
        return "S"
    return "_" if c.isspace() or category[0] in "CZ" else "P"
