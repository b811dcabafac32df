"""Scores of CLIP's kind, from a folder in transformers' layout, or open_clip's.

CLIPScore is the cosine (Hessel et al. 2021, 2104.08718, without its factor 2.5 and its floor, as
the authors' table has it, in ViT-H-14); HPSv2 (2306.09341) is the cosine, too, of the whole picture
in a square; PickScore (2305.01569) is the cosine times the model's logit scale.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import open_clip_layout
from .base import Absent, Options, Score, Value, hash_of, libraries


class ClipScore(Score):
    """The cosine between picture and prompt."""

    name, range = "clipscore", (-1.0, 1.0)
    weights = "CLIP ViT-H-14 laion2b-s32b-b79k in the authors' table"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        self.path = options.path(self.name, self.name, self.weights)
        try:
            file = open_clip_layout.checkpoint_in(self.path)
            if file is not None:
                made = open_clip_layout.load(file)
            else:
                kinds = (CLIPModel, AutoTokenizer, CLIPImageProcessor)
                made = [kind.from_pretrained(self.path, local_files_only=True) for kind in kinds]
            self.model, self.tokenizer, self.processor = made
        except Exception as error:  # of many kinds: files, JSON, shapes
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Absent(f"{self.name}: {self.path} cannot be loaded ({why:.120}).") from None
        self.model.eval().to(options.device)

    def version(self):
        return {"weights": hash_of(self.path), **libraries("transformers", "torch")}

    @torch.no_grad()
    def score(self, images, prompts):
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length", truncation=True, max_length=longest, return_tensors="pt",
        )  # fmt: skip
        inputs = {
            "input_ids": words.input_ids,
            "attention_mask": words.attention_mask,
            "pixel_values": self.pixels([image.convert("RGB") for image in images]),
        }
        out = self.model(**{name: each.to(self.options.device) for name, each in inputs.items()})
        cosine = torch.cosine_similarity(out.image_embeds, out.text_embeds, dim=-1)
        return [Value(float(value)) for value in cosine * self.factor()]

    def pixels(self, images: list[Image.Image]) -> Tensor:
        """[B, 3, side, side] of RGB pictures."""
        return self.processor(images, return_tensors="pt").pixel_values

    def factor(self) -> float:
        return 1.0


class HpsV2(ClipScore):
    """What people prefer, as the cosine of a CLIP that was tuned to it."""

    name = "hpsv2"
    weights = "HPS_v2.1_compressed.pt as published, with CLIP's vocab.json and merges.txt beside it"

    def pixels(self, images):
        """The long side as the model's, black beside the short one: nothing is cut off."""
        side, config = self.model.config.vision_config.image_size, self.processor
        mean, deviation = (
            torch.tensor(each)[:, None, None] for each in (config.image_mean, config.image_std)
        )
        return torch.stack([(_padded(image, side) - mean) / deviation for image in images])


class PickScore(ClipScore):
    """What users of Pick-a-Pic prefer."""

    name, range = "pickscore", (-100.0, 100.0)
    weights = "PickScore_v1"

    def factor(self) -> float:
        return float(self.model.logit_scale.exp())


def _padded(image: Image.Image, side: int) -> Tensor:
    """[3, side, side] within about 0 and 1."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    longest = max(pixels.shape[1:])
    height, width = (round(each * side / longest) for each in pixels.shape[1:])
    if longest != side:
        pixels = F.interpolate(
            pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False
        )[0]
    down, across = side - height, side - width
    return F.pad(pixels, (across // 2, across - across // 2, down // 2, down - down // 2))
