"""Ablations of the paper as data: which methods, how many steps. Files of one's own work as well.

A recipe is a JSON object: ``about`` (a sentence), and options of ``run`` by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asyndm.core.settings import SettingsError

_HERE = Path(__file__).parent
FIELDS = {
    "about": str,
    "methods": list,
    "steps": int,
    "cfg": (int, float),
    "match": list,
    "family": list,
    "prompts": str,
    "limit": int,
    "seeds": int,
    "same_noise": bool,
}


def names() -> list[str]:
    """Of the recipes that come along."""
    return sorted(path.stem for path in _HERE.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """The options a recipe sets.

    Raises:
        SettingsError: no such recipe, or one that is not of this form.
    """
    path = _HERE / f"{name}.json" if name in names() else Path(name)
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise SettingsError(
            f"recipe: {name!r} is neither a JSON file nor one of {', '.join(names())}."
        ) from None
    if not isinstance(values, dict):
        raise SettingsError(f"recipe: {path} is no object of options.")
    for field, value in values.items():
        if field not in FIELDS:
            raise SettingsError(f"recipe: {path.name}: no option {field!r}; {', '.join(FIELDS)}.")
        switch = FIELDS[field] is bool
        if not isinstance(value, FIELDS[field]) or isinstance(value, bool) != switch:
            raise SettingsError(f"recipe: {path.name}: {field} cannot be {value!r}.")
    return {field: value for field, value in values.items() if field != "about"}
