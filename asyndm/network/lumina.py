"""Lumina-Image 2.0 (arXiv 2503.21758) and Z-Image (arXiv 2511.22699) as Forge Neo has them.

Single-stream blocks over text and image together, ahead of them ``noise_refiner`` over the image
alone. Time is embedded as 1 - t; a block's four chunks are scales, and gates that pass through
tanh. Z-Image fills text and image up to multiples of 32 with learned tokens, which are no pixel's
and no word's: they keep the host's scalar, and the masks leave them out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.stations import SCALE, TANH, Point, Station


class LuminaHooks(TransformerHooks):
    """The hooks of one Lumina 2 or Z-Image."""

    known_by = ("x_embedder", "t_embedder", "cap_embedder", "noise_refiner", "context_refiner",
                "layers", "rope_embedder", "final_layer")  # fmt: skip

    def find_stations(self) -> list[Station]:
        network, last = self.unet, self.unet.final_layer
        if getattr(network, "clip_text_pooled_proj", None) is not None:
            raise UnsupportedNetwork(
                "This Lumina is told pooled text beside the time (NewBie), which AsynDM does not "
                "know."
            )
        self.patch = int(network.patch_size)
        self.text_fill = int(getattr(network, "pad_tokens_multiple", None) or 1)
        self._alone = [_station(block) for block in network.noise_refiner]
        final = Point(last.linear, before=True, scale=0)
        return [
            *self._alone,
            *(_station(block) for block in network.layers),
            Station(last.adaLN_modulation, (SCALE,), (final,)),
        ]

    def ahead(self, station: Station, point: Point) -> int:
        return 0 if station in self._alone else self.text_room

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for block in self.unet.layers:
            attention = block.attention
            # Several heads may share the keys of one.
            each = attention.n_local_heads // attention.n_local_kv_heads
            taps = (
                Tap(attention.q_norm, lambda output: {Q: output}, joint=True),
                Tap(attention.k_norm, _keys(each), joint=True),
            )
            layers.append(JointLayer(attention.n_local_heads, taps))
        return layers

    def watch_embedding(self) -> None:
        network = self.unet
        self.after(network.rope_embedder, self.take_rotation)
        self.embed_with(
            network.t_embedder, lambda timesteps, like: (1 - timesteps) * network.time_scale
        )


def _station(block: nn.Module) -> Station:
    points = (
        Point(block.attention, before=True, scale=0),
        Point(block.attention_norm2, gate=1),
        Point(block.feed_forward, before=True, scale=2),
        Point(block.ffn_norm2, gate=3),
    )
    return Station(block.adaLN_modulation, (SCALE, TANH, SCALE, TANH), points)


def _keys(each: int) -> Callable[[Tensor], dict[str, Tensor]]:
    def read(output: Tensor) -> dict[str, Tensor]:
        keys = output.repeat_interleave(each, dim=2)
        return {K: keys, TEXT: keys}

    return read
