"""What stands in for a function of the host's, on one instance and for one block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute set on the instance, and as it was afterwards."""
    own = vars(owner)
    before = own.get(name, _ABSENT)
    own[name] = value
    try:
        yield
    finally:
        if before is _ABSENT:
            own.pop(name, None)
        else:
            own[name] = before
