"""Grids of different sizes over the same latents: which cell lies under which place.

No function here looks at the values of a tensor on the device, so no step waits for it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def resample(cells: Tensor, size: Size) -> Tensor:
    """Nearest neighbour by block centres: ``cells`` [B, h, w] read at [B, *size].

    Cell y of the result reads cell floor((y + 1/2) * h / H); sizes need not divide each other.
    """
    if tuple(cells.shape[-2:]) == tuple(size):
        return cells
    return read_at(cells, cells_under(tuple(size), None, tuple(cells.shape[-2:]), cells.device))


def read_at(cells: Tensor, places: Tensor) -> Tensor:
    """``cells`` [B, h, w] at numbered places [H, W]: [B, H, W]."""
    read = cells.flatten(1).index_select(1, places.flatten())
    return read.view(len(cells), *places.shape)


@lru_cache(maxsize=64)
def cells_under(
    size: Size, latents: Size | None, grid: Size, device: torch.device, patch: int = 1
) -> Tensor:
    """The number of the grid cell under the centre of every pixel of ``size``, [*size] long.

    Kept, since a run asks for the same few in every step, and a dozen small kernels each are what
    a fast GPU would wait for.

    Args:
        latents: read through a picture of this size, see :meth:`PixelTime.index_at`.
        patch: read through the tokens of this side that the latents are cut into.
    """
    with torch.inference_mode(False):  # a tensor made inside could never be trained through
        sides = []
        for axis in range(2):
            if latents is not None and patch > 1:
                tokens = tokens_of(latents, patch)
                cells = torch.arange(tokens[axis], device=device)
                if tuple(grid) != tokens:  # a token reads the grid at its middle pixel
                    middle = (cells * patch + patch // 2).clamp(max=latents[axis] - 1)
                    cells = _centres(latents[axis], grid[axis], device)[middle]
                if tuple(size) == tuple(latents):
                    at = torch.arange(size[axis], device=device) // patch
                else:
                    at = _centres(size[axis], tokens[axis], device)
                sides.append(cells[at])
                continue
            at = _centres(size[axis], (latents or grid)[axis], device)
            sides.append(at if latents is None else _centres(latents[axis], grid[axis], device)[at])
        return sides[0][:, None] * grid[1] + sides[1]


def tokens_of(size: Size, patch: int) -> Size:
    """How many patches latents of ``size`` are cut into: what is left over is one more."""
    return (-(-size[0] // patch), -(-size[1] // patch))


def pool(values: Tensor, patch: int, lowest: bool = True) -> Tensor:
    """The lowest (or highest) value within each patch: [B, H, W] -> [B, ceil(H/p), ceil(W/p)]."""
    if patch == 1:
        return values
    sign = -1.0 if lowest else 1.0
    pooled = sign * F.max_pool2d((sign * values.float())[:, None], patch, ceil_mode=True)[:, 0]
    return pooled > 0.5 if values.dtype == torch.bool else pooled.to(values.dtype)


def _centres(count: int, of: int, device: torch.device) -> Tensor:
    """floor((j + 1/2) * of / count) for j < count, in exact integer arithmetic."""
    odd = 2 * torch.arange(count, device=device) + 1
    return torch.div(odd * of, 2 * count, rounding_mode="floor")
