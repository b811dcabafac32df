"""Per-pixel timesteps in the U-Nets of diffusers.

ResnetBlock2D insists on one vector an image: `features + time_emb_proj(temb)[:, :, None, None]`.
The block projects the table (see :mod:`asyndm.network.unet`), and what it then indexes and adds is
not the product but :class:`Projected`, which adds the map [rows, C, h, w]; a block that scales and
shifts by time gets the map itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.capture import AttentionCapture
from asyndm.network.cross import CrossLayer, find_cross_attention
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.field import TimestepField
from asyndm.network.modules import holding
from asyndm.network.unet import TableHooks

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall
    from asyndm.network.norms import LevelledNorms

NORMS = ("default", "scale_shift")  # how a block may take in time
_AS_MAP = (slice(None), slice(None), None, None)


class DiffusersHooks(TableHooks):
    """The hooks of one diffusers U-Net."""

    known_by = ("time_proj", "time_embedding", "down_blocks", "up_blocks")
    input_names = ("sample",)

    def __init__(
        self,
        unet: nn.Module,
        call: NetworkCall,
        capture: AttentionCapture | None = None,
        norms: LevelledNorms | None = None,
    ) -> None:
        super().__init__(unet, call, capture, norms)
        self.blocks = _find_blocks(self.modules)

    def watch_time(self) -> None:
        self.before(self.unet.time_proj, self._ask_time)
        self.before(self.unet.time_embedding, self._pair_condition)
        added = [getattr(self.unet, name, None) for name in ("class_embedding", "add_embedding")]
        self.watch_embedding(self.unet.time_embedding, added)
        for block in self.blocks:
            if block.time_embedding_norm != "default":
                self.measure(block, block.conv1)
            self.after(block.time_emb_proj, self._gather(block))

    def check_inputs(self, kwargs: dict) -> None:
        if self.capture is not None and kwargs.get("encoder_attention_mask") is not None:
            raise UnsupportedNetwork(
                "AsynDM cannot read masks where encoder_attention_mask hides words."
            )

    def cross_layers(self) -> tuple[list[CrossLayer], Callable[[Size], list[Size]]]:
        layers: list[CrossLayer] = []
        shrinks: list[Callable[[int], int]] = []
        for stage in self.unet.down_blocks:
            layers += find_cross_attention(stage, len(shrinks))
            shrinks += [_shrink(part) for part in getattr(stage, "downsamplers", None) or ()]
        level = len(shrinks)
        middle = getattr(self.unet, "mid_block", None)
        if middle is not None:
            layers += find_cross_attention(middle, level)
        for stage in self.unet.up_blocks:
            layers += find_cross_attention(stage, level)
            level -= len(getattr(stage, "upsamplers", None) or ())

        def sizes(size: Size) -> list[Size]:
            levels = [size]
            for shrink in shrinks:
                levels.append((shrink(levels[-1][0]), shrink(levels[-1][1])))
            return levels

        return layers, sizes

    def _ask_time(self, module: nn.Module, args: tuple) -> tuple | None:
        if self.field is None or self._time is not None:  # later it may embed class labels
            return None
        return (self.field.timesteps.to(args[0].device), *args[1:])

    def _pair_condition(self, module: nn.Module, args: tuple) -> tuple | None:
        """The guidance scale of distilled models enters ahead of the MLP, row by row."""
        if self.field is None or len(args) < 2 or args[1] is None:
            return None
        return (self.field.each_row(args[0]), self.field.beside(args[1]), *args[2:])

    def _gather(self, block: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Projected | None:
            if self.field is None:
                return None
            return Projected(self.told(), output, self._sizes.get(block))

        return hook


class Projected:
    """The projected table in the place of one vector an image, for the block to index and to add.

    Args:
        field: of the running forward.
        values: [len(field.table), C], projected.
        size: (h, w) of the block's features; None = those tell that it is added to.
    """

    __slots__ = ("field", "size", "values")

    def __init__(self, field: TimestepField, values: Tensor, size: Size | None) -> None:
        self.field, self.values, self.size = field, values, size

    def __getitem__(self, places: tuple) -> Projected | Tensor:
        """Itself, to be added; where the size is known the map, see :meth:`TimestepField.spread`.

        Raises:
            UnsupportedNetwork: the block takes in time otherwise than ``[:, :, None, None]``.
        """
        if places != _AS_MAP:
            raise UnsupportedNetwork("A block of the network takes in time in an unknown way.")
        return self if self.size is None else self.field.spread(self.values, *self.size)

    def __radd__(self, features: Tensor) -> Tensor:
        """``features`` [rows, C, h, w] + the map."""
        return features + self.field.spread(self.values, *features.shape[-2:])


def _find_blocks(modules: list[nn.Module]) -> list[nn.Module]:
    """The blocks that take in time.

    Raises:
        UnsupportedNetwork: there are none, or of a kind that takes it in otherwise.
    """
    blocks = []
    kinds = {type(module).__name__ for module in modules}
    if any("Temporal" in kind for kind in kinds) or holding("motion_modules", modules):
        raise UnsupportedNetwork("AsynDM makes images; this is a network for video.")
    adaptive = {
        type(module).__name__ for module in holding("norm_type", modules) if _adapts(module)
    }
    adaptive |= kinds & {"AdaGroupNorm"}
    if adaptive:
        raise UnsupportedNetwork(
            f"The network takes in time in its {min(adaptive)}, not only in blocks."
        )
    for module in holding("time_emb_proj", modules):
        name = type(module).__name__
        if not isinstance(module.time_emb_proj, nn.Module):
            continue
        known = all(hasattr(module, part) for part in ("conv1", "norm2", "nonlinearity"))
        if not known or getattr(module, "time_embedding_norm", "") not in NORMS:
            raise UnsupportedNetwork(
                f"The network's {name} takes in time in a way AsynDM does not know."
            )
        blocks.append(module)
    if not blocks:
        raise UnsupportedNetwork("The network has no block that takes in time.")
    return blocks


def _adapts(module: nn.Module) -> bool:
    return str(module.norm_type).startswith("ada_norm")


def _shrink(part: nn.Module) -> Callable[[int], int]:
    """How a downsampler changes a side."""
    convolution = getattr(part, "conv", None)
    if not isinstance(convolution, nn.Conv2d):
        return lambda side: side // 2  # average pooling, also inside a ResnetBlock2D
    kernel, stride = convolution.kernel_size[-1], convolution.stride[-1]
    padding = 2 * convolution.padding[-1] or 1  # unpadded ones pad (0, 1) themselves
    return lambda side: (side + padding - kernel) // stride + 1
