"""What an inpainting pipeline keeps: its mask and clean latents, as it makes them itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from torch import Tensor

from asyndm.core.settings import Settings
from asyndm.core.shadow import shadowed
from asyndm.pipelines.calls import network_of
from asyndm.pipelines.views import Plain, is_packed


class Kept:
    """Watches a pipeline prepare its latents.

    Args:
        pipe: the pipeline.
        batch: pictures of the call.
        settings: whose lead is asked for.

    Attributes:
        view: how the pipeline holds latents, once that is known.
    """

    def __init__(self, pipe: Any, batch: int, settings: Settings) -> None:
        self.pipe, self.batch, self.settings = pipe, batch, settings
        self.view = Plain()
        self._mask: Tensor | None = None
        self._clean: Tensor | None = None

    @property
    def allowed(self) -> Tensor | None:
        """[B, h, w], 1 = repainted; None = no inpainting."""
        return None if self._mask is None else self.view.opened(self._mask)[:, 0]

    @property
    def known(self) -> Tensor | None:
        """[B, C, h, w], the clean latents, where the pipeline blends them in itself."""
        return None if self._clean is None else self.view.opened(self._clean)

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
        """(mask [B or 2B, 1, h, w], or packed; latents of the masked picture)."""
        self._mask = made[0][: self.batch]

    def _prepared(self, made: Any) -> None:
        """(latents, noise if asked for, latents of the picture if asked for; Flux's places)."""
        if blends(self.pipe) and isinstance(made, (tuple, list)) and len(made) >= 3:
            self._clean = made[2]


def blends(pipe: Any) -> bool:
    """Whether an inpainting pipeline puts back what it keeps after each step."""
    network, latents = network_of(pipe), pipe.vae.config.latent_channels
    return network.config.in_channels == latents * (4 if is_packed(network) else 1)


def _seen(own: Any, seen: Any) -> Any:
    @wraps(own)
    def watching(*args: Any, **kwargs: Any) -> Any:
        made = own(*args, **kwargs)
        seen(made)
        return made

    return watching
