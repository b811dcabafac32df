"""What ``__animal__`` of a prompt became, read off the prompt as typed and as expanded."""

from __future__ import annotations

import re

WILDCARD = re.compile(r"__[^\s,;]+?__")
_HOLE = re.compile(r"__[^\s,;]+?__|\{[^{}]*\}")  # what extensions put other words for
_NETWORK = re.compile(r"<\w+:[^>]+>")  # the host takes these out of a prompt


def expand(expression: str, typed: str, prompt: str) -> str:
    """The expression with its wildcards as they are in a prompt.

    Args:
        expression: of the user.
        typed: the prompt before other extensions changed it.
        prompt: of one image.

    Returns:
        A wildcard stays where the two prompts do not tell what it became.
    """
    if not WILDCARD.search(expression):
        return expression
    values = _values(_NETWORK.sub("", typed), prompt)
    return WILDCARD.sub(
        lambda card: ", ".join(values.get(card.group(), [card.group()])), expression
    )


def _values(typed: str, prompt: str) -> dict[str, list[str]]:
    """By wildcard: what stands in the prompt between the texts around it."""
    holes = [match.group() for match in _HOLE.finditer(typed)]
    fixed = _HOLE.split(typed)
    at = prompt.find(fixed[0].lstrip())
    if not holes or at < 0 or not all(text.strip() for text in fixed[1:-1]):
        return {}
    at += len(fixed[0].lstrip())
    values: dict[str, list[str]] = {}
    for number, (hole, after) in enumerate(zip(holes, fixed[1:])):
        after = after.rstrip() if number == len(holes) - 1 else after
        if after:
            end = prompt.find(after, at)
        else:  # a style may follow
            stop = re.search(r"[,;\n]", prompt[at:])
            end = at + stop.start() if stop else len(prompt)
        value = prompt[at:end].strip()
        if end < at or not value:
            return {}
        if hole.startswith("__") and value != hole:
            values.setdefault(hole, [])
            values[hole] += [value] if value not in values[hole] else []
        at = end + len(after)
    return values
