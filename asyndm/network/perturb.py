"""Network calls that are made worse on purpose: the third prediction of SEG, PAG and TPG.

Three ways, all by forward hooks alone, that act only inside :meth:`Perturbation.on`:

- "blur": the queries of the middle's self-attention are blurred, seen as an image (Hong 2024,
  "Smoothed Energy Guidance", NeurIPS);
- "identity": the middle's self-attention passes its values on as they are, each pixel seeing itself
  alone (Ahn et al. 2024, arXiv 2403.17377);
- "shuffle": the tokens that enter the transformer blocks on the way down change their places
  (Rajabi et al. 2025, arXiv 2506.10036).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndm.network.errors import UnsupportedNetwork

WAYS = ("blur", "identity", "shuffle")
MIDDLE = ("middle_block", "mid_block")  # in ldm's and in diffusers' networks
DOWN = ("input_blocks", "down_blocks")
INFINITE_BLUR = 9999.0  # above it a blur is the spatial mean


class Perturbation:
    """One way to make network calls worse.

    Args:
        way: one of :data:`WAYS`.
        blur: for "blur", the Gaussian's sigma in pixels of the attention's grid; above
            :data:`INFINITE_BLUR` the spatial mean, 0 changes nothing.

    Raises:
        ValueError: an unknown way.
    """

    def __init__(self, way: str, blur: float = math.inf) -> None:
        if way not in WAYS:
            raise ValueError(f"way: {way!r} is none of {', '.join(WAYS)}.")
        self.way, self.blur = way, blur
        self._seed: int | None = None  # of the call in progress; None = untouched
        self._size: dict[nn.Module, tuple[int, int]] = {}
        self._values: dict[nn.Module, Tensor] = {}

    @contextmanager
    def on(self, seed: int = 0) -> Iterator[None]:
        """Network calls inside the block are perturbed. ``seed``: of the shuffled places."""
        self._seed = seed
        try:
            yield
        finally:
            self._seed = None
            self._values.clear()

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Hooks are in place inside the block, and gone after any way out of it.

        Raises:
            UnsupportedNetwork: it has nothing that could be perturbed.
        """
        handles: list = []
        try:
            if self.way == "shuffle":
                self._watch_blocks(network, handles)
            else:
                self._watch_middle(network, handles)
            if not handles:
                where = "way down" if self.way == "shuffle" else "middle"
                raise UnsupportedNetwork(
                    f"The network has no self-attention on its {where} that could be perturbed."
                )
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._size.clear()

    def _watch_middle(self, network: nn.Module, handles: list) -> None:
        for transformer, blocks in _transformers(_part(network, MIDDLE)):
            attentions = [
                a for a in (getattr(block, "attn1", None) for block in blocks) if _is_self(a)
            ]
            if attentions and self.way == "blur":
                handles.append(transformer.register_forward_pre_hook(self._enter, with_kwargs=True))
            for attention in attentions:
                if self.way == "blur":
                    handles.append(attention.to_q.register_forward_hook(self._blur(transformer)))
                    continue
                handles.append(attention.to_v.register_forward_hook(self._keep(attention)))
                # ldm calls the whole of to_out, diffusers its parts; the first is called by both.
                last = attention.to_out[0]
                handles.append(last.register_forward_pre_hook(self._pass_on(attention)))

    def _watch_blocks(self, network: nn.Module, handles: list) -> None:
        number = 0
        for _, blocks in _transformers(_part(network, DOWN)):
            for block in blocks:
                shuffle = self._shuffle(number)
                handles.append(block.register_forward_pre_hook(shuffle, with_kwargs=True))
                number += 1

    def _enter(self, transformer: nn.Module, args: tuple, kwargs: dict) -> None:
        features = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
        self._size[transformer] = tuple(features.shape[-2:])

    def _blur(self, transformer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, queries: Tensor) -> Tensor | None:
            if self._seed is None:
                return None
            height, width = self._size[transformer]
            if queries.shape[1] != height * width:
                raise UnsupportedNetwork(
                    f"Self-attention sees {queries.shape[1]} tokens on a {height}x{width} grid: "
                    "switch off what merges or tiles tokens."
                )
            return blur_tokens(queries, height, width, self.blur)

        return hook

    def _keep(self, attention: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, values: Tensor) -> None:
            if self._seed is not None:
                self._values[attention] = values

        return hook

    def _pass_on(self, attention: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if self._seed is None:
                return None
            return (self._values.pop(attention).to(args[0]), *args[1:])

        return hook

    def _shuffle(self, number: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
            if self._seed is None:
                return None
            tokens = args[0] if args else kwargs["hidden_states"]
            # One order for all rows: an image must not depend on its batch.
            order = places(tokens.shape[1], self._seed, number).to(tokens.device, non_blocking=True)
            if args:
                return (tokens[:, order], *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": tokens[:, order]}

        return hook


def places(count: int, seed: int, number: int) -> Tensor:
    """A random order of ``count`` tokens, [count] long on the CPU, for one call and one block."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + number)
    return torch.randperm(count, generator=generator)


def blur_tokens(tokens: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Tokens [rows, height * width, C] blurred as an image, by a Gaussian, reflected at the edges.

    The kernel has ceil(6 sigma) taps, made odd, but no more than a side has (an even side: one
    more); the original knows squares only, here each axis has its own.
    """
    if sigma <= 0:
        return tokens
    image = tokens.transpose(1, 2).unflatten(-1, (height, width))
    if sigma > INFINITE_BLUR:
        image = image.mean(dim=(-2, -1), keepdim=True).expand_as(image)
    else:
        for axis, side in ((-2, height), (-1, width)):
            image = _blur_axis(image, axis, _taps(sigma, side))
    return image.flatten(2).transpose(1, 2)


def _taps(sigma: float, side: int) -> Tensor:
    count = math.ceil(6 * sigma)
    count = min(count + 1 - count % 2, side - side % 2 + 1)
    at = torch.arange(count, dtype=torch.float32) - (count - 1) / 2
    taps = torch.exp(-0.5 * (at / sigma) ** 2)
    return taps / taps.sum()


def _blur_axis(image: Tensor, axis: int, taps: Tensor) -> Tensor:
    half = len(taps) // 2
    if not half:
        return image
    padding = (0, 0, half, half) if axis == -2 else (half, half, 0, 0)
    kernel = taps.to(image, non_blocking=True).view((-1, 1) if axis == -2 else (1, -1))
    channels = image.shape[1]
    padded = F.pad(image, padding, mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def _part(network: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((getattr(network, n) for n in names if hasattr(network, n)), None)


def _transformers(part: nn.Module | None) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """The spatial transformers of a part, each with its blocks."""
    for module in part.modules() if part is not None else ():
        blocks = getattr(module, "transformer_blocks", None)
        if blocks:
            yield module, list(blocks)


def _is_self(attention: nn.Module | None) -> bool:
    if attention is None or getattr(attention, "is_cross_attention", False):
        return False
    return all(hasattr(attention, name) for name in ("to_q", "to_k", "to_v", "to_out"))
