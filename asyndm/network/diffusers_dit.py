"""Stable Diffusion 3 and Flux as diffusers has them.

The image's tokens come first in Stable Diffusion 3's joint attention, the text's in Flux's. Flux is
given packed latents [B, L, 64], the squares of 2x2 as rows of a grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.cross import is_fused
from asyndm.network.dit import TransformerHooks
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.stations import GATE, SCALE, SHIFT, Point, Station, triples


class _DiffusersTransformer(TransformerHooks):
    input_names = ("hidden_states",)
    text_names = ("encoder_hidden_states",)
    text_place = 1

    def find_stations(self) -> list[Station]:
        for block in self.unet.transformer_blocks:
            if getattr(block, "_chunk_size", None) is not None:
                raise UnsupportedNetwork(
                    "The network runs its feed-forward layers in chunks: call "
                    "disable_forward_chunking() first."
                )
        for module in self.unet.modules():
            if is_fused(module):
                raise UnsupportedNetwork(
                    "The network's projections are fused: call unfuse_qkv_projections() first."
                )
        network = self.unet
        stations = [_double(block) for block in network.transformer_blocks]
        stations += [_single(block) for block in getattr(network, "single_transformer_blocks", ())]
        last = network.norm_out
        out = Point(last, scale=0, shift=1)
        return [*stations, Station(last.linear, (SCALE, SHIFT), (out,), activated=True)]

    def text_sources(self) -> list[tuple[nn.Module, bool]]:
        return [(block.norm1_context.linear, True) for block in self.unet.transformer_blocks]

    def joint_layers(self) -> list[JointLayer]:
        return [_joint(block.attn) for block in self.unet.transformer_blocks]

    def watch_embedding(self) -> None:
        told = self.unet.time_text_embed

        def embed(timesteps: Tensor, like: Tensor) -> Tensor:
            return told.time_proj.forward(self.as_given(timesteps))

        self.embed_with(told.timestep_embedder, embed)
        for name in ("guidance_embedder", "text_embedder"):
            if isinstance(getattr(told, name, None), nn.Module):
                self.after(getattr(told, name), self.add_part)

    def as_given(self, timesteps: Tensor) -> Tensor:
        """The network's timesteps as it embeds them."""
        return timesteps


class Sd3Hooks(_DiffusersTransformer):
    """The hooks of one ``SD3Transformer2DModel``."""

    known_by = ("pos_embed", "time_text_embed", "context_embedder", "transformer_blocks",
                "norm_out", "proj_out")  # fmt: skip

    @classmethod
    def matches(cls, network: nn.Module) -> bool:
        blocks = getattr(network, "transformer_blocks", None) or ()
        joint = all(hasattr(block, "norm1_context") for block in blocks)
        return super().matches(network) and joint and not hasattr(
            network, "single_transformer_blocks"
        )  # fmt: skip

    def find_stations(self) -> list[Station]:
        self.patch = self.unet.config.patch_size
        return super().find_stations()


