"""Self- and cross-attention of whole steps, as S-CFG finds its regions by (arXiv 2404.05384).

Read by forward hooks on `to_q` and `to_k` of both attentions of a transformer block, whatever
kernel runs. In each block cross-attention C is spread over the image by self-attention S, mean over
heads: (S + 3 S^2) / 4 applied to C, which is what the authors' code does where their paper writes
(S + S^2 + S^3 + S^4) / 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.cross import CrossLayer
from asyndm.network.errors import RowsMismatch, UnsupportedNetwork
from asyndm.network.pile import no_autocast

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall

# The authors' "sigma 0.5": its exponent is off, so that it is .707; [.2119, .5761, .2119].
BLUR = tuple(w / (1 + 2 * math.exp(-1)) for w in (math.exp(-1), 1, math.exp(-1)))
FACTORS = (4, 8)  # the sides of the latents over those of the attention that is read


@dataclass
class Regions:
    """What one guided prediction's network calls showed.

    Attributes:
        words: by image, maps [T, gh, gw] of all tokens, start and padding included, of all parts
            of its prompt; each divided by its spatial mean.
        free: by image, maps [2, gh, gw] of the unconditional row: the start token, and the sum of
            the others.
    """

    words: dict[int, Tensor] = field(default_factory=dict)
    free: dict[int, Tensor] = field(default_factory=dict)


class RegionReader:
    """Collects the maps of one prediction after the other.

    Args:
        call: says which image and part each row is.
    """

    def __init__(self, call: NetworkCall) -> None:
        self.call = call
        self.reading = True
        self._sums: dict[tuple[int, int], list[Tensor]] = {}
        self._self: dict[nn.Module, dict[str, Tensor]] = {}
        self._spread: dict[nn.Module, Tensor] = {}
        self._inside: dict[nn.Module, Size] = {}
        self._grids: list[Size] = []
        self._latents: Size | None = None

    def take(self) -> Regions:
        """What was seen since the last taking; then afresh."""
        regions = Regions()
        parts: dict[int, list[Tensor]] = {}
        for (image, part), maps in sorted(self._sums.items()):
            mean = torch.stack(maps).mean(dim=0)
            if part < 0:
                regions.free[image] = mean
            else:
                parts.setdefault(image, []).append(mean)
        regions.words = {image: torch.cat(maps) for image, maps in parts.items()}
        self._sums.clear()
        return regions

    @contextmanager
    def watching(
        self, network: nn.Module, layers: list[CrossLayer], sizes: Callable[[Size], list[Size]]
    ) -> Iterator[None]:
        """Hooks are in place inside the block.

        Args:
            network: that the layers are of.
            layers, sizes: as :meth:`asyndm.network.hooks.UNetHooks.cross_layers` tells them.

        Raises:
            UnsupportedNetwork: there is nothing to read.
        """
        chosen = [(layer, block) for layer, block in _blocks(layers)]
        if not chosen:
            raise UnsupportedNetwork("The network has no attention that S-CFG can read.")
        self._sizes = sizes
        self._levels = sorted({layer.level for layer, _ in chosen})
        handles = [network.register_forward_pre_hook(self._begin, with_kwargs=True)]
        try:
            for transformer in {id(y.transformer): y.transformer for y, _ in chosen}.values():
                handles.append(transformer.register_forward_pre_hook(self._enter, with_kwargs=True))
            for layer, block in chosen:
                for kind in ("attn1", "attn2"):
                    for name in ("q", "k"):
                        module = getattr(getattr(block, kind), f"to_{name}")
                        hook = self._saw(layer, block, kind, name)
                        handles.append(module.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._forget()
            self._sums.clear()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._forget()
        latents = args[0] if args else kwargs.get("x", kwargs.get("sample"))
        sizes = self._sizes(tuple(latents.shape[-2:]))
        grids = {level: sizes[level] for level in self._levels}
        self._used = levels_read(tuple(latents.shape[-2:]), grids)
        self._grid = max((grids[level] for level in self._used), key=math.prod)

    def _enter(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        features = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
        self._inside[transformer] = tuple(features.shape[-2:])

    def _saw(self, layer: CrossLayer, block: nn.Module, kind: str, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if not self.reading or layer.level not in self._used:
                return
            attention = getattr(block, kind)
            pair = self._self.setdefault(attention, {})
            pair[name] = output
            if len(pair) < 2:
                return
            del self._self[attention]
            shares = _shares(pair["q"], pair["k"], attention.heads)
            if kind == "attn1":
                self._spread[block] = shares
            else:
                self._record(self._spread.pop(block), shares, self._inside[layer.transformer])

        return hook

    def _record(self, own: Tensor, cross: Tensor, size: Size) -> None:
        rows = self.call.rows
        if own.shape[1] != math.prod(size) or cross.shape[1] != own.shape[1]:
            raise UnsupportedNetwork(
                f"Attention sees {own.shape[1]} tokens on a {size[0]}x{size[1]} grid: S-CFG needs "
                "one a pixel; switch off what merges or tiles tokens."
            )
        if rows is None or not len(rows) == len(own) == len(cross):
            raise RowsMismatch(f"{len(cross)} rows of attention, but others of the network.")
        with no_autocast(own.device):
            once = own @ cross
            spread = (once + 3 * (own @ once)) / 4  # [rows, pixels, tokens]; S^2 is never formed
        maps = spread.transpose(1, 2).unflatten(-1, size)
        for row, key in enumerate(zip(rows.images, rows.parts)):
            each = maps[row]
            if key[1] < 0:
                each = torch.stack([each[0], each[1:].sum(dim=0)])
            each = F.interpolate(each[None], self._grid, mode="bilinear", align_corners=False)
            each = blur3(each)[0]
            each = each / (each.mean(dim=(-2, -1), keepdim=True) + 1e-8)
            self._sums.setdefault(key, []).append(each)

    def _forget(self) -> None:
        self._self.clear()
        self._spread.clear()
        self._inside.clear()


def levels_read(latents: Size, grids: dict[int, Size]) -> list[int]:
    """The levels at a quarter and an eighth of the latents; where there is neither, all."""

    def factor(grid: Size) -> float:
        return math.sqrt(math.prod(latents) / math.prod(grid))

    # Odd sides are rounded on the way down.
    chosen = [
        level
        for level, grid in grids.items()
        if any(abs(math.log2(factor(grid) / wanted)) < 0.5 for wanted in FACTORS)
    ]
    return chosen or sorted(grids)


def blur3(maps: Tensor) -> Tensor:
    """Maps [N, C, h, w] blurred by :data:`BLUR` along both axes, reflected at the edges."""
    taps = torch.tensor(BLUR).to(maps, non_blocking=True)
    channels = maps.shape[1]
    for axis, padding in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        if maps.shape[axis] < 2:
            continue
        kernel = taps.view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
        padded = F.pad(maps, padding, mode="reflect")
        maps = F.conv2d(padded, kernel.expand(channels, -1, -1, -1), groups=channels)
    return maps


def _shares(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Softmax of q k^T / sqrt(d) a head, mean of the heads: [rows, queries, keys] float32."""
    with no_autocast(q.device):
        q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        mean = None
        for head in range(heads):  # all at once would be heads times as much memory
            logits = (q[:, head] * q.shape[-1] ** -0.5) @ k[:, head].transpose(-1, -2)
            part = logits.softmax(dim=-1) / heads
            mean = part if mean is None else mean + part
    return mean


def _blocks(layers: list[CrossLayer]) -> Iterator[tuple[CrossLayer, nn.Module]]:
    """Each layer with the block it is of, where that has self-attention too."""
    for layer in layers:
        for block in layer.transformer.transformer_blocks:
            own = getattr(block, "attn1", None)
            if getattr(block, "attn2", None) is layer.attention and hasattr(own, "to_q"):
                yield layer, block
