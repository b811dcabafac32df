"""Ernie-Image as Forge Neo has it.

Single-stream blocks over image and text, the image first. One projection of time serves all blocks,
which compute in float32; positions turn pairs of halves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.stations import SCALE, SHIFT, Point, Station, triples


class ErnieHooks(TransformerHooks):
    """The hooks of one Ernie-Image."""

    known_by = ("x_embedder", "time_proj", "time_embedding", "pos_embed", "adaLN_modulation",
                "layers", "final_norm", "final_linear")  # fmt: skip
    text_behind = True

    def find_stations(self) -> list[Station]:
        network = self.unet
        self.patch = int(network.patch_size)
        points = [point for layer in network.layers for point in _points(layer)]
        final = Point(network.final_norm, scale=0, shift=1)
        return [
            Station(network.adaLN_modulation, triples(2), tuple(points)),
            Station(network.final_norm.linear, (SCALE, SHIFT), (final,)),
        ]

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for layer in self.unet.layers:
            attention = layer.self_attention
            taps = (
                Tap(attention.norm_q, lambda output: {Q: self._text_first(output)}, joint=True),
                Tap(attention.norm_k, self._keys, joint=True),
            )
            layers.append(JointLayer(attention.heads, taps))
        return layers

    def watch_embedding(self) -> None:
        network = self.unet
        self.after(network.pos_embed, self._rotation)
        self.embed_with(
            network.time_embedding, lambda timesteps, like: network.time_proj(timesteps)
        )

    def _keys(self, output: Tensor) -> dict[str, Tensor]:
        keys = self._text_first(output)
        return {K: keys, TEXT: keys}

    def _text_first(self, x: Tensor) -> Tensor:
        cells = self.reader.size[0] * self.reader.size[1]
        return torch.cat([x[:, cells:], x[:, :cells]], dim=1)

    def _rotation(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self.reader is not None:  # [rows, tokens, 1, d / 2, 2, 2]
            self.reader.rotation, self.reader.halves = self._text_first(output[:, :, 0]), True


def _points(layer: nn.Module) -> tuple[Point, ...]:
    return (
        Point(layer.self_attention, before=True, scale=1, shift=0, wide=True),
        Point(layer.self_attention, gate=2, wide=True),
        Point(layer.mlp, before=True, scale=4, shift=3, wide=True),
        Point(layer.mlp, gate=5, wide=True),
    )
