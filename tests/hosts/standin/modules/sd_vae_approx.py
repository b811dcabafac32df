"""Stands for ``modules/sd_vae_approx.py``: latents to colours by a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def cheap_approximation(sample: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 3, H, W], about [-1, 1]."""
    channels = sample.shape[-3]
    matrix = torch.linspace(-0.3, 0.3, channels * 3).reshape(channels, 3)
    return torch.einsum("...lxy,lr->...rxy", sample, matrix)
