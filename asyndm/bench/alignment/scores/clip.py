"""Scores of CLIP's kind, from a folder in transformers' layout.

CLIPScore is the cosine (Hessel et al. 2021, 2104.08718, without its factor 2.5 and its floor, as
the authors' table has it, in ViT-H-14); HPSv2 (2306.09341) is the cosine, too; PickScore
(2305.01569) is the cosine times the model's logit scale.
"""

from __future__ import annotations

import torch

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
            self.model = CLIPModel.from_pretrained(self.path, local_files_only=True).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            self.processor = CLIPImageProcessor.from_pretrained(self.path, local_files_only=True)
        except Exception as error:  # of many kinds: files, JSON, shapes
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Absent(f"{self.name}: {self.path} cannot be loaded ({why:.120}).") from None
        self.model.to(options.device)

    def version(self):
        return {"weights": hash_of(self.path), **libraries("transformers", "torch")}

    @torch.no_grad()
    def score(self, images, prompts):
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length", truncation=True, max_length=longest, return_tensors="pt",
        )  # fmt: skip
        pixels = self.processor([image.convert("RGB") for image in images], return_tensors="pt")
        inputs = {
            "input_ids": words.input_ids,
            "attention_mask": words.attention_mask,
            "pixel_values": pixels.pixel_values,
        }
        out = self.model(**{name: each.to(self.options.device) for name, each in inputs.items()})
        cosine = torch.cosine_similarity(out.image_embeds, out.text_embeds, dim=-1)
        return [Value(float(value)) for value in cosine * self.factor()]

    def factor(self) -> float:
        return 1.0


class HpsV2(ClipScore):
    """What people prefer, as the cosine of a CLIP that was tuned to it."""

    name = "hpsv2"
    weights = "HPSv2 in transformers' layout"


class PickScore(ClipScore):
    """What users of Pick-a-Pic prefer."""

    name, range = "pickscore", (-100.0, 100.0)
    weights = "PickScore_v1"

    def factor(self) -> float:
        return float(self.model.logit_scale.exp())
