"""The settings as one short line in an image's parameters, and back.

``AsynDM: curvature=0.7; objects=shark:0.7, bike``: what differs from the defaults, so that an
image made with the defaults says ``AsynDM: on``. Words that nobody wrote stand behind them, as
``found=shark, bike``: they are no setting, and hold for that image's prompt alone.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

from asyndm.core.expression import MOST_LETTERS, read_expression
from asyndm.core.found import Found, join_found, mark, split_found
from asyndm.core.settings import Settings, SettingsError

log = logging.getLogger("asyndm")
_last = threading.local()  # what this thread pasted last

KEY = "AsynDM"
# Why an image was made synchronously although AsynDM was asked for; never pasted.
NOTE_KEY = "AsynDM note"
# Which AsynDM made an image; CHANGELOG tells what changed its pictures since.
VERSION_KEY = "AsynDM version"
# What the automatic choice took, and where it differs, what it took of the hires pass's prompt.
FOUND, FOUND_HIRES = "found", "found_hires"
_TELLS_FOUND = (0, 2)  # the first version whose images do
# What a guided image cost: counted network rows, effective guidance; never pasted.
MEASURED_KEY = "AsynDM measured"
# The table that levelled norms went by: other tables make slightly other pictures.
NORMS_KEY = "AsynDM norms"
# The profile of the learned curve, with a mark of its knots.
PROFILE_KEY = "AsynDM profile"
KEYS = (KEY, NOTE_KEY, VERSION_KEY, MEASURED_KEY, NORMS_KEY, PROFILE_KEY)
_ON = "on"
_SAFE = " ,:.'!?()[]{}<>/*+-_@#$&|~^"  # readable; ; and = part the settings, % escapes
_TYPES = {field.name: type(field.default) for field in dataclasses.fields(Settings)}


def to_text(
    settings: Settings,
    found: Sequence[str] = (),
    hires: Sequence[str] = (),
    always: Sequence[str] = (),
) -> str:
    """The changed settings as ``name=value; name=value``, or "on" where there are none.

    Args:
        settings: of the job.
        found: the words the automatic choice took, if it chose.
        hires: those of the hires pass.
        always: settings that are written at their defaults, too.
    """
    changed = settings.changed()
    changed |= {name: getattr(settings, name) for name in always}
    changed.pop("enabled", None)  # that the key is there says so
    if len(settings.objects) > MOST_LETTERS:  # such an expression is refused, not used
        changed.pop("objects", None)
    # What an image does not depend on stays out of its parameters.
    for name in ("show_masks", "save_masks"):
        changed.pop(name, None)
    if words := join_found(found):
        changed[FOUND] = words
    if hires and [*hires] != [*found] and (words := join_found(hires)):
        changed[FOUND_HIRES] = words
    return "; ".join(f"{name}={_write(value)}" for name, value in changed.items()) or _ON


def from_text(text: str) -> Settings:
    """The inverse of :func:`to_text`; the result is enabled.

    Raises:
        SettingsError: a part that is not ``name=value``, an unknown name or an unusable value.
    """
    values: dict[str, Any] = {"enabled": True}
    if text.strip() != _ON:
        for part in filter(None, (part.strip() for part in text.split(";"))):
            values |= _part(part)
    return Settings.from_dict(values)


def _part(part: str) -> dict[str, Any]:
    """The setting that one part of a line is; none where it tells what was found."""
    name, equals, value = part.partition("=")
    name = name.strip()
    if equals and name in (FOUND, FOUND_HIRES):
        return {}
    if not equals or name not in _TYPES:
        raise SettingsError(f"AsynDM: {part!r} in the image's parameters is no setting.")
    return {name: _read(name, value)}


def read_text(text: str) -> tuple[Settings, list[str]]:
    """The settings of a line, and the parts of it that cannot be read (a newer version's).

    The result is enabled. Never raises: what cannot be read has its default.
    """
    settings, unread = Settings(enabled=True), []
    parts = [part.strip() for part in text.split(";")] if text.strip() != _ON else []
    values: dict[str, Any] = {}
    for part in filter(None, parts):
        if part.partition("=")[0].strip() in (FOUND, FOUND_HIRES):
            continue
        value: dict[str, Any] = {}
        try:
            value = _part(part)
            Settings.from_dict({"enabled": True, **value})
        except SettingsError as error:
            # start and end are checked as a pair below
            if not value.keys() & {"start", "end"} or "not before end" not in str(error):
                unread.append(part)
                continue
        values |= value
    try:
        settings = replace(settings, **values)
    except SettingsError:
        unread += [f"{name}={values.pop(name)}" for name in ("start", "end") if name in values]
        settings = replace(settings, **values)
    return settings, unread


def pasted(parameters: Mapping[str, Any]) -> Settings:
    """The settings of parsed image parameters; the defaults (off) where the key is absent.

    Parts that cannot be read have their defaults; it is said in the log, and by :func:`unread_of`.
    """
    if KEY not in parameters:
        _last.unread = []
        return Settings()
    text = str(parameters[KEY])
    settings, unread = read_text(text)
    if unread and settings == Settings(enabled=True):
        settings = Settings()  # nothing in it is ours: a foreign image
    if unread and getattr(_last, "said", None) != (settings, text):
        log.warning("AsynDM: %s", _unread_line(unread))
    _last.said, _last.settings, _last.unread = (settings, text), settings, unread
    return settings


def pasted_found(
    parameters: Mapping[str, Any], styled: Callable[[str, Any], str] | None = None
) -> Found:
    """The words an image's parameters tell, tied to its prompts; nothing where somebody wrote them.

    Args:
        parameters: parsed.
        styled: prompt and names of styles -> the prompt with them, where the host parts the two.
    """
    settings = pasted(parameters)
    prompt = parameters.get("Prompt")
    if not settings.enabled or settings.mask_source == "given" or not isinstance(prompt, str):
        return Found()
    try:
        if read_expression(settings.objects).objects:
            return Found()
    except SettingsError:
        return Found()
    parts = [part.partition("=") for part in str(parameters[KEY]).split(";")]
    told = {name.strip(): split_found(unquote(value)) for name, _, value in parts}
    if FOUND not in told and _version(parameters.get(VERSION_KEY)) >= _TELLS_FOUND:
        return Found()  # nothing was found
    first = told.get(FOUND)
    prompts = {prompt: first}
    if hires := parameters.get("Hires prompt"):
        prompts[str(hires)] = told.get(FOUND_HIRES, first)
    styles = parameters.get("Styles array")
    if styled is not None and styles:
        try:
            prompts = {styled(text, styles): words for text, words in prompts.items()}
        except Exception:  # the host's, or of an extension that changed it: a paste goes on
            log.exception("AsynDM: the host's styles %r", styles)
    return Found({mark(text, settings.objects): words for text, words in prompts.items()})


def _version(text: Any) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d{1,6}", str(text))[:2])) if text else ()


class Pasted(str):
    """What fills one control: by name where a host sends it to another tab, else by parameters.

    Hosts take a text for a name, and call what can be called with the parsed parameters of an
    image; this is both. Their *Send to img2img* copies the controls whose names are in the
    script's ``paste_field_names``.

    Args:
        name: of the setting.
    """

    def __new__(cls, name: str) -> Pasted:
        made = super().__new__(cls, f"{KEY} {name}")
        made.setting = name
        return made

    def __call__(self, parameters: Mapping[str, Any]) -> Any:
        return getattr(pasted(parameters), self.setting)


def unread_of(settings: Settings) -> str:
    """One line about what could not be read when these settings were pasted, "" for nothing.

    Hosts hand pasted parameters of an API request on as settings, in the same thread and just
    before the job; once told, it is forgotten.
    """
    unread = getattr(_last, "unread", [])
    same = unread and getattr(_last, "settings", None) == settings
    _last.unread, _last.said = [], None
    return _unread_line(unread) if same else ""


def _unread_line(unread: list[str]) -> str:
    parts = ", ".join(part if len(part) <= 60 else part[:57] + "..." for part in unread)
    return f"in the pasted parameters {parts} cannot be read; it has its default."


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
