"""What touches a network: attention capture and per-pixel timesteps, one file a family."""

from asyndm.network.capture import AttentionCapture
from asyndm.network.cross import grid_for
from asyndm.network.diffusers_dit import packed_size
from asyndm.network.errors import RowsMismatch, TokensMismatch, UnsupportedNetwork
from asyndm.network.families import attach, is_transformer, patch_of, tells_text

__all__ = [
    "AttentionCapture",
    "RowsMismatch",
    "TokensMismatch",
    "UnsupportedNetwork",
    "attach",
    "grid_for",
    "is_transformer",
    "packed_size",
    "patch_of",
    "tells_text",
]
