"""What an inpainting pipeline keeps: its mask and clean latents, as it makes them itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from torch import Tensor

from asyndm.core.settings import Settings
from asyndm.core.shadow import shadowed


class Kept:
    """Watches a pipeline prepare its latents.

    Args:
        pipe: the pipeline.
        batch: pictures of the call.
        settings: whose lead is asked for.

    Attributes:
        allowed: [B, h, w], 1 = repainted; None = no inpainting.
        known: [B, C, h, w], the clean latents, where the pipeline blends them in itself.
    """

    def __init__(self, pipe: Any, batch: int, settings: Settings) -> None:
        self.pipe, self.batch, self.settings = pipe, batch, settings
        self.allowed: Tensor | None = None
        self.known: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            if hasattr(self.pipe, "prepare_mask_latents"):
                for name, seen in (
                    ("prepare_mask_latents", self._masked),
                    ("prepare_latents", self._prepared),
                ):
                    own = getattr(self.pipe, name)
                    stack.enter_context(shadowed(self.pipe, name, _seen(own, seen)))
            yield

    def _masked(self, made: Any) -> None:
        """(mask [B or 2B, 1, h, w], latents of the masked picture)."""
        self.allowed = made[0][: self.batch, 0]

    def _prepared(self, made: Any) -> None:
        """(latents, noise if asked for, latents of the picture if asked for)."""
        blends = self.pipe.unet.config.in_channels == self.pipe.vae.config.latent_channels
        if blends and isinstance(made, (tuple, list)) and len(made) == 3:
            self.known = made[2]


def _seen(own: Any, seen: Any) -> Any:
    @wraps(own)
    def watching(*args: Any, **kwargs: Any) -> Any:
        made = own(*args, **kwargs)
        seen(made)
        return made

    return watching
