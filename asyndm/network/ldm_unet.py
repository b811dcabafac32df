"""Per-pixel timesteps in the U-Net of ldm, sgm (SDXL) and the hosts that keep its module names.

`emb = time_embed(embedding(t)) + label_emb(y)` is one vector an image, and each ResBlock adds
`emb_layers(emb)` to its features, after giving it as many dimensions as they have. So a tensor
[rows, C, h, w] is added just as well: the blocks project the table, hooks gather the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.capture import AttentionCapture
from asyndm.network.cross import CrossLayer, find_cross_attention
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.modules import holding
from asyndm.network.unet import TableHooks

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall
    from asyndm.network.norms import LevelledNorms

Shrink = Callable[[int], int]


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """The sinusoids ldm embeds timesteps with: cosines, then sines; [N] -> [N, width] float32.

    Frequencies fall from 1 towards 1 / max_period; an odd width ends in a column of zeros.
    """
    angles = timesteps.float()[:, None] * _frequencies(width // 2, max_period, timesteps.device)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(embedding, (0, 1)) if width % 2 else embedding


@lru_cache(maxsize=16)
def _frequencies(half: int, max_period: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made inside could never be trained through
        steps = torch.arange(half, dtype=torch.float32, device=device)
        return torch.exp(-math.log(max_period) * steps / half)


class LdmHooks(TableHooks):
    """The hooks of one ldm U-Net."""

    known_by = ("time_embed", "input_blocks", "middle_block", "output_blocks")
    input_names = ("x",)

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
        self.before(self.unet.time_embed, self._ask_time)
        self.watch_embedding(self.unet.time_embed, [getattr(self.unet, "label_emb", None)])
        for block in self.blocks:
            self.measure(block, block.in_layers[-1])
            self.after(block.emb_layers, self._gather(block))

    def cross_layers(self) -> tuple[list[CrossLayer], Callable[[Size], list[Size]]]:
        layers: list[CrossLayer] = []
        shrinks: list[Shrink] = []
        for stage in self.unet.input_blocks:
            for part in _parts(stage):
                shrink = _shrink(part)
                if shrink is not None:
                    shrinks.append(shrink)
                layers += find_cross_attention(part, len(shrinks))
        level = len(shrinks)
        layers += find_cross_attention(self.unet.middle_block, level)
        for stage in self.unet.output_blocks:
            for part in _parts(stage):
                layers += find_cross_attention(part, level)
                level -= _grows(part)

        def sizes(size: Size) -> list[Size]:
            levels = [size]
            for shrink in shrinks:
                levels.append((shrink(levels[-1][0]), shrink(levels[-1][1])))
            return levels

        return layers, sizes

    def _ask_time(self, module: nn.Module, args: tuple) -> tuple | None:
        if self.field is None:
            return None
        seen = args[0]  # the network's own sinusoids: their width, dtype and device are binding
        return (timestep_embedding(self.field.timesteps, seen.shape[-1]).to(seen),)

    def _gather(self, block: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if self.field is None:
                return None
            return self.told().spread(output, *self._sizes[block])

        return hook


def _find_blocks(modules: list[nn.Module]) -> list[nn.Module]:
    """The blocks that take in time.

    Raises:
        UnsupportedNetwork: there are none, or of a kind that takes it in otherwise.
    """
    blocks = []
    if any(module.time_mixer is not None for module in holding("time_mixer", modules)):
        raise UnsupportedNetwork("AsynDM makes images; this is a network for video.")
    for module in holding("emb_layers", modules):
        if not isinstance(module.emb_layers, nn.Module):
            continue
        if not hasattr(module, "in_layers") or getattr(module, "exchange_temb_dims", False):
            raise UnsupportedNetwork(
                f"The network's {type(module).__name__} takes in time in an unknown way."
            )
        blocks.append(module)
    if not blocks:
        raise UnsupportedNetwork("The network has no block that takes in time.")
    return blocks


def _parts(stage: nn.Module) -> list[nn.Module]:
    return list(stage) if isinstance(stage, (nn.Sequential, nn.ModuleList)) else [stage]


def _shrink(part: nn.Module) -> Shrink | None:
    """How a downsampling part changes a side; None for any other part."""
    operation = getattr(part, "op", None) or getattr(getattr(part, "h_upd", None), "op", None)
    if operation is None:
        return None
    kernel, stride, padding = (
        value[-1] if isinstance(value, tuple) else value
        for value in (operation.kernel_size, operation.stride, operation.padding)
    )
    return lambda side: (side + 2 * padding - kernel) // stride + 1


def _grows(part: nn.Module) -> bool:
    """True for an upsampling part."""
    part = getattr(part, "h_upd", part)  # a ResBlock that changes the size, or nn.Identity
    return hasattr(part, "use_conv") and not hasattr(part, "op") and not hasattr(part, "in_layers")
