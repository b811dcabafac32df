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

# Never objects of an automatic choice: function words, and what bodies do.
_FUNCTION_WORDS = frozenset(
    """
    a about above across after again against all along alongside already also although always am
    among an and another any anyone anything are around as at away because be been before behind
    being below beneath beside between beyond both but by can cannot close could dark did do does
    down during each eight eleven either else even ever every everyone everything exactly few five
    for four from front full had half has have having he her here hers herself him himself his how
    however i if in inside instead into is it its itself just large least left less like long lots
    many may me middle might mine more most much must my myself near neath neither never next nine
    no nobody none nor not nothing of off often on once one only onto or other others our ours out
    outside over own per perhaps please quite rather right same she should since single six small
    so some someone something somewhere soon still such ten than that the their theirs them
    themselves then there these they this those though three through thus to together too top
    toward towards twelve two under underneath unless until up upon us versus very via was we were
    what whatever when where whereas whether which while who whom whose why will with within
    without would yet you your yours zero break seven several bottom
    riding sitting standing lying holding wearing eating flying swimming jumping looking walking
    running playing driving sleeping hanging facing made
    """.split()
)
# Words about the picture, and colours and sizes: they describe the word that follows.
_PICTURE_WORDS = frozenset(
    """
    big little tall tiny huge young old new
    black white red green blue yellow orange purple pink brown gray grey cyan magenta teal beige
    photo photograph photography picture image painting portrait illustration sketch drawing
    masterpiece poster wallpaper render rendering artwork art style styled quality best high
    highly detailed detail details resolution realistic photorealistic hyperrealistic cinematic
    lighting light lights shot closeup closeups up hd uhd k bokeh lens camera background
    foreground scene view trending artstation octane unreal engine award winning beautiful
    stunning cute aesthetic intricate sharp focus depth field digital anime watercolor oil
    canvas dramatic professional ultra super epic concept design vibrant colorful colourful
    color colour colors colours score nsfw sfw solo uncropped highres absurdres lowres newest
    screencap hdr dof raw dslr mm fps cg cgi vfx rtx wip pov conceptart trope
    """.split()
)
STOP_WORDS = _FUNCTION_WORDS | _PICTURE_WORDS
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
# Behind a word they make it say how the picture is: "cowboy shot", "animal focus".
_OF_THE_PICTURE = frozenset(
    "shot shots view views focus background backdrop style theme lighting light angle form".split()
)
# What follows is not to be seen.
_DENYING = frozenset("no without sans ohne sin senza sem zonder bez без".split())
# Nouns that before another noun tell its colour: "an orange cat" holds no fruit.
_COLOUR_NOUNS = frozenset(
    """
    amber apricot aqua cherry chocolate copper coral emerald jade lavender lemon lilac lime mint
    mustard olive orange peach pearl plum rose ruby salmon sapphire strawberry turquoise violet
    """.split()
)
# Whoever follows them made the picture or is where it was made.
_NO_SUBJECT_AFTER = frozenset("by in at from style of near via made inspired using".split())
_ADJECTIVE = re.compile(
    r".{2,}(?:ing|ed|ly|ful|ous|ish|less|i[ct]al|able|ible|esque|est|like|ness|ism|ity|[st]ion|[ai]c|ive)"
)
# Where nothing was found they tell which words are none either.
_NO_CONTENT = re.compile(r".{2,}(?:al|ese|en)")
# In an unknown word they tell a verb: nothing is named before "totoro walks" but its subject.
_VERB = re.compile(r".{2,}(?:ing|ed|s)")
_CONTRACTED = re.compile(r"n['’]t\b|['’](?:s|re|ve|ll|d|m)\b", re.IGNORECASE)
_MOST_WORDS = 4  # of one thing
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
    words = _words(_MINUS.sub(" , ", _CONTRACTED.sub(_parted, wanted_prompt(prompt))))
    found: list[str] = []
    content: list[str] = []
    at, denied = 0, False
    while at < len(words):
        text = words[at].text
        end = _thing_end(words, at, nouns) or _name_end(words, at, nouns)
        if end:
            if not denied and not _is_description(words, end, nouns):
                found.append(" ".join(word.text or "" for word in words[at:end]))
            denied = False
        elif text is None or text in _DENYING:
            denied = text is not None
        elif len(text) > 1 and not _is_stop(text):
            content.append(text)
        at = max(end, at + 1)
    content = [word for word in content if not _NO_CONTENT.fullmatch(word)] or content
    content = [word for word in content if not is_adjective(word)] or content
    return [word for word in _unique(found or content) if not is_excluded(word, excluded)]


