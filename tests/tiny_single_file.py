"""Tiny checkpoints of diffusers as one file by the names of the original code (ldm).

The names are written out from ldm's modules (openaimodel.py, model.py of the autoencoder), CLIP's
and open_clip's, not taken from diffusers' own conversion.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch

_RESNET = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip
_UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_AUTOENCODER = (
    ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"), ("conv_norm_out", "norm_out"),
    ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample"), ("resnets.", "block."),
    ("conv_shortcut", "nin_shortcut"), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"),
    ("to_v", "v"), ("to_out.0", "proj_out"),
)  # fmt: skip
_OPEN_CLIP = (
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.final_layer_norm", "ln_final"), ("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"), ("self_attn.out_proj", "attn.out_proj"),
)  # fmt: skip


def save(model: Path, file: Path) -> Path:
    """Write a checkpoint of :func:`tiny_checkpoint.save` as one file."""
    from safetensors.torch import save_file

    index = json.loads((model / "model_index.json").read_text())
    unet = _weights(model / "unet")
    layers = json.loads((model / "unet" / "config.json").read_text())["layers_per_block"]
    state = {f"model.diffusion_model.{_unet(n, unet, layers)}": v for n, v in unet.items()}
    for name, value in _weights(model / "vae").items():
        state[f"first_stage_model.{_autoencoder(name)}"] = (
            value[..., None, None] if "attentions" in name and value.ndim == 2 else value
        )  # its projections are convolutions of 1x1 there
    text = _weights(model / "text_encoder")
    if "text_encoder_2" in index:
        start = "conditioner.embedders.0.transformer."
        state |= {start + name: value for name, value in text.items()}
        second = _weights(model / "text_encoder_2")
        state |= _open_clip(second, "conditioner.embedders.1.model.")
    elif "v_prediction" in (model / "scheduler" / "scheduler_config.json").read_text():
        width = len(text["text_model.final_layer_norm.bias"])
        text["text_projection.weight"] = torch.randn(width, width)  # there, and not used
        state |= _open_clip(text, "cond_stage_model.model.")
    else:
        state |= {f"cond_stage_model.transformer.{n}": v for n, v in text.items()}
    save_file({name: value.contiguous().clone() for name, value in state.items()}, file)
    return file


def configuration(model: Path, folder: Path) -> Path:
    """A checkpoint's folder without its weights."""
    return Path(shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors")))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def _unet(name: str, all_names: dict, layers: int) -> str:
    part, _, kind = name.rpartition(".")
    if part in _UNET:
        return f"{_UNET[part]}.{kind}"
    if part.startswith("mid_block."):
        what, rest = re.fullmatch(r"mid_block\.(\w+\.\d)\.(.+)", name).groups()
        return f"middle_block.{_MIDDLE[what]}.{_resnet(rest, what)}"
    way, block, what, number, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name
    ).groups()
    block, number = int(block), int(number)
    place = block * (layers + 1) + number + (way == "down")
    if what == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{kind}"
    if what == "upsamplers":
        attends = any(other.startswith(f"up_blocks.{block}.attentions") for other in all_names)
        return f"output_blocks.{block * (layers + 1) + layers}.{1 + attends}.conv.{kind}"
    side = {"down": "input", "up": "output"}[way]
    return f"{side}_blocks.{place}.{int(what == 'attentions')}.{_resnet(rest, what)}"


def _resnet(name: str, what: str) -> str:
    if what.startswith("resnets"):
        for old, new in _RESNET:
            name = re.sub(rf"^{old}\.", f"{new}.", name)
    return name


def _autoencoder(name: str) -> str:
    name = re.sub(r"^encoder\.down_blocks\.", "encoder.down.", name)
    # the decoder's blocks count from the picture there
    name = re.sub(r"^decoder\.up_blocks\.(\d)", lambda at: f"decoder.up.{1 - int(at[1])}", name)
    for old, new in _AUTOENCODER:
        name = name.replace(old, new)
    return name


def _open_clip(text: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in text.items():
        if name == "text_projection.weight":
            state["text_projection"] = value.T
        elif name == "text_model.embeddings.position_embedding.weight":
            state["positional_embedding"] = value
        elif match := re.fullmatch(r"(.+\.layers\.\d+\.)self_attn\.q_proj\.(weight|bias)", name):
            three = [text[f"{match[1]}self_attn.{p}_proj.{match[2]}"] for p in "qkv"]
            block = match[1].replace(*_OPEN_CLIP[0])
            state[f"{block}attn.in_proj_{match[2]}"] = torch.cat(three)
        elif not re.search(r"self_attn\.[kv]_proj|position_ids", name):
            for old, new in _OPEN_CLIP:
                name = name.replace(old, new)
            state[name] = value
    return {start + name: value for name, value in state.items()}
