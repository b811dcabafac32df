"""How a pipeline's network holds its latents: as they are, or packed into tokens (Flux)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndm.core.grids import Size
from asyndm.network import UnsupportedNetwork, packed_size

_NAMES = ("sample", "hidden_states")  # what a U-Net and a transformer call them


def shown(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The latents among a network call's arguments."""
    return args[0] if args else next(kwargs[name] for name in _NAMES if name in kwargs)


def showing(args: tuple, kwargs: dict[str, Any], new: Tensor) -> tuple[tuple, dict[str, Any]]:
    """The arguments with other latents."""
    if args:
        return (new, *args[1:]), kwargs
    name = next(name for name in _NAMES if name in kwargs)
    return args, {**kwargs, name: new}


def is_packed(network: Any) -> bool:
    """Whether a network of diffusers is Flux's."""
    return hasattr(network, "single_transformer_blocks")


class Plain:
    """Latents [B, C, H, W]."""

    cells = 1  # latents a token
    channels = 1  # the dimension that they are joined on with masks and pictures

    def opened(self, x: Tensor) -> Tensor:
        """[B, C, H, W] of what the network or the scheduler is given."""
        return x

    def closed(self, x: Tensor) -> Tensor:
        """The way back."""
        return x

    def first(self, x: Tensor, count: int) -> Tensor:
        """The first ``count`` channels: without mask and picture, which some networks are given."""
        return x.narrow(self.channels, 0, count * self.cells)

    def joined(self, x: Tensor, before: Tensor) -> Tensor:
        """What the network is given with latents ``x`` in the place of those ``before`` had."""
        own = x.shape[self.channels]
        rest = before.narrow(self.channels, own, before.shape[self.channels] - own)
        return torch.cat([x.to(before.dtype), rest], dim=self.channels)


class Packed(Plain):
    """Squares of 2x2 latents as tokens, [B, H / 2 * W / 2, 4 C].

    Args:
        size: (H, W) of the latents.
    """

    cells = 4
    channels = 2

    def __init__(self, size: Size) -> None:
        self.size = size

    @classmethod
    def of(cls, args: tuple, kwargs: dict[str, Any]) -> Packed:
        """By the places of the tokens that the network is told of.

        Raises:
            UnsupportedNetwork: there are others beside the latents' own.
        """
        height, width = packed_size(args, kwargs)
        tokens = shown(args, kwargs).shape[1]
        if tokens * 4 != height * width:
            raise UnsupportedNetwork(
                f"The network is given {tokens} tokens for {height // 2}x{width // 2} of the "
                "picture: pipelines with reference pictures cannot be steered."
            )
        return cls((height, width))

    def opened(self, x: Tensor) -> Tensor:
        height, width = self.size
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)

    def closed(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
