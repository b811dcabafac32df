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
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall
    from asyndm.network.norms import LevelledNorms

SHIFT, SCALE, GATE = "shift", "scale", "gate"
MOST_LEVELS = 256  # of one network row, where soft masks give every cell a timestep of its own


@dataclass(frozen=True)
class Point:
    """A module whose input or output takes a station's values.

    Attributes:
        module: that is hooked.
        before: its first input; otherwise its output.
        scale, shift: numbers of the station's chunks: h * (1 + scale) + shift.
        gate: number of a chunk: h * gate.
        item: which of several outputs.
    """

    module: nn.Module
    before: bool = False
    scale: int | None = None
    shift: int | None = None
    gate: int | None = None
    item: int | None = None


@dataclass(frozen=True, eq=False)
class Station:
    """One projection of time.

    Attributes:
        source: the projection, [rows, E] -> [rows, len(kinds) * C].
        kinds: of its chunks, in its own order.
        points: where they are applied.
        activated: its input has passed through SiLU already.
    """

    source: nn.Module
    kinds: tuple[str, ...]
    points: tuple[Point, ...]
    activated: bool = False


class TokenRows:
    """Which row of a station's output belongs to every token.

    The rows of an output are those of the network (the host's scalar), then as many again where
    text is told another timestep, then the table's.
    """

    def __init__(self, field: TimestepField, size: Size, text: bool) -> None:
        self.field, self.size, self.text = field, size, text
        self._index: dict[tuple[int, int], Tensor] = {}

    @property
    def first(self) -> int:
        """The first row of the table."""
        return self.field.rows * (2 if self.text else 1)

    def spread(self, values: Tensor, ahead: int, tokens: int) -> Tensor:
        """[rows of the output, C] -> [rows or 1, tokens or 1, C], not to be written to.

        Args:
            ahead: text tokens before the image's in this sequence.
            tokens: of the whole sequence; what comes behind the image's keeps the scalar.
        """
        cells = self.size[0] * self.size[1]
        if tokens - ahead < cells:
            raise UnsupportedNetwork(
                f"The network works on {tokens - ahead} image tokens instead of "
                f"{self.size[0]}x{self.size[1]}: switch off what merges or drops tokens."
            )
        if self.field.uniform and tokens == cells:
            return values[self.first :, None]
        index = self._rows(ahead, tokens - ahead - cells)
        return values.index_select(0, index.flatten()).view(*index.shape, -1)

    def _rows(self, ahead: int, behind: int) -> Tensor:
        key = (ahead, behind)
        if key not in self._index:
            image = self.field.rows_at(*self.size).flatten(1) + self.first
            rows = self.field.rows
            if ahead or behind:
                own = torch.arange(rows, device=image.device)[:, None]
                text = own + rows * self.text
                image = torch.cat(
                    [
                        text.expand(-1, ahead),
                        image.expand(rows, -1),
                        own.expand(-1, behind),
                    ],
                    dim=1,
                )
            self._index[key] = image
        return self._index[key]


class TransformerHooks(UNetHooks):
    """The hooks of one transformer.

    Attributes:
        patch: side of the squares of latents that make a token.
        text_ahead: whether text comes before the image in joint sequences.
    """

    patch = 2
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
        check_weights(unet)
        self.reader: JointReader | None = None
        self.text_tokens = 0
        self._tokens: TokenRows | None = None
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
            return (torch.cat([args[0], more.to(args[0])]), *args[1:]), kwargs

        def split(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor | None:
            if self.field is None:
                return None
            own = len(output) - len(self._timesteps())
            self._time = output[own : own + len(self.field.timesteps)]
            if self.call.text_timestep is not None:
                self._text = output[own + len(self.field.timesteps) :]
            return output[:own]

        self._handles.append(module.register_forward_pre_hook(ask, with_kwargs=True))
        self._handles.append(module.register_forward_hook(split, with_kwargs=True))

    def _timesteps(self) -> Tensor:
        """The table's timesteps, then those that text is told."""
        steps, text = self.field.timesteps, self.call.text_timestep
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
            table = self.table(station.activated)
            # One forward for both: hosts short of memory bring weights to the device for each.
            return (torch.cat([args[0], table.to(args[0])]), *args[1:])

        return hook

    def _tell_text(self, activated: bool) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if self.field is None or self.call.text_timestep is None:
                return None
            return (self.table(activated)[: self.field.rows].to(args[0]), *args[1:])

        return hook

    def _silence(self, station: Station) -> Callable:
        count = len(station.kinds)
        gates = [number for number, kind in enumerate(station.kinds) if kind == GATE]

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if self.field is None:
                return None
            self._values = {station: output}  # the last station's are done with
            silent = output.new_zeros(self.field.rows, count, output.shape[-1] // count)
            silent[:, gates] = 1
            return silent.flatten(1)

        return hook

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
        """The order of operations is the hosts', so that half precision rounds alike."""
        chunks = self._values[station].chunk(len(station.kinds), dim=-1)
        ahead, tokens = self.ahead(station, point), h.shape[1]

        def at(values: Tensor) -> Tensor:
            return self._tokens.spread(values, ahead, tokens).to(h.dtype)

        if point.scale is not None:
            h = h * at(1 + chunks[point.scale]) + at(chunks[point.shift])
        return h if point.gate is None else at(chunks[point.gate]) * h

    # --- a forward ---

    def seen(self, args: tuple, kwargs: dict) -> tuple[int, Size, torch.device]:
        rows, size, device = super().seen(args, kwargs)
        text = next((kwargs[n] for n in self.text_names if kwargs.get(n) is not None), None)
        if text is None and len(args) > self.text_place:
            text = args[self.text_place]
        self.text_tokens = 0 if text is None else text.shape[1]
        return rows, size, device

    def start(self, size: Size) -> None:
        if self.reader is not None:
            self.reader.begin(tokens_of(size, self.patch), self.text_tokens)
        if self.field is None:
            return
        if self.call.pixel_time.patch != self.patch:
            raise RowsMismatch(
                f"The noise levels are made for patches of {self.call.pixel_time.patch} latent "
                f"pixels, the network has {self.patch}: give Director patch=."
            )
        told = self.call.text_timestep is not None
        self._tokens = TokenRows(self.field, tokens_of(size, self.patch), told)

    def join(self, field: TimestepField) -> Tensor:
        if field.table is None and field.each and self._time is not None:
            self._time = self._time.view(-1, field.each, self._time.shape[-1])[field.image]
        return super().join(field)

    def _field(self, call: NetworkCall, device: torch.device) -> TimestepField:
        field = super()._field(call, device)
        return field.few(MOST_LEVELS)

    def _forget(self) -> None:
        super()._forget()
        self._tokens = self._text = None
        self._table.clear()
        self._values = {}
        if self.reader is not None:
            self.reader.forget()


def triples(count: int) -> tuple[str, ...]:
    """``count`` times (shift, scale, gate), the order of most families."""
    return (SHIFT, SCALE, GATE) * count


def check_weights(network: nn.Module) -> None:
    """Refuse weights whose kernels do without the modules that hooks are on.

    Raises:
        UnsupportedNetwork: nunchaku's.
    """
    for module in network.modules():
        kind = type(module)
        if "nunchaku" in kind.__module__.lower() or kind.__name__.startswith("SVDQ"):
            raise UnsupportedNetwork(
                "AsynDM cannot look into a nunchaku (SVDQuant) network: load plain, GGUF, NF4 or "
                "fp8 weights."
            )
