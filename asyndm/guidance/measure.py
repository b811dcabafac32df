"""What a picture cost and how strongly it was guided, whatever the method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asyndm.core.rows import UNCONDITIONAL
from asyndm.core.run import NetworkCall
from asyndm.guidance.base import batched_sum


@dataclass(frozen=True)
class Measured:
    """Of one picture.

    Attributes:
        rows: of the network, in all its calls.
        w_eff: the effective guidance, see :class:`Effective`; None where there was none, or where
            it has no meaning (Z-Sampling).
    """

    rows: int
    w_eff: float | None

    def __str__(self) -> str:
        guided = "" if self.w_eff is None else f", w_eff {self.w_eff:.4g}"
        return f"{self.rows} rows{guided}"


class Effective:
    """w_eff = 1 + sum <eps_m - eps_c, delta> / sum <delta, delta> over all steps of a picture.

    eps_m is the noise the method steps with, eps_c that with the prompt, delta their difference to
    it without; so CFG's is its w. For CFG++ it is the w of the plain step that does the same;
    pixels that stand still are left out there.
    """

    def __init__(self) -> None:
        self._along: Tensor | None = None
        self._length: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def add(self, method: Tensor, cond: Tensor, uncond: Tensor, sigma: Tensor) -> None:
        """One step's predictions, in terms of D."""
        delta = (cond - uncond) / sigma
        self._sum((method - cond) / sigma * delta, delta**2)

    def keep(self, cond: Tensor, uncond: Tensor, sigma: Tensor) -> None:
        """One step's predictions, whose weight is told later: see :meth:`weigh`."""
        self._last = (cond - uncond).float(), sigma

    def weigh(self, weight: Tensor) -> None:
        """The w of every pixel, a map, in the step last kept."""
        if self._last is None:
            return
        (delta, sigma), self._last = self._last, None
        square = (delta / sigma) ** 2
        moves = torch.isfinite(weight) & (weight.abs() < 1e6)
        square = torch.where(moves, square, 0.0)
        self._sum(torch.where(moves, weight - 1, 0.0) * square, square)

    def _sum(self, along: Tensor, length: Tensor) -> None:
        along, length = batched_sum(along), batched_sum(length)
        if self._along is None:
            self._along, self._length = torch.zeros_like(along), torch.zeros_like(length)
        self._along, self._length = self._along + along, self._length + length

    def values(self, batch: int) -> list[float | None]:
        """Of every picture (waits for the device)."""
        if self._along is None:
            return [None] * batch
        pairs = zip(self._along.tolist(), self._length.tolist())
        return [1 + along / length if length > 0 else None for along, length in pairs]


class RowCounter:
    """Counts the rows each picture's network calls have.

    Args:
        call: tells whose they are.
        batch: pictures.

    Attributes:
        uncond: there were unconditional ones.
    """

    def __init__(self, call: NetworkCall, batch: int) -> None:
        self.call, self.counts, self.uncond = call, [0] * batch, False

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        hook = network.register_forward_pre_hook(self._saw, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _saw(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.call.rows is None:
            return
        for image, part in zip(self.call.rows.images, self.call.rows.parts):
            self.counts[image] += 1
            self.uncond |= part == UNCONDITIONAL
