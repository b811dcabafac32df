"""Attention of image tokens to words in transformers where both attend to each other.

Hooks see queries and keys behind their norms, whatever kernel runs the attention. The softmax is
repeated for the image's queries, over the text's keys alone (what a U-Net's cross-attention is) or
over the joint sequence (what the network computed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from asyndm.core.grids import Size
    from asyndm.network.capture import AttentionCapture

# The image's queries; its keys and those of whatever else shares the softmax; the text's keys.
Q, K, TEXT = "q", "k", "text"


@dataclass(frozen=True)
class Tap:
    """A module that shows queries or keys.

    Attributes:
        module: that is hooked.
        read: its output -> {Q, K, TEXT: [rows, tokens, heads, d]}, some of them.
        joint: what it shows are tokens of text, image and others in one sequence.
    """

    module: nn.Module
    read: Callable[[Tensor | tuple], dict[str, Tensor]]
    joint: bool = False


@dataclass(frozen=True)
class JointLayer:
    """One layer of joint attention.

    Attributes:
        heads: of the layer.
        taps: that together show Q, K and TEXT.
        skip: tokens ahead of the prompt's among the text's (registers).
        cross: the softmax is over the text alone, as the network computes it.
        level: as in :class:`~asyndm.network.capture.CrossLayer`; all tokens are on one.
    """

    heads: int
    taps: tuple[Tap, ...]
    skip: int = 0
    cross: bool = False
    level: int = 0


class JointReader:
    """Hands a capture what the taps of some layers show.

    Args:
        layers: in the order the network runs them.
        capture: that is fed.
    """

    def __init__(self, layers: list[JointLayer], capture: AttentionCapture) -> None:
        self.layers, self.capture = layers, capture
        self.size: Size = (0, 0)
        self.text = self.prompt = 0
        # A matrix for each pair of a head's numbers, [1 or rows, tokens, d / 2, 2, 2]; pairs are
        # neighbours, or those of two halves.
        self.rotation: Tensor | None = None
        self.halves = False
        self._pending: dict[int, dict[str, Tensor]] = {}

    def begin(self, size: Size, text: int, prompt: int) -> None:
        """A forward begins.

        Args:
            size: of the image, in tokens.
            text: tokens ahead of the image's in joint sequences.
            prompt: how many of those are no filling.
        """
        self.forget()
        self.size, self.text, self.prompt = size, text, prompt

    def forget(self) -> None:
        """Drop what a forward left half done."""
        self._pending.clear()
        self.rotation = None

    def watch(self) -> list:
        """Register the hooks; returns their handles, which the caller removes."""
        handles = []
        try:
            for number, layer in enumerate(self.layers):
                for tap in layer.taps:
                    handles.append(tap.module.register_forward_hook(self._saw(number, layer, tap)))
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        return handles

    def _saw(self, number: int, layer: JointLayer, tap: Tap) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            if self.capture.listening is None:
                return
            cells = self.size[0] * self.size[1]
            pending = self._pending.setdefault(number, {})
            for name, seen in tap.read(output).items():
                if name == TEXT:
                    text = self._rotated(seen[:, : self.text] if tap.joint else seen, 0)
                    end = self.prompt if tap.joint else text.shape[1]
                    pending[name] = text[:, layer.skip : end]
                    pending["skipped"] = torch.cat([text[:, : layer.skip], text[:, end:]], dim=1)
                    continue
                first = self.text if tap.joint else 0
                # The keys of reference images share the softmax, their queries are not asked for.
                part = seen[:, first : first + cells if name == Q else None]
                pending[name] = self._rotated(part, self.text)
            joint = self.capture.softmax == "joint" and not layer.cross
            if {Q, TEXT, *([K] if joint else [])} <= pending.keys():
                del self._pending[number]
                q, text = pending[Q].flatten(2), pending[TEXT].flatten(2)
                keys = None
                if joint:
                    keys = torch.cat([pending[K], pending["skipped"]], dim=1).flatten(2)
                rows = self.capture.listening
                self.capture.record(q, text, layer.heads, *self.size, rows, keys)

        return hook

    def _rotated(self, x: Tensor, first: int) -> Tensor:
        """Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34) of pairs.

        Args:
            x: [rows, tokens, heads, d].
            first: place of its first token in the sequence.
        """
        if self.rotation is None:
            return x
        turn = self.rotation[:, first : first + x.shape[1], None].float()
        if self.halves:
            one, two = x.float().chunk(2, dim=-1)
        else:
            one, two = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = [one * turn[..., i, 0] + two * turn[..., i, 1] for i in (0, 1)]
        joined = torch.cat(turned, -1) if self.halves else torch.stack(turned, -1).flatten(-2)
        return joined.to(x.dtype)
