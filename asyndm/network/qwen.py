"""Qwen-Image (arXiv 2508.02324) as Forge Neo has it.

Double-stream blocks as Stable Diffusion 3's, with projections of their own for the text; latents
are one frame of a video. Its text comes first in joint attention, behind the image's tokens those
of reference images.
"""

from __future__ import annotations

from torch import nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.stations import SCALE, SHIFT, Point, Station, triples


class QwenHooks(TransformerHooks):
    """The hooks of one Qwen-Image."""

    known_by = ("pe_embedder", "time_text_embed", "txt_norm", "img_in", "txt_in",
                "transformer_blocks", "norm_out", "proj_out")  # fmt: skip
    frames, fused = True, True

    def find_stations(self) -> list[Station]:
        network = self.unet
        self.patch = int(network.patch_size)
        final = Point(network.norm_out, scale=0, shift=1)
        return [
            *(_station(block) for block in network.transformer_blocks),
            Station(network.norm_out.linear, (SCALE, SHIFT), (final,), activated=True),
        ]

    def text_sources(self) -> list[tuple[nn.Module, bool]]:
        return [(block.txt_mod, False) for block in self.unet.transformer_blocks]

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for block in self.unet.transformer_blocks:
            taps = (
                Tap(block.attn.norm_q, lambda output: {Q: output}),
                Tap(block.attn.norm_k, lambda output: {K: output}),
                Tap(block.attn.norm_added_k, lambda output: {TEXT: output}),
            )
            layers.append(JointLayer(block.attn.heads, taps))
        return layers

    def watch_embedding(self) -> None:
        self.after(self.unet.pe_embedder, self.take_rotation)
        # The sinusoids are of a thousand times what this is told.
        self.embed_with(self.unet.time_text_embed, lambda timesteps, like: timesteps)


def _station(block: nn.Module) -> Station:
    points = (
        Point(block.img_norm1, scale=1, shift=0),
        Point(block.attn, gate=2, item=0),
        Point(block.img_norm2, scale=4, shift=3),
        Point(block.img_mlp, gate=5),
    )
    return Station(block.img_mod, triples(2), points)
