"""Cross-attention maps of the prompt's objects, read without owning the attention.

`attn2.to_q` and `attn2.to_k` run whatever kernel computes the attention afterwards, so forward
hooks on them see q and k everywhere. The softmax is repeated for the mask layers alone, in
float32, for conditional rows, and only the wanted words are kept: a few 16x16x77 products a step.
Source: arXiv 2510.04504, section 4 (masks from the cross-attention of the model itself).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.core.masks import NothingSeen
from asyndm.network.cross import CrossLayer, grid_for
from asyndm.network.errors import RowsMismatch, TokensMismatch, UnsupportedNetwork
from asyndm.network.pile import Pile, joint_shares, no_autocast

if TYPE_CHECKING:
    from asyndm.core.rows import Rows


def _by_encoder(words: list) -> list[list[int]]:
    """An object's token positions, a list for each text encoder."""
    return words if words and isinstance(words[0], list) else [words]


class AttentionCapture:
    """Collects the attention of image pixels to the words of each object.

    Args:
        columns: ``columns[image][part][object]``: token positions of that object in that part of
            the prompt (AND gives several parts); an empty list where it does not occur. All images
            list the same number of objects. Where several text encoders give tokens of their own
            (Stable Diffusion 3: CLIP, then T5), an object has a list for each of them, [[int]].
        softmax: of transformers, over the "text" tokens alone or over the "joint" sequence.
        grid: (gh, gw) of the maps; one number = those layers' own whose grid is nearest to so many
            cells a side; by default :func:`grid_for` chooses when the network and the size of the
            latents are known.
    """

    def __init__(
        self,
        columns: Sequence[Sequence[Sequence[Sequence[int]]]],
        grid: Size | int | None = None,
        softmax: str = "text",
    ) -> None:
        self.softmax = softmax
        self._near = grid if isinstance(grid, int) else None
        grid = None if isinstance(grid, int) else grid
        self.encoders = 1
        self._plans: dict[tuple, tuple] = {}
        self.objects: int | None = None
        self.aim(columns)
        self.batch = len(self.columns)
        self._wanted = grid
        self._grid: Size | None = grid
        self._layers: list[CrossLayer] = []
        self._sizes: Callable[[Size], list[Size]] | None = None
        self._level: int | None = None  # read in the running forward
        self._rows: Rows | None = None
        self._pending: dict[nn.Module, dict[str, Tensor]] = {}
        self._inside: dict[nn.Module, Size] = {}
        self._left = 1  # layers to be read in the running forward
        self._divisor: tuple[list, Tensor] | None = None  # counts, and the same on the device
        self.complete = False  # every object was seen in every image before the last reading
        self._reset()

    def aim(self, columns: Sequence[Sequence[Sequence[Sequence[int]]]]) -> None:
        """Other token positions for the same objects, from here on (prompt editing).

        Raises:
            ValueError: the parts do not all list the same objects.
        """
        columns = [[[list(tokens) for tokens in part] for part in image] for image in columns]
        counts = {len(part) for image in columns for part in image}
        if len(counts) != 1 or (self.objects is not None and counts != {self.objects}):
            raise ValueError("columns: every part of every image must list the same objects.")
        self.columns, self.objects = columns, counts.pop()
        heard = [_by_encoder(words) for image in columns for part in image for words in part]
        self.encoders = max([self.encoders, *map(len, heard)])
        self._slots = [[self._spread(part) for part in image] for image in columns]
        self._plans.clear()

    def _spread(self, part: list[list]) -> list[list[int]]:
        """A part's token positions, one list for each object and each text encoder."""
        slots = []
        for words in part:
            lists = _by_encoder(words)
            slots += lists + [[]] * (self.encoders - len(lists))
        return slots

    @property
    def grid(self) -> Size | None:
        """(gh, gw) of the maps; None until it was given or settled."""
        return self._grid

    def settle(self, size: Size) -> Size:
        """Fix the grid for latents of ``size``, once; needs a network (given by ``attach``).

        Raises:
            UnsupportedNetwork: the network has no cross-attention.
            RuntimeError: no network is known yet.
        """
        if self._grid is None:
            self._grid = self._choose(size)[0]
        return self._grid

    def connect(self, layers: list[CrossLayer], sizes: Callable[[Size], list[Size]]) -> None:
        """Take a network's layers; again for another one (a refiner). The grid stays as it is.

        Args:
            layers: its cross-attention layers.
            sizes: (H, W) of the latents -> (h, w) of every level.

        Raises:
            UnsupportedNetwork: there are none.
        """
        if not layers:
            raise UnsupportedNetwork("The network has no cross-attention to read masks from.")
        self._layers, self._sizes = list(layers), sizes

    @property
    def level(self) -> int | None:
        """Of the layers read in the running forward, None before the first one."""
        return self._level

    def watch(self) -> list:
        """Register the hooks on the level's layers; returns handles, which the caller removes.

        The other layers' are not called in vain: a fast GPU waits for that.
        """
        handles = []
        layers = [layer for layer in self._layers if layer.level == self._level]
        try:
            for transformer in {id(x.transformer): x.transformer for x in layers}.values():
                handles.append(transformer.register_forward_pre_hook(self._enter, with_kwargs=True))
            for layer in layers:
                for name in ("q", "k"):
                    module = getattr(layer.attention, f"to_{name}")
                    handles.append(module.register_forward_hook(self._saw(layer, name)))
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        return handles

    def begin(self, size: Size, rows: Rows) -> None:
        """A network forward with latents of ``size`` and these rows starts."""
        self.settle(size)
        self._read_pile()  # of another call of this step
        self._level = self._choose(size)[1]
        self._left = sum(layer.level == self._level for layer in self._layers)
        self._rows = rows if any(part >= 0 for part in rows.parts) else None

    @property
    def listening(self) -> Rows | None:
        """The rows of the running forward, if there is something to read in it."""
        return self._rows

    def forget_pending(self) -> None:
        """Drop what a forward left half done; the maps collected so far stay."""
        self._pending.clear()
        self._inside.clear()
        self._rows = None

    def record(
        self,
        q: Tensor,
        k: Tensor,
        heads: int,
        height: int,
        width: int,
        rows: Rows,
        keys: Tensor | None = None,
    ) -> None:
        """Add one layer's attention.

        Args:
            q: [rows, height * width, heads * d] queries of all network rows.
            k: [rows, tokens, heads * d] keys.
            heads: of the layer.
            height: of the layer's real grid.
            width: of the layer's real grid.
            rows: the image and prompt part of each row.
            keys: like q, of the pixels themselves, where the softmax is over them too.

        Raises:
            UnsupportedNetwork: the queries are not one a pixel (token merging), or the rows not
                the network's (regional prompts).
            TokensMismatch: a word's position lies beyond the tokens.
        """
        if q.shape[1] != height * width:
            raise UnsupportedNetwork(
                f"Cross-attention sees {q.shape[1]} tokens on a {height}x{width} grid: switch off "
                "what merges or tiles tokens in cross-attention."
            )
        if not q.shape[0] == k.shape[0] == len(rows):
            raise UnsupportedNetwork(
                f"Cross-attention sees {max(q.shape[0], k.shape[0])} rows for the {len(rows)} of "
                "the network (a regional prompter?): switch that off, or paint the mask."
            )
        select, weight = self._plan(rows, k.shape[1], q.device)
        if weight is None:
            return
        self._grid = self._grid or (height, width)
        conditional = [(i, p) for i, p in zip(rows.images, rows.parts) if p >= 0]
        for image, part in conditional:
            for number, tokens in enumerate(self._slots[image][part]):
                self._counts[image][number] += bool(tokens)
        q, k = q[select], k[select]
        images = tuple(image for image, _ in conditional)
        if keys is not None:
            shares = joint_shares(q, k, keys[select], heads, weight)
            self._add(shares, images, (height, width))
            return
        kind = (q.shape, k.shape, heads, height, width, images, id(weight))
        if kind != self._kind:
            self._read_pile()
            self._pile, self._kind, self._weight = Pile(q, k, heads, self._left), kind, weight
        self._pile.add(q, k)

    def _read_pile(self) -> None:
        """Add the maps of the layers put aside."""
        pile, kind, weight = self._pile, self._kind, self._weight
        self._pile = self._kind = self._weight = None
        if pile is None:
            return
        *_, height, width, images, _ = kind
        with no_autocast(weight.device):
            shares = torch.bmm(pile.shares(), weight)
        self._add(shares, images, (height, width))

    def _add(self, shares: Tensor, images: tuple[int, ...], size: Size) -> None:
        """Shares [n, pixels, O] of some images' rows to the sum."""
        maps = shares.transpose(1, 2).unflatten(-1, size)
        if size != self._grid:
            maps = F.interpolate(maps, self._grid, mode="bilinear", align_corners=False)
        whole = images == tuple(range(self.batch))
        if self._sum is None and whole:
            self._sum = maps.contiguous()
            return
        if self._sum is None:
            self._sum = maps.new_zeros(self.batch, maps.shape[1], *self._grid)
        if whole:
            self._sum += maps
        else:
            for row, image in enumerate(images):
                self._sum[image] += maps[row]

    def read(self) -> Tensor:
        """The maps since the last reading, mean over heads, layers and prompt parts; then afresh.

        An object without a token in an image has a map of NaN there: no number of its own could
        keep "at least the mean" from being true everywhere, while NaN is never at least anything.

        Returns:
            [B, O, gh, gw] float32.

        Raises:
            NothingSeen: the network ran no conditional row since.
        """
        self._read_pile()
        if self._sum is None:
            raise NothingSeen("No cross-attention was seen since the masks were last read.")
        if self._divisor is None or self._divisor[0] != self._counts:
            counts = torch.tensor(self._counts, dtype=torch.float32)[:, :, None, None]
            self._divisor = (self._counts, counts.to(self._sum.device, non_blocking=True))
        maps = self._sum / self._divisor[1]  # 0 / 0 = NaN: nothing to say
        self.complete = all(count for image in self._counts for count in image)
        self._reset()
        if self.encoders > 1:  # one may see far more of every word than another
            maps = maps / maps.mean(dim=(-2, -1), keepdim=True)
            maps = maps.unflatten(1, (self.objects, self.encoders)).nanmean(dim=2)
        return maps

    def _reset(self) -> None:
        self._sum: Tensor | None = None
        self._pile: Pile | None = None  # seen, and not in the sum yet
        self._kind: tuple | None = None  # what all layers of the pile share
        self._weight: Tensor | None = None
        self._counts = [[0] * self.objects * self.encoders for _ in range(self.batch)]

    def _choose(self, size: Size) -> tuple[Size, int]:
        """(grid, level) to read at this size of the latents."""
        if self._sizes is None:
            raise RuntimeError("The capture knows no network yet: attach it first.")
        sizes = self._sizes(size)
        levels = {layer.level: sizes[layer.level] for layer in self._layers}
        wanted = grid_for(*size, levels.values())
        if self._wanted is not None or self._near is not None:
            area = math.prod(self._wanted) if self._wanted is not None else self._near**2
            nearest = min(levels.values(), key=lambda s: abs(math.log(math.prod(s) / area)))
            wanted = nearest
        level = next(level for level, grid in sorted(levels.items()) if grid == wanted)
        return (self._wanted or wanted), level

    def _enter(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        features = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
        if features is None or features.ndim != 4:
            raise UnsupportedNetwork("The network's transformer blocks do not take [B, C, h, w].")
        self._inside[transformer] = tuple(features.shape[-2:])

    def _saw(self, layer: CrossLayer, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self._rows is None or layer.level != self._level:
                return
            pair = self._pending.setdefault(layer.attention, {})
            pair[name] = output
            if len(pair) == 2:
                del self._pending[layer.attention]
                size = self._inside[layer.transformer]
                self.record(pair["q"], pair["k"], layer.attention.heads, *size, self._rows)
                self._left -= 1
                if not self._left:  # nothing is kept for the larger levels to come
                    self._read_pile()

        return hook

    def _plan(self, rows: Rows, tokens: int, device: torch.device) -> tuple:
        """(which rows are conditional, weights [n, tokens, O] that average an object's tokens).

        Made once for each arrangement of rows, so that no step sends anything to the device.
        """
        key = (tuple(rows.images), tuple(rows.parts), tokens, device)
        if key not in self._plans:
            if len(self._plans) >= 16:  # prompts of changing length; keep this bounded
                self._plans.clear()
            self._plans[key] = self._make_plan(rows, tokens, device)
        return self._plans[key]

    def _make_plan(self, rows: Rows, tokens: int, device: torch.device) -> tuple:
        chosen = [row for row, part in enumerate(rows.parts) if part >= 0]
        for image, part in ((rows.images[row], rows.parts[row]) for row in chosen):
            if image >= self.batch or part >= len(self.columns[image]):
                raise RowsMismatch(
                    f"A network row is part {part} of image {image}, for which the attention "
                    "capture was given no words."
                )
        if not chosen:
            return None, None
        weight = torch.zeros(len(chosen), tokens, self.objects * self.encoders)
        for place, row in enumerate(chosen):
            for number, columns in enumerate(self._slots[rows.images[row]][rows.parts[row]]):
                if any(not 0 <= column < tokens for column in columns):
                    raise TokensMismatch(
                        f"A word's token position ({max(columns)}) lies beyond the {tokens} tokens "
                        "the network was given."
                    )
                for column in columns:
                    weight[place, column, number] += 1 / len(columns)
        first, last = chosen[0], chosen[-1]
        if chosen == list(range(first, last + 1)):
            return slice(first, last + 1), weight.to(device)
        return torch.tensor(chosen, device=device), weight.to(device)
