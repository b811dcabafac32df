"""Scores by name; ``module:Class`` for one's own, from the command line alone.

A class of one's own is a :class:`Score`, or anything with ``score(images, texts) -> [float]``.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from asyndm.core.settings import SettingsError

from .base import Absent, Options, Score, Value

# name -> module:class of this package
SCORES = {
    "right": "pixels:Right",
    "objects": "pixels:Objects",
    "saturation": "pixels:Saturation",
    "contrast": "pixels:Contrast",
    "noise": "pixels:Noise",
    "clipscore": "clip:ClipScore",
    "pickscore": "clip:PickScore",
    "hpsv2": "clip:HpsV2",
    "imagereward": "image_reward:ImageReward",
    "bertscore": "judge:BertScore",
    "qwenscore": "judge:QwenScore",
    "vqascore": "judge:VqaScore",
    "geneval": "detection:GenEval",
    "fid": "sets:Fid",
    "kid": "sets:Kid",
}


def open_score(name: str, options: Options) -> Score:
    """A score, ready to judge.

    Raises:
        Absent: its weights, its server or its library are missing.
        SettingsError: there is none of that name.
    """
    if ":" in name:
        return _of_ones_own(name, options)
    if name not in SCORES:
        near = difflib.get_close_matches(name, SCORES, 3)
        known = f"did you mean {' or '.join(near)}" if near else f"choose of {', '.join(SCORES)}"
        raise SettingsError(f"scores: {name!r} is unknown; {known}.")
    module, _, cls = SCORES[name].partition(":")
    try:
        found = importlib.import_module(f"asyndm.bench.alignment.scores.{module}")
        return getattr(found, cls)(options)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("asyndm"):
            raise
        raise Absent(
            f"{name}: {error.name} is not installed; run: pip install 'asyndm[bench]'."
        ) from None


def _of_ones_own(name: str, options: Options) -> Score:
    module, _, cls = name.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"scores: {name!r} cannot be loaded ({error}).") from None
    if isinstance(made, type) and issubclass(made, Score):
        made = made(options)
    else:
        made = _Wrapped(made() if isinstance(made, type) else made, options)
    made.name = name
    return made


class _Wrapped(Score):
    """A callable ``score(images, texts)``, as t2v_metrics has it."""

    def __init__(self, inner: Any, options: Options) -> None:
        super().__init__(options)
        self._call = getattr(inner, "score", inner)
        self.direction = getattr(inner, "direction", 1)
        self._version = getattr(inner, "version", "")
        if not callable(self._call):
            raise SettingsError(f"scores: {inner!r} is no function score(images, texts).")

    def version(self) -> dict[str, Any]:
        return {"version": str(self._version)}

    def score(self, images, prompts):
        values = list(self._call(images, [prompt.text for prompt in prompts]))
        if len(values) != len(images):
            raise SettingsError(
                f"scores: {self.name} gave {len(values)} values for {len(images)} pictures."
            )
        return [Value(float(value)) for value in values]
