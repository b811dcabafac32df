"""A pipeline with the real one's requests and results, but pictures out of thin air: fast."""

from __future__ import annotations

import numpy as np
from PIL import Image

from asyndm.core.settings import Settings, SettingsError
from asyndm.core.words import match_objects, objects_of
from asyndm.scenes.checker import Verdict
from asyndm.scenes.pipeline import Film, Request, Result, Tokenizer
from asyndm.scenes.text import parse_prompt


class FakePipeline:
    """Remembers what it was asked (``asked``); ``broken`` is raised instead of an answer."""

    def __init__(self, broken: Exception | None = None) -> None:
        self.tokenizer, self.world, self.digest = Tokenizer(), "auroras", ""
        self.asked: list[tuple[Request, Settings, tuple[str, ...]]] = []
        self.broken = broken

    def generate(
        self, request, settings, methods=("synchronous", "concave", "asyndm"), progress=None
    ):
        self.asked.append((request, settings, tuple(methods)))
        if self.broken:
            raise self.broken
        parse_prompt(request.prompt)
        tokens = self.tokenizer.tokens(request.prompt)
        objects = list(objects_of(request.prompt, settings.objects))
        matched, unmatched = match_objects(objects, tokens)
        if settings.mask_source == "given" and request.painted is None:
            raise SettingsError("painted mask: it is missing.")
        if progress:
            progress(0.5, "half way")
        pictures = {
            m: [Image.new("RGB", (64, 64), (90, 40 * i, 90))] for i, m in enumerate(methods)
        }
        verdict = Verdict(
            False, (("circle", True), ("square", False)), "circle: yes; square: missing", 1, 2
        )
        film = None
        if "asyndm" in methods:
            maps = [np.eye(16) for _ in range(request.steps)]
            film = Film(maps, [500 + 100 * m for m in maps], pictures["asyndm"] * request.steps)
        notes = [f"objects: {word!r} is not in the prompt." for word in unmatched]
        verdicts = {method: [verdict] for method in methods}
        return Result(pictures, verdicts, tokens, objects, matched, unmatched, film, notes)
