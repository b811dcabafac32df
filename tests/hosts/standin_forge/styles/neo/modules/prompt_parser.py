"""Stands for ``modules/prompt_parser.py`` of Neo: prompts have one way to be scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules import original

_original = original("prompt_parser")
globals().update({k: v for k, v in vars(_original).items() if not k.startswith("__")})


def get_learned_conditioning_prompt_schedules(
    prompts: Sequence[str], base_steps: int, hires_steps: int | None = None
) -> list[list[list]]:
    return _original.get_learned_conditioning_prompt_schedules(prompts, base_steps, hires_steps)


def get_learned_conditioning(
    model: Any, prompts: Sequence[str], steps: int, hires_steps: int | None = None
) -> list[list[Any]]:
    return _original.get_learned_conditioning(model, prompts, steps, hires_steps)


def get_multicond_learned_conditioning(
    model: Any, prompts: Sequence[str], steps: int, hires_steps: int | None = None
) -> Any:
    return _original.get_multicond_learned_conditioning(model, prompts, steps, hires_steps)
