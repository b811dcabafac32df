"""The X/Y/Z plot's axes: one a setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from asyndm.core.presets import USER
from asyndm.core.settings import CHOICES, Settings, SettingsError
from asyndm.guidance import methods
from asyndm.hosts import faces, webui
from asyndm.page.controls import FACES, WEBUI_FIELDS

PREFIX = "[AsynDM] "
# On the processing object: what the axes of this cell changed, by field.
ATTRIBUTE = "asyndm_axes"
PRESET = "Preset"
METHOD = "Method"  # AsynDM, its rivals, and both together
_SAMPLERS = ("Sampler", "Hires sampler")  # the host's axes
_LABELLED = "asyndm_labels"  # on such an axis, once


def add_axes(grid: Any) -> None:
    """Add an axis for every setting to the host's xyz_grid module, once.

    Args:
        grid: the module, with ``AxisOption`` and ``axis_options``.
    """
    known = {option.label for option in grid.axis_options}
    for field in dataclasses.fields(Settings):
        label = PREFIX + FACES[field.name].label
        if field.name in WEBUI_FIELDS and label not in known:
            grid.axis_options.append(_axis(grid, label, field.name, type(field.default)))
    if PREFIX + PRESET not in known:
        grid.axis_options.append(_axis(grid, PREFIX + PRESET, "preset", str))
    if PREFIX + METHOD not in known:
        grid.axis_options.append(_axis(grid, PREFIX + METHOD, "method", str))
    for option in grid.axis_options:
        if option.label in _SAMPLERS:
            _label_samplers(grid, option)


def _axis(grid: Any, label: str, name: str, kind: type) -> Any:
    choices = ("true", "false") if kind is bool else CHOICES.get(name)
    extra = {"choices": lambda: list(choices)} if choices else {}
    if name == "preset":
        extra = {"choices": USER.names}
    if name == "method":
        extra = {"choices": lambda: list(methods.READY)}
    return grid.AxisOption(
        label,
        float if kind is float else str,
        _apply(name),
        format_value=lambda p, option, x: f"{option.label.removeprefix(PREFIX)}: {x}",
        confirm=_confirm(name),
        **extra,
    )


def _apply(name: str) -> Callable:
    def apply(p: Any, value: Any, values: Any) -> None:
        changed = methods.ready(value) if name == "method" else {name: _value(name, value)}
        # A new dictionary: the host copies the processing object of a cell only one level deep.
        setattr(p, ATTRIBUTE, {**getattr(p, ATTRIBUTE, {}), **changed})

    return apply


def _confirm(name: str) -> Callable:
    def confirm(p: Any, values: Any) -> None:
        for value in values:
            try:
                if name == "preset":
                    USER.values(value)
                    continue
                if name == "method":
                    methods.ready(value)
                    continue
                Settings.from_dict({name: _value(name, value)})
            except SettingsError as error:
                # start and end are checked as a pair when a cell's settings are complete
                if name not in ("start", "end"):
                    raise RuntimeError(f"{PREFIX.strip()} {error}") from None

    return confirm


def _value(name: str, value: Any) -> Any:
    if isinstance(getattr(Settings(), name, None), bool):
        return {"true": True, "false": False}.get(str(value).strip().lower(), value)
    return value


def _label_samplers(grid: Any, option: Any) -> None:
    """The plot's legend says which samplers have no asynchronous form, where cells may be on."""
    if hasattr(option, _LABELLED):
        return
    setattr(option, _LABELLED, True)
    host = option.format_value

    def format_value(p: Any, axis: Any, x: Any) -> Any:
        label = host(p, axis, x)
        face, equal = faces.face_for(str(x))
        if equal or str(x) in ("None", "Use same sampler") or not _may_be_on(grid, p):
            return label
        return f"{label} (no asynchronous form: {face.name})"

    option.format_value = format_value


def _may_be_on(grid: Any, p: Any) -> bool:
    """Whether AsynDM is ticked in this plot's job, or one of its axes is ours."""
    state = getattr(grid, "state", None)
    plotted = [getattr(state, f"xyz_plot_{letter}", None) for letter in "xyz"]
    axes = [getattr(axis, "axis", None) for axis in plotted]
    if any(getattr(axis, "label", "").startswith(PREFIX) for axis in axes):
        return True
    runner, arguments = getattr(p, "scripts", None), getattr(p, "script_args", None) or ()
    for script in getattr(runner, "alwayson_scripts", ()):
        if script.title() == webui.TITLE:
            first = next(iter(arguments[script.args_from : script.args_to]), False)
            return bool(first.get("enabled", True) if isinstance(first, dict) else first)
    return False
