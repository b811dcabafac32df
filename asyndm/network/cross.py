"""The cross-attention layers of a U-Net, and which of them masks are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from asyndm.core.grids import Size
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.modules import outermost

NEAR = 16  # the side of the attention grid on a 64x64 latent, where the paper reads its masks


@dataclass(frozen=True)
class CrossLayer:
    """One cross-attention layer: its attention module, the spatial block around it, its level."""

    attention: nn.Module
    transformer: nn.Module
    level: int  # how many times the latents were made smaller on the way to it


def grid_for(height: int, width: int, grids: Iterable[Size]) -> Size:
    """Which attention grid to read masks from, for latents of height x width.

    A quarter of the latents' side, 16x16 for 64x64; where there is no such grid, or where it would
    be too coarse (side below 16 / sqrt(2): small images, small models), the grid nearest 16.

    Args:
        height: of the latents.
        width: of the latents.
        grids: (gh, gw) of the network's cross-attention layers at this latent size.

    Raises:
        UnsupportedNetwork: there is no grid to choose from.
    """
    grids = sorted(set(grids), reverse=True)
    if not grids:
        raise UnsupportedNetwork("The network has no cross-attention to read masks from.")

    def off(side: float) -> Callable[[Size], float]:
        return lambda grid: abs(math.log(math.sqrt(grid[0] * grid[1]) / side))

    # At least one pixel more or less is rounding: odd sizes shrink to either side.
    quarters = [g for g in grids if abs(g[0] - height / 4) < 1 and abs(g[1] - width / 4) < 1]
    fine = [g for g in quarters if math.sqrt(g[0] * g[1]) >= NEAR / math.sqrt(2)]
    if fine:
        return min(fine, key=off(math.sqrt(height * width) / 4))
    return min(grids, key=off(NEAR))


def find_cross_attention(module: nn.Module, level: int) -> list[CrossLayer]:
    """The cross-attention layers inside a module, all on one level.

    Known by structure: a spatial block has `transformer_blocks`, each with an `attn2` that projects
    with `to_q` and `to_k`.

    Raises:
        UnsupportedNetwork: a layer keeps q and k where hooks cannot see them.
    """
    layers = []
    for transformer in outermost("transformer_blocks", module):
        for block in transformer.transformer_blocks or ():
            attention = getattr(block, "attn2", None)
            if attention is None or getattr(attention, "is_cross_attention", True) is False:
                continue
            if not hasattr(attention, "to_q") or not hasattr(attention, "to_k"):
                raise UnsupportedNetwork("The network's cross-attention has no to_q and to_k.")
            if is_fused(attention):
                raise UnsupportedNetwork(
                    "The network's projections are fused: call unfuse_qkv_projections() first."
                )
            if getattr(attention, "norm_q", None) or getattr(attention, "norm_k", None):
                raise UnsupportedNetwork("The network's cross-attention normalises q and k.")
            if not isinstance(getattr(attention, "heads", None), int):
                raise UnsupportedNetwork(
                    "The network's cross-attention does not say its number of heads."
                )
            layers.append(CrossLayer(attention, transformer, level))
    return layers


def is_fused(attention: nn.Module) -> bool:
    """Whether diffusers projects with one product; unfusing may leave the attribute as it is."""
    processor = getattr(attention, "processor", None)
    if not getattr(attention, "fused_projections", False):
        return False
    if processor is None or type(attention).__name__ != "Attention":  # later classes take it back
        return True
    return "Fused" in type(processor).__name__
