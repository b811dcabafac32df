"""Chips of a prompt's words under "Object words": which are picked, which will be found.

Everything is decided here, by the run's own functions; the page's script only clicks and writes.
"""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import gradio as gr

from asyndm.core.expression import MOST_LETTERS, Expression
from asyndm.core.found import Found
from asyndm.core.matching import UNSPACED
from asyndm.core.pieces import kind_of
from asyndm.core.settings import SettingsError
from asyndm.core.words import ObjectWord, auto_objects, find_tokens, listed, plain_prompt
from asyndm.core.words import read_expression as read
from asyndm.page.gradio_shim import quiet_each_time
from asyndm.page.order_graph import order_svg

log = logging.getLogger("asyndm")

MOST_CHIPS = 60
LONGEST_PROMPT = 2500  # letters that are shown as chips; the run looks at all of them
GROUP = "Words of the prompt: pick the objects"
PASTED = "Objects as in the pasted image."
MISSING, PICKED, FOUND, OTHER = (
    *("Not in the prompt:", "picked", "found in the prompt"),
    "not an object",
)
EDITED = "The prompt is not the pasted one any more: objects are found anew."
UNSTYLED = "The styles could not be applied (see the log): these are the prompt's own words."
BROKEN = "The words of the prompt cannot be shown (see the log)."
# Of one letter, or of a kind that is nobody's object but no stop word of the choice either.
_SKIP = frozenset(
    """
    a above across an and are around as at behind below beside between by for from in inside into
    is it its near next of off on or out over so that the their this through to two three four
    under up upon very with without break best quality masterpiece detailed highly photo picture
    image
    """.split()
)


@dataclass
class Chip:
    """One chip.

    Attributes:
        text: what is shown, and written where it is picked.
        at: its first token.
        names: the written objects it stands for.
        found: the automatic choice takes it.
        title: what it says under the mouse.
        k: its own curvature, None = the common one.
    """

    text: str
    at: int
    names: list[str] = field(default_factory=list)
    found: bool = False
    title: str = ""
    k: float | None = None


def chips_of(
    prompt: str, objects: str, found: Found | None = None
) -> tuple[list[Chip], Expression, list[str]]:
    """(chips in the prompt's order, what the object words say, written words that are not there).

    Args:
        prompt: as it is generated, styles and all.
        objects: the object words.
        found: what a pasted image tells.

    Raises:
        SettingsError: object words that cannot be used.
    """
    said = read(objects)
    tokens = _tokens(plain_prompt(prompt))
    pieces = [token + "</w>" for token in tokens]
    taken: set[int] = set()
    chips: dict[int, Chip] = {}
    missing = []

    def place(word: ObjectWord) -> Chip | None:
        occurrences = find_tokens(word.text, pieces)
        free = [at for at in occurrences if not taken.issuperset(at)]
        known = next((chips[at[0]] for at in occurrences if at[0] in chips), None)
        taken.update(*occurrences)
        if not occurrences:
            missing.append(word.text)
            return None
        if not free:
            return known
        first = free[0]
        whole = " ".join(tokens[first[0] : first[-1] + 1])
        return chips.setdefault(
            first[0], Chip(word.text if UNSPACED.search(word.text) else whole, first[0])
        )

    for word in said.objects[: 2 * MOST_CHIPS]:
        chip = place(word)
        if chip is not None:
            chip.names.append(word.text)
            chip.k = word.curvature if chip.k is None else chip.k
            chip.title = PICKED
    unwritten, missing = missing, []
    known = found.of(prompt, objects) if found else None
    automatic = known
    if automatic is None:
        automatic = tuple(map(ObjectWord, auto_objects(prompt, None, said.excluded)))
    for word in automatic[: 2 * MOST_CHIPS]:
        chip = place(word)
        if chip is not None and not said.objects:
            chip.found, chip.title = True, FOUND
    _add_others(chips, tokens, taken)
    kept = sorted(chips.values(), key=lambda chip: (not chip.names, not chip.found, chip.at))
    return sorted(kept[:MOST_CHIPS], key=lambda chip: chip.at), said, unwritten


def _add_others(chips: dict[int, Chip], tokens: Sequence[str], taken: set[int]) -> None:
    """A chip for every other word that somebody could mean."""
    seen = {chip.text.casefold() for chip in chips.values()}
    for at, token in enumerate(tokens):
        key = token.casefold()
        if at in taken or key in seen or key in _SKIP or token in ("AND", "BREAK"):
            continue
        if not token[0].isalpha() or len(token) < 2:
            continue
        seen.add(key)
        chips[at] = Chip(token, at, title=OTHER)


def _tokens(text: str) -> list[str]:
    """Words with the marks inside them; signs, and letters of scripts without spaces, alone."""
    tokens: list[str] = []
    run = ""
    for c in text:
        if not UNSPACED.match(c) and (c.isalnum() or (run and (c in "'’-" or kind_of(c) in "M-"))):
            run += c
            continue
        tokens += [run] if run else []
        run = ""
        tokens += [] if c.isspace() else [c]
    return tokens + ([run] if run else [])


