"""Stable Diffusion in miniature: random weights in the real folder layout of diffusers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from clip_pieces import ids, merges

WIDTH = 24


def words() -> None:
    """Skip the test where no text encoder can be built."""
    pytest.importorskip("transformers", reason="pip install 'asyndm[bench]'")
    if importlib.util.find_spec("clip") is None:
        pytest.skip("CLIP's vocabulary: requirements/networks.txt")


def save(
    folder: Path, xl: bool = False, two: bool = False, inpaints: bool = False, **scheduler
) -> Path:
    """Write a checkpoint of the kind of Stable Diffusion 1.5, 2.1 or XL; its latents are 16x16.

    Args:
        two: of 2.1, which predicts v.
        inpaints: its network takes a mask and the masked picture, nine channels.
        scheduler: changes of its configuration.
    """
    words()
    import diffusers
    import transformers

    vocabulary = folder / "words"
    vocabulary.mkdir(parents=True)
    (vocabulary / "vocab.json").write_text(json.dumps(ids()), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (vocabulary / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    tokenizer = transformers.CLIPTokenizer(
        str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"), model_max_length=77
    )
    text = {
        "vocab_size": len(ids()), "hidden_size": WIDTH, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": WIDTH,
        "bos_token_id": 49406, "eos_token_id": 49407,
    }  # fmt: skip
    torch.manual_seed(0)
    unet = {
        "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1,
        "cross_attention_dim": WIDTH, "attention_head_dim": 4, "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    if xl:
        unet |= {
            "cross_attention_dim": 2 * WIDTH, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
            "use_linear_projection": True,
        }  # fmt: skip
    if two:
        unet |= {"use_linear_projection": True, "attention_head_dim": (2, 4)}
        scheduler = {"prediction_type": "v_prediction", **scheduler}
    if inpaints:
        unet |= {"in_channels": 9}
    parts = {
        "unet": diffusers.UNet2DConditionModel(**unet),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
            sample_size=32,
        ),
        "tokenizer": tokenizer,
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        "scheduler": diffusers.DDIMScheduler(**{
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **scheduler,
        }),
    }  # fmt: skip
    kind = f"StableDiffusion{'XL' if xl else ''}{'Inpaint' if inpaints else ''}Pipeline"
    if xl:
        second = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text))
        parts |= {"text_encoder_2": second, "tokenizer_2": tokenizer}
    else:
        parts |= {
            "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
        }  # fmt: skip
    pipe = getattr(diffusers, kind)(**parts)
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def save_control(folder: Path, model: Path) -> Path:
    """Write a ControlNet for a checkpoint of :func:`save`, with hints that are not 0."""
    import diffusers

    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet")
    torch.manual_seed(1)
    control = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    for weights in control.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.02)
    control.save_pretrained(folder)
    return folder
