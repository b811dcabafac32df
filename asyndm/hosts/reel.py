"""The picture so far at some steps of a run, for its film."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from asyndm.hosts import shims
from asyndm.page.preview import chosen_steps

log = logging.getLogger("asyndm")


class Reel:
    """The denoised latents of the steps that a film shows; the others are not kept.

    Args:
        steps: calls of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self._wanted = set(chosen_steps(steps)) if steps else set()
        self._latents: dict[int, Tensor] = {}

    def watching(self, callback: Callable[[dict], Any] | None) -> Callable[[dict], None]:
        """The host's own callback of a step, which still comes first; its end ends the step."""

        def watch(state: dict) -> None:
            if callback is not None:
                callback(state)
            if state["i"] in self._wanted:
                self._latents[state["i"]] = state["denoised"].detach().float().cpu()

        return watch

    def guesses(self) -> dict[int, np.ndarray]:
        """By step, uint8 [B, h, w, 3] at the latents' size; none where the host knows no way."""
        try:
            return {step: shims.cheap_pictures(x) for step, x in self._latents.items()}
        except Exception as error:  # a model without a cheap decoder: the film has a row less
            log.debug("AsynDM: the film shows no pictures (%s)", error)
            return {}
