"""Guidance away from a third prediction, which the network makes while it is perturbed."""

from __future__ import annotations

from torch import Tensor

from asyndm.guidance.base import Guess, Guidance


class Perturbed(Guidance):
    """D_u + w (D_c - D_u) + g (D_c - D_p).

    Works without the unconditional prediction, too: D_c + g (D_c - D_p). The formula is the same in
    terms of D and of the noise, at each pixel's own noise level.

    Args:
        strength: g.
    """

    def __init__(self, strength: float = 3.0) -> None:
        self.strength = strength

    def combine(self, guess: Guess) -> Tensor:
        if guess.perturbed is None:  # outside the interval of guidance
            return super().combine(guess)
        away = self.strength * (guess.cond - guess.perturbed)
        return super().combine(guess) + (away if guess.active is None else away * guess.active)
