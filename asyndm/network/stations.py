"""Where a transformer is told the time, and which token takes which of the values.

A station is a projection of time, a point a module at which its values are applied: see dit.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.field import TimestepField

SHIFT, SCALE, GATE, TANH = "shift", "scale", "gate", "tanh"  # the last: a gate behind its tanh


@dataclass(frozen=True)
class Point:
    """A module whose input or output takes a station's values.

    Attributes:
        module: that is hooked.
        before: its first input; otherwise its output.
        scale, shift: numbers of the station's chunks: h * (1 + scale) + shift, or no shift.
        gate: number of a chunk: h * gate.
        item: which of several outputs.
        wide: the network computes this in float32.
    """

    module: nn.Module
    before: bool = False
    scale: int | None = None
    shift: int | None = None
    gate: int | None = None
    item: int | None = None
    wide: bool = False


@dataclass(frozen=True, eq=False)
class Station:
    """One projection of time.

    Attributes:
        source: the projection, [rows, E] -> [rows, len(kinds) * C], or with an axis of 1 between.
        kinds: of its chunks, in its own order.
        points: where they are applied.
        activated: its input has passed through SiLU already.
    """

    source: nn.Module
    kinds: tuple[str, ...]
    points: tuple[Point, ...]
    activated: bool = False


class TokenRows:
    """Which row of a station's output belongs to every token.

    The rows of an output are those of the network (the host's scalar), then as many again where
    text is told another timestep, then the table's.
    """

    def __init__(
        self, field: TimestepField, size: Size, text: bool, text_behind: bool = False
    ) -> None:
        self.field, self.size, self.text, self.text_behind = field, size, text, text_behind
        self._index: dict[tuple[int, int], Tensor] = {}

    @property
    def first(self) -> int:
        """The first row of the table."""
        return self.field.rows * (2 if self.text else 1)

    def spread(self, values: Tensor, ahead: int, tokens: int) -> Tensor:
        """[rows of the output, C] -> [rows or 1, tokens or 1, C], not to be written to.

        Args:
            ahead: text tokens before the image's in this sequence.
            tokens: of the whole sequence; what comes behind the image's keeps the scalar.
        """
        cells = self.size[0] * self.size[1]
        if tokens - ahead < cells:
            raise UnsupportedNetwork(
                f"The network works on {tokens - ahead} image tokens instead of "
                f"{self.size[0]}x{self.size[1]}: switch off what merges or drops tokens."
            )
        if self.field.uniform and tokens == cells:
            return values[self.first :, None]
        index = self._rows(ahead, tokens - ahead - cells)
        return values.index_select(0, index.flatten()).view(*index.shape, -1)

    def _rows(self, ahead: int, behind: int) -> Tensor:
        key = (ahead, behind)
        if key not in self._index:
            image = self.field.rows_at(*self.size).flatten(1) + self.first
            rows = self.field.rows
            if ahead or behind:
                own = torch.arange(rows, device=image.device)[:, None]
                text = own + rows * self.text
                image = torch.cat(
                    [
                        text.expand(-1, ahead),
                        image.expand(rows, -1),
                        (text if self.text_behind else own).expand(-1, behind),
                    ],
                    dim=1,
                )
            self._index[key] = image
        return self._index[key]


def triples(count: int) -> tuple[str, ...]:
    """``count`` times (shift, scale, gate), the order of most families."""
    return (SHIFT, SCALE, GATE) * count
