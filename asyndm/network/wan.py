"""Wan 2.1 (arXiv 2503.20314) as Forge Neo has it, for one frame.

The blocks take a vector of time for every token as well as one a row (Wan 2.2's image to video asks
for that), so one hook suffices: behind ``time_embedding``, where each token's is taken from the
table. Words are read from the blocks' cross-attention; text tokens are never told the time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asyndm.core.grids import tokens_of
from asyndm.network.dit import TransformerHooks
from asyndm.network.joint import TEXT, JointLayer, Q, Tap
from asyndm.network.stations import Station


class WanHooks(TransformerHooks):
    """The hooks of one Wan."""

    known_by = ("patch_embedding", "text_embedding", "time_embedding", "time_projection", "blocks",
                "head", "rope_embedder")  # fmt: skip
    frames, tells_text = True, False

    def find_stations(self) -> list[Station]:
        self.patch = int(self.unet.patch_size[-1])
        return []

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for block in self.unet.blocks:
            attention = block.cross_attn
            taps = (
                Tap(attention.norm_q, lambda output: {Q: output}),
                Tap(attention.norm_k, lambda output: {TEXT: output}),
            )
            layers.append(JointLayer(attention.num_heads, taps, cross=True))
        return layers

    def watch_embedding(self) -> None:
        self.embed_with(self.unet.time_embedding, _sinusoids)
        self.after(self.unet.time_embedding, self._spread)  # behind what splits the table off

    def start(self, size: tuple[int, int]) -> None:
        super().start(size)
        self._size = tokens_of(size, self.patch)

    def _spread(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        """[rows, E] -> [rows * tokens, E], as the network flattens timesteps of several tokens."""
        if self.field is None:
            return None
        table, rows = self.table(False).to(output), self.field.rows
        if self.field.uniform:
            return table.expand(rows, -1)
        index = self.field.rows_at(*self._size).flatten(1).expand(rows, -1)
        return table.index_select(0, index.flatten())


def _sinusoids(timesteps: Tensor, like: Tensor) -> Tensor:
    half = like.shape[-1] // 2
    places = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.pow(10000, -places)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
