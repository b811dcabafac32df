"""CLIP's tokeniser with its real vocabulary: the pieces that a host's tokeniser gives.

The vocabulary is the file of the package ``clip-anytorch`` (MIT, OpenAI); its code, which would
import a network, is not. Pieces are bytes in an alphabet of 256 letters, a word ends in ``</w>``.
"""

from __future__ import annotations

import gzip
import importlib.util
import unicodedata
from functools import lru_cache
from pathlib import Path

import regex

START, END = "<|startoftext|>", "<|endoftext|>"
_SPLIT = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_CHINESE = regex.compile(r"([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f])")
# What ftfy makes of quotes and wide letters, where a host has it.
_FTFY = {ord(c): "'" for c in "‘’‚‛"} | {ord(c): '"' for c in "“”„‟"} | {0x3000: " "}
_FTFY |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}


@lru_cache(maxsize=1)
def alphabet() -> dict[int, str]:
    """The letter of each byte."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printed]
    return {b: chr(b) for b in printed} | {b: chr(256 + n) for n, b in enumerate(others)}


@lru_cache(maxsize=1)
def merges() -> dict[tuple[str, str], int]:
    """The rank of each pair of pieces that CLIP joins."""
    (folder,) = importlib.util.find_spec("clip").submodule_search_locations
    data = gzip.decompress((Path(folder) / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    lines = data.decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    return {tuple(line.split()): rank for rank, line in enumerate(lines)}


@lru_cache(maxsize=1)
def vocabulary() -> list[str]:
    """The piece of each id."""
    letters = [alphabet()[b] for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    letters += [c for c in alphabet().values() if c not in set(letters)]
    return [*letters, *(c + "</w>" for c in letters), *map("".join, merges()), START, END]


@lru_cache(maxsize=1)
def ids() -> dict[str, int]:
    """The id of each piece."""
    return {piece: number for number, piece in enumerate(vocabulary())}


def words(text: str, ftfy: bool = False) -> list[str]:
    """The words of a text, as transformers' ``CLIPTokenizer`` cuts it with or without ftfy."""
    if ftfy:
        text = unicodedata.normalize("NFC", text.translate(_FTFY))
    else:
        kept = (
            " " if c in "\t\n\r" or unicodedata.category(c) == "Zs" else c
            for c in text
            if c in "\t\n\r" or (c not in "\0\ufffd" and unicodedata.category(c)[0] != "C")
        )
        text = unicodedata.normalize("NFC", _CHINESE.sub(r" \1 ", "".join(kept)))
    return _SPLIT.findall(" ".join(text.split()).lower())


@lru_cache(maxsize=1 << 16)
def pieces_of_word(word: str) -> tuple[str, ...]:
    """The pieces of one word."""
    if word in (START, END):
        return (word,)
    parts = [alphabet()[b] for b in word.encode("utf-8", "surrogatepass")]
    parts[-1] += "</w>"
    ranks = merges()
    while len(parts) > 1:
        pairs = set(zip(parts, parts[1:]))
        best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 30))
        if best not in ranks:
            break
        joined, at = [], 0
        while at < len(parts):
            both = tuple(parts[at : at + 2]) == best
            joined.append("".join(best) if both else parts[at])
            at += 2 if both else 1
        parts = joined
    return tuple(parts)


def pieces(text: str, ftfy: bool = False) -> list[str]:
    """The pieces of a text, without start and end."""
    return [piece for word in words(text, ftfy) for piece in pieces_of_word(word)]


def prompt_pieces(text: str, ftfy: bool = False) -> list[str]:
    """The pieces between start and end."""
    return [START, *pieces(text, ftfy), END]