def _parted(match: re.Match[str]) -> str:
    """What a contraction leaves: "doesn't" is no name, "dog's tail" are two words."""
    return " not " if match.group()[0] in "nN" else " "


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


def _thing_end(words: list[_Word], at: int, nouns: Nouns) -> int:
    """Where the thing that begins at ``at`` ends, 0 where none does.

    Nouns in a row are one thing, called by the last of them: "cowboy hat", "school uniform". What
    no list knows is taken in behind the noun, where other languages have their adjectives.
    """
    length = _noun_length(words, at, nouns)
    end = at + length
    while length and end < len(words) and end - at < _MOST_WORDS:
        if kind_of((words[end - 1].text or " ")[0]) == "S" or _is_plural(words[end - 1].text, nouns):
            break
        length = _noun_length(words, end, nouns)
        if not length and _is_unknown(words[end].text, nouns):
            length = int(not _names_something(words, end + 1, nouns))
        end += length
    return end if end > at else 0


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


def _is_plural(text: str | None, nouns: Nouns) -> bool:
    """Whether nothing can be called by the next noun: "dogs" is followed by a verb or a thing."""
    return bool(text) and bool(singular_forms(text) & nouns.forms - {text})


def _is_description(words: list[_Word], end: int, nouns: Nouns) -> bool:
    """Whether what ends here tells how the picture or its scenery is: "mountain road"."""
    after = words[end].text if end < len(words) else None
    if after is None or _is_plural(words[end - 1].text, nouns):
        return False
    return after in _OF_THE_PICTURE or bool(singular_forms(after) & nouns.scenery)


def _name_end(words: list[_Word], at: int, nouns: Nouns) -> int:
    """Where the unknown words at ``at`` end if they stand where a thing would, else 0."""
    end = at
    while end < len(words) and _is_unknown(words[end].text, nouns):
        end += 1
    if end == at:
        return 0
    before = words[at - 1].text if at else None
    if before in _NO_SUBJECT_AFTER or _names_something(words, end, nouns):
        return 0
    return end


def _names_something(words: list[_Word], at: int, nouns: Nouns) -> bool:
    """Whether the word at ``at`` is what the words before it describe: "a vermilion car"."""
    text = words[at].text if at < len(words) else None
    while text in _PICTURE_WORDS:
        at += 1
        text = words[at].text if at < len(words) else None
    if not text:
        return False
    if _noun_length(words, at, nouns):
        return True
    return text in nouns.others and not _VERB.fullmatch(text) and not _is_stop(text)


def _is_unknown(text: str | None, nouns: Nouns) -> bool:
    if not text or len(text) < 2 or kind_of(text[0]) != "L" or _is_stop(text):
        return False
    if singular_forms(text) & (nouns.forms | nouns.others | nouns.scenery):
        return False
    # "cloudy" and "hazy" are what a cloud and a haze make.
    root = text[:-1] if text.endswith("y") else ""
    known = nouns.forms | nouns.others | nouns.scenery
    if root and {root, root + "e", root[:-1]} & known:
        return False
    return not is_adjective(text)


def is_adjective(word: str) -> bool:
    """Whether an English word's ending tells that it names no thing."""
    return word.isascii() and bool(_ADJECTIVE.fullmatch(word))


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
