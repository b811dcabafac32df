"""GenEval's rules (Ghosh et al. 2023, 2310.11513) with a detector of transformers, and reasons.

The published detector is mmdet's Mask2Former (Swin-S); this takes a Mask2Former of transformers, so
figures are "GenEval-style (detector NAME)". Confidence above .3 (.9 where things are counted), at
most 16 of a class, the more confident first; colours by CLIP on the object alone over grey;
positions by the boxes' centres with a margin of .1 of both sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..geneval import COLOURS
from .base import Absent, Options, Score, Value, hash_of, libraries

CONFIDENT, CONFIDENT_COUNT = 0.3, 0.9
AT_MOST = 16
MARGIN = 0.1
_GREY = (0x99,) * 3
_SAME = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
_TEMPLATES = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")


@dataclass(frozen=True)
class Found:
    """One object: (left, top, right, bottom) in pixels, its mask bool [H, W], how sure."""

    box: tuple[float, float, float, float]
    mask: np.ndarray
    confidence: float


class GenEval(Score):
    """Whether a picture has what the prompt's ``include`` and ``exclude`` ask for."""

    name, range, rate, batch = "geneval", (0.0, 1.0), True, 1

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        from transformers import (
            AutoTokenizer,
            CLIPImageProcessor,
            CLIPModel,
            Mask2FormerForUniversalSegmentation,
            Mask2FormerImageProcessor,
        )

        where = options.path(self.name, "detector", "a Mask2Former for COCO's instances")
        clip = options.path(self.name, "colours", "CLIP ViT-L-14")
        self.paths = (where, clip)
        local = {"local_files_only": True}
        try:
            self.detector = Mask2FormerForUniversalSegmentation.from_pretrained(where, **local)
            self.processor = Mask2FormerImageProcessor.from_pretrained(where, **local)
            self.clip = CLIPModel.from_pretrained(clip, **local).eval().to(options.device)
            self.words = AutoTokenizer.from_pretrained(clip, **local)
            self.pixels = CLIPImageProcessor.from_pretrained(clip, **local)
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Absent(f"{self.name}: {where} or {clip} cannot be loaded ({why:.120}).") from None
        self.detector.eval().to(options.device)
        self._colours: dict[str, torch.Tensor] = {}

    def version(self):
        detector, clip = self.paths
        return {
            "detector": f"{detector.name} {hash_of(detector)}",
            "clip": hash_of(clip),
            **libraries("transformers", "torch"),
        }

    def score(self, images, prompts):
        values = []
        for image, prompt in zip(images, prompts):
            if not prompt.asks.get("include"):
                values.append(Value(None, "the prompt does not say what to look for"))
                continue
            image = image.convert("RGB")
            counting = prompt.asks.get("tag") == "counting"
            found = self.detect(image, CONFIDENT_COUNT if counting else CONFIDENT)
            reasons = judge(prompt.asks, found, lambda n, o, i=image: self.colours(i, n, o))
            seen = {name: len(objects) for name, objects in found.items()}
            values.append(Value(float(not reasons), "; ".join(reasons), {"found": seen}))
        return values

    @torch.no_grad()
    def detect(self, image: Image.Image, threshold: float) -> dict[str, list[Found]]:
        """Objects by the detector's class names, the surest first."""
        inputs = self.processor(image, return_tensors="pt").to(self.options.device)
        (result,) = self.processor.post_process_instance_segmentation(
            self.detector(**inputs),
            threshold=threshold,
            target_sizes=[image.size[::-1]],
            return_binary_maps=True,
        )
        segments = result["segments_info"]
        maps = [] if not segments else result["segmentation"].cpu().numpy()
        found: dict[str, list[Found]] = {}
        order = sorted(range(len(segments)), key=lambda i: -segments[i]["score"])
        for index in order:
            one, mask = segments[index], maps[index] > 0
            if one["score"] <= threshold or not mask.any():
                continue
            down, across = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            box = (across[0], down[0], across[-1] + 1, down[-1] + 1)
            name = self.detector.config.id2label[one["label_id"]]
            found.setdefault(name, []).append(
                Found(tuple(float(v) for v in box), mask, float(one["score"]))
            )
        return {name: objects[:AT_MOST] for name, objects in found.items()}

    @torch.no_grad()
    def colours(self, image: Image.Image, name: str, objects: list[Found]) -> list[str]:
        """The likeliest of ten colours of each object, cut out over grey."""
        if name not in self._colours:
            texts = [t.format(c, name) for c in COLOURS for t in _TEMPLATES]
            words = self.words(texts, padding=True, return_tensors="pt").to(self.options.device)
            states = self.clip.text_model(**words).pooler_output
            embedded = torch.nn.functional.normalize(self.clip.text_projection(states), dim=-1)
            mean = embedded.reshape(len(COLOURS), len(_TEMPLATES), -1).mean(1)
            self._colours[name] = torch.nn.functional.normalize(mean, dim=-1)
        blank = Image.new("RGB", image.size, _GREY)
        crops = [
            Image.composite(image, blank, Image.fromarray(one.mask)).crop(one.box)
            for one in objects
        ]
        pixels = self.pixels(crops, return_tensors="pt").pixel_values.to(self.options.device)
        seen = self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output)
        nearest = (seen @ self._colours[name].T).argmax(-1)
        return [COLOURS[i] for i in nearest.tolist()]


