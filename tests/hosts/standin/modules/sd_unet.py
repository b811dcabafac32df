"""Stands for ``modules/sd_unet.py``: another network in the place of the UNet, if any."""

from torch import nn


class SdUnet(nn.Module):
    """What a replacement derives from."""


current_unet: SdUnet | None = None
