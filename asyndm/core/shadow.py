"""What stands in for a function of the host's, on one instance and for one block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute set on the instance, and as it was afterwards."""
    with replaced(vars(owner), name, value):
        yield


@contextmanager
def replaced(values: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """An entry of a dictionary, and as it was afterwards."""
    before = values.get(name, _ABSENT)
    values[name] = value
    try:
        yield
    finally:
        if before is _ABSENT:
            values.pop(name, None)
        else:
            values[name] = before
