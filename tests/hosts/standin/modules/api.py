"""Stands for ``modules/api/api.py``: requests as keyword arguments, answers in base64."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from modules import scripts, sd_samplers, shared
from modules.infotext_utils import FIELDS, parse_generation_parameters
from modules.processing import (
    Processed,
    StableDiffusionProcessing,
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
    process_images,
)


@dataclass
class Response:
    images: list[str]
    info: str


class Api:
    def __init__(self) -> None:
        self.runners = {False: scripts.scripts_txt2img, True: scripts.scripts_img2img}
        for runner in self.runners.values():
            runner.setup_ui()
        self._defaults = {key: runner.defaults() for key, runner in self.runners.items()}

    def get_samplers(self) -> list[dict[str, Any]]:
        return [
            {"name": s.name, "aliases": s.aliases, "options": s.options}
            for s in sd_samplers.all_samplers
        ]

    def text2imgapi(self, **asked: Any) -> Response:
        return self._make(StableDiffusionProcessingTxt2Img, False, asked)

    def img2imgapi(self, **asked: Any) -> Response:
        if asked.get("mask"):
            asked["mask"] = _decoded(asked["mask"])
        asked["init_images"] = [_decoded(image) for image in asked["init_images"]]
        return self._make(StableDiffusionProcessingImg2Img, True, asked)

    def _make(
        self, kind: type[StableDiffusionProcessing], is_img2img: bool, asked: dict[str, Any]
    ) -> Response:
        runner = self.runners[is_img2img]
        arguments = list(self._defaults[is_img2img])
        text = asked.pop("infotext", None)
        if text:
            self._paste(text, runner, asked, arguments)
        for title, given in asked.pop("alwayson_scripts", {}).items():
            script = self._script(title, runner.alwayson_scripts)
            values = given.get("args", [])[: script.args_to - script.args_from]
            arguments[script.args_from : script.args_from + len(values)] = values
        title, values = asked.pop("script_name", None), asked.pop("script_args", [])
        if title:
            script = self._script(title, runner.selectable_scripts)
            arguments[script.args_from : script.args_to] = values
            arguments[0] = runner.selectable_scripts.index(script) + 1
        name, scheduler = sd_samplers.get_sampler_and_scheduler(
            asked.get("sampler_name") or "Euler", asked.get("scheduler")
        )
        asked["sampler_name"] = name
        if not asked.get("scheduler") and scheduler != "Automatic":
            asked["scheduler"] = scheduler
        if asked.pop("save_images", False):
            asked["do_not_save_samples"] = False
        p = kind(shared.sd_model, **asked)
        p.scripts, p.script_args = runner, arguments
        shared.state.begin()
        try:
            processed: Processed = runner.run(p, *arguments) if title else process_images(p)
        finally:
            shared.state.end()
        return Response([_encoded(image) for image in processed.images], processed.js())

    @staticmethod
    def _paste(text: str, runner: Any, asked: dict[str, Any], arguments: list[Any]) -> None:
        """What a request does not say is taken from an image's parameters."""
        found = parse_generation_parameters(text)
        kinds = StableDiffusionProcessing._defaults
        for name, label in FIELDS.items():
            if name not in asked and label in found:
                kind = type(kinds[name])
                asked[name] = found[label] if kinds[name] is None else kind(found[label])
        for field in runner.infotext_fields:
            value = field.function(found) if field.function else found.get(field.label)
            at = next((i for i, c in enumerate(runner.inputs) if c is field.component), None)
            if value is not None and at is not None:
                arguments[at] = value

    @staticmethod
    def _script(title: str, among: list[Any]) -> Any:
        for script in among:
            if script.title().lower() == title.lower():
                return script
        raise LookupError(f"no script {title!r}")


def _decoded(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def _encoded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
