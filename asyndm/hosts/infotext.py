"""The settings as one short line in an image's parameters, and back.

``AsynDM: curvature=0.7; objects=shark:0.7, bike``: what differs from the defaults, so that an
image made with the defaults says ``AsynDM: on``.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from asyndm.core.expression import MOST_LETTERS
from asyndm.core.settings import Settings, SettingsError

KEY = "AsynDM"
# Why an image was made synchronously although AsynDM was asked for; never pasted.
NOTE_KEY = "AsynDM note"
# Which AsynDM made an image; CHANGELOG tells what changed its pictures since.
VERSION_KEY = "AsynDM version"
_ON = "on"
_SAFE = " ,:.'!?()[]{}<>/*+-_@#$&|~^"  # readable; ; and = part the settings, % escapes
_TYPES = {field.name: type(field.default) for field in dataclasses.fields(Settings)}


def to_text(settings: Settings) -> str:
    """The changed settings as ``name=value; name=value``, or "on" where there are none."""
    changed = settings.changed()
    changed.pop("enabled", None)  # that the key is there says so
    if len(settings.objects) > MOST_LETTERS:  # such an expression is refused, not used
        changed.pop("objects", None)
    # What an image does not depend on stays out of its parameters.
    for name in ("show_masks", "save_masks"):
        changed.pop(name, None)
    return "; ".join(f"{name}={_write(value)}" for name, value in changed.items()) or _ON


def from_text(text: str) -> Settings:
    """The inverse of :func:`to_text`; the result is enabled.

    Raises:
        SettingsError: a part that is not ``name=value``, an unknown name or an unusable value.
    """
    values: dict[str, Any] = {"enabled": True}
    if text.strip() != _ON:
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, equals, value = part.partition("=")
            name = name.strip()
            if not equals or name not in _TYPES:
                raise SettingsError(f"AsynDM: {part!r} in the image's parameters is no setting.")
            values[name] = _read(name, value)
    return Settings.from_dict(values)


def pasted(parameters: Mapping[str, Any]) -> Settings:
    """The settings of parsed image parameters; the defaults (off) where the key is absent.

    A line that cannot be read counts as absent: a foreign image must not stop a paste.
    """
    try:
        return from_text(str(parameters[KEY])) if KEY in parameters else Settings()
    except SettingsError:
        return Settings()


def _write(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    # Spaces at the ends would be lost to whoever strips the line.
    return re.sub(r"^ | $", "%20", "".join(map(_kept, str(value))))


def _kept(c: str) -> str:
    """A character as it stands if people can read it, else by percent signs."""
    if c in _SAFE or c.isalnum() or (ord(c) > 0x7F and c.isprintable()):
        return c
    if ord(c) > 0x7F and unicodedata.category(c)[0] == "M" or c in "\u200d\u200c":
        return c
    return quote(c, safe="")


def _read(name: str, value: str) -> Any:
    text = unquote(value.strip() if _TYPES[name] is not str else value)
    if _TYPES[name] is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text
