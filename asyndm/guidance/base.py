"""What every guidance method is given, and what it may ask for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asyndm.network.regions import Regions


@dataclass(frozen=True)
class Guess:
    """The predictions of one step.

    Attributes:
        cond: D with the prompt, [B, C, H, W]; of a prompt in parts (AND) the unconditional D plus
            the weighted sum of the parts' differences to it.
        uncond: D without the prompt; None where it was left out (CFG 1, NGMS).
        sigma: noise level of every pixel, [B, 1, H, W].
        scale: guidance w, a number or a map.
        step: counted from 0.
        velocity: the network predicts v.
        perturbed: D of perturbed network calls with the prompt, where the method asked for them.
        active: where perturbations count, a map of 0 and 1; None = everywhere.
        regions: attention of the step's network calls, where the method asked for it.
    """

    cond: Tensor
    uncond: Tensor | None
    sigma: Tensor
    scale: float | Tensor
    step: int = 0
    velocity: bool = False
    perturbed: Tensor | None = None
    active: Tensor | None = None
    regions: Regions | None = None

    @property
    def delta(self) -> Tensor:
        """What the prompt changes, in terms of D."""
        return self.cond - self.uncond


class Guidance:
    """A method: the predictions of one step -> D. This one is plain classifier-free guidance.

    Attributes:
        perturbs: the way of the third prediction, one of :data:`asyndm.network.perturb.WAYS`.
        reads_regions: it wants the attention of the step.
        needs_uncond: it is nothing without the unconditional prediction, also where w is 1.
    """

    perturbs: str | None = None
    reads_regions = False
    needs_uncond = False

    def begin(self, host_sigmas: list[float]) -> None:
        """A run over the host's list starts."""

    def combine(self, guess: Guess) -> Tensor:
        """D_u + w (D_c - D_u), by Ho & Salimans 2022 (arXiv 2207.12598)."""
        if guess.uncond is None:
            return guess.cond
        if isinstance(guess.scale, Tensor):
            return guess.uncond + guess.scale * guess.delta
        return guess.uncond.lerp(guess.cond, guess.scale)


def batched_sum(values: Tensor) -> Tensor:
    """The sum over everything but the batch, [B] float32."""
    return values.flatten(1).sum(dim=1, dtype=torch.float32)
