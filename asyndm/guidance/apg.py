"""APG, adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416, ICLR 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.guidance.base import Guess, Guidance


class Apg(Guidance):
    """D_c + (w - 1) * (what of D_c - D_u is orthogonal to D_c + eta * what is parallel).

    Before the projection the difference gets a (negative) momentum, and its norm a ceiling. All in
    terms of D, as in the paper.

    Args:
        eta: share of the parallel part; 1 with no momentum and no ceiling = CFG.
        momentum: of the difference over the steps.
        norm: the ceiling of its 2-norm over the whole image; 0 = none.
    """

    def __init__(self, eta: float = 0.0, momentum: float = -0.5, norm: float = 15.0) -> None:
        self.eta, self.momentum, self.norm = eta, momentum, norm
        self._average: Tensor | None = None

    def begin(self, host_sigmas: list[float]) -> None:
        self._average = None

    def combine(self, guess: Guess) -> Tensor:
        if guess.uncond is None:
            return guess.cond
        update = guess.delta.float()
        if self.momentum:
            past = self._average
            update = update if past is None else update + self.momentum * past
            self._average = update
        if self.norm > 0:
            update = update * (self.norm / _norm(update)).clamp(max=1.0)
        clean = guess.cond.float()
        clean = clean / _norm(clean)
        along = (update * clean).sum(dim=(1, 2, 3), keepdim=True) * clean
        update = update + (self.eta - 1) * along
        return (guess.cond.float() + (guess.scale - 1) * update).to(guess.cond.dtype)


def _norm(values: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True)
    return norm.clamp(min=1e-12)
