"""The automatic choice: which words of a prompt name its objects."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from asyndm.core.choice_words import (
    ADJECTIVE,
    BETWEEN_SIGNS,
    COLOUR_NOUNS,
    CONTRACTED,
    DENYING,
    DETERMINERS,
    FOREIGN_STOP_WORDS,
    FUNCTION_WORDS,
    HANGUL,
    HANGUL_PARTICLE,
    LEADING_VERB,
    MINUS,
    NO_CONTENT,
    NO_SUBJECT_AFTER,
    OF_THE_PICTURE,
    PICTURE_WORDS,
    SHOWING,
    SOMETIMES_THINGS,
    STOP_WORDS,
    VERB,
    VERB_ENDING,
)
from asyndm.core.expression import is_excluded
from asyndm.core.matching import ARTICLES, UNSPACED
from asyndm.core.nouns import Nouns, load_nouns, singular_forms
from asyndm.core.pieces import kind_of
from asyndm.core.prompt_syntax import wanted_prompt

_MOST_WORDS = 4  # of one thing
_FOREIGN_ALONE = FOREIGN_STOP_WORDS - STOP_WORDS
_BEFORE_NOUNS = DETERMINERS | {"the"}
_ENGLISH_ALONE = FUNCTION_WORDS - FOREIGN_STOP_WORDS


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
    words = _words(MINUS.sub(" , ", CONTRACTED.sub(_parted, wanted_prompt(prompt))))
    found: list[str] = []
    content: list[str] = []
    if _is_foreign(words, nouns):
        return [word for word in _unique(_foreign(words)) if not is_excluded(word, excluded)]
    at, denied = 0, False
    while at < len(words):
        text = words[at].text
        end = _thing_end(words, at, nouns) or _name_end(words, at, nouns)
        if end:
            if not denied and not _is_description(words, end, nouns):
                found.append(" ".join(word.text or "" for word in words[at:end]))
            denied = False
        elif text is None or text in DENYING:
            denied = text is not None
        elif len(text) > 1 and not _is_stop(text):
            content.append(text)
        at = max(end, at + 1)
    content = [word for word in content if not NO_CONTENT.fullmatch(word)] or content
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
            for piece in BETWEEN_SIGNS.split(run):
                piece = LEADING_VERB.sub("", piece, count=1) if piece else ""
                if piece and not VERB_ENDING.fullmatch(piece):
                    words.extend([_Word(piece), _Word(None)])
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
        if kind_of((words[end - 1].text or " ")[0]) == "S" or _is_plural(
            words[end - 1].text, nouns
        ):
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
        if first in COLOUR_NOUNS and second not in STOP_WORDS:
            return 0
    if _is_shown_thing(words, at):
        return 1
    if first in STOP_WORDS and first not in COLOUR_NOUNS or first in ARTICLES:
        return 0
    forms = singular_forms(first)
    return int(bool(forms & nouns.forms) or bool(forms & nouns.verbs) and _is_noun_here(words, at))


def _is_noun_here(words: list[_Word], at: int) -> bool:
    """Whether an article or number stands before, at most a colour or size between; or no word."""
    after = words[at + 1].text if at + 1 < len(words) else None
    at -= 1
    if after is None and (at < 0 or words[at].text is None):
        return True
    while at >= 0 and words[at].text in PICTURE_WORDS:
        at -= 1
    return at >= 0 and (words[at].text in DETERMINERS or words[at].text in ("the", "this"))


def _is_shown_thing(words: list[_Word], at: int) -> bool:
    """Whether a camera, poster and the like is meant as a thing: "a poster warning of fire"."""
    if words[at].text not in SOMETIMES_THINGS:
        return False
    after = words[at + 1].text if at + 1 < len(words) else None
    before = at - 1
    while before >= 0 and (words[before].text or "") not in {"", *DETERMINERS}:
        if words[before].text in FUNCTION_WORDS:
            return False
        before -= 1
    if before < 0 or words[before].text is None or after in SHOWING | PICTURE_WORDS:
        return False
    return after is not None or before > 0


def _is_plural(text: str | None, nouns: Nouns) -> bool:
    """Whether nothing can be called by the next noun: "dogs" is followed by a verb or a thing."""
    return bool(text) and bool(singular_forms(text) & nouns.forms - {text})


def _is_description(words: list[_Word], end: int, nouns: Nouns) -> bool:
    """Whether what ends here tells how the picture or its scenery is: "mountain road"."""
    after = words[end].text if end < len(words) else None
    if after is None or _is_plural(words[end - 1].text, nouns):
        return False
    return after in OF_THE_PICTURE or bool(singular_forms(after) & nouns.scenery)


def _name_end(words: list[_Word], at: int, nouns: Nouns) -> int:
    """Where the unknown words at ``at`` end if they stand where a thing would, else 0."""
    end = at
    while end < len(words) and _is_unknown(words[end].text, nouns):
        end += 1
    if end == at:
        return 0
    before = words[at - 1].text if at else None
    if before in NO_SUBJECT_AFTER:
        return 0
    if not _names_something(words, end, nouns):
        return end
    return end + 1 if _is_person(words, end, before) else 0


def _is_person(words: list[_Word], last: int, before: str | None) -> bool:
    """Whether a known word behind an unknown one is a name's second half: "elon musk riding"."""
    after = words[last + 1].text if last + 1 < len(words) else None
    acts = after is not None and after.endswith("ing") and VERB.fullmatch(after)
    return bool(acts) and before not in _BEFORE_NOUNS


