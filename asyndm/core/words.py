"""From prompt text to object words to token positions. Knows no host and no tokeniser.

Prompts are written in the WebUI's syntax: ``(cat:1.2)``, ``[cat]``, ``[cat:dog:0.5]``,
``<lora:name:1>``, ``BREAK``, ``AND``. Hosts tokenise themselves and hand the pieces over; the
marks of the common tokenisers (CLIP's ``</w>``, T5's ``▁``, byte-level BPE's ``Ġ``) are
understood, and so are plain words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from asyndm.core.settings import SettingsError, check_number

_EXTRA_NETWORK = re.compile(r"<\w+:[^<>]*>")  # <lora:name:1>; HTML such as <b> or <a href> stays
_ESCAPED = re.compile(r"\\([()\[\]\\:])")
_PART_WEIGHT = re.compile(r":\s*[-+]?\d[\d.]*\s*(?=\bAND\b|\Z)")  # "a cat :0.8 AND ..."
_BRACKET_NUMBER = re.compile(r":\s*[-+]?\.?\d[\d.]*\s*(?=[)\]])")  # (cat:1.2), [a:b:0.5]
_KEYWORD = re.compile(r"\b(?:AND|BREAK)\b")
_ATOM = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")
_JOINER = frozenset("-_'’‐‑`\"()[]{}")  # these do not end a word group; commas and stops do
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_SPECIAL = re.compile(r"<\|?[\w .]*\|?>|\[(?:CLS|SEP|PAD|UNK|MASK)\]|</s>|<pad>", re.IGNORECASE)

# Function words and words about the picture: never objects of an automatic choice.
STOP_WORDS = frozenset(
    """
    a about above across after against all along alongside also am among an and another any are
    around as at away be been before behind being below beneath beside between beyond both but by
    can close could dark did do does down during each eight eleven either every exactly few five
    for four from front full had half has have having he her here hers him his how i if in inside
    into is it its itself just large left less like long lots many may me middle might more most
    much must my near neither next nine no nor not of off on one only onto or other our out
    outside over own per please right same she should single six small so some such ten than
    that the their them then there these they this those three through to together top toward
    towards twelve two under underneath until up upon us very was we were what when where which
    while who whose will with within without would you your zero break seven several bottom
    riding sitting standing lying holding wearing eating flying swimming jumping looking walking
    running playing driving sleeping hanging facing made big little tall tiny huge young old new
    black white red green blue yellow orange purple pink brown gray grey cyan magenta teal beige
    photo photograph photography picture image painting portrait illustration sketch drawing
    masterpiece poster wallpaper render rendering artwork art style styled quality best high
    highly detailed detail details resolution realistic photorealistic hyperrealistic cinematic
    lighting light lights shot closeup closeups up hd uhd k bokeh lens camera background
    foreground scene view trending artstation octane unreal engine award winning beautiful
    stunning cute aesthetic intricate sharp focus depth field digital anime watercolor oil
    canvas dramatic professional ultra super epic concept design vibrant colorful colourful
    color colour colors colours score nsfw sfw
    """.split()
)
# Nouns that before another noun tell its colour: "an orange cat" holds no fruit.
_COLOUR_NOUNS = frozenset(
    """
    amber apricot cherry chocolate copper coral emerald jade lavender lemon lilac lime mint
    mustard olive orange peach pearl plum rose ruby salmon sapphire strawberry turquoise violet
    """.split()
)


@dataclass(frozen=True)
class ObjectWord:
    """An object the user (or the automatic choice) named; no curvature = the general setting."""

    text: str
    curvature: float | None = None


@dataclass(frozen=True)
class Nouns:
    """Nouns for physical things. ``forms``: every singular or irregular plural form;
    ``compounds``: those of several words, as tuples of words."""

    forms: frozenset[str]
    compounds: frozenset[tuple[str, ...]]


@lru_cache(maxsize=1)
def load_nouns() -> Nouns:
    """The shipped list (``nouns.txt``, made from WordNet by ``tools/make_nouns.py``)."""
    lines = resources.files("asyndm.core").joinpath("nouns.txt").read_text("ascii").splitlines()
    entries = [tuple(re.split(r"[-_]", form)) for line in lines for form in line.split()]
    return Nouns(
        frozenset(entry[0] for entry in entries if len(entry) == 1),
        frozenset(entry for entry in entries if len(entry) > 1),
    )


def parse_objects(text: str) -> tuple[ObjectWord, ...]:
    """The objects of an expression such as ``"shark:0.7, bike"``; empty for empty text.

    A prompt's weight, ``(cat:1.2)``, is no curvature and is left out.

    Raises:
        SettingsError: an object without a name or a curvature that is no number from 0 to 1.
    """
    found: dict[ObjectWord, None] = {}
    for item in re.split(r"[,;\n]", text):
        item = item.strip()
        if not item:
            continue
        plain = _without_syntax(item, brackets_only=True)
        name, colon, number = plain.rpartition(":")
        if not colon:
            name = plain
        name = " ".join(name.split())
        if not _atoms(name) or ":" in name:
            raise SettingsError(
                f"objects: {_short(item)!r} does not name an object; write e.g. 'shark:0.7, bike'."
            )
        curvature = None
        if colon:
            curvature = check_number(
                f"objects: curvature of {_short(name)!r}", number.strip(), 0, 1
            )
        found[ObjectWord(name, curvature)] = None
    return tuple(found)


def plain_prompt(prompt: str) -> str:
    """The prompt's words without weights, schedules, extra networks and keywords.

    Commas stand where the syntax separated phrases. Both sides of ``[a:b:0.5]`` are kept.
    """
    return _without_syntax(prompt)


def auto_objects(prompt: str, nouns: Nouns | None = None) -> list[str]:
    """The prompt's words for physical things, in order, each once, compounds as one.

    Nothing found = every content word, so that an unknown name still works.
    """
    nouns = nouns or load_nouns()
    atoms = _atoms(plain_prompt(prompt))
    found, content = [], []
    at = 0
    while at < len(atoms):
        length = _noun_length(atoms, at, nouns)
        if length:
            found.append(" ".join(atom or "" for atom in atoms[at : at + length]))
        elif (word := atoms[at]) and len(word) > 1 and not singular_forms(word) & STOP_WORDS:
            content.append(word)
        at += max(length, 1)
    return _unique(found or content)


def objects_of(prompt: str, expression: str, nouns: Nouns | None = None) -> tuple[ObjectWord, ...]:
    """The objects the user wrote, or the automatic choice where nothing is written.

    Raises:
        SettingsError: as :func:`parse_objects`.
    """
    written = parse_objects(expression)
    return written or tuple(ObjectWord(word) for word in auto_objects(prompt, nouns))


def find_tokens(object_text: str, tokens: Sequence[str]) -> list[list[int]]:
    """The token positions of every occurrence of an object, [] where it does not occur.

    Singular and plural match each other; a word may be cut into several tokens and an object
    may have several words. Positions are indices into ``tokens``.
    """
    if _UNSPACED.search(object_text):
        return _find_characters(object_text, tokens)
    wanted = [singular_forms(atom) for atom in _atoms(object_text) if atom]
    if not wanted:
        return []
    atoms = _token_atoms(tokens)
    found, at = [], 0
    while at + len(wanted) <= len(atoms):
        window = atoms[at : at + len(wanted)]
        pairs = zip(window, wanted, strict=True)
        if all(atom and singular_forms(atom) & forms for (atom, _), forms in pairs):
            found.append(sorted({position for _, positions in window for position in positions}))
            at += len(wanted)
        else:
            at += 1
    return found


def match_objects(
    objects: Iterable[ObjectWord | str], tokens: Sequence[str]
) -> tuple[dict[str, list[int]], list[str]]:
    """Token positions by object (all its occurrences), and the objects that do not occur."""
    matched: dict[str, list[int]] = {}
    unmatched: list[str] = []
    for entry in objects:
        text = entry.text if isinstance(entry, ObjectWord) else entry
        positions = sorted({p for occurrence in find_tokens(text, tokens) for p in occurrence})
        if positions:
            matched[text] = positions
        elif text not in unmatched:
            unmatched.append(text)
    return matched, unmatched


@lru_cache(maxsize=4096)
def singular_forms(word: str) -> frozenset[str]:
    """The word, casefolded, and what it may be the plural of (rules, and the irregulars listed)."""
    word = unicodedata.normalize("NFKC", word).casefold()
    return regular_singulars(word) | set(_irregular().get(word, ()))


def regular_singulars(word: str) -> frozenset[str]:
    """The word and what English rules make it the plural of."""
    forms = {word}
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
        if word.endswith("es"):
            forms.add(word[:-2])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
        if word.endswith("ves"):
            forms.update((word[:-3] + "f", word[:-3] + "fe"))
    return frozenset(forms)


@lru_cache(maxsize=1)
def _irregular() -> dict[str, tuple[str, ...]]:
    """Singulars by irregular plural, from the noun list."""
    path = resources.files("asyndm.core").joinpath("nouns.txt")
    singulars: dict[str, tuple[str, ...]] = {}
    for line in path.read_text("ascii").splitlines():
        noun, *plurals = line.split()
        for plural in plurals:
            singulars[plural] = (*singulars.get(plural, ()), noun)
    return singulars


def _without_syntax(text: str, brackets_only: bool = False) -> str:
    text = _EXTRA_NETWORK.sub(" ", text)
    text = _ESCAPED.sub(" ", text)
    if not brackets_only:
        text = _PART_WEIGHT.sub(" ", text)
        text = _KEYWORD.sub(" , ", text)
    text = _BRACKET_NUMBER.sub(" ", text)
    text = re.sub(r"[()\[\]]", " ", text)
    if not brackets_only:
        text = re.sub(r"[|:]", ", ", text)
    text = " ".join(text.split())
    return re.sub(r" ,", ",", text)


def _atoms(text: str) -> list[str | None]:
    """Casefolded words and single digits; None where punctuation separates phrases."""
    atoms: list[str | None] = []
    for piece in _ATOM.findall(unicodedata.normalize("NFKC", text)):
        if piece.isalnum():
            atoms.append(piece.casefold())
        elif piece not in _JOINER:
            atoms.append(None)
    return [] if all(atom is None for atom in atoms) else atoms


def _noun_length(atoms: list[str | None], at: int, nouns: Nouns) -> int:
    """How many atoms from ``at`` on make one noun of the list: 0, 1 or a compound's length."""
    if atoms[at] is None:
        return 0
    pair = atoms[at : at + 2]
    if len(pair) == 2 and pair[1] is not None:
        if any((pair[0], last) in nouns.compounds for last in singular_forms(pair[1])):
            return 2
        if atoms[at] in _COLOUR_NOUNS and pair[1] not in STOP_WORDS:
            return 0
    forms = singular_forms(atoms[at])
    if atoms[at] in STOP_WORDS and atoms[at] not in _COLOUR_NOUNS:
        return 0
    return int(bool(forms & nouns.forms))