class FluxHooks(_DiffusersTransformer):
    """The hooks of one ``FluxTransformer2DModel``."""

    known_by = ("pos_embed", "time_text_embed", "context_embedder", "transformer_blocks",
                "single_transformer_blocks", "x_embedder", "norm_out")  # fmt: skip

    def joint_layers(self) -> list[JointLayer]:
        layers = super().joint_layers()
        for block in self.unet.single_transformer_blocks:
            attention = block.attn
            taps = tuple(
                Tap(module, _reader(name, attention, both=True), joint=True)
                for name, module in _projections(attention)
            )
            layers.append(JointLayer(attention.heads, taps))
        return layers

    def watch_embedding(self) -> None:
        super().watch_embedding()
        self.after(self.unet.pos_embed, self._rotation)

    def as_given(self, timesteps: Tensor) -> Tensor:
        """It rounds them to its own type before it multiplies: so does the table."""
        return timesteps.to(self._dtype) * 1000

    def ahead(self, station: Station, point: Point) -> int:
        return self.text_tokens if len(station.kinds) == 3 else 0

    def seen(self, args: tuple, kwargs: dict) -> tuple[int, Size, torch.device]:
        packed = args[0] if args else kwargs["hidden_states"]
        if packed.ndim != 3:
            raise UnsupportedNetwork(
                f"The network's input has {packed.ndim} dimensions; Flux takes packed latents "
                "[B, L, 64]."
            )
        self._dtype = packed.dtype
        text = kwargs.get("encoder_hidden_states")
        text = args[1] if text is None else text
        self.text_tokens = text.shape[1]
        return packed.shape[0], self._size(args, kwargs), packed.device

    def _size(self, args: tuple, kwargs: dict) -> Size:
        """(H, W) of the latents: as the run knows it, else from the tokens' own places."""
        time = self.call.pixel_time
        return packed_size(args, kwargs) if time is None else time.size

    def _rotation(self, module: nn.Module, args: tuple, output: tuple) -> None:
        if self.reader is not None:
            cos, sin = (each[None, :, ::2] for each in output)
            turn = torch.stack([cos, -sin, sin, cos], dim=-1)
            self.reader.rotation = turn.unflatten(-1, (2, 2))


def packed_size(args: tuple, kwargs: dict) -> Size:
    """(H, W) of the latents in a call of Flux's network, by the places of its tokens."""
    ids = kwargs["img_ids"] if "img_ids" in kwargs else args[4]
    ids = ids[0] if ids.ndim == 3 else ids
    ids = ids[ids[:, 0] == 0]  # reference images are numbered from 1
    rows, columns = (ids[:, 1:].amax(0) - ids[:, 1:].amin(0)).tolist()
    return (2 * (int(rows) + 1), 2 * (int(columns) + 1))


def _double(block: nn.Module) -> Station:
    dual = getattr(block, "attn2", None) is not None
    points = [
        Point(block.norm1, scale=1, shift=0, item=0),
        Point(block.attn, gate=2, item=0),
        Point(block.norm2, scale=4, shift=3),
        Point(block.ff, gate=5),
    ]
    if dual:
        points += [
            Point(block.norm1, scale=7, shift=6, item=5),
            Point(block.attn2, gate=8),
        ]
    return Station(block.norm1.linear, triples(3 if dual else 2), tuple(points), activated=True)


def _single(block: nn.Module) -> Station:
    points = (Point(block.norm, scale=1, shift=0, item=0), Point(block.proj_out, gate=2))
    return Station(block.norm.linear, (SHIFT, SCALE, GATE), points, activated=True)


def _projections(attention: nn.Module) -> list[tuple[str, nn.Module]]:
    """What shows the sequence's own queries and keys last: a norm, or the projection."""
    norms = ((Q, "norm_q", "to_q"), (K, "norm_k", "to_k"))
    return [(name, _last(attention, norm, plain)) for name, norm, plain in norms]


def _last(attention: nn.Module, norm: str, plain: str) -> nn.Module:
    module = getattr(attention, norm, None)
    return getattr(attention, plain) if module is None else module


def _joint(attention: nn.Module) -> JointLayer:
    taps = [Tap(module, _reader(name, attention)) for name, module in _projections(attention)]
    taps.append(Tap(_last(attention, "norm_added_k", "add_k_proj"), _reader(TEXT, attention)))
    return JointLayer(attention.heads, tuple(taps))


def _reader(name: str, attention: nn.Module, both: bool = False) -> Callable:
    """Its output by tokens and heads, in the layouts that diffusers has had.

    Args:
        name: Q, K or TEXT.
        attention: that the module belongs to.
        both: text stands ahead of the image in it.
    """
    heads = attention.heads
    heads_first = type(attention).__name__ == "Attention"  # later classes keep tokens first

    def read(output: Tensor) -> dict[str, Tensor]:
        if output.ndim == 3:
            output = output.unflatten(-1, (heads, -1))
        elif heads_first:
            output = output.transpose(1, 2)
        return {name: output, TEXT: output} if both and name == K else {name: output}

    return read