def without(said: Expression, names: Sequence[str]) -> str:
    """The object words without some of them; who waited for one of those waits for whom it did."""
    edges = list(said.order)
    for name in names:
        before, after = ([e[i] for e in edges if e[1 - i] == name] for i in (0, 1))
        edges = [edge for edge in edges if name not in edge]
        edges += [edge for edge in product(before, after) if edge not in edges]
    chains: list[list[str]] = []
    for edge in edges:
        if chains and chains[-1][-1] == edge[0]:
            chains[-1].append(edge[1])
        else:
            chains.append(list(edge))
    ordered = {name for chain in chains for name in chain}
    kept = [word for word in said.objects if word.text not in names]
    alone = [_written(word) for word in kept if word.text not in ordered]
    # In a chain a number is written once.
    text = {word.text: _written(word) for word in kept}
    joined = [" > ".join(text.pop(name, name) for name in chain) for chain in chains]
    return ", ".join([*joined, *alone, *(f"-{name}" for name in said.excluded)])


def _written(word: ObjectWord) -> str:
    return word.text if word.curvature is None else f"{word.text}:{word.curvature:g}"


def chips_html(prompt: str, objects: str, found: object = "") -> str:
    """The bar of chips, and lines below it. Never raises: what fails is one line, and no chip."""
    try:
        return _chips_html(str(prompt or "")[:LONGEST_PROMPT], str(objects or ""), found)
    except Exception:
        log.exception("AsynDM: the chips of a prompt")
        return _bar([], "", _line(BROKEN, "missing"))


def _chips_html(prompt: str, objects: str, found: object) -> str:
    pasted = Found.from_text(found)
    try:
        chips, said, missing = chips_of(prompt, objects, pasted)
    except SettingsError as error:
        chips, said, missing = chips_of(prompt, "")[0], Expression(()), []
        for chip in chips:
            chip.found, chip.title = False, ""
        return _bar([_button(chip, said) for chip in chips], objects, _line(str(error), "missing"))
    lines = ""
    if missing:
        lines += _line(f"{listed(missing)}.", "missing", f"{MISSING} ")
    if pasted.told and not said.objects:
        lines += _line(PASTED if pasted.of(prompt, objects) is not None else EDITED, "pasted")
    return _bar([_button(chip, said) for chip in chips], objects, order_svg(said) + lines)


def _bar(buttons: Sequence[str], objects: str, lines: str) -> str:
    shown = html.escape(objects[:MOST_LETTERS], quote=True)
    return (
        # A stamp, so that the page's script sees an answer that is the same as the one before.
        f'<div class="asyndm-chips" role="group" title="{GROUP}" data-objects="{shown}" '
        f'data-stamp="{time.monotonic_ns()}">{"".join(buttons)}</div>{lines}'
    )


def _button(chip: Chip, said: Expression) -> str:
    look = "asyndm-chip asyndm-auto" if chip.found else "asyndm-chip"
    after = f' data-next="{html.escape(without(said, chip.names), quote=True)}"'
    text = html.escape(chip.text, quote=True)
    own = "" if chip.k is None else f" <small>k {chip.k:g}</small>"
    return (
        f'<button type="button" class="{look}" aria-pressed="{str(bool(chip.names)).lower()}" '
        f'data-word="{text}"{after if chip.names else ""} '
        f'title="{html.escape(chip.title, quote=True)}">{text}{own}</button>'
    )


def _line(text: str, kind: str, head: str = "") -> str:
    """A line below the chips; its head stands alone, as hosts translate whole texts."""
    head = f"<span>{head}</span>" if head else ""
    return f'<p class="asyndm-line asyndm-{kind}">{head}{html.escape(text)}</p>'


def asking_button(prefix: str) -> gr.Button:
    """The button that the page's script presses when a prompt has changed; nobody sees it."""
    return gr.Button("", elem_id=f"{prefix}_ask", elem_classes=["asyndm-hidden"])


def wire_chips(
    ask: gr.Button,
    place: gr.HTML,
    prompt: Any,
    objects: Any,
    found: Any,
    styles: Any = None,
    styled: Callable[[str, Sequence[str]], str] | None = None,
) -> None:
    """Draw the chips when asked: an event of the page, so behind the host's own login.

    Args:
        ask: of :func:`asking_button`.
        place: where they are drawn.
        prompt, objects, found: the components that hold them.
        styles: the component with the host's styles, if any.
        styled: prompt and names of styles -> the prompt with them.
    """

    def answer(prompt: str, objects: str, found: str, names: Any = None) -> str:
        whole, line = prompt, ""
        try:
            whole = styled(prompt, names) if styled is not None and names else prompt
        except Exception:  # the host's, or of an extension that changed it
            log.exception("AsynDM: the host's styles %r", names)
            line = _line(UNSTYLED, "missing")
        return chips_html(whole, objects, found) + line

    inputs = [prompt, objects, found, *([styles] if styles is not None else [])]
    quiet_each_time(ask.click, fn=answer, inputs=inputs, outputs=place)