def _unique(words: list[str]) -> list[str]:
    """Each word once; a plural counts as its singular."""
    kept: list[str] = []
    for word in words:
        if not any(singular_forms(word) & singular_forms(other) for other in kept):
            kept.append(word)
    return kept


def _token_atoms(tokens: Sequence[str]) -> list[tuple[str | None, list[int]]]:
    """The tokens joined to words and cut into atoms, each with its token positions."""
    atoms: list[tuple[str | None, list[int]]] = []
    for text, spans in _token_words(tokens):
        if text is None:
            atoms.append((None, []))
            continue
        for match in _ATOM.finditer(text):
            piece = match.group()
            if piece.isalnum():
                covered = [
                    p for start, end, p in spans if start < match.end() and end > match.start()
                ]
                atoms.append((piece.casefold(), covered))
            elif piece not in _JOINER:
                atoms.append((None, []))
    return atoms


def _token_words(
    tokens: Sequence[str],
) -> list[tuple[str | None, list[tuple[int, int, int]]]]:
    """Words as (text, [(start, end, token position)]); (None, []) for a special token."""
    ends = any(token.endswith("</w>") for token in tokens)  # CLIP marks the last piece of a word
    starts = not ends and any(token[:1] in ("▁", "Ġ") for token in tokens)  # T5, byte-level BPE
    words: list[tuple[str | None, list[tuple[int, int, int]]]] = []
    text, spans = "", []

    def close() -> None:
        nonlocal text, spans
        if spans:
            words.append((text, spans))
        text, spans = "", []

    for position, token in enumerate(tokens):
        if _SPECIAL.fullmatch(token):
            close()
            words.append((None, []))
            continue
        if (starts and token[:1] in ("▁", "Ġ")) or not (starts or ends):
            close()
        piece = token.removesuffix("</w>") if ends else token.lstrip("▁Ġ") if starts else token
        piece = unicodedata.normalize("NFKC", piece)
        spans.append((len(text), len(text) + len(piece), position))
        text += piece
        if ends and token.endswith("</w>"):
            close()
    close()
    return words


def _find_characters(object_text: str, tokens: Sequence[str]) -> list[list[int]]:
    """Occurrences in scripts without spaces: by characters, whatever the word borders."""
    wanted = "".join(unicodedata.normalize("NFKC", object_text).casefold().split())
    characters: list[tuple[str, int]] = []
    for text, spans in _token_words(tokens):
        for start, end, position in spans:
            characters += [(c, position) for c in (text or "")[start:end].casefold()]
        if text is None:
            characters.append(("\0", -1))
    joined = "".join(c for c, _ in characters)
    found, at = [], joined.find(wanted)
    while at >= 0:
        found.append(sorted({position for _, position in characters[at : at + len(wanted)]}))
        at = joined.find(wanted, at + len(wanted))
    return found


def _short(text: str) -> str:
    """Text for a one-line message."""
    return text if len(text) <= 40 else text[:39] + "…"
