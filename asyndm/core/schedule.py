"""The clock of every pixel: curves and exposure.

A run makes n + 1 network calls, so n intervals lie between the first and the last. A pixel's
*clock* c runs from 0 (the noise of the first call) to n (of the last); at step i a synchronous
sampler has c = i. The *distance to go* is d = n - c, and r = n - i intervals are left.

Source: arXiv 2510.04504, section 4 and its appendix on the curves. For the quadratic curve the
rule d' = (r - 1)(d / r + k / n) makes the pace e = d / r gain k / n wherever a pixel is an object,
so the whole dynamic schedule is one accumulator, the *exposure* E = sum of k * M / n:

    d_i = (n - i)(1 + E_i)

With binary masks the exposure only counts, which leaves at most i + 1 different noise levels in
step i (one curvature) or (i + 1)(i + 2) / 2 (two): the reason why a network call stays cheap.

No method here looks at the values of a tensor on the device, so no step waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from asyndm.core.count_tables import CountTables, row_of, rows_of
from asyndm.core.grids import Size, cells_under, read_at, resample
from asyndm.core.parametrisation import wide_float
from asyndm.core.settings import CURVES, LEARNED, ORIGINS
from asyndm.core.sigma_scale import SigmaScale

EXPOSURES = 64  # rows of the learned curve's table
FEW_CELLS = 256  # of the clock's grid, all images together


def advance_distance(d, r: int, n: int, k, curve: str):
    """The distance to go of an *object* pixel after one more step.

    Args:
        d: distance to go, a tensor or float in clock units, r <= d <= n.
        r: intervals left before the step, 1 <= r <= n.
        n: intervals of the whole run.
        k: curvature within [0, 1], a float or a tensor that broadcasts with d.
        curve: "linear" (what background pixels follow), "quadratic", "piecewise" or "exponential".

    Raises:
        ValueError: an unknown curve.
    """
    if curve == "linear":
        return d * (r - 1) / r
    if curve == "quadratic":
        return (r - 1) * (d / r + k / n)
    if curve == "piecewise":
        slow, fast = d - (1 - k), (1 + k) * (r - 1)
        # min() of tensors or floats without asking which: written so that both broadcast.
        return torch.minimum(*_tensors(slow, fast)) if _any_tensor(slow, fast) else min(slow, fast)
    if curve == "exponential":
        return d - (1 - k) + ((1 - k) * r - d) * (math.expm1(1 / n) / math.expm1(r / n))
    raise ValueError(f"curve: {curve!r} is unknown; choose one of {', '.join(CURVES)}.")


@dataclass(frozen=True)
class PixelTime:
    """The noise levels of ONE network call.

    Attributes:
        sigma_table: [R] float32, noise levels in use.
        index: [B, gh, gw] long, the row of the table for every cell of the clock's grid.
        clock_table: [R] the clocks of those rows.
        size: (H, W) of the latents.
        patch: side of the squares of latent pixels that a transformer makes one token of, and that
            therefore share one noise level; 1 = a U-Net's pixels.
        timestep_table: [R] what the network is told of those rows, where that is known already.
    """

    sigma_table: Tensor
    index: Tensor
    clock_table: Tensor
    size: Size
    patch: int = 1
    timestep_table: Tensor | None = None

    @property
    def uniform(self) -> bool:
        """True when all pixels surely share one noise level (which need not be the host's).

        Never looks at the tensors.
        """
        return self.sigma_table.shape[0] == 1

    @property
    def grid(self) -> Size:
        """(gh, gw) of the clock."""
        return tuple(self.index.shape[-2:])

    def index_at(self, height: int, width: int) -> Tensor:
        """Table rows [B, height, width] at a resolution inside the network.

        A resolution samples the latents at its block centres, and a latent cell reads the grid
        cell over its centre; both are the identity where the sizes agree. With patches every
        place reads its token, also where the latents' sides are no multiple of the patch.
        """
        if self.patch == 1 and (height, width) == self.grid == tuple(self.size):
            return self.index
        device = self.index.device
        places = cells_under((height, width), tuple(self.size), self.grid, device, self.patch)
        return read_at(self.index, places)

    def with_region(self, region: Tensor, clock: float, scale: SigmaScale) -> PixelTime:
        """The same noise levels, but one clock for all of a region.

        Args:
            region: [B or 1, H, W] bool, at the latents' resolution.
            clock: of the region's pixels.
            scale: noise levels of the run.
        """
        place = torch.tensor([clock], dtype=torch.float64)
        sigma = scale.at(place).to(self.sigma_table, non_blocking=True)
        index = self.index_at(*self.size)
        return PixelTime(
            torch.cat([self.sigma_table, sigma]),
            torch.where(region, len(self.sigma_table), index),
            torch.cat([self.clock_table, place.to(self.clock_table, non_blocking=True)]),
            self.size,
            self.patch,
        )

    def towards(self, after: PixelTime, between: Callable[[Tensor, Tensor], Tensor]) -> PixelTime:
        """The noise levels inside the step from these to ``after``: a row for a pair of rows.

        Args:
            after: of the same run and latents.
            between: (noise level here, noise level after) -> inside, element by element.
        """
        grid = after.grid if self.grid in ((1, 1), after.grid) else self.size
        now, then = (
            time.index_at(*grid) if grid == self.size else resample(time.index, grid)
            for time in (self, after)
        )
        clocks = self.clock_table
        if len(self.sigma_table) * len(after.sigma_table) <= now.numel():
            pairs = torch.broadcast_tensors(self.sigma_table[:, None], after.sigma_table[None, :])
            table = between(*pairs)
            clocks = clocks[:, None].expand(table.shape)
            index = now * len(after.sigma_table) + then
        else:  # one row a cell is fewer
            table = between(self.sigma_table[now], after.sigma_table[then])
            clocks = clocks[now]
            index = torch.arange(now.numel(), device=now.device).view(now.shape)
        return PixelTime(table.flatten(), index, clocks.flatten(), self.size, self.patch)

    def sigma_map(self) -> Tensor:
        """Noise level of every latent pixel, [B, 1, H, W] float32. Nobody may write to it."""
        return self._sigma_map

    @cached_property
    def _sigma_map(self) -> Tensor:
        return self.sigma_table[self.index_at(*self.size)][:, None]

    def clock_map(self) -> Tensor:
        """Clock of every latent pixel, [B, H, W]."""
        return self.clock_table[self.index_at(*self.size)]


@dataclass(frozen=True)
class Steering:
    """What a mask makes of every pixel in one step.

    Attributes:
        levels: [B or 1, h, w] long; 0 = background, j = object with the run's j-th curvature.
        weight: None for a binary mask; for a soft one [B or 1, h, w] within [0, 1], how much of
            the pixel follows its object's curve (the rest follows the straight line).
        present: None = every image has an object in this step; else [B] bool, which have one.
    """

    levels: Tensor
    weight: Tensor | None = None
    present: Tensor | None = None


class PixelClock:
    """The clocks of all pixels through one run.

    Quadratic curve and binary masks: the state is, exactly, the number of steps a pixel spent at
    each curvature. Otherwise it is one distance a grid cell.

    Args:
        scale: noise levels of the run.
        batch: images.
        grid: (gh, gw) resolution of the clocks.
        size: (H, W) of the latents.
        curvatures: the object curvatures in use, each within [0, 1].
        curve: what objects follow, one of CURVES or LEARNED.
        rates: of the learned curve, one an interval within [-1, 1]; a pixel's pace d / r gains
            rate * k / n where it is an object, and is never less than the background's 1.
        origin: "host": the first call is at the host's first noise level for every pixel. "paper":
            the authors' indexing: the run starts one virtual interval before the first call
            (at their timestep 1001), and `step` starts at -1, so one more `advance` is due.
        device: of the state.
        patch: as in :class:`PixelTime`.
        timestep: noise levels [R] -> the network's timesteps [R], each from its own level alone;
            None = :attr:`PixelTime.timestep_table` is left to whoever asks.
    """

    def __init__(
        self,
        scale: SigmaScale,
        batch: int,
        grid: Size,
        size: Size,
        curvatures: Sequence[float],
        curve: str = "quadratic",
        origin: str = "host",
        device: torch.device | str = "cpu",
        patch: int = 1,
        rates: Sequence[float] | None = None,
        timestep: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if curve not in (*CURVES, LEARNED):
            raise ValueError(f"curve: {curve!r} is unknown; choose one of {', '.join(CURVES)}.")
        if (curve == LEARNED) != (rates is not None) or (rates is not None and origin != "host"):
            raise ValueError("rates: the learned curve has them, of the host's origin; no other.")
        if rates is not None and len(rates) != scale.intervals:
            raise ValueError(f"rates: {len(rates)} do not fit {scale.intervals} intervals.")
        if origin not in ORIGINS:
            raise ValueError(f"origin: {origin!r} is unknown; choose one of {', '.join(ORIGINS)}.")
        if not all(0 <= k <= 1 for k in curvatures):
            raise ValueError(f"curvatures: {tuple(curvatures)} must lie within 0 and 1.")
        self.scale, self.curve, self.curvatures = scale, curve, tuple(curvatures)
        self.size, self.grid, self.batch, self.patch = tuple(size), tuple(grid), batch, patch
        self.device = torch.device(device)
        self.start = -1 if origin == "paper" else 0
        self.step = self.start
        self.total = scale.intervals - self.start  # intervals of the run, the paper's n
        self._dtype = wide_float(self.device)
        self._counts: Tensor | None = None
        self._distance: Tensor | None = None
        self._rates = rates
        self._most = 0.0  # no exposure of the learned curve lies above it
        if curve == "quadratic":
            kinds = len(self.curvatures)
            shape = (kinds, batch, *self.grid)
            self._counts = torch.zeros(shape, dtype=torch.long, device=self.device)
            self._ranks = torch.arange(1, kinds + 1, device=self.device).view(-1, 1, 1, 1)
            self._tables = CountTables(scale, self.curvatures, self.start, self.device, timestep)
        else:
            self._distance = self._full(float(self.total))
        # Row j is curvature j - 1; row 0 is the background, whose curvature never counts.
        self._k = torch.tensor((0.0, *self.curvatures), dtype=self._dtype).to(self.device)
        self._time = self._uniform(self.scale.at(torch.tensor(float(self.step))), float(self.step))

    @property
    def pixel_time(self) -> PixelTime:
        """The noise levels of call `step` (after the last call: the list's last entry)."""
        return self._time

    def advance(self, steering: Steering) -> PixelTime:
        """Move on to the next call, steered by a mask at any resolution.

        Raises:
            RuntimeError: the run is over.
        """
        left = self.scale.intervals - self.step
        if left < 0:
            raise RuntimeError("The run is over: there is no interval left to advance by.")
        if left == 0:  # behind the last call all pixels have arrived
            self.step += 1
            self._time = self._uniform(torch.tensor(self.scale.sigmas[-1]), float(self.step))
            return self._time
        levels = self._fit(steering.levels)
        if steering.weight is not None and self._counts is not None:
            self._distance, self._counts = self._counted_distance(), None
        if self._counts is not None:
            self._counts = self._counts + (levels == self._ranks)
        else:
            weight = (levels > 0).to(self._dtype)
            if steering.weight is not None:
                weight = weight * self._fit(steering.weight).to(self._dtype)
            k = self._k[levels]
            if self._rates is not None:
                self._follow_rates(left, k * weight)
            else:
                straight = advance_distance(self._distance, left, self.total, 0.0, "linear")
                curved = advance_distance(self._distance, left, self.total, k, self.curve)
                self._distance = torch.where(weight > 0, straight.lerp(curved, weight), straight)
        self.step += 1
        self._time = self._measure()
        return self._time

    def _follow_rates(self, left: int, k: Tensor) -> None:
        rate = self._rates[self.step]
        pace = (self._distance / left + rate * k / self.total).clamp(min=1)
        self._distance = (left - 1) * pace
        largest = max(self.curvatures, default=0.0)
        self._most += max(rate, 0.0) * largest / self.total

    def refine(self, grid: Size) -> None:
        """Go on at another resolution; nothing changes if it is finer by whole numbers.

        Every pixel is on one clock until the first mask was read, and only that tells the grid: a
        run starts at (1, 1) and is refined once.
        """
        self.grid = tuple(grid)
        if self._counts is not None:
            counts = [self._fit(count) for count in self._counts]
            empty = self._counts.new_zeros(0, self.batch, *self.grid)
            self._counts = torch.stack(counts) if counts else empty
        else:
            self._distance = self._fit(self._distance)

    def clocks(self) -> Tensor:
        """Clock of every grid cell, [B, gh, gw], for pictures and tests."""
        return self._time.clock_table[self._time.index]

    def _measure(self) -> PixelTime:
        if self._rates is not None:
            return self._by_exposure()
        if self._counts is None:
            return self._per_cell(self.scale.intervals - self._distance)
        kinds, cells = len(self.curvatures), max(self.batch * self.grid[0] * self.grid[1], 1)
        if rows_of(self.step - self.start, kinds) > cells:  # one row a cell is fewer
            return self._per_cell(self.scale.intervals - self._counted_distance())
        sigma, clock, timestep = self._tables.at(self.step)
        if kinds:
            index = row_of(self._counts)
        else:
            index = torch.zeros(self.batch, *self.grid, dtype=torch.long, device=self.device)
        return PixelTime(sigma, index, clock, self.size, self.patch, timestep)

    def forget_timesteps(self) -> None:
        """The network has another rule for its timesteps from here on."""
        if self.curve == "quadratic":
            self._tables.forget()

    def _by_exposure(self) -> PixelTime:
        """The learned curve's: a row a cell where those are few, else :data:`EXPOSURES` of them.

        A level is then off by at most 1 / (2 EXPOSURES - 2) of the largest lag there can be.
        """
        left = self.scale.intervals - self.step
        if left < 1 or self.batch * self.grid[0] * self.grid[1] <= FEW_CELLS:
            return self._per_cell(self.scale.intervals - self._distance)
        exposure = torch.linspace(0, self._most, EXPOSURES, dtype=torch.float64)
        clock = (self.step - left * exposure).clamp(0, self.step)
        place = (self._distance / left - 1) * ((EXPOSURES - 1) / max(self._most, 1e-12))
        index = place.round().long().clamp(0, EXPOSURES - 1)
        sigma = self.scale.at(clock).float()
        return PixelTime(self._send(sigma), index, self._send(clock), self.size, self.patch)

    def _counted_distance(self) -> Tensor:
        k = self._k[1:].view(-1, 1, 1, 1)
        exposure = (self._counts.to(self._dtype) * k).sum(dim=0) / max(self.total, 1)
        return (self.scale.intervals - self.step) * (1 + exposure)

    def _per_cell(self, clock: Tensor) -> PixelTime:
        clock = clock.clamp(self.start, self.step).flatten()
        index = torch.arange(clock.numel(), device=self.device).view(self.batch, *self.grid)
        return PixelTime(self.scale.at(clock).float(), index, clock, self.size, self.patch)

    def _uniform(self, sigma: Tensor, clock: float) -> PixelTime:
        index = torch.zeros(self.batch, *self.grid, dtype=torch.long, device=self.device)
        table = self._send(sigma.reshape(1).float())
        return PixelTime(table, index, self._full(clock, shape=(1,)), self.size, self.patch)

    def _fit(self, cells: Tensor) -> Tensor:
        """``cells`` [B or 1, h, w] at this clock's batch and grid."""
        cells = resample(cells.to(self.device, non_blocking=True), self.grid)
        return cells.expand(self.batch, *self.grid)

    def _full(self, value: float, shape: tuple[int, ...] | None = None) -> Tensor:
        shape = (self.batch, *self.grid) if shape is None else shape
        return torch.full(shape, value, dtype=self._dtype, device=self.device)

    def _send(self, table: Tensor) -> Tensor:
        dtype = self._dtype if table.dtype == torch.float64 else table.dtype
        return table.to(dtype).to(self.device, non_blocking=True)


def _any_tensor(*values) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _tensors(*values) -> list[Tensor]:
    like = next(value for value in values if isinstance(value, Tensor))
    return list(
        torch.broadcast_tensors(
            *(torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in values)
        )
    )