def _names_something(words: list[_Word], at: int, nouns: Nouns) -> bool:
    """Whether the word at ``at`` is what the words before it describe: "a vermilion car"."""
    text = words[at].text if at < len(words) else None
    while text in PICTURE_WORDS:
        at += 1
        text = words[at].text if at < len(words) else None
    after = words[at + 1].text if at + 1 < len(words) else None
    if not text or text.endswith("ing") and (text in FUNCTION_WORDS or after in _BEFORE_NOUNS):
        return False  # "casting a spell"
    if _noun_length(words, at, nouns):
        return True
    return text in nouns.others and not VERB.fullmatch(text) and not _is_stop(text)


def _is_unknown(text: str | None, nouns: Nouns) -> bool:
    if text and UNSPACED.search(text):
        return True
    if not text or len(text) < 2 or kind_of(text[0]) != "L" or _is_stop(text):
        return False
    if singular_forms(text) & _known(nouns):
        return False
    # "cloudy" and "hazy" are what a cloud and a haze make.
    root = text[:-1] if text.endswith("y") else ""
    known = _known(nouns)
    if root and {root, root + "e", root[:-1]} & known:
        return False
    return not is_adjective(text)


@lru_cache(maxsize=2)
def _known(nouns: Nouns) -> frozenset[str]:
    return nouns.forms | nouns.others | nouns.scenery | nouns.verbs


def _is_foreign(words: list[_Word], nouns: Nouns) -> bool:
    """Whether the prompt is in a language whose words the noun list would misread."""
    texts = [word.text for word in words if word.text and kind_of(word.text[0]) == "L"]
    signs = [text for text in texts if text in _FOREIGN_ALONE]
    english = [text for text in texts if text in _ENGLISH_ALONE]
    if any(HANGUL.match(text) for text in texts):
        return True
    content = [text for text in texts if not _is_stop(text)]
    unknown = sum(not singular_forms(text) & _known(nouns) for text in content)
    return len(signs) > len(english) and (len(signs) > 1 or 2 * unknown >= len(content))


def _foreign(words: list[_Word]) -> list[str]:
    """Runs of words between articles, prepositions and signs."""
    found: list[str] = []
    run: list[str] = []

    def close() -> None:
        if run:
            found.append(" ".join(run))
            run.clear()

    for word in [*words, _Word(None)]:
        text = word.text
        if text is None or len(text) < 2 and kind_of(text[0]) != "S" or _is_stop(text):
            close()
        elif HANGUL.match(text):
            if VERB_ENDING.fullmatch(text):
                run.clear()
                continue
            run.append(text)
            if HANGUL_PARTICLE.fullmatch(text):
                close()
        else:
            run.append(text)
    return found


def is_adjective(word: str) -> bool:
    """Whether an English word's ending tells that it names no thing."""
    return word.isascii() and bool(ADJECTIVE.fullmatch(word))


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
