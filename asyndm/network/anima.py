"""Anima (the layout of NVIDIA's Cosmos-Predict2, arXiv 2511.00062) as Forge Neo has it.

Three stations a block, each a small projection to which the blocks add one that all share
(``t_embedder[1]`` gives it): silence is told by both, and the true values are the sum. Words are
read from the blocks' cross-attention; text tokens are never told the time. Latents are one frame of
a video, reference images further frames behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.joint import TEXT, JointLayer, Q, Tap
from asyndm.network.stations import SCALE, SHIFT, Point, Station, triples


class AnimaHooks(TransformerHooks):
    """The hooks of one Anima."""

    known_by = ("pos_embedder", "t_embedder", "x_embedder", "blocks", "final_layer",
                "t_embedding_norm")  # fmt: skip
    frames, tells_text, asked_ahead = True, False, 3

    def find_stations(self) -> list[Station]:
        self.patch = int(self.unet.patch_spatial)
        self._shared: Tensor | None = None  # [rows, 3 * E], what the blocks would add
        stations = [station for block in self.unet.blocks for station in _stations(block)]
        last = self.unet.final_layer
        final = Point(last.layer_norm, scale=1, shift=0)
        return [*stations, Station(last.adaln_modulation, (SHIFT, SCALE), (final,))]

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for block in self.unet.blocks:
            attention = block.cross_attn
            taps = (
                Tap(attention.q_norm, lambda output: {Q: output}),
                Tap(attention.k_norm, lambda output: {TEXT: output.flatten(1, -3)}),
            )
            layers.append(JointLayer(attention.n_heads, taps, cross=True))
        return layers

    def watch_embedding(self) -> None:
        embedder = self.unet.t_embedder[1]
        self.before(embedder, self._ask_embedder)
        self.after(embedder, self._split_embedder)
        self.before(self.unet.t_embedding_norm, self._ask_norm)
        self.after(self.unet.t_embedding_norm, self._split_norm)

    def _ask_embedder(self, module: nn.Module, args: tuple) -> tuple | None:
        if self.field is None:
            return None
        more = self.unet.t_embedder[0](self.field.timesteps[:, None])
        return (torch.cat([args[0], more.to(args[0])]), *args[1:])

    def _split_embedder(self, module: nn.Module, args: tuple, output: tuple) -> tuple | None:
        if self.field is None:
            return None
        rows = self.field.rows
        told, shared = output
        self._told, self._time = told[rows:], shared[rows:, 0]
        self._shared = shared[:rows, 0]
        return told[:rows], torch.zeros_like(shared[:rows])

    def _ask_norm(self, module: nn.Module, args: tuple) -> tuple | None:
        return None if self.field is None else (torch.cat([args[0], self._told]), *args[1:])

    def _split_norm(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if self.field is None:
            return None
        # One table for both: what the stations are asked about, and what is added to them.
        rows = self.field.rows
        self._time = torch.cat([output[rows:, 0], self._time], dim=-1)
        return output[:rows]

    def _ask(self, station: Station) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if self.field is None:
                return None
            width = args[0].shape[-1]
            return (torch.cat([args[0], self.table(False)[:, None, :width]]), *args[1:])

        return hook

    def keep(self, station: Station, values: Tensor) -> None:
        added = self.table(False)[:, -self._shared.shape[-1] :]
        added = torch.cat([self._shared, added])
        super().keep(station, values + added[:, : values.shape[-1]])

    def _forget(self) -> None:
        super()._forget()
        self._shared = self._told = None


def _stations(block: nn.Module) -> list[Station]:
    made = []
    for name in ("self_attn", "cross_attn", "mlp"):
        source, norm = (getattr(block, f"{kind}_{name}") for kind in ("adaln_modulation",
                                                                     "layer_norm"))  # fmt: skip
        points = (Point(norm, scale=1, shift=0), Point(getattr(block, name), gate=2))
        made.append(Station(source, triples(1), points))
    return made