def judge(asks: dict, found: dict[str, list[Found]], colours) -> list[str]:
    """Why a picture fails; nothing where it does not.

    Args:
        asks: ``include``: all of them, each with ``class``, ``count`` and perhaps ``color`` or
            ``position`` (where, and to the objects of which entry); ``exclude``: none of them.
        found: by class, the surest first.
        colours: (class, objects) -> their colours.
    """
    reasons: list[str] = []
    groups: list[list[Found] | None] = []
    for one in asks.get("include", ()):
        reason, objects = _included(one, _of(found, one["class"]), groups, colours)
        groups.append(None if reason else objects)
        reasons += [reason] if reason else []
    for one in asks.get("exclude", ()):
        count = len(_of(found, one["class"]))
        if count >= one["count"]:
            reasons.append(f"expected fewer than {one['count']} {one['class']}, found {count}")
    return reasons


def _of(found: dict[str, list[Found]], name: str) -> list[Found]:
    return found.get(name) or found.get(_SAME.get(name, name)) or []


def _included(
    one: dict, there: list[Found], groups: list[list[Found] | None], colours
) -> tuple[str, list[Found]]:
    name, count = one["class"], one["count"]
    objects = there[:count]
    if len(objects) < count:
        return f"expected {count} {name}, found {len(objects)}", objects
    if "color" in one:
        seen = colours(name, objects)
        if seen.count(one["color"]) < count:
            return f"expected {one['color']} {name}, found {', '.join(seen)}", objects
    if "position" in one:
        place, index = one["position"]
        target = groups[index] if index < len(groups) else None
        if target is None:
            return f"nothing for {name} to be {place}", objects
        for mine in objects:
            for other in target:
                seen = relations(mine.box, other.box)
                if place not in seen:
                    where = " and ".join(sorted(seen)) or "neither side"
                    return f"expected {name} {place} it, found {where}", objects
    return "", objects


def relations(mine: tuple[float, ...], other: tuple[float, ...]) -> set[str]:
    """Where ``mine`` is seen from ``other``; boxes as (left, top, right, bottom)."""
    one, two = np.array(mine).reshape(2, 2), np.array(other).reshape(2, 2)
    offset = one.mean(0) - two.mean(0)
    slack = MARGIN * (np.ptp(one, axis=0) + np.ptp(two, axis=0))
    beyond = np.maximum(np.abs(offset) - slack, 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():
        return set()
    x, y = beyond / np.linalg.norm(offset)
    names = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in names.items() if holds}
