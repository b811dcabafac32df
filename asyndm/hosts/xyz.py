"""The X/Y/Z plot's axes: one a setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from asyndm.core.settings import CHOICES, Settings, SettingsError
from asyndm.page.controls import FACES, WEBUI_FIELDS

PREFIX = "[AsynDM] "
# On the processing object: what the axes of this cell changed, by field.
ATTRIBUTE = "asyndm_axes"


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


def _axis(grid: Any, label: str, name: str, kind: type) -> Any:
    choices = ("true", "false") if kind is bool else CHOICES.get(name)
    extra = {"choices": lambda: list(choices)} if choices else {}
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
        # A new dictionary: the host copies the processing object of a cell only one level deep.
        setattr(p, ATTRIBUTE, {**getattr(p, ATTRIBUTE, {}), name: _value(name, value)})

    return apply


def _confirm(name: str) -> Callable:
    def confirm(p: Any, values: Any) -> None:
        for value in values:
            try:
                Settings.from_dict({name: _value(name, value)})
            except SettingsError as error:
                # start and end are checked as a pair when a cell's settings are complete
                if name not in ("start", "end"):
                    raise RuntimeError(f"{PREFIX.strip()} {error}") from None

    return confirm


def _value(name: str, value: Any) -> Any:
    if isinstance(getattr(Settings(), name), bool):
        return {"true": True, "false": False}.get(str(value).strip().lower(), value)
    return value
