"""Flux.1, Flux.2 (klein) and Chroma as WebUIs have them.

Double blocks keep image and text apart, single blocks run over both: text, image, then the tokens
of reference images. Flux.2 makes a token of every latent pixel, and all its blocks share three
projections of time. Chroma has no projections of time in its blocks: one network, its
``distilled_guidance_layer``, gives all their vectors at once, told the timestep in the first 16
columns of its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.ldm_unet import timestep_embedding
from asyndm.network.stations import GATE, SCALE, SHIFT, Point, Station, triples

TIME_FACTOR = 1000.0  # Flux is told sigma, and embeds a thousand times that
TOLD = 16  # columns of Chroma's input that tell the timestep


class FluxLayout(TransformerHooks):
    """What Flux.1, Flux.2 and Chroma share."""

    def __init__(self, unet: nn.Module, *options: Any) -> None:
        super().__init__(unet, *options)
        # Forge Neo's blocks have torch's own norms, and scale and shift in one operation.
        weight = getattr(unet.double_blocks[0].img_attn.norm.query_norm, "weight", None)
        self.fused = weight is not None

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for block in self.unet.double_blocks:
            taps = (
                Tap(block.img_attn.norm, _pair(q=Q, k=K)),
                Tap(block.txt_attn.norm, _pair(k=TEXT)),
            )
            layers.append(JointLayer(block.num_heads, taps))
        for block in self.unet.single_blocks:
            taps = (Tap(block.norm, _pair(q=Q, k=(K, TEXT)), joint=True),)
            layers.append(JointLayer(block.num_heads, taps))
        return layers

    def watch_embedding(self) -> None:
        self.after(self.unet.pe_embedder, self.take_rotation)

    def ahead(self, station: Station, point: Point) -> int:
        return self.text_tokens if len(station.kinds) == 3 else 0


class TimedFlux(FluxLayout):
    """Those that embed time themselves."""

    def watch_embedding(self) -> None:
        super().watch_embedding()
        self.embed_with(self.unet.time_in, _sinusoids)
        for name in ("guidance_in", "vector_in"):
            module = getattr(self.unet, name, None)
            if isinstance(module, nn.Module):
                self.after(module, self.add_part)


class Flux2Hooks(TimedFlux):
    """The hooks of one Flux.2."""

    known_by = ("img_in", "txt_in", "time_in", "pe_embedder", "double_blocks", "single_blocks",
                "double_stream_modulation_img", "double_stream_modulation_txt",
                "single_stream_modulation", "final_layer")  # fmt: skip

    def find_stations(self) -> list[Station]:
        network, last = self.unet, self.unet.final_layer
        self.patch = int(network.patch_size)
        doubles = [point for block in network.double_blocks for point in _double_points(block)]
        singles = [point for block in network.single_blocks for point in _single_points(block)]
        image, joint = network.double_stream_modulation_img, network.single_stream_modulation
        return [
            Station(image.lin, triples(2), tuple(doubles), activated=True),
            Station(joint.lin, triples(1), tuple(singles), activated=True),
            Station(last.adaLN_modulation, (SHIFT, SCALE), _final_points(last)),
        ]

    def text_sources(self) -> list[tuple[nn.Module, bool]]:
        return [(self.unet.double_stream_modulation_txt.lin, True)]


class FluxHooks(TimedFlux):
    """The hooks of one Flux.1."""

    known_by = ("img_in", "txt_in", "time_in", "vector_in", "pe_embedder", "double_blocks",
                "single_blocks", "final_layer")  # fmt: skip

    def find_stations(self) -> list[Station]:
        network, last = self.unet, self.unet.final_layer
        self.patch = int(getattr(network, "patch_size", self.patch))
        stations = [
            Station(block.img_mod.lin, triples(2), _double_points(block), activated=True)
            for block in network.double_blocks
        ]
        stations += [
            Station(block.modulation.lin, triples(1), _single_points(block), activated=True)
            for block in network.single_blocks
        ]
        return [*stations, Station(last.adaLN_modulation, (SHIFT, SCALE), _final_points(last))]

    def text_sources(self) -> list[tuple[nn.Module, bool]]:
        return [(block.txt_mod.lin, True) for block in self.unet.double_blocks]


class ChromaHooks(FluxLayout):
    """The hooks of one Chroma."""

    known_by = ("img_in", "txt_in", "distilled_guidance_layer", "pe_embedder", "double_blocks",
                "single_blocks", "final_layer")  # fmt: skip

    def find_stations(self) -> list[Station]:
        network, source = self.unet, self.unet.distilled_guidance_layer
        singles, doubles = network.single_blocks, network.double_blocks
        self.places: dict[Station, int] = {}  # a station's first vector; negative: from the end
        for number, block in enumerate(singles):
            self.places[Station(source, triples(1), _single_points(block))] = 3 * number
        for number, block in enumerate(doubles):
            place = 3 * len(singles) + 6 * number
            self.places[Station(source, triples(2), _double_points(block))] = place
        self.text_vectors = slice(
            3 * len(singles) + 6 * len(doubles), 3 * len(singles) + 12 * len(doubles)
        )
        last = network.final_layer
        final = Station(source, (SHIFT, SCALE), _final_points(last))
        self.places[final] = -2  # Neo makes the whole model's vectors for one cut short, too
        self._made: tuple = ()
        self._count = 0  # vectors the network asks for
        return list(self.places)

    def watch_stations(self) -> None:
        source = self.unet.distilled_guidance_layer
        self._handles.append(source.register_forward_pre_hook(self._ask_all))
        self.after(source, self._silence_all)
        for station in self.stations:
            self.watch_points(station)

    def _forget_all(self) -> None:
        super()._forget_all()
        self._made = ()

    def _kept(self) -> tuple[Tensor, Tensor] | None:
        """The table, where the last call of this step has made it."""
        if not self._made:
            return None
        table, text, made = self._made
        same = table is self.call.timestep_table and text is self.call.text_timestep
        return made if same else None

    def _ask_all(self, module: nn.Module, args: tuple) -> tuple | None:
        """Every vector is made by itself, so the table's go along in one long row.

        The table is not asked for the text's vectors, a third of all.
        """
        if self.field is None or self._kept() is not None:
            return None
        own = args[0]
        self._count = own.shape[1]
        told = _sinusoids(self._timesteps(), own[:, 0, :TOLD]).to(own)[:, None]
        levels = len(self.field.timesteps)
        asked = [own.flatten(0, 1)]
        for rows, rest in (
            (told[:levels], self._without_text(own[:1, :, TOLD:])),
            (told[levels:], own[:1, :, TOLD:]),
        ):
            shape = (len(rows), rest.shape[1], -1)
            asked.append(torch.cat([rows.expand(shape), rest.expand(shape)], dim=-1).flatten(0, 1))
        return (torch.cat(asked)[None], *args[1:])

    def _silence_all(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if self.field is None:
            return None
        rows, levels, kept = self.field.rows, len(self.field.timesteps), self._kept()
        own = output
        if kept is None:
            text_ones = self.text_vectors
            count, short = self._count, self._count - (text_ones.stop - text_ones.start)
            sizes = [rows * count, levels * short]
            sizes.append(output.shape[1] - sum(sizes))
            own, table, text = output[0].split(sizes)
            own, text = own.view(rows, count, -1), text.view(-1, count, own.shape[-1])
            kept = table.view(levels, short, -1).clone(), text.clone()
            self._made = (self.call.timestep_table, self.call.text_timestep, kept)
        table, text = kept
        self.field.share(table)
        vectors, silent = [self._without_text(own), table], own.clone()
        if self.call.text_timestep is not None:
            text = text[self.call.rows.image.to(text.device)]
            vectors.insert(1, self._without_text(text))
            silent[:, self.text_vectors] = text[:, self.text_vectors]
        vectors = torch.cat(vectors)
        for station, first in self.places.items():
            at = first % vectors.shape[1]
            self._values[station] = vectors[:, at : at + len(station.kinds)].flatten(1)
            for place, kind in enumerate(station.kinds):
                silent[:, first + place] = float(kind == GATE)
        return silent

    def _without_text(self, vectors: Tensor) -> Tensor:
        """[rows, all vectors, C] -> without those of text tokens."""
        text = self.text_vectors
        return torch.cat([vectors[:, : text.start], vectors[:, text.stop :]], dim=1)


def _sinusoids(timesteps: Tensor, like: Tensor) -> Tensor:
    return timestep_embedding(TIME_FACTOR * timesteps.float(), like.shape[-1])


def _double_points(block: nn.Module) -> tuple[Point, ...]:
    return (
        Point(block.img_attn.qkv, before=True, scale=1, shift=0),
        Point(block.img_attn.proj, gate=2),
        Point(block.img_mlp, before=True, scale=4, shift=3),
        Point(block.img_mlp, gate=5),
    )


def _single_points(block: nn.Module) -> tuple[Point, ...]:
    return (Point(block.linear1, before=True, scale=1, shift=0), Point(block.linear2, gate=2))


def _final_points(last: nn.Module) -> tuple[Point, ...]:
    return (Point(last.linear, before=True, scale=1, shift=0),)


def _pair(**names: str | tuple[str, ...]) -> Callable[[tuple], dict[str, Tensor]]:
    """Reads (q, k), each [rows, heads, tokens, d]."""

    def read(output: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        seen = {}
        for part, which in zip(output, ("q", "k")):
            known = names.get(which, ())
            for name in (known,) if isinstance(known, str) else known:
                seen[name] = part.transpose(1, 2)
        return seen

    return read
