"""Scores that need nothing but the picture: the small world's checker, and looks."""

from __future__ import annotations

import hashlib
import inspect

import numpy as np
from scipy import ndimage

from asyndm.scenes import checker
from asyndm.scenes.text import PromptError, parse_prompt
from asyndm.scenes.world import SIZE

from ..drawing import looks
from .base import Score, Value


class _Checked(Score):
    range = (0.0, 1.0)

    def version(self):
        source = inspect.getsource(checker)
        return {"checker": hashlib.sha256(source.encode()).hexdigest()[:16]}

    def score(self, images, prompts):
        values = []
        for image, prompt in zip(images, prompts):
            try:
                wish = parse_prompt(prompt.text)
            except PromptError:
                values.append(Value(None, "the prompt is not the embedded model's"))
                continue
            if image.size != (SIZE, SIZE):
                values.append(Value(None, f"the picture is not {SIZE}x{SIZE}"))
                continue
            verdict = checker.check(image.convert("RGB"), wish)
            failed = "" if verdict.right else verdict.sentence
            values.append(Value(self.of(verdict), failed))
        return values

    def of(self, verdict: checker.Verdict) -> float:
        raise NotImplementedError


class Right(_Checked):
    """Exactly what the prompt asks for, and nothing else."""

    name, rate = "right", True

    def of(self, verdict):
        return float(verdict.right)


class Objects(_Checked):
    """The share of the asked objects that are there."""

    name = "objects"

    def of(self, verdict):
        return verdict.objects_right / verdict.objects_asked


class Saturation(Score):
    """Mean of HSV's saturation, 0 to 1."""

    name, direction, range = "saturation", 0, (0.0, 1.0)

    def score(self, images, prompts):
        return [Value(looks(image)[self.name]) for image in images]


class Contrast(Saturation):
    """Standard deviation of the luma, 0 to 0.5."""

    name, range = "contrast", (0.0, 0.5)


class Noise(Score):
    """Standard deviation of the finest grain in grey levels (Immerkaer 1996), as a median."""

    name, direction, range = "noise", -1, (0.0, 255.0)

    def score(self, images, prompts):
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float)
        values = []
        for image in images:
            grey = np.asarray(image.convert("RGB"), float).mean(-1)
            grain = np.abs(ndimage.convolve(grey, kernel))[1:-1, 1:-1]
            values.append(Value(float(np.median(grain) / (6 * 0.6745))))
        return values
