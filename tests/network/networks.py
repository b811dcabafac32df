"""Narrow networks with the structure of the real ones, random weights, and inputs for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CONTEXT = 24
TOKENS = 11


@dataclass
class Case:
    """A network and how to call it.

    Attributes:
        unet: in eval mode.
        vector: width of the label vector (SDXL), 0 for none.
        size: (H, W) of the latents to try.
    """

    unet: nn.Module
    ldm: bool
    vector: int = 0
    size: tuple[int, int] = (16, 24)
    depth: int = 1
    guided: bool = False  # diffusers: a guidance scale enters time's MLP, and class labels
    numbered: bool = False  # diffusers: class labels are numbers, embedded as timesteps are

    def inputs(self, rows: int, seed: int = 0, dtype=torch.float32) -> dict[str, Any]:
        """Everything but the timestep, for a network call of some rows."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        context = draw(rows, TOKENS, CONTEXT)
        values: dict[str, Any] = {"x": draw(rows, 4, *self.size), "context": context}
        if self.vector:
            values["y"] = draw(rows, self.vector)
            values["time_ids"] = torch.randint(0, 99, (rows, 6), generator=generator).to(dtype)
        if self.guided:
            values |= {"timestep_cond": draw(rows, 8), "class_labels": draw(rows, 12)}
        if self.numbered:
            values["class_labels"] = torch.randint(0, 999, (rows,), generator=generator)
        return values

    def __call__(self, inputs: dict[str, Any], timestep: float) -> Tensor:
        x, context = inputs["x"], inputs["context"]
        t = torch.full((x.shape[0],), timestep)
        with torch.no_grad():
            if self.ldm:
                context = context if self.depth == 1 else [context] * self.depth
                return self.unet(x, t, context, y=inputs.get("y"))
            added = None
            if self.vector:
                added = {"text_embeds": inputs["y"], "time_ids": inputs["time_ids"]}
            more = {n: inputs[n] for n in ("timestep_cond", "class_labels") if n in inputs}
            return self.unet(x, t, context, added_cond_kwargs=added, **more).sample


def randomise(unet: nn.Module) -> nn.Module:
    """Weights that let every layer count: ldm starts its last layers at zero."""
    generator = torch.Generator().manual_seed(7)
    for parameter in unet.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise / fan**0.5 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    return unet.eval()


def ldm_unet(**changes: Any) -> nn.Module:
    module = pytest.importorskip(
        "ldm.modules.diffusionmodules.openaimodel",
        reason="pip install --no-deps stable-diffusion-sdkit; and einops, omegaconf",
        exc_type=ImportError,
    )
    options: dict[str, Any] = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": [4, 2, 1], "channel_mult": [1, 1, 2, 2], "num_heads": 8,
        "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": CONTEXT,
        "use_checkpoint": False, "legacy": False,
    }  # fmt: skip
    return randomise(module.UNetModel(**(options | changes)))


def ldm_sd1() -> Case:
    return Case(ldm_unet(), ldm=True)


def ldm_sd2() -> Case:
    unet = ldm_unet(num_heads=-1, num_head_channels=16, use_linear_in_transformer=True)
    return Case(unet, ldm=True, size=(24, 16))


def ldm_sdxl() -> Case:
    """ldm's UNet with sgm's differences: three levels, deep transformers, a vector in label_emb.

    This ldm embeds class numbers only, so its ``label_emb`` is exchanged for the MLP sgm builds for
    ``num_classes="sequential"``; both are called as ``emb + label_emb(y)``.
    """
    unet = ldm_unet(
        channel_mult=[1, 2, 2], attention_resolutions=[4, 2], num_heads=-1, num_head_channels=16,
        use_linear_in_transformer=True, num_classes=10, context_dim=[CONTEXT, CONTEXT],
        transformer_depth=2,
    )  # fmt: skip
    mlp = nn.Sequential(nn.Linear(20, 128), nn.SiLU(), nn.Linear(128, 128))
    unet.label_emb = randomise(nn.Sequential(mlp))
    return Case(unet, ldm=True, vector=20, depth=2, size=(24, 32))


def ldm_updown() -> Case:
    """Blocks that change the size themselves, and scale and shift instead of adding."""
    unet = ldm_unet(resblock_updown=True, use_scale_shift_norm=True, channel_mult=[1, 1, 2])
    return Case(unet, ldm=True)


def diffusers_unet(**changes: Any) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    options: dict[str, Any] = {
        "block_out_channels": (32, 32, 64, 64), "layers_per_block": 1,
        "cross_attention_dim": CONTEXT, "attention_head_dim": 8, "norm_num_groups": 8,
    }  # fmt: skip
    return randomise(diffusers.UNet2DConditionModel(**(options | changes)))


def diffusers_sd1() -> Case:
    return Case(diffusers_unet(), ldm=False)


def large_unet() -> nn.Module:
    """For large latents: no attention at their full size, or the tests would take minutes."""
    return diffusers_unet(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def diffusers_odd() -> Case:
    return Case(large_unet(), ldm=False, size=(63, 65))


def diffusers_wide() -> Case:
    return Case(large_unet(), ldm=False, size=(64, 96))


def diffusers_sd2() -> Case:
    unet = diffusers_unet(attention_head_dim=(2, 4, 4, 4), use_linear_projection=True)
    return Case(unet, ldm=False, size=(24, 16))


def diffusers_sdxl() -> Case:
    unet = diffusers_unet(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
    )  # fmt: skip
    return Case(unet, ldm=False, vector=20, size=(24, 32))


def diffusers_scale_shift() -> Case:
    unet = diffusers_unet(
        resnet_time_scale_shift="scale_shift", block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        time_embedding_act_fn="silu",
    )  # fmt: skip
    return Case(unet, ldm=False)


def diffusers_guided() -> Case:
    """A distilled model's guidance embedding ahead of the MLP, class labels beside its result."""
    unet = diffusers_unet(
        time_cond_proj_dim=8, class_embed_type="simple_projection", class_embeddings_concat=True,
        projection_class_embeddings_input_dim=12, block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Case(unet, ldm=False, guided=True)


def diffusers_numbered() -> Case:
    """Class labels go through the sinusoids of time, which are called a second time."""
    unet = diffusers_unet(
        class_embed_type="timestep", block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Case(unet, ldm=False, numbered=True)


MAKERS = {
    maker.__name__: maker
    for maker in (
        ldm_sd1, ldm_sd2, ldm_sdxl, ldm_updown, diffusers_sd1, diffusers_sd2, diffusers_sdxl,
        diffusers_scale_shift, diffusers_guided, diffusers_numbered, diffusers_odd, diffusers_wide,
    )
}  # fmt: skip
