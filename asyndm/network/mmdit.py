"""Stable Diffusion 3 and 3.5 as WebUIs have them (MMDiT, Esser et al. 2024, arXiv 2403.03206).

Each joint block has a half for the text (``context_block``, untouched here) and one for the image
(``x_block``); in 3.5-medium the image's has a second attention of its own (``attn2``).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.stations import SCALE, SHIFT, Point, Station, triples


class MmditHooks(TransformerHooks):
    """The hooks of one MMDiT."""

    known_by = ("x_embedder", "t_embedder", "context_embedder", "joint_blocks", "final_layer")
    text_place = 3

    def find_stations(self) -> list[Station]:
        self.patch = patch_of(self.unet)
        stations = [_station(block.x_block) for block in self.unet.joint_blocks]
        last = self.unet.final_layer
        final = Point(last.linear, before=True, scale=1, shift=0)
        return [*stations, Station(last.adaLN_modulation, (SHIFT, SCALE), (final,))]

    def text_sources(self) -> list[tuple[nn.Module, bool]]:
        blocks = self.unet.joint_blocks
        return [(block.context_block.adaLN_modulation, False) for block in blocks]

    def joint_layers(self) -> list[JointLayer]:
        registers = int(getattr(self.unet, "register_length", 0) or 0)
        layers = []
        for block in self.unet.joint_blocks:
            image, text = block.x_block.attn, block.context_block.attn
            taps = (
                Tap(image.ln_q, _named(Q)),
                Tap(image.ln_k, _named(K)),
                Tap(text.ln_k, _named(TEXT)),
            )
            layers.append(JointLayer(image.num_heads, taps, skip=registers))
        return layers

    def watch_embedding(self) -> None:
        self.embed_with(self.unet.t_embedder, lambda timesteps, like: timesteps)
        if isinstance(getattr(self.unet, "y_embedder", None), nn.Module):
            self.after(self.unet.y_embedder, self.add_part)


def patch_of(network: nn.Module) -> int:
    """The side of a network's patches."""
    patch = getattr(network, "patch_size", 2)
    return int(patch[0] if isinstance(patch, (tuple, list)) else patch)


def _station(block: nn.Module) -> Station:
    if getattr(block, "scale_mod_only", False):
        raise UnsupportedNetwork("The network's blocks are scaled only, which no known model is.")
    points = [
        Point(block.attn.qkv, before=True, scale=1, shift=0),
        Point(block.attn.proj, gate=2),
        Point(block.mlp, before=True, scale=4, shift=3),
        Point(block.mlp, gate=5),
    ]
    dual = isinstance(getattr(block, "attn2", None), nn.Module)
    if dual:
        points += [
            Point(block.attn2.qkv, before=True, scale=7, shift=6),
            Point(block.attn2.proj, gate=8),
        ]
    return Station(block.adaLN_modulation, triples(3 if dual else 2), tuple(points))


def _named(name: str) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda output: {name: output}
