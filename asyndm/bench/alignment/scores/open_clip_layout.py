"""CLIPs in open_clip's layout (HPSv2, LAION's own files), by transformers' CLIP and a map of names.

open_clip itself needs torchvision. Such a checkpoint is one file; beside it lie CLIP's vocabulary
``vocab.json`` and ``merges.txt``, and ``open_clip_config.json`` where there is one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FILES = ("*.pt", "*.bin", "*.safetensors", "*.pth")
_WORDS = ("vocab.json", "merges.txt")
_HEAD = 64  # channels of a head, but for these widths of the vision tower (ViT-H, -g, -bigG)
_HEADS = {1280: 80, 1408: 88, 1664: 104}
# open_clip's names within a block -> transformers'
_BLOCK = (
    ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"), ("attn.out_proj", "self_attn.out_proj"),
)  # fmt: skip
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TURNED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
_RESBLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")


def checkpoint_in(path: Path) -> Path | None:
    """The file of a CLIP in open_clip's layout; None where it is a folder of transformers'.

    Raises:
        ValueError: several files, or none.
    """
    if path.is_file():
        return path
    if (path / "config.json").exists():
        return None
    found = [one for pattern in _FILES for one in sorted(path.glob(pattern))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} checkpoints and no config.json")
    return found[0]


def load(file: Path) -> tuple[Any, Any, Any]:
    """(model, tokeniser, picture processor) of transformers.

    Raises:
        ValueError: weights that are not of this layout, or no vocabulary.
    """
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    for name in _WORDS:
        if not (file.parent / name).exists():
            raise ValueError(f"{name} of CLIP's vocabulary is not beside it")
    config, state = _config_beside(file), _state(file)
    model = CLIPModel(_config_of(state, config))
    missing, unknown = model.load_state_dict(renamed(state), strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unknown:
        raise ValueError(f"{(missing + unknown)[0]} does not fit")
    side = model.config.vision_config.image_size
    words = CLIPTokenizer(*(str(file.parent / name) for name in _WORDS), model_max_length=77)
    pictures = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return model.eval(), words, pictures


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under transformers' names; queries, keys and values apart."""
    found = {}
    for name, value in state.items():
        if name in _NAMES:
            found[_NAMES[name]] = value
        elif name in _TURNED:
            found[_TURNED[name]] = value.T.contiguous()
        elif match := _RESBLOCK.fullmatch(name):
            tower = "vision_model" if match[1] else "text_model"
            layer, rest = f"{tower}.encoder.layers.{match[2]}", match[3]
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for part, each in zip("qkv", value.chunk(3)):
                    found[f"{layer}.self_attn.{part}_proj.{kind}"] = each.contiguous()
                continue
            for own, new in _BLOCK:
                if rest.startswith(f"{own}."):
                    rest = new + rest.removeprefix(own)
            found[f"{layer}.{rest}"] = value
        elif name != "attn_mask":
            found[name] = value  # refused by whoever loads them
    return found


def _state(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {
        name.removeprefix("module."): value.float()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _config_beside(file: Path) -> dict[str, Any]:
    path = file.parent / "open_clip_config.json"
    return json.loads(path.read_text("utf-8"))["model_cfg"] if path.exists() else {}


def _config_of(state: dict[str, Tensor], told: dict[str, Any]) -> Any:
    """What shapes tell; heads and activation by the file beside it, else by the known models."""
    from transformers import CLIPConfig

    if "visual.conv1.weight" not in state or "token_embedding.weight" not in state:
        raise ValueError("it is no CLIP with a vision transformer in open_clip's layout")
    width, _, patch, _ = state["visual.conv1.weight"].shape
    words, text = state["token_embedding.weight"].shape
    places = len(state["visual.positional_embedding"]) - 1
    head = told.get("vision_cfg", {}).get("head_width", _HEADS.get(width, _HEAD))
    act = "quick_gelu" if told.get("quick_gelu") else "gelu"
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5}
    return CLIPConfig(
        text_config={
            "vocab_size": words,
            "hidden_size": text,
            "num_hidden_layers": _layers(state, ""),
            "num_attention_heads": told.get("text_cfg", {}).get("heads", max(1, text // _HEAD)),
            "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.bias"]),
            "max_position_embeddings": len(state["positional_embedding"]),
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            **shared,
        },
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": _layers(state, "visual."),
            "num_attention_heads": max(1, width // head),
            "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.bias"]),
            "image_size": patch * round(places**0.5),
            "patch_size": patch,
            **shared,
        },
        projection_dim=state["text_projection"].shape[1],
    )


def _layers(state: dict[str, Tensor], tower: str) -> int:
    found = [match for name in state if (match := _RESBLOCK.fullmatch(name))]
    return 1 + max(int(match[2]) for match in found if (match[1] or "") == tower)
