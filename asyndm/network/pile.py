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
            q = q * q.shape[-1] ** -0.5
            # Head by head where a layer alone is too large: a transformer's at 1024x1024.
            logits = 4 * q.shape[0] * q.shape[1] * q.shape[3] * k.shape[3]
            some, total = max(1, LOGITS_BYTES // max(logits, 1)), None
            for first in range(0, self.heads, some):
                heads = slice(first, first + some)
                shares = (q[:, :, heads] @ k[:, :, heads].transpose(-1, -2)).softmax(dim=-1)
                part = shares.sum(dim=2).sum(dim=0)
                total = part if total is None else total + part
            return total / self.heads


def joint_shares(q: Tensor, text: Tensor, image: Tensor, heads: int, weight: Tensor) -> Tensor:
    """Weighted sums of the softmax over text and image keys together, mean over heads.

    One more attention call of the network's own kind, whose values are the weights: exact, and the
    [pixels, tokens] logits are never held.

    Args:
        q: [n, pixels, heads * d].
        text: [n, tokens, heads * d].
        image: [n, pixels, heads * d].
        heads: of the layer.
        weight: [n, tokens, O].

    Returns:
        [n, pixels, O] float32.
    """
    with no_autocast(q.device):
        keys = torch.cat([text, image], dim=1)
        q, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, keys))
        values = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % 8, 0, image.shape[1]))
        values = values.to(q.dtype)[:, None].expand(-1, heads, -1, -1)
        seen = torch.nn.functional.scaled_dot_product_attention(q, keys, values)
        return seen.float().mean(dim=1)[..., : weight.shape[-1]]


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Plain float32 inside the block, also on devices that know no autocast."""
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:
        return nullcontext()
