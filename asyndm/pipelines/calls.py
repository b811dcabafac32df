"""Whose rows a pipeline's network calls have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.core.run import NetworkCall
from asyndm.network import RowsMismatch
from asyndm.pipelines.views import is_packed, shown


def network_of(pipe: Any) -> Any:
    """The network that denoises: a U-Net, or a transformer."""
    return getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)


def true_scale(pipe: Any, given: dict[str, Any]) -> float | None:
    """Flux's guidance with a negative prompt, 1 = it makes nothing without the prompt.

    Its ``guidance_scale`` is something that the network is told, and no matter of ours.

    Args:
        given: the call's arguments.

    Returns:
        None for pipelines of other networks, whose ``guidance_scale`` it is.
    """
    if not is_packed(network_of(pipe)):
        return None
    scale = float(given.get("true_cfg_scale") or 1.0)
    embeds = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
    has = given.get("negative_prompt") is not None or all(
        given.get(name) is not None for name in embeds
    )
    return scale if scale > 1 and has else 1.0


class RowsTold:
    """Says of every network call whose rows it has, and refuses those of another thread.

    Args:
        network: whose calls.
        call: that is told.
        batch: pictures.
        split: each step has two calls, one with the prompt and one without (Flux).

    Attributes:
        cond: the call in progress has rows with the prompt.
        asking: a call of our own, which says itself.
    """

    def __init__(self, network: Any, call: NetworkCall, batch: int, split: bool = False) -> None:
        self.network, self.call, self.batch, self.split = network, call, batch, split
        self.cond, self.asking = True, False
        self._seen = 0
        self._thread = threading.get_ident()

    @contextmanager
    def watching(self) -> Iterator[None]:
        handle = self.network.register_forward_pre_hook(self._told, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _told(self, module: Any, args: tuple, kwargs: dict) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "Another thread steers this network; steer one pipeline after the other, or load "
                "a second one."
            )
        if self.asking:
            return
        latents, batch, call = shown(args, kwargs), self.batch, self.call
        ways = {batch: Rows.only_cond, 2 * batch: Rows.uncond_then_cond}
        if len(latents) not in ways or (self.split and len(latents) != batch):
            raise RowsMismatch(
                f"The network was given {len(latents)} rows for {batch} pictures; AsynDM knows "
                "pipelines that give each one row, or one without and one with the prompt."
            )
        if self.split:
            self.cond = self._seen % 2 == 0
            self._seen += 1
            part = 0 if self.cond else UNCONDITIONAL
            call.rows = Rows.of(range(batch), [part] * batch, latents.device)
        elif call.rows is None or len(call.rows) != len(latents):
            call.rows = ways[len(latents)](batch, device=latents.device)
