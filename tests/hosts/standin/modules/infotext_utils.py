"""Stands for ``modules/infotext_utils.py``: the line of parameters, and the way back."""

from __future__ import annotations

import json
import re
from typing import Any

from PIL import Image

_PAIR = re.compile(r'\s*(\w[\w \-/]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")

# label by the API's name of what the host itself pastes
FIELDS = {
    "prompt": "Prompt", "negative_prompt": "Negative prompt", "steps": "Steps", "seed": "Seed",
    "cfg_scale": "CFG scale", "width": "Size-1", "height": "Size-2", "sampler_name": "Sampler",
    "scheduler": "Schedule type", "denoising_strength": "Denoising strength",
}  # fmt: skip


class PasteField(tuple):
    """A component with the label, or the function of all parameters, that fills it."""

    def __new__(cls, component: Any, target: Any, *, api: str | None = None) -> PasteField:
        return super().__new__(cls, (component, target))

    def __init__(self, component: Any, target: Any, *, api: str | None = None) -> None:
        super().__init__()
        self.component, self.api = component, api
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


def quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text


def parse_generation_parameters(text: str) -> dict[str, Any]:
    """Parameters by label, all of them strings."""
    *lines, last = text.strip().split("\n")
    if len(_PAIR.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompt, _, negative = "\n".join(lines).partition("Negative prompt:")
    found: dict[str, Any] = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    for label, value in _PAIR.findall(last):
        if value[:1] == '"':
            value = json.loads(value)
        size = _SIZE.fullmatch(value)
        if size:
            found[f"{label}-1"], found[f"{label}-2"] = size.groups()
        else:
            found[label] = value
    return {"Schedule type": "Automatic", "Clip skip": "1", **found}


def image_from_url_text(filedata: list[dict]) -> Image.Image:
    """The chosen picture of a gallery."""
    return Image.open(filedata[0]["name"])
