"""The automatic choice: which words of a prompt name its objects."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from asyndm.core.expression import is_excluded
from asyndm.core.matching import ARTICLES, UNSPACED
from asyndm.core.nouns import Nouns, load_nouns, singular_forms
from asyndm.core.pieces import kind_of
from asyndm.core.prompt_syntax import wanted_prompt

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
# Articles, prepositions and the like of other languages people prompt in.
FOREIGN_STOP_WORDS = ARTICLES | frozenset(
    """
    de du au aux dans sur sous avec et à en chez pour par près est sont très qui que son sa ses
    con y por para entre sobre sin es del al su muy junto
    auf mit und im am von zu zum zur unter über neben bei ist sind vor hinter aus einem einer eines
    di della delle dei nel nella sul sulla e ed è da per tra vicino accanto
    no na nos nas do dos das com em ao à perto
    op met van onder naast bij voor
    и в во на с со у под над за из к ко о об по для от до рядом между перед при это
    і й та з із до біля
    bir ve ile üzerinde w z ze na i oraz pod nad przy
    """.split()
)
# Nouns that before another noun tell its colour: "an orange cat" holds no fruit.
_COLOUR_NOUNS = frozenset(
    """
    amber apricot cherry chocolate copper coral emerald jade lavender lemon lilac lime mint
    mustard olive orange peach pearl plum rose ruby salmon sapphire strawberry turquoise violet
    """.split()
)
# Whoever follows them made the picture or is where it was made.
_NO_SUBJECT_AFTER = frozenset("by in at from style of near via made inspired".split())
_ADJECTIVE = re.compile(r".{2,}(?:ing|ed|ly|ful|ous|ish|less|ical|able|ible|esque|est|like)")
_MINUS = re.compile(r"(?<![^\s,;(\[])[-−–](?=[^\W\d_])[^\s,;)\]]+")
# Chinese and Japanese words that stand between things.
_BETWEEN_SIGNS = re.compile(
    r"[的在和与跟里中上下着著了是有被把、。一二两三四五六七八九十]+[只個个匹隻条條张張辆輛座朵把杯名位本艘架]?"
    r"|[のにをはがでともへやから]+|(?:匹|人|個|台)の"
)


@dataclass(frozen=True)
class _Word:
    """A word of the prompt: its text (None ends a phrase) and whether it began with a capital."""

    text: str | None
    capital: bool = False


def auto_objects(
    prompt: str, nouns: Nouns | None = None, excluded: tuple[str, ...] = ()
) -> list[str]:
    """The prompt's words for physical things, in order, each once, compounds as one.

    Names and words no list knows count where they stand as a thing would. Nothing found = every
    content word. What the prompt gives a weight of 0 or less is no object, nor what is excluded.
    """
    nouns = nouns or load_nouns()
    words = _words(_MINUS.sub(" , ", wanted_prompt(prompt)))
    found: list[str] = []
    content: list[str] = []
    at = 0
    while at < len(words):
        text = words[at].text
        length = _noun_length(words, at, nouns)
        if length:
            found.append(" ".join(word.text or "" for word in words[at : at + length]))
        elif length := _name_length(words, at, nouns):
            found.append(" ".join(word.text or "" for word in words[at : at + length]))
        elif text and len(text) > 1 and not _is_stop(text):
            content.append(text)
        at += max(length, 1)
    return [word for word in _unique(found or content) if not is_excluded(word, excluded)]


def _words(text: str) -> list[_Word]:
    """Words with their marks, single digits and symbols; None where punctuation parts phrases."""
    words: list[_Word] = []
    run = ""

    def close() -> None:
        nonlocal run
        if run and UNSPACED.search(run):
            for piece in _BETWEEN_SIGNS.split(run):
                words.extend([_Word(piece), _Word(None)] if piece else [])
        elif run:
            words.append(_Word(run.casefold(), run[:1].isupper()))
        run = ""

    for c in fold_keeping_case(text):
        kind = kind_of(c)
        if kind in "LM":
            run += c
            continue
        if kind == "-":
            continue
        close()
        if kind in "NS":
            words.append(_Word(c))
        elif kind == "P":
            words.append(_Word(None))
    close()
    return words


def fold_keeping_case(text: str) -> str:
    """One spelling for what is one word, capitals kept."""
    return unicodedata.normalize("NFKC", text)


def _is_stop(text: str) -> bool:
    return bool(singular_forms(text) & STOP_WORDS) or text in FOREIGN_STOP_WORDS


def _noun_length(words: list[_Word], at: int, nouns: Nouns) -> int:
    """How many words from ``at`` on make one noun of the list: 0, 1 or a compound's length."""
    first = words[at].text
    if first is None:
        return 0
    if kind_of(first[0]) == "S":
        return 1  # an emoji
    second = words[at + 1].text if at + 1 < len(words) else None
    if second is not None:
        if any((first, last) in nouns.compounds for last in singular_forms(second)):
            return 2
        if first in _COLOUR_NOUNS and second not in STOP_WORDS:
            return 0
    if first in STOP_WORDS and first not in _COLOUR_NOUNS or first in ARTICLES:
        return 0
    return int(bool(singular_forms(first) & nouns.forms))


def _name_length(words: list[_Word], at: int, nouns: Nouns) -> int:
    """How many unknown words from ``at`` on stand where a thing would: a subject or a tag."""
    end = at
    while end < len(words) and _is_unknown(words[end].text, nouns):
        end += 1
    if end == at:
        return 0
    before = words[at - 1].text if at else None
    if before in _NO_SUBJECT_AFTER:
        return 0
    after = words[end].text if end < len(words) else None
    # Before a noun it tells what that is like: "a vermilion car".
    if after is not None and _noun_length(words, end, nouns):
        return 0
    return end - at


def _is_unknown(text: str | None, nouns: Nouns) -> bool:
    if not text or len(text) < 2 or kind_of(text[0]) != "L" or _is_stop(text):
        return False
    if singular_forms(text) & (nouns.forms | nouns.others):
        return False
    return not (text.isascii() and _ADJECTIVE.fullmatch(text))


def _unique(words: list[str]) -> list[str]:
    """Each word once; a plural counts as its singular."""
    kept: list[str] = []
    seen: set[str] = set()
    for word in words:
        forms = singular_forms(word)
        if not forms & seen:
            kept.append(word)
            seen |= forms
    return kept
