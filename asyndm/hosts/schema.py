"""What an API client may send, as a JSON schema made from the settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from asyndm.core.settings import CHOICES, RANGES, SAID, Settings
from asyndm.page.controls import WEBUI_FIELDS


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what :func:`asyndm.hosts.webui.read_arguments` takes."""
    properties: dict[str, Any] = {}
    for setting in dataclasses.fields(Settings):
        if setting.name not in WEBUI_FIELDS:
            continue
        default = True if setting.name == "enabled" else setting.default
        if setting.name in CHOICES:
            described = {"enum": [*CHOICES[setting.name], *SAID.get(setting.name, ())]}
        elif setting.name in RANGES:
            low, high = RANGES[setting.name]
            described = {"type": "number", "minimum": low, "maximum": high}
        else:
            described = {"type": "boolean" if isinstance(default, bool) else "string"}
        properties[setting.name] = {**described, "default": default}
    properties["preset"] = {"type": "string"}
    picture = {"type": "string", "contentEncoding": "base64"}
    low, high = RANGES["curvature"]
    k = {"type": "number", "minimum": low, "maximum": high}
    entry = {"mask": picture, "k": k, "word": {"type": "string"}}
    properties["mask"] = picture
    properties["masks"] = {
        "type": "array",
        "items": {
            "type": "object",
            "properties": entry,
            "required": ["mask"],
            "additionalProperties": False,
        },
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}
