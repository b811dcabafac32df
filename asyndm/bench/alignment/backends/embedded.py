"""The embedded model of this repository: its grammar, its checker, no download."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from asyndm.bench.scenes import PRECISIONS
from asyndm.core.settings import RULES, SettingsError
from asyndm.core.sigmas import SCHEDULES
from asyndm.page.preview import mean_mask
from asyndm.scenes.model import weights_file
from asyndm.scenes.pipeline import Request, Sampled, ScenePipeline
from asyndm.scenes.text import COUPLINGS, PromptError, parse_prompt

from ..adaptive import LOOK, Glimpse
from ..methods import Method
from ..prompt_sets import Prompt
from .base import Backend, Drawn, Job, Setup

_CLOCKS = {"asynchronous": "asyndm"}


class Embedded(Backend):
    """Draws on the CPU or a GPU, methods as ``bench scenes`` has them.

    Args:
        where: a world's name, or a file of weights; "" = the default world.

    Raises:
        SettingsError: a value of the setup that it does not know, or no such weights.
    """

    batch = 25
    scores = ("right", "objects", "saturation", "contrast", "noise")

    def __init__(self, where: str, setup: Setup) -> None:
        if setup.coupling not in COUPLINGS:
            raise SettingsError(f"coupling: {setup.coupling:g} is unknown; choose of 0, 0.5, 1.")
        _known("rule", setup.rule, RULES)
        _known("schedule", setup.schedule, SCHEDULES)
        _known("precision", setup.precision, PRECISIONS)
        if setup.size is not None:
            raise SettingsError("size: the embedded model draws 64x64; leave it out.")
        default = Request("a circle")
        cfg = default.cfg if setup.cfg is None else setup.cfg
        self.request = Request(
            "a circle",
            steps=setup.steps,
            cfg=cfg,
            rule=setup.rule or default.rule,
            schedule=setup.schedule or default.schedule,
            coupling=setup.coupling,
        )
        self.setup = replace(setup, cfg=cfg, rule=self.request.rule, schedule=self.request.schedule)
        self.path = weights_file(where or None)
        try:
            pipeline = ScenePipeline.load(self.path)
        except Exception as error:  # no such file, or that of another model
            why = str(error).splitlines()[0]
            raise SettingsError(f"weights: {self.path} cannot be used ({why:.100}).") from None
        self.pipeline = pipeline.to(setup.options.get("device") or "cpu")

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        return {"backend": "embedded", "weights": digest}

    def check(self, methods: list[Method], prompts: list[Prompt]) -> None:
        for prompt in prompts:
            try:
                parse_prompt(prompt.text)
            except PromptError as error:
                raise SettingsError(
                    f"prompts: number {prompt.number + 1}, {prompt.text!r:.80}, cannot be drawn by "
                    f"the embedded model: {error}"
                ) from None
        for method in methods:
            if method.steps is not None or method.w is not None:
                self._asked(method)

    def _asked(self, method: Method) -> Request:
        w, steps = method.w, method.steps
        return replace(
            self.request,
            cfg=self.request.cfg if w is None else w,
            steps=self.request.steps if steps is None else steps,
        )

    def _sampled(self, jobs: list[Job], steps: int | None = None) -> Sampled:
        method, device = jobs[0].method, self.pipeline.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.setup.precision == "bfloat16"):
            return self.pipeline.sample(
                [job.prompt.text for job in jobs],
                [job.seed for job in jobs],
                _CLOCKS.get(method.clock, method.clock),
                method.settings_for(jobs[0].prompt.text),
                self._asked(method),
                record=method.clock in ("asynchronous", "oracle"),
                grid=method.grid,
                steps=steps,
            )

    def glimpse(self, jobs: list[Job]) -> list[Glimpse]:
        sampled = self._sampled(jobs, LOOK)
        shares = sampled.director.history.last.float().mean((1, 2)).tolist()
        counts = [parse_prompt(job.prompt.text).total for job in jobs]
        rows = [one.rows for one in sampled.measured]
        return [Glimpse(*each) for each in zip(counts, shares, rows)]

    def draw(self, jobs: list[Job]) -> list[Drawn]:
        start = time.perf_counter()
        sampled = self._sampled(jobs)
        pixels = self.pipeline.model.decode_pixels(sampled.latents).numpy()
        seconds = (time.perf_counter() - start) / len(jobs)
        frames = sampled.director.history.frames() if sampled.director.history else []
        masks = [mean_mask(frames, j) if frames else None for j in range(len(jobs))]
        return [
            Drawn(Image.fromarray(picture), one.rows, seconds, one.w_eff, mask=mask)
            for picture, one, mask in zip(pixels, sampled.measured, masks)
        ]


def _known(name: str, value: str | None, known: Any) -> None:
    if value is not None and value not in known:
        raise SettingsError(f"{name}: {value!r} is unknown; choose one of {', '.join(known)}.")
