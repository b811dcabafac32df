"""The timestep embeddings of one network call: a few table rows, gathered to every pixel.

A network normally has one embedding vector an image. Here the time MLP and each block's projection
run on the *table* of the noise levels in use (some dozens of rows), and only their results are
spread over the pixels, so the cost of many timesteps is little more than the cost of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from asyndm.core.schedule import PixelTime


class TimestepField:
    """What the blocks of one network forward need to know about time.

    Args:
        pixel_time: the noise levels; R table rows, an index [B, gh, gw].
        timesteps: [R] model timesteps of those table rows.
        image: [rows] long, the image of each network row.
        images: the same numbers as a Python list, so that nothing waits for the device.
        device: of the network's input.
    """

    def __init__(
        self,
        pixel_time: PixelTime,
        timesteps: Tensor,
        image: Tensor,
        images: Sequence[int],
        device: torch.device,
    ) -> None:
        self.timesteps = timesteps.to(device)
        self._on_cpu = device.type == "cpu"
        self.uniform = pixel_time.uniform
        self.rows = len(images)
        self._one_image = len(set(images)) == 1
        self._pixel_time = dataclasses.replace(pixel_time, index=pixel_time.index.to(device))
        self._levels = self._pixel_time  # with the numbering of `timesteps`, also after `join`
        self.image = self._image = image.to(device)
        self._first = images[0]
        self.each = 0  # timesteps of each image, after `few`
        self.table: Tensor | None = None  # [R, E], or [rows * N, E] after `join`
        self._width = 0  # table rows of one network row; 0 = all network rows share the table
        self._starts: Tensor | None = None  # the first of them, [rows, 1, 1]
        self._index: dict[tuple[int, int], Tensor] = {}
        self._flat: dict[tuple[int, int], Tensor] = {}

    def few(self, most: int) -> TimestepField:
        """At most so many timesteps an image, evenly spaced between its lowest and its highest.

        Soft masks give every cell a timestep of its own; a transformer's projections are too wide
        for a table of thousands. A timestep is then off by 1 / (2 * most - 2) of the range.
        """
        index = self._pixel_time.index
        if len(self.timesteps) <= most or index[0].numel() <= most:
            return self
        steps = self.timesteps[index]
        low, high = steps.amin((1, 2), keepdim=True), steps.amax((1, 2), keepdim=True)
        part = (steps - low) / (high - low).clamp(min=torch.finfo(steps.dtype).tiny)
        even = torch.linspace(0, 1, most, dtype=steps.dtype, device=steps.device)
        self.timesteps = (low[:, 0] + (high - low)[:, 0] * even).flatten()
        place = (part * (most - 1)).round().long()
        self._pixel_time = self._levels = dataclasses.replace(self._pixel_time, index=place)
        self.each = most
        return self

    def share(self, time: Tensor) -> None:
        """Set the table: all network rows have the same embeddings ``time`` [R, E]."""
        self.table, self._width = time, 0

    def join(self, time: Tensor, parts: Sequence[Tensor]) -> None:
        """Set the table: each network row adds vectors of its own (labels, sizes, pooled text).

        Args:
            time: [R, E], or [rows, R, E] where time itself is embedded differently in each row.
            parts: [rows or 1, E] each, added in this order.
        """
        time = self.each_row(time) if time.ndim == 2 else self._number(time)
        for part in parts:
            time = time + self.beside(part)
        self.table = time

    @property
    def paired(self) -> bool:
        """Whether :meth:`each_row` has been asked: table rows belong to one network row each."""
        return self._width > 0

    def each_row(self, time: Tensor) -> Tensor:
        """Values of the table [R, E], for each network row apart: [rows * N, E], N at most R.

        Where each network row adds a vector of its own, an activation follows that is not linear:
        the sums cannot be taken after a block's projection, so the table has a row for each
        (network row, timestep) pair. A network row never needs more timesteps than its image has
        grid cells.
        """
        index = self._levels.index
        if time.shape[0] > index[0].numel():
            time = time[index.flatten(1)[self._image]]
            own = torch.arange(index[0].numel(), device=time.device).view(1, *self._levels.grid)
            own = own.expand(index.shape[0], -1, -1)
            self._pixel_time = dataclasses.replace(self._levels, index=own)
            return self._number(time)
        return self._number(time.expand(self.rows, -1, -1))

    def beside(self, part: Tensor) -> Tensor:
        """Vectors of the network rows [rows or 1, E], at the rows of :meth:`each_row`."""
        return part[:, None].expand(self.rows, self._width, -1).flatten(0, 1)

    def _number(self, time: Tensor) -> Tensor:
        """[rows, N, E], numbered through."""
        self._width = time.shape[1]
        starts = torch.arange(self.rows, device=time.device) * self._width
        self._starts = starts.view(-1, 1, 1)
        return time.flatten(0, 1)

    def spread(self, values: Tensor, height: int, width: int) -> Tensor:
        """Table values [len(table), C] at every pixel: [rows, C, height, width].

        Where all rows or all pixels agree there is one of them, to be broadcast: the blocks add
        and multiply, and for an expanded view a fast GPU would wait as for any other operator.
        """
        if self.uniform:
            return values[:, :, None, None]
        places = self._flat.get((height, width))
        if places is None:
            self.rows_at(height, width)
            places = self._flat[height, width]
        # Selecting from [C, table] leaves each channel's pixels side by side as the features have
        # them; it takes a third of the time of values[index] followed by a permutation.
        channels = values.t()
        if self._on_cpu:
            channels = channels.contiguous()
        pixels = channels.index_select(1, places)
        if pixels.shape[1] == height * width:
            return pixels.view(1, -1, height, width)
        return pixels.view(len(pixels), -1, height, width).transpose(0, 1)

    def places(self, height: int, width: int) -> Places:
        """The timesteps of every pixel of a resolution, in few numbers."""
        levels, cells = self._levels, self._levels.index[0].numel()
        image = self._image[:1] if self._one_image else self._image
        few = min(cells, height * width)
        if self.timesteps.shape[0] <= few:
            index = levels.index_at(height, width)[image]
            share = torch.zeros(
                len(image), len(self.timesteps), dtype=torch.float32, device=index.device
            )
            one = torch.full((), 1 / (height * width), device=index.device)
            share.scatter_add_(1, index.flatten(1), one.expand(len(image), height * width))
            return Places(self.rows, self.timesteps.float()[None], share, index)
        # A row never needs more timesteps than its image has cells, or this resolution pixels.
        if few == cells:
            grid = levels.grid
        else:
            grid = (height, width)
            levels = dataclasses.replace(levels, index=levels.index_at(height, width))
        time = self.timesteps.float()[levels.index.flatten(1)[image]]
        own = torch.arange(few, device=time.device).view(1, *grid)
        if few == cells:
            own = dataclasses.replace(levels, index=own).index_at(height, width)
        index = own.expand(len(image), -1, -1)
        one = torch.full((), 1 / (height * width), device=index.device)
        share = torch.zeros_like(time)
        share.scatter_add_(1, index.flatten(1), one.expand(len(image), height * width))
        return Places(self.rows, time, share, index)

    def rows_at(self, height: int, width: int) -> Tensor:
        """Table row of every pixel, [1 or rows, height, width]; kept for the whole forward."""
        size = (height, width)
        if size not in self._index:
            index = self._pixel_time.index_at(height, width)
            if self.each and not self._width:
                first = torch.arange(len(index), device=index.device) * self.each
                index = index + first.view(-1, 1, 1)
            if self._width:
                index = index[self._image] + self._starts
            elif self._one_image:
                index = index if len(index) == 1 else index[self._first : self._first + 1]
            else:
                index = index[self._image]
            self._index[size], self._flat[size] = index, index.flatten()
        return self._index[size]


@dataclasses.dataclass(frozen=True)
class Places:
    """The timesteps of the pixels of one resolution: a small table for each network row.

    Attributes:
        rows: of the network.
        timesteps: [1 or rows, W] float32.
        share: [1 or rows, W], the share of the pixels at each of them.
        index: [1 or rows, height, width], the column of every pixel; 1 = all rows have the same.
    """

    rows: int
    timesteps: Tensor
    share: Tensor
    index: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """[rows, W, C] at every pixel: [rows, C, height, width], newly made."""
        size, columns = tuple(self.index.shape[-2:]), values.transpose(1, 2)
        if len(self.index) == 1:
            flat = columns.reshape(-1, columns.shape[-1])
            pixels = flat.index_select(1, self.index.flatten())
        else:
            index = self.index.flatten(1)[:, None].expand(-1, columns.shape[1], -1)
            pixels = columns.gather(2, index)
        return pixels.view(self.rows, -1, *size)
