"""Per-token timesteps in transformers: what is silenced, and where the true values are applied.

A diffusion transformer is told the time by adaptive layer norms (Peebles & Xie 2023, arXiv
2212.09748, section 3.2): a projection of one vector an image gives shifts, scales and gates for all
of its tokens. Here every such projection, a *station*, returns what changes nothing (shift and
scale 0, gate 1), and hooks on the neighbouring modules apply, token by token, the values projected
for the few timesteps in use. Text tokens, and whatever else is no token of the image, keep the
host's scalar.

A family is one file that names its stations, its embedding of time and its queries and keys:
docs/new-family.md tells how.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asyndm.core.grids import Size, tokens_of
from asyndm.network.capture import AttentionCapture
from asyndm.network.errors import RowsMismatch, UnsupportedNetwork
from asyndm.network.field import TimestepField
from asyndm.network.hooks import UNetHooks
from asyndm.network.joint import JointLayer, JointReader
from asyndm.network.stations import GATE, TANH, Point, Station, TokenRows

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall
    from asyndm.network.norms import LevelledNorms

MOST_LEVELS = 256  # of one network row, where soft masks give every cell a timestep of its own


class TransformerHooks(UNetHooks):
    """The hooks of one transformer.

    Attributes:
        patch: side of the squares of latents that make a token.
        fused: the network scales and shifts in one operation (``torch.addcmul``), which rounds half
            precision otherwise.
        asked_ahead: how many stations the network asks before it applies their values.
        text_behind: in joint sequences text stands behind the image.
        tells_text: text tokens are told a time, the host's scalar or ``text_timestep``.
        text_fill: the text is filled up to a multiple of this in joint sequences.
    """

    patch = 2
    fused = False
    tells_text = True
    text_behind = False
    asked_ahead = 1
    text_fill = 1
    input_names: tuple[str, ...] = ("x",)
    text_names: tuple[str, ...] = ("context",)  # what the text's tokens are called
    text_place = 2  # where they are given by place

    def __init__(
        self,
        unet: nn.Module,
        call: NetworkCall,
        capture: AttentionCapture | None = None,
        norms: LevelledNorms | None = None,
    ) -> None:
        if norms is not None:
            raise UnsupportedNetwork("norms: a transformer has no group norms to level.")
        self.reader: JointReader | None = None
        self.text_tokens = 0
        self._tokens: TokenRows | None = None
        self._parts: list[Tensor] = []  # [rows, E] each, added to the embeddings of time
        self._text: Tensor | None = None  # [rows, E], the embeddings that text tokens are told
        self._table: dict[bool, Tensor] = {}  # with and without the activation
        self._values: dict[Station, Tensor] = {}  # [rows of the output, chunks * C]
        super().__init__(unet, call, None)
        if capture is not None:
            self.capture = capture
            layers = self.joint_layers()
            capture.connect(layers, lambda size: [tokens_of(size, self.patch)])
            self.reader = JointReader(layers, capture)
        self.stations = self.find_stations()

    # --- what a family has to say ---

    @abstractmethod
    def find_stations(self) -> list[Station]:
        """The stations of the network."""

    @abstractmethod
    def joint_layers(self) -> list[JointLayer]:
        """The layers in which image and text attend to each other."""

    @abstractmethod
    def watch_embedding(self) -> None:
        """Register the hooks that see time embedded, and the parts that are added to it."""

    def text_sources(self) -> list[tuple[nn.Module, bool]]:
        """Projections for text tokens alone: (module, its input has passed through SiLU)."""
        return []

    def ahead(self, station: Station, point: Point) -> int:
        """How many text tokens stand before the image's at a point. By default none."""
        return 0

    # --- hooks ---

    def cross_layers(self) -> tuple:
        return (self.joint_layers(), lambda size: [tokens_of(size, self.patch)])

    @property
    def text_told(self) -> Tensor | None:
        """[B], the timesteps that text is told instead of the host's; None = the host's."""
        return self.call.text_timestep if self.tells_text else None

    @property
    def text_room(self) -> int:
        """Tokens of the text in joint sequences, with what fills it up."""
        return -(-self.text_tokens // self.text_fill) * self.text_fill

    def watch_attention(self) -> list:
        return self.reader.watch()

    def watch_time(self) -> None:
        self.watch_embedding()
        for source, activated in self.text_sources():
            self.before(source, self._tell_text(activated))
        self.watch_stations()

    def watch_stations(self) -> None:
        """Register the hooks on the stations' sources and points."""
        for station in self.stations:
            self.before(station.source, self._ask(station))
            self.after(station.source, self._silence(station))
            self.watch_points(station)

    def watch_points(self, station: Station) -> None:
        """Register the hooks that apply a station's values."""
        for point in station.points:
            if point.before:
                self.before(point.module, self._apply_before(station, point))
            else:
                self.after(point.module, self._apply_after(station, point))

    def embed_with(self, module: nn.Module, embed: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Have a module embed the table's timesteps along with the host's own.

        Args:
            module: whose first input is one row a network row.
            embed: (timesteps [N], that input) -> more rows of it.
        """

        def ask(module: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
            if self.field is None:
                return None
            more = embed(self._timesteps(), args[0])
            more = more.to(args[0]).view(len(more), *args[0].shape[1:])
            return (torch.cat([args[0], more]), *args[1:]), kwargs

        def split(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor | None:
            if self.field is None:
                return None
            own, levels = len(output) - len(self._timesteps()), len(self.field.timesteps)
            more = output[own:].flatten(0, -2)  # some are [rows, 1, E]
            self._time = more[:levels]
            if self.text_told is not None:
                self._text = more[levels:]
            return output[:own]

        self._handles.append(module.register_forward_pre_hook(ask, with_kwargs=True))
        self._handles.append(module.register_forward_hook(split, with_kwargs=True))

    def add_part(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """A hook: remember a vector [rows, E] the network adds to the embedding of time."""
        if self.field is not None:
            self._parts.append(output)

    def take_rotation(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """A hook: rotary positions [rows, 1, tokens, d / 2, 2, 2], a matrix for each pair."""
        if self.reader is not None:
            self.reader.rotation = output[:, 0]

    def _timesteps(self) -> Tensor:
        """The table's timesteps, then those that text is told."""
        steps, text = self.field.timesteps, self.text_told
        return steps if text is None else torch.cat([steps, text.to(steps)])

    def table(self, activated: bool) -> Tensor:
        """What a source is asked about beside the host's rows."""
        if activated not in self._table:
            table = self.join(self.field)
            if self._text is not None:
                text = self._text[self.call.rows.image.to(self._text.device)]
                for part in self._parts:
                    text = text + part
                table = torch.cat([text, table])
            self._table[False] = table
            self._table[True] = F.silu(table)
        return self._table[activated]

    def _ask(self, station: Station) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if self.field is None:
                return None
            table = self.table(station.activated).to(args[0])
            table = table.view(len(table), *args[0].shape[1:-1], -1)  # some are given [rows, 1, E]
            # One forward for both: hosts short of memory bring weights to the device for each.
            return (torch.cat([args[0], table]), *args[1:])

        return hook

    def _tell_text(self, activated: bool) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if self.field is None or self.call.text_timestep is None:
                return None
            told = self.table(activated)[: self.field.rows].to(args[0])
            return (told.view_as(args[0]), *args[1:])

        return hook

    def _silence(self, station: Station) -> Callable:
        count = len(station.kinds)

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if self.field is None:
                return None
            self.keep(station, output.flatten(0, -2))
            silent = output.new_zeros(self.field.rows, count, output.shape[-1] // count)
            for number, kind in enumerate(station.kinds):
                silent[:, number] = SILENT.get(kind, 0)
            return silent.view(self.field.rows, *output.shape[1:])

        return hook

    def keep(self, station: Station, values: Tensor) -> None:
        """Keep a station's values until its points apply them."""
        self._values.pop(station, None)
        self._values[station] = values
        while len(self._values) > self.asked_ahead:  # done with
            del self._values[next(iter(self._values))]

    def _apply_before(self, station: Station, point: Point) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if self.field is None:
                return None
            return (self._applied(station, point, args[0]), *args[1:])

        return hook

    def _apply_after(self, station: Station, point: Point) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
            if self.field is None:
                return None
            if not isinstance(output, tuple):
                return self._applied(station, point, output)
            item = point.item or 0
            made = self._applied(station, point, output[item])
            return (*output[:item], made, *output[item + 1 :])

        return hook

    def _applied(self, station: Station, point: Point, h: Tensor) -> Tensor:
        """The order of operations is the hosts', so that half precision rounds alike.

        Args:
            h: [rows, tokens, C], or [rows, frames, height, width, C].
        """
        if h.ndim > 3:
            return self._applied(station, point, h.flatten(1, -2)).view_as(h)
        chunks = self._values[station].chunk(len(station.kinds), dim=-1)
        ahead, tokens = self.ahead(station, point), h.shape[1]

        dtype, wide = h.dtype, torch.float32 if point.wide else h.dtype
        h, chunks = h.to(wide), [chunk.to(wide) for chunk in chunks] if point.wide else chunks

        def at(values: Tensor) -> Tensor:
            return self._tokens.spread(values, ahead, tokens).to(wide)

        if point.scale is not None and point.shift is None:
            h = h * at(1 + chunks[point.scale])
        elif point.scale is not None and self.fused:
            h = torch.addcmul(at(chunks[point.shift]), h, at(1 + chunks[point.scale]))
        elif point.scale is not None:
            h = h * at(1 + chunks[point.scale]) + at(chunks[point.shift])
        if point.gate is not None:
            gate = chunks[point.gate]
            h = at(gate.tanh() if station.kinds[point.gate] == TANH else gate) * h
        return h.to(dtype)

    # --- a forward ---

    def seen(self, args: tuple, kwargs: dict) -> tuple[int, Size, torch.device]:
        rows, size, device = super().seen(args, kwargs)
        text = next((kwargs[n] for n in self.text_names if kwargs.get(n) is not None), None)
        if text is None and len(args) > self.text_place:
            text = args[self.text_place]
        self.text_tokens = 0 if text is None else text.shape[-2]
        return rows, size, device

    def start(self, size: Size) -> None:
        if self.reader is not None:
            self.reader.begin(tokens_of(size, self.patch), self.text_room, self.text_tokens)
        if self.field is None:
            return
        if self.call.pixel_time.patch != self.patch:
            raise RowsMismatch(
                f"The noise levels are made for patches of {self.call.pixel_time.patch} latent "
                f"pixels, the network has {self.patch}: give Director patch=."
            )
        told = self.text_told is not None
        self._tokens = TokenRows(self.field, tokens_of(size, self.patch), told, self.text_behind)

    def join(self, field: TimestepField) -> Tensor:
        """The finished table; put together when the first station asks for it."""
        if field.table is None:
            if self._time is None:
                raise UnsupportedNetwork("The network embeds time in a way AsynDM does not know.")
            if field.each:
                self._time = self._time.view(-1, field.each, self._time.shape[-1])[field.image]
            if self._parts or self._time.ndim == 3:
                field.join(self._time, self._parts)
            else:
                field.share(self._time)
        return field.table

    def _field(self, call: NetworkCall, device: torch.device) -> TimestepField:
        field = super()._field(call, device)
        return field.few(MOST_LEVELS)

    def _forget(self) -> None:
        super()._forget()
        self._tokens = self._text = None
        self._parts = []
        self._table.clear()
        self._values = {}
        if self.reader is not None:
            self.reader.forget()


# What a chunk says that changes nothing; tanh(20) is 1 in every precision. Others say 0.
SILENT = {GATE: 1.0, TANH: 20.0}
