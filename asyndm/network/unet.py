"""U-Nets whose blocks are given time as one vector a row: here they are given the table.

The network embeds the timesteps of the table in the place of the host's. So what runs through it
as its embedding are table rows instead of network rows, its blocks project these as they project
any others, and only what they add to their features has to be gathered to the pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.field import TimestepField
from asyndm.network.hooks import UNetHooks


class TableHooks(UNetHooks):
    """What both families of U-Nets share."""

    def watch_embedding(self, time: nn.Module, added: Iterable[nn.Module | None]) -> None:
        """Register the hooks behind the modules that embed.

        Args:
            time: gives [R, E], the embeddings of the field's timesteps, which it was asked for.
            added: give what the network adds to or joins with those, a vector a network row.
        """
        added = [module for module in added if isinstance(module, nn.Module)]
        self._paired = bool(added)
        self._sizes: dict[nn.Module, Size] = {}  # of the features in the running block
        self.after(time, self._embedded)
        for module in added:
            self.after(module, self._added)

    def measure(self, block: nn.Module, module: nn.Module) -> None:
        """Remember the size of a block's features behind one of its modules."""

        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            self._sizes[block] = tuple(output.shape[-2:])

        self.after(module, hook)

    def told(self) -> TimestepField:
        """The field, whose table the running block has projected.

        Raises:
            UnsupportedNetwork: it was never embedded.
        """
        if self._time is None:
            raise UnsupportedNetwork("The network embeds time in a way AsynDM does not know.")
        return self.field

    def _embedded(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        field = self.field
        if field is None:
            return None
        self._time = output
        return field.each_row(output) if self._paired and not field.paired else None

    def _added(self, module: nn.Module, args: tuple, output: Tensor | tuple):
        if self.field is None:
            return None
        if isinstance(output, tuple):
            return self.field.beside(output[0]), *output[1:]
        return self.field.beside(output)

    def _forget(self) -> None:
        super()._forget()
        self._sizes = {}
