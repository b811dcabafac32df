"""The noise levels of one run by how often a pixel was an object, for many steps at once.

With the quadratic curve and binary masks a pixel's clock in step i is told by whole numbers: the
steps it spent as an object at each curvature (:mod:`asyndm.core.schedule`). So all clocks there can
be are known before any mask is, and a step needs a slice of one table and not the dozens of small
operators that make it, for each of which a fast GPU waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asyndm.core.parametrisation import wide_float
from asyndm.core.sigma_scale import SigmaScale

BLOCK = 2048  # rows made at once, at least a step's: hosts compare each with their whole table
KINDS = 2  # curvatures; with more of them one row a cell is fewer


def rows_of(advances: int, kinds: int) -> float:
    """Rows of the table after so many steps, (advances + kinds) over kinds; inf: too many kinds."""
    return math.comb(advances + kinds, kinds) if kinds <= KINDS else math.inf


def row_of(counts: Tensor) -> Tensor:
    """The table row [...] of counts [kinds, ...], the steps at each curvature.

    Row a * (a + 1) / 2 + b for a steps as object in all, b of them at the second curvature.
    """
    if len(counts) == 1:
        return counts[0]
    total = counts.sum(dim=0)
    return torch.div(total * (total + 1), 2, rounding_mode="floor") + counts[1]


def counts_of(advances: int, kinds: int) -> Tensor:
    """The counts [rows, kinds] float64 of all rows, in the order of :func:`row_of`."""
    if kinds == 0:
        return torch.zeros(1, 0, dtype=torch.float64)
    if kinds == 1:
        return torch.arange(advances + 1, dtype=torch.float64)[:, None]
    both, second = torch.tril_indices(advances + 1, advances + 1).double()
    return torch.stack([both - second, second], dim=1)


class CountTables:
    """Clocks, noise levels and timesteps by count, made for some steps ahead.

    Args:
        scale: noise levels of the run.
        curvatures: at most :data:`KINDS`.
        start: the run's first step, 0 or the paper's -1.
        device: where the tables are wanted.
        timestep: noise levels [R] -> the network's timesteps [R], each from its own level alone.
    """

    def __init__(
        self,
        scale: SigmaScale,
        curvatures: Sequence[float],
        start: int,
        device: torch.device,
        timestep: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._scale, self._start, self._device = scale, start, device
        self._k = torch.tensor(tuple(curvatures), dtype=torch.float64)
        self._timestep = timestep
        self._places: dict[int, tuple[int, int]] = {}  # of a step: first row, rows
        self._tables: tuple[Tensor | None, ...] = ()

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """(noise levels [R] float32, clocks [R], timesteps [R] or None) of a step's rows."""
        if step not in self._places:
            self._make(step)
        first, rows = self._places[step]
        return tuple(
            None if table is None else table.narrow(0, first, rows) for table in self._tables
        )

    def forget(self) -> None:
        """The network has another rule for its timesteps from here on."""
        self._places.clear()

    def _make(self, step: int) -> None:
        self._places.clear()
        clocks, made, total = [], 0, max(self._scale.intervals - self._start, 1)
        while step <= self._scale.intervals and (not clocks or made + len(clocks[-1]) <= BLOCK):
            exposure = counts_of(step - self._start, len(self._k)) @ self._k / total
            left = self._scale.intervals - step
            clocks.append((step - left * exposure).clamp(self._start, step))
            self._places[step] = (made, len(exposure))
            made, step = made + len(exposure), step + 1
        clock = torch.cat(clocks)
        # Made on the CPU in float64 (some devices have none); a copy to the device need not wait.
        sigma = self._scale.at(clock).float().to(self._device, non_blocking=True)
        clock = clock.to(wide_float(self._device)).to(self._device, non_blocking=True)
        timestep = None if self._timestep is None else self._timestep(sigma)
        self._tables = (sigma, clock, timestep)
