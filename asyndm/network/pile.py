"""Queries and keys of a few layers, whose attention is then computed in one go.

A layer's own softmax is a dozen small kernels. A fast GPU waits for the program to start each of
them, and SDXL has 60 layers to read, so layers of one shape are put aside (a copy each: what a host
does to its queries afterwards is not seen) and read together.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

LOGITS_BYTES = 32 * 2**20  # of the float32 logits computed at once


class Pile:
    """Layers whose attention has not been computed yet.

    Args:
        q, k: of a layer, [n, pixels, heads * d] and [n, tokens, heads * d]; all have this shape.
        heads: of each layer.
        most: layers to come at most.
    """

    def __init__(self, q: Tensor, k: Tensor, heads: int, most: int) -> None:
        self.heads, self.count = heads, 0
        logits = 4 * q.shape[0] * heads * q.shape[1] * k.shape[1]
        self.room = max(1, min(most, LOGITS_BYTES // logits))
        self._q, self._k = (
            torch.empty(self.room, *x.shape, dtype=torch.float32, device=x.device) for x in (q, k)
        )

    @property
    def full(self) -> bool:
        return self.count == self.room

    def add(self, q: Tensor, k: Tensor) -> None:
        """Put one layer aside."""
        self._q[self.count].copy_(q)
        self._k[self.count].copy_(k)
        self.count += 1

    def shares(self) -> Tensor:
        """Sum over the layers of softmax(q k^T / sqrt(d)), mean over heads: [n, pixels, tokens]."""
        with no_autocast(self._q.device):  # hosts run the network under it
            q, k = (
                x[: self.count].unflatten(-1, (self.heads, -1)).transpose(2, 3)
                for x in (self._q, self._k)
            )
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            return logits.softmax(dim=-1).mean(dim=2).sum(dim=0)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Plain float32 inside the block, also on devices that know no autocast."""
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:
        return nullcontext()
