"""Stands for ``modules/sd_models.py``: checkpoints, and a model around a real ldm UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from modules import sd_hijack, sd_unet, shared

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": 1, "attention_resolutions": [1, 2], "channel_mult": [1, 2], "num_heads": 2,
    "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": sd_hijack.WIDTH,
    "use_checkpoint": False, "legacy": False,
}  # fmt: skip
CONTRAST = 0.6  # of pictures, for latents of unit variance


@dataclass(frozen=True)
class CheckpointInfo:
    title: str
    parameterization: str

    @property
    def filename(self) -> str:
        return f"{self.title}.safetensors"


checkpoints_list = {
    info.title: info for info in (CheckpointInfo("tiny-sd1", "eps"), CheckpointInfo("tiny-v", "v"))
}


def get_closet_checkpoint_match(name: str) -> CheckpointInfo | None:
    return checkpoints_list.get(name)


class ModelData:
    """``model_data``: what is loaded, without loading."""

    @property
    def sd_model(self) -> Any:
        return shared.sd_model


model_data = ModelData()


class DiffusionWrapper(nn.Module):
    """``sd_model.model``."""

    conditioning_key = "crossattn"

    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = _randomised(UNetModel(**UNET))

    def forward(self, x: Tensor, t: Tensor, c_crossattn: list, c_concat: Any = None) -> Tensor:
        unet = sd_unet.current_unet or self.diffusion_model
        return unet(x, t, context=torch.cat(c_crossattn, 1))


class LatentDiffusion(nn.Module):
    """What the host calls ``sd_model``, with a linear map in the place of the VAE."""

    is_sdxl = is_sd3 = False
    cond_stage_key = "txt"

    def __init__(self, info: CheckpointInfo) -> None:
        super().__init__()
        self.sd_checkpoint_info, self.parameterization = info, info.parameterization
        self.model, self.cond_stage_model = DiffusionWrapper(), sd_hijack.TextEncoder()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0).float())
        generator = torch.Generator().manual_seed(3)
        colours, _ = torch.linalg.qr(torch.randn(4, 3, generator=generator))
        self.register_buffer("colours", colours * CONTRAST)  # [4, 3]

    def apply_model(self, x: Tensor, t: Tensor, cond: dict) -> Tensor:
        """Random weights know no images: what they say only bends a plain guess."""
        output = 0.4 * self.model(x, t, **cond)
        return output + 0.9 * x if self.parameterization == "eps" else output

    def get_learned_conditioning(self, texts: list[str]) -> Tensor:
        return self.cond_stage_model(texts)

    def decode_first_stage(self, z: Tensor) -> Tensor:
        """[B, 4, h, w] -> [B, 3, 8 h, 8 w], between -1 and 1 by and large."""
        pictures = torch.einsum("bchw,cr->brhw", z, self.colours)
        return F.interpolate(pictures, scale_factor=8, mode="bilinear", align_corners=False)

    def encode_first_stage(self, pictures: Tensor) -> Tensor:
        return torch.einsum("brhw,cr->bchw", F.avg_pool2d(pictures, 8), self.colours) / CONTRAST**2


def _randomised(unet: nn.Module) -> nn.Module:
    """The same weights in every process; all layers count (ldm starts its last ones at zero)."""
    generator = torch.Generator().manual_seed(7)
    for name, weight in unet.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.data = noise / weight[0].numel() ** 0.5
        else:
            weight.data = 0.2 * noise + (not name.endswith("bias"))
    return unet.eval()


def reload_model_weights(info: CheckpointInfo) -> nn.Module:
    loaded = shared.sd_model
    if loaded is None or loaded.sd_checkpoint_info != info:
        shared.sd_model = LatentDiffusion(info)
    return shared.sd_model
