"""Where an object lies among a prompt's tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from asyndm.core.nouns import singular_forms
from asyndm.core.pieces import (
    Atom,
    atoms_of,
    fold,
    folded,
    kind_of,
    token_atoms,
    token_words,
    with_quoted_words,
)
from asyndm.core.pieces import without_accents as bare

# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Chinese.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
# Of the languages people prompt in; tried without them where the whole is not found.
ARTICLES = frozenset(
    """
    a an the some le la les l un une des el los las una unos unas der die das den dem ein eine
    einen il lo gli i uno o os as um uma de het een
    """.split()
)
_LEADING_ARTICLE = re.compile(r"\A\s*(?:an?|the)\s+(?=\S)", re.IGNORECASE)
# "two cats" in the box is found in "a cat".
COUNTS = frozenset(
    """
    one two three four five six seven eight nine ten eleven twelve dozen several many few couple
    pair of some both multiple
    """.split()
)


def find_tokens(object_text: str, tokens: Sequence[str]) -> list[list[int]]:
    """The token positions of every occurrence of an object, [] where it does not occur.

    Singular and plural match each other; articles do not count, nor do numbers where the whole is
    not found; accents do not where the tokens have none. A word may be cut into several tokens and
    an object may have several words.
    Positions are indices into ``tokens``.
    """
    if UNSPACED.search(object_text):
        return _find_characters(object_text, tokens)
    parts = [atom.text for atom in atoms_of(_LEADING_ARTICLE.sub("", object_text, count=1))]
    wanted = [part for part in parts if part]
    if not wanted:
        return []
    # A name such as "nier:automata" has a stop in it, in most prompts too.
    name = parts[parts.index(wanted[0]) : len(parts) - (parts[-1] is None)]
    if len(name) > len(wanted) and (found := _find(name, _atoms_of(tuple(tokens)))):
        return found
    found = _find_words(wanted, _atoms_of(tuple(tokens)))
    if (glued := with_quoted_words(tokens)) != list(tokens):
        taken = {p for group in found for p in group}
        more = _find_words(wanted, _atoms_of(tuple(glued)))
        found = sorted([*found, *(group for group in more if taken.isdisjoint(group))])
    return found


def _find_words(wanted: Sequence[str], atoms: Sequence[Atom]) -> list[list[int]]:
    found = _find(wanted, atoms) or _find_without_articles(wanted, atoms)
    if not found and len(counted := _without_count(wanted)) < len(wanted):
        found = _find(counted, atoms) or _find_without_articles(counted, atoms)
    return found


def match_objects(
    objects: Iterable[object], tokens: Sequence[str]
) -> tuple[dict[str, list[int]], list[str]]:
    """Token positions by object (all its occurrences), and the objects that do not occur.

    Args:
        objects: texts, or what has one as ``text``.
        tokens: of the prompt.
    """
    matched: dict[str, list[int]] = {}
    unmatched: list[str] = []
    for entry in objects:
        text = str(getattr(entry, "text", entry))
        positions = sorted({p for occurrence in find_tokens(text, tokens) for p in occurrence})
        if positions:
            matched[text] = positions
        elif text not in unmatched:
            unmatched.append(text)
    return matched, unmatched


@lru_cache(maxsize=8192)
def same_word(wanted: str, shown: str) -> bool:
    """Whether a prompt's word is the object's: singular or plural, accents stripped or not."""
    forms = singular_forms(shown)
    if singular_forms(wanted) & forms:
        return True
    return bare(shown) == fold(shown) and bool(singular_forms(bare(wanted)) & forms)


@lru_cache(maxsize=32)
def _atoms_of(tokens: tuple[str, ...]) -> tuple[Atom, ...]:
    """Read once for all the objects of a prompt."""
    return tuple(token_atoms(tokens))


@lru_cache(maxsize=32)
def _characters_of(tokens: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    characters: list[tuple[str, tuple[int, ...]]] = []
    for word in token_words(tokens):
        characters += [("\0", ())] if word is None else folded(word)
    return tuple((c, at) for c, at in characters if not c.isspace())


def _find(wanted: Sequence[str | None], atoms: Sequence[Atom]) -> list[list[int]]:
    """Occurrences of words; None among them is a stop."""
    found, at, length = [], 0, len(wanted)
    while at + length <= len(atoms):
        window = atoms[at : at + length]
        after = atoms[at + length].text if at + length < len(atoms) else None
        if (
            all(_is_at(word, atom.text) for word, atom in zip(wanted, window))
            and not window[0].inside
            and not (after and _is_mark(after))
        ):
            found.append(sorted({p for atom in window for p in atom.positions}))
            at += length
        else:
            at += 1
    return found


def _is_at(wanted: str | None, shown: str | None) -> bool:
    return same_word(wanted, shown) if wanted and shown else wanted == shown


def _find_without_articles(wanted: Sequence[str], atoms: Sequence[Atom]) -> list[list[int]]:
    fewer = [word for word in wanted if word not in ARTICLES]
    shown = [atom for atom in atoms if atom.text not in ARTICLES]
    changed = len(fewer) < len(wanted) or len(wanted) > 1
    return _find(fewer, shown) if fewer and changed else []


def _without_count(wanted: Sequence[str]) -> Sequence[str]:
    """Without the number in front: "two of the cats" -> "cats"."""
    at = 0
    while at < len(wanted) - 1 and _counts(wanted[at]):
        at += 1
    return wanted[at:]


def _counts(word: str) -> bool:
    return word in COUNTS or word in ARTICLES or kind_of(word[0]) == "N"


def _is_mark(text: str) -> bool:
    return kind_of(text[0]) == "M"


def _find_characters(object_text: str, tokens: Sequence[str]) -> list[list[int]]:
    """Occurrences in scripts without spaces: by characters, whatever the word borders."""
    characters = _characters_of(tuple(tokens))
    joined = "".join(c for c, _ in characters)
    wanted = "".join(fold(object_text).split())
    if wanted not in joined:
        wanted = bare(wanted)
    found, at = [], joined.find(wanted) if wanted else -1
    while at >= 0:
        window = characters[at : at + len(wanted)]
        positions = sorted({p for _, place in window for p in place})
        if positions:
            found.append(positions)
        at = joined.find(wanted, at + len(wanted))
    return found
