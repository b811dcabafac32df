"""Stands for ``modules/prompt_parser.py``: AND, weights, prompt editing, emphasis."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*", re.S)
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*")


# --- prompt editing: [a:b:0.5], [a|b] ---


class _Edit(list):
    """[before, after, when]"""


class _Alternate(list):
    """[one, two, ...]"""


def _read(text: str, at: int, inside: bool) -> tuple[list[list], str, int, bool]:
    """(branches, the signs between them, where reading stopped, whether at the closing bracket)."""
    branches: list[list] = [[]]
    signs, depth = "", 0
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            branches[-1].append(text[at : at + 2])
            at += 2
            continue
        if sign == "[":
            node, at = _group(text, at + 1)
            branches[-1] += node
            continue
        if inside and sign == "]":
            return branches, signs, at + 1, True
        depth += (sign == "(") - (sign == ")" and depth > 0)
        if inside and sign in ":|" and not depth:
            branches.append([])
            signs += sign
        else:
            branches[-1].append(sign)
        at += 1
    return branches, signs, at, False


def _group(text: str, at: int) -> tuple[list, int]:
    branches, signs, end, closed = _read(text, at, inside=True)
    last = branches[-1]
    number = "".join(last) if all(isinstance(each, str) for each in last) else ""
    if closed and signs in (":", "::") and _NUMBER.fullmatch(number):
        return [_Edit([branches[0] if signs == "::" else [], branches[-2], number.strip()])], end
    if closed and signs and set(signs) == {"|"}:
        return [_Alternate(branches)], end
    plain: list = ["["]
    for sign, branch in zip(("", *signs), branches):
        plain += [sign, *branch]
    return plain + ["]"] * closed, end


def _when(number: str, steps: int, offset: int | None, old: bool) -> int:
    """The last step that shows what is before; ``offset``: steps of the first pass, in hires."""
    value = float(number)
    if old:
        value = value * steps if value < 1 else value
    elif "." in number:
        value = (value - (offset is not None)) * steps
    else:
        value -= offset or 0
    return min(steps, int(value))


def get_learned_conditioning_prompt_schedules(
    prompts: Sequence[str], base_steps: int, hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> list[list[list]]:  # fmt: skip
    """For each prompt [[last step, text], ...]."""
    hires = hires_steps is not None and not use_old_scheduling
    steps, offset = (hires_steps, base_steps) if hires else (base_steps, None)

    def when(node: _Edit) -> int:
        return _when(node[2], steps, offset, use_old_scheduling)

    def ends(nodes: list) -> set[int]:
        found: set[int] = set()
        for node in nodes:
            if isinstance(node, _Edit):
                found |= {when(node)} | ends(node[0]) | ends(node[1])
            elif isinstance(node, _Alternate):
                found |= set(range(1, steps + 1))
        return {end for end in found if end >= 1}

    def show(nodes: list, step: int) -> str:
        text = ""
        for node in nodes:
            if isinstance(node, _Edit):
                text += show(node[0] if step <= when(node) else node[1], step)
            elif isinstance(node, _Alternate):
                text += show(node[(step - 1) % len(node)], step)
            else:
                text += node
        return text

    read = [_read(prompt, 0, inside=False)[0][0] for prompt in prompts]
    return [[[e, show(nodes, e)] for e in sorted(ends(nodes) | {steps})] for nodes in read]


# --- conditioning: what the text encoder makes of it ---


class ComposableScheduledPromptConditioning:
    def __init__(self, schedules: list[ScheduledPromptConditioning], weight: float = 1.0) -> None:
        self.schedules, self.weight = schedules, weight


class MulticondLearnedConditioning:
    def __init__(self, shape: tuple, batch: list[list[ComposableScheduledPromptConditioning]]):
        self.shape, self.batch = shape, batch


def get_multicond_prompt_list(
    prompts: Sequence[str],
) -> tuple[list[list[tuple[int, float]]], list[str], dict[str, int]]:
    """(for each prompt its parts as (index, weight), the different texts, index by text)."""
    index: dict[str, int] = {}
    parts = []
    for prompt in prompts:
        parts.append([])
        for part in _AND.split(prompt):
            text, weight = _WEIGHT.fullmatch(part).groups()
            parts[-1].append((index.setdefault(text, len(index)), float(weight or 1)))
    return parts, list(index), index


def get_learned_conditioning(
    model: Any, prompts: Sequence[str], steps: int, hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> list[list[ScheduledPromptConditioning]]:  # fmt: skip
    result = []
    for schedule in get_learned_conditioning_prompt_schedules(
        prompts, steps, hires_steps, use_old_scheduling
    ):
        conds = model.get_learned_conditioning([text for _, text in schedule])
        result.append([ScheduledPromptConditioning(e, c) for (e, _), c in zip(schedule, conds)])
    return result


def get_multicond_learned_conditioning(
    model: Any, prompts: Sequence[str], steps: int, hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> MulticondLearnedConditioning:  # fmt: skip
    parts, texts, _ = get_multicond_prompt_list(prompts)
    learned = get_learned_conditioning(model, texts, steps, hires_steps, use_old_scheduling)
    return MulticondLearnedConditioning(
        (len(prompts),),
        [[ComposableScheduledPromptConditioning(learned[i], w) for i, w in each] for each in parts],
    )


def _at(schedule: list[ScheduledPromptConditioning], step: int) -> Tensor:
    return next((entry.cond for entry in schedule if step <= entry.end_at_step), schedule[0].cond)


def _stack(conds: list[Tensor]) -> Tensor:
    """Shorter ones are filled up with their last token."""
    most = max(map(len, conds))
    return torch.stack([torch.cat([c, c[-1:].repeat(most - len(c), 1)]) for c in conds])


def reconstruct_cond_batch(conds: list[list[ScheduledPromptConditioning]], step: int) -> Tensor:
    return _stack([_at(schedule, step) for schedule in conds])


def reconstruct_multicond_batch(
    conds: MulticondLearnedConditioning, step: int
) -> tuple[list[list[tuple[int, float]]], Tensor]:
    """(for each image its rows as (row, weight), all rows)."""
    rows: list[Tensor] = []
    images = []
    for parts in conds.batch:
        images.append([(len(rows) + i, part.weight) for i, part in enumerate(parts)])
        rows += [_at(part.schedules, step) for part in parts]
    return images, _stack(rows)


# --- emphasis: (a), (a:1.2), [a] ---

_PIECE = re.compile(r"\\[\\()\[\]]|[(\[\])]|:\s*([-+]?[.\d]+)\s*\)|[^\\()\[\]:]+|.", re.S)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse_prompt_attention(text: str) -> list[list]:
    """[[text, weight], ...]; BREAK has weight -1, which brackets change, as in the host."""
    pieces: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(first: int, factor: float) -> None:
        for piece in pieces[first:]:
            piece[1] *= factor

    for match in _PIECE.finditer(text):
        sign, weight = match.group(), match.group(1)
        if sign in opened:
            opened[sign].append(len(pieces))
        elif weight and opened["("]:
            multiply(opened["("].pop(), float(weight))
        elif sign == ")" and opened["("]:
            multiply(opened["("].pop(), 1.1)
        elif sign == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / 1.1)
        elif len(sign) > 1 and sign[0] == "\\":
            pieces.append([sign[1], 1.0])
        else:
            for number, part in enumerate(_BREAK.split(sign)):
                pieces += [["BREAK", -1]] * (number > 0) + [[part, 1.0]]
    for first in opened["("]:
        multiply(first, 1.1)
    for first in opened["["]:
        multiply(first, 1 / 1.1)
    merged: list[list] = []
    for piece in pieces or [["", 1.0]]:
        if merged and merged[-1][1] == piece[1]:
            merged[-1][0] += piece[0]
        else:
            merged.append(piece)
    return merged
