"""The work of reading grows with the length of what is read, counted in lines that run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import clip_pieces
import pytest

from asyndm.core import expression, matching, nouns, pieces, prompt_syntax, words
from asyndm.core.settings import SettingsError

SIZE = 100
TEXTS = {
    "digits behind a colon": lambda n: "a:" + "1" * n,
    "digits and commas": lambda n: "a:1" + ",1" * n,
    "colons": lambda n: ":" * n,
    "numbers": lambda n: "(a" + ":1.5" * n + ")",
    "open brackets": lambda n: "(" * n,
    "closed brackets": lambda n: ")" * n,
    "nested brackets": lambda n: "(" * n + "a" + ":1)" * n,
    "square brackets": lambda n: "[a:" * n + "]" * n,
    "curly brackets": lambda n: "{a|" * n + "}" * n,
    "open networks": lambda n: "<lora:" * n,
    "networks": lambda n: "<lora:x:1>" * n,
    "wildcards": lambda n: "__a" * n,
    "underlines": lambda n: "_" * n,
    "commas": lambda n: "," * n,
    "wide commas": lambda n: "，" * n,
    "spaces": lambda n: " " * n + "a" + " " * n + ":",
    "ands": lambda n: "cat and " * n,
    "AND": lambda n: " AND " * n,
    "ampersands": lambda n: "a & " * n,
    "bars": lambda n: "a|" * n,
    "words": lambda n: "word " * n,
    "one word": lambda n: "x" * n,
    "signs": lambda n: "猫" * n,
    "marks": lambda n: "e" + "\u0301" * n,
    "emoji": lambda n: "🦈\ufe0f" * n,
    "minuses": lambda n: "-" * n + " -a" * n,
    "backslashes": lambda n: "\\(" * n,
    "chances": lambda n: "1::" * n + "2$$" * n,
    "names behind numbers": lambda n: "a:1 b " * n,
    "spaces behind a number": lambda n: "a:1" + " " * n + "," + ": " * n,
    "breaks": lambda n: "BREAK " * n,
    "pluses": lambda n: "cat + " * n,
    "qualities": lambda n: "red and " * n + "big cat",
    "ands of other languages": lambda n: "chat et " * n + "chien",
    "quotes": lambda n: "'d og " * n,
}


def steps(call: Callable[[], object]) -> int:
    """Lines run in this process, by Python's own tracing; library calls are none."""
    count = 0

    def line(frame, event, arg):
        nonlocal count
        count += 1
        return line

    before = sys.gettrace()
    for cached in (matching.same_word, nouns.singular_forms):
        cached.cache_clear()
    sys.settrace(line)
    try:
        call()
    except SettingsError:
        pass
    finally:
        sys.settrace(before)
    return count


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    try:
        call()
    except SettingsError:
        pass
    return time.process_time() - start


def readings(text: str) -> dict[str, Callable[[], object]]:
    """What is read of one text, by what reads it."""
    tokens = clip_pieces.pieces(text)
    return readings_without_tokens(text) | {
        "tokens": lambda: pieces.token_atoms(tokens),
        "match": lambda: [words.find_tokens(word, tokens) for word in ("cat", "a red cat", "猫")],
    }


def readings_without_tokens(text: str) -> dict[str, Callable[[], object]]:
    return {
        "expression": lambda: words.read_expression(text),
        "prompt": lambda: prompt_syntax.plain_prompt(text),
        "wanted": lambda: prompt_syntax.wanted_prompt(text),
    }


@pytest.fixture(autouse=True)
def no_limit(monkeypatch):
    """The expression's length is limited before it is read; here it is read all the same."""
    monkeypatch.setattr(expression, "MOST_LETTERS", 10**9)


@pytest.mark.parametrize("name", TEXTS)
def test_twice_the_length_is_at_most_twice_the_steps(name):
    once, twice = (readings(TEXTS[name](SIZE * times)) for times in (1, 2))
    for reader in once:
        short, long = steps(once[reader]), steps(twice[reader])
        assert long <= 2.2 * short + 100, f"{reader}: {short} steps, then {long}"


@pytest.mark.slow  # judged by the processor's time
@pytest.mark.parametrize("name", TEXTS)
def test_patterns_take_no_longer_a_letter(name):
    """What runs in the library: the ratio of processor time for doubled lengths, at its least."""
    for reader in ("expression", "prompt", "wanted"):
        times = {}
        for size in (10_000, 20_000):
            call = readings_without_tokens(TEXTS[name](size))[reader]
            times[size] = min(seconds(call) for _ in range(2))
        assert times[20_000] < 3 * times[10_000] + 0.05, f"{reader}: {times}"
