"""Latents of one frame: [B, C, 1, H, W] where a host's autoencoder is one of videos.

Qwen-Image, Anima, Krea 2 and Wan share Wan's. Runs know [B, C, H, W] alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def flat(x: Any) -> Any:
    """Without the axis of frames, where there is one of a single frame; None stays None."""
    return x.squeeze(2) if isinstance(x, Tensor) and x.ndim == 5 and x.shape[2] == 1 else x


def like(x: Tensor, other: Tensor) -> Tensor:
    """With that axis where ``other`` has it."""
    return x.unsqueeze(2) if x.ndim == 4 and other.ndim == 5 else x
