"""What the studio says of pictures: one-line messages, and the checker's verdicts."""

from __future__ import annotations

import html
import logging
import sys
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)


def messages_html(
    errors: Sequence[str] = (), notes: Sequence[str] = (), name: str = "studio-messages"
) -> str:
    """The message area, of a CSS class: errors first, one line each."""
    lines = [f'<p class="error">{html.escape(line)}</p>' for line in errors]
    lines += [f'<p class="note">{html.escape(line)}</p>' for line in notes]
    return f'<div class="{name}" role="status">{"".join(lines) or "&nbsp;"}</div>'


def card_html(title: str, what: str, verdict: Any | None) -> str:
    """The checker's reading of one image, a chip for each thing the prompt asked for."""
    head = f"<h3>{title}</h3><p class='what'>{what}</p>"
    if verdict is None:
        return f"<div class='studio-verdict'>{head}</div>"
    # The sentence tells an item in full ("one found"), the items whether it is right.
    parts = verdict.sentence.split("; ")
    if len(parts) != len(verdict.items):
        parts = [f"{text}: {'yes' if ok else 'missing'}" for text, ok in verdict.items]
    chips = "".join(
        f"<span class='{'yes' if ok else 'no'}'>{html.escape(part)}</span>"
        for part, (_, ok) in zip(parts, verdict.items, strict=True)
    )
    mark = "<b class='right'>✓ all as asked</b>" if verdict.right else ""
    return f"<div class='studio-verdict'>{head}<div class='chips'>{chips}</div>{mark}</div>"


def fault_line(error: Exception) -> str:
    """One line about a bug of ours, whose details go to the terminal."""
    log.error("generate failed", exc_info=error)
    text = str(error).splitlines()[0] if str(error) else ""
    return f"Error: {type(error).__name__}: {text} (details in the terminal)"


def say(lines: Sequence[str]) -> None:
    """The page's lines on the terminal too."""
    for line in lines:
        print(f"asyndm: {line}", file=sys.stderr, flush=True)
