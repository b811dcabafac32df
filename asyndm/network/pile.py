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
        # Both in one copy a layer, and in the network's precision until they are multiplied.
        pixels, dtype = q.shape[1], torch.promote_types(q.dtype, k.dtype)
        shape = (self.room, q.shape[0], pixels + k.shape[1], q.shape[2])
        made = torch.empty(shape, dtype=dtype, device=q.device)
        self._slots = made.unbind()
        by_head = made.unflatten(-1, (heads, -1)).transpose(2, 3)  # [room, n, heads, both, d]
        self._by_head = by_head[..., :pixels, :], by_head[..., pixels:, :]
        self._total: Tensor | None = None

    def add(self, q: Tensor, k: Tensor) -> None:
        """Put one layer aside."""
        with torch.no_grad():
            torch.cat([q, k], dim=1, out=self._slots[self.count])
        self.count += 1
        if self.count == self.room:
            self._compute()

    def shares(self) -> Tensor:
        """Sum over the layers of softmax(q k^T / sqrt(d)), mean over heads: [n, pixels, tokens]."""
        self._compute()
        return self._total / self.heads

    def _compute(self) -> None:
        """Add what was put aside to the sum over layers and heads."""
        if not self.count:
            return
        q, k = (x if self.count == self.room else x[: self.count] for x in self._by_head)
        self.count = 0
        layers, n, _, pixels, width = q.shape
        # Head by head where a layer alone is too large: a transformer's at 1024x1024.
        some = max(1, LOGITS_BYTES // max(4 * layers * n * pixels * k.shape[3], 1))
        with no_autocast(q.device):  # hosts run the network under it
            for first in range(0, self.heads, some):
                part = (q, k)
                if some < self.heads:
                    part = (x[:, :, first : first + some] for x in (q, k))
                # One product for all layers, images and heads.
                queries, keys = (x.flatten(0, 2).float() for x in part)
                logits = torch.bmm(queries, (keys * width**-0.5).transpose(1, 2))
                shares = logits.softmax(dim=-1).view(layers, n, -1, pixels, k.shape[3])
                # One after the other: in one sum the order depends on n, so an image on its batch.
                total = shares.sum(dim=2).sum(dim=0)
                self._total = total if self._total is None else self._total + total


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
