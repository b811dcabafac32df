"""AsynDM: asynchronous denoising, every pixel with its own timestep (arXiv 2510.04504).

Public names, stable from now on: ``asyndm.Settings``, ``asyndm.sample_asyndm``, ``asyndm.attach``,
``asyndm.steer``.
They are loaded when they are first asked for, so that ``import asyndm`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "Settings": "asyndm.core.settings",
    "sample_asyndm": "asyndm.core.sampling",
    "attach": "asyndm.network",
    "steer": "asyndm.pipelines",
}
__all__ = ["Settings", "attach", "sample_asyndm", "steer"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
