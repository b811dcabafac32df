"""ImageReward (Xu et al. 2023, 2304.05977) from its own weights, by transformers' BLIP classes.

The package itself does not import beside recent transformers. Its folder: ``ImageReward.pt`` and
``med_config.json`` as published, and the vocabulary ``vocab.txt`` of bert-base-uncased.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .base import Absent, Options, Score, Value, hash_of, libraries

_MEAN, _DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the training set's rewards
_TOKENS = 35
_COLOUR_MEAN = (0.48145466, 0.4578275, 0.40821073)
_COLOUR_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_HEAD_WIDTH = 64  # of a vision transformer's head
# the published names of the vision tower -> transformers'
_NAMES = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^blocks\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)


class ImageReward(Score):
    """What people prefer, in standard deviations."""

    name = "imagereward"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.path = options.path(
            self.name, self.name, "ImageReward.pt, med_config.json, bert-base-uncased's vocab.txt"
        )
        try:
            self._load(self.path)
        except Exception as error:  # of many kinds: files, pickles, shapes
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Absent(f"{self.name}: {self.path} cannot be loaded ({why:.120}).") from None

    def _load(self, path: Path) -> None:
        from transformers import BertTokenizer

        state = torch.load(path / "ImageReward.pt", map_location="cpu", weights_only=True)
        config = json.loads((path / "med_config.json").read_text("utf-8"))
        vision = _taken(state, "blip.visual_encoder.")
        self.vision = _vision_tower(vision)
        self.text = _text_tower(_taken(state, "blip.text_encoder."), config, vision)
        self.head = _head(_taken(state, "mlp.layers."))
        self.side = self.vision.config.image_size
        self.tokenizer = BertTokenizer(str(path / "vocab.txt"), do_lower_case=True)
        for part in (self.vision, self.text, self.head):
            part.eval().to(self.options.device)

    def version(self):
        return {"weights": hash_of(self.path), **libraries("transformers", "torch")}

    @torch.no_grad()
    def score(self, images, prompts):
        device = self.options.device
        pixels = torch.stack([_pixels(image, self.side) for image in images]).to(device)
        seen = self.vision(pixel_values=pixels).last_hidden_state
        words = self.tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt",
        ).to(device)  # fmt: skip
        read = self.text(
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
            is_decoder=False,
        ).last_hidden_state[:, 0]
        rewards = (self.head(read)[:, 0] - _MEAN) / _DEVIATION
        return [Value(float(reward)) for reward in rewards]


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def _count(state: dict[str, Tensor], pattern: str) -> int:
    found = [int(match.group(1)) for key in state if (match := re.match(pattern, key))]
    return max(found) + 1


def _vision_tower(state: dict[str, Tensor]) -> nn.Module:
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    side = patch * round((state["pos_embed"].shape[1] - 1) ** 0.5)
    tower = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=len(state["blocks.0.mlp.fc1.bias"]),
            num_hidden_layers=_count(state, r"blocks\.(\d+)\."),
            num_attention_heads=max(1, width // _HEAD_WIDTH),
            image_size=side,
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
    )
    renamed = {}
    for name, value in state.items():
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    tower.load_state_dict(renamed)
    return tower


def _text_tower(
    state: dict[str, Tensor], config: dict[str, Any], vision: dict[str, Tensor]
) -> nn.Module:
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    known = (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
        *("max_position_embeddings", "layer_norm_eps", "hidden_act"),
    )
    tower = BlipTextModel(
        BlipTextConfig(
            vocab_size=len(state["embeddings.word_embeddings.weight"]),
            encoder_hidden_size=vision["patch_embed.proj.weight"].shape[0],
            is_decoder=True,  # that is where transformers puts the cross-attention
            **{name: config[name] for name in known if name in config},
        ),
        add_pooling_layer=False,
    )
    missing, unknown = tower.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    unknown = [name for name in unknown if not name.endswith("position_ids")]
    if missing or unknown:
        raise ValueError(f"the text encoder's {(missing + unknown)[0]} does not fit")
    return tower


def _head(state: dict[str, Tensor]) -> nn.Sequential:
    """Linear layers without activations between them, as published."""
    places = sorted({int(name.partition(".")[0]) for name in state})
    layers = []
    for place in places:
        weight = state[f"{place}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": state[f"{place}.bias"]})
        layers.append(layer)
    return nn.Sequential(*layers)


def _pixels(image: Image.Image, side: int) -> Tensor:
    """[3, side, side]: the short side to ``side``, bicubic, the middle cut out, CLIP's colours."""
    image = image.convert("RGB")
    width, height = image.size
    if width < height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    image = image.crop((left, top, left + side, top + side))
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = data.reshape(side, side, 3).permute(2, 0, 1).float() / 255
    mean, deviation = torch.tensor(_COLOUR_MEAN), torch.tensor(_COLOUR_DEVIATION)
    return (pixels - mean[:, None, None]) / deviation[:, None, None]
