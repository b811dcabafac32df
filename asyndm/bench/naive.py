"""The naive way to many timesteps: time is embedded for every latent pixel of every network row.

The time MLP and each block's projection run on all rows * H * W pixels, and only then is the result
sampled at the block's resolution, which is how the paper's own code does it. It gives the same
output as the table of :mod:`asyndm.network.field`, and it is what that is compared with.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from asyndm.core.run import NetworkCall
from asyndm.network.capture import AttentionCapture
from asyndm.network.diffusers_unet import DiffusersHooks
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.ldm_unet import LdmHooks


def attach_naive(
    unet: nn.Module, call: NetworkCall, capture: AttentionCapture | None = None
) -> AbstractContextManager[None]:
    """As :func:`asyndm.network.attach`, the naive way.

    Raises:
        UnsupportedNetwork: as there.
    """
    for hooks in (NaiveLdmHooks, NaiveDiffusersHooks):
        if hooks.matches(unet):
            return hooks(unet, call, capture).attached()
    raise UnsupportedNetwork(f"AsynDM does not know this network ({type(unet).__name__}).")


class EveryPixelField:
    """One embedding for each latent pixel of each network row.

    Args:
        timesteps: [rows, H, W] of every pixel.
    """

    def __init__(self, timesteps: Tensor) -> None:
        self.rows, self.height, self.width = timesteps.shape
        self.timesteps = timesteps.flatten()
        self.paired = False

    def each_row(self, time: Tensor) -> Tensor:
        """The embeddings [rows * H * W, E] as they are: every pixel has its own."""
        self.paired = True
        return time

    def beside(self, part: Tensor) -> Tensor:
        """Vectors of the network rows [rows or 1, E], at every pixel."""
        return part.expand(self.rows, -1).repeat_interleave(self.height * self.width, dim=0)

    def spread(self, values: Tensor, height: int, width: int) -> Tensor:
        """Values [rows * H * W, C] sampled at block centres: [rows, C, height, width]."""
        values = values.view(self.rows, self.height, self.width, -1).permute(0, 3, 1, 2)
        y = _centres(height, self.height, values.device)
        x = _centres(width, self.width, values.device)
        return values[:, :, y][:, :, :, x]


def _centres(count: int, full: int, device: torch.device) -> Tensor:
    """The pixel of ``full`` at the centre of each of ``count`` blocks."""
    return (2 * torch.arange(count, device=device) + 1) * full // (2 * count)


class _EveryPixel:
    """Puts the naive field in the table's place."""

    def _field(self, call: NetworkCall, device: torch.device) -> EveryPixelField:
        index = call.pixel_time.index_at(*call.pixel_time.size).to(device)
        return EveryPixelField(call.timestep_table.to(device)[index][call.rows.image.to(device)])


class NaiveLdmHooks(_EveryPixel, LdmHooks):
    """The naive way in an ldm U-Net."""


class NaiveDiffusersHooks(_EveryPixel, DiffusersHooks):
    """The naive way in a diffusers U-Net."""

    def _pair_condition(self, module: nn.Module, args: tuple) -> None:
        if self.field is not None and len(args) > 1 and args[1] is not None:
            raise UnsupportedNetwork("The naive way does not know networks that embed guidance.")
