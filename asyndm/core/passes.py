"""The network calls of one step, where a method wants more of them than the sampler's one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Ask(Protocol):
    """The guided network at the noise levels the step started from."""

    def __call__(self, x: Tensor, scale: float | None = None) -> Tensor:
        """D of ``x`` in float32. Masks are not read, and no preview is shown.

        Args:
            x: latents at those noise levels.
            scale: of guidance; None = the run's own.
        """


class Pass(Protocol):
    """More network calls between a step's first one and its update."""

    def __call__(
        self,
        i: int,
        x: Tensor,
        denoised: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        host_sigma_next: float,
        ask: Ask,
    ) -> tuple[Tensor, Tensor]:
        """The latents to step from, and their D.

        Args:
            i: the step, counted from 0.
            x, denoised: latents of the first call, and its D, [B, C, H, W] in float32.
            sigma, sigma_next: maps of the step's two ends.
            host_sigma_next: of the host's list.
            ask: the network.
        """
