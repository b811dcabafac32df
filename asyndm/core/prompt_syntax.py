"""A prompt without the WebUI's syntax: weights, schedules, extra networks, keywords.

Every loop and pattern here walks through a text a fixed number of times.
"""

from __future__ import annotations

import re

_EXTRA_NETWORK = re.compile(r"<\w+:[^<>]*>")  # <lora:name:1>; HTML such as <b> or <a href> stays
_ESCAPED = re.compile(r"\\([()\[\]\\:])")
_PART = re.compile(r"\bAND\b")
_PART_NUMBER = re.compile(r":\s*([-+]?\d[\d.]*)\s*\Z")  # "a cat :0.8 AND ..."
_NUMBER = re.compile(r":\s*([-+]?\.?\d[\d.]*)\s*\Z")  # (cat:1.2), [a:b:0.5]
_KEYWORD = re.compile(r"\b(?:AND|BREAK)\b")
_OPEN = {"(": ")", "[": "]"}
_TAIL = 64  # characters before a bracket that are looked at for its number
GONE = "\ue000"  # where a word stood that the prompt wants less than nothing of


def plain_prompt(prompt: str) -> str:
    """The prompt's words without weights, schedules, extra networks and keywords.

    Commas stand where the syntax separated phrases. Both sides of ``[a:b:0.5]`` are kept.
    """
    return _joined(_without_brackets(_first(prompt), keep_all=True))


def wanted_prompt(prompt: str) -> str:
    """:func:`plain_prompt` without what weighs 0 or less: ``(dog:-1)``, ``AND dog :-1``."""
    return _joined(_without_brackets(_first(prompt), keep_all=False))


def without_networks(text: str) -> str:
    """The text without ``<lora:name:1>`` and its kind."""
    return _EXTRA_NETWORK.sub(" ", text)


def _first(prompt: str) -> str:
    return _ESCAPED.sub(" ", _EXTRA_NETWORK.sub(" ", prompt))


def _joined(text: str) -> str:
    text = _KEYWORD.sub(" , ", text)
    text = re.sub(r"[()\[\]]", " ", text)
    text = re.sub(r"[|:]", ", ", text)
    return re.sub(r" ,", ",", " ".join(text.split()))


def _without_brackets(text: str, keep_all: bool) -> str:
    """Numbers of brackets and of AND parts taken out, and unwanted words where asked."""
    parts = []
    for part in _PART.split(text):
        plain = _flat(part, keep_all)
        number = _PART_NUMBER.search(plain[-_TAIL:])
        if number:
            plain = plain[: len(plain) - len(number.group())]
            if not keep_all and _value(number.group(1)) <= 0:
                plain = f" , {GONE} , "
        parts.append(plain)
    return " AND ".join(parts)


def _flat(text: str, keep_all: bool) -> str:
    """One pass over the brackets; ``out`` holds pieces, ``open_`` where each bracket began."""
    out: list[str] = []
    open_: list[tuple[str, int]] = []
    for piece in re.split(r"([()\[\]])", text):
        if piece in _OPEN:
            open_.append((_OPEN[piece], len(out)))
            out.append(" ")
        elif piece and piece in ")]":
            tail = out[-1] if out else ""
            number = _NUMBER.search(tail[-_TAIL:])
            if number:
                out[-1] = tail[: len(tail) - len(number.group())]
            if open_ and open_[-1][0] == piece:
                _, start = open_.pop()
                if not keep_all and piece == ")" and number and _value(number.group(1)) <= 0:
                    del out[start:]
                    out.append(f" , {GONE} , ")
            out.append(" ")
        else:
            out.append(piece)
    return "".join(out)


def _value(number: str) -> float:
    try:
        return float(number)
    except ValueError:
        return 1.0
