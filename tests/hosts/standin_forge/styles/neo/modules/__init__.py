"""What Forge Neo 2.26 (2026-08) has otherwise than the family; the rest is taken from there."""

import importlib.util
import sys
from pathlib import Path
from pkgutil import extend_path
from types import ModuleType

__path__ = extend_path(__path__, __name__)


def original(name: str) -> ModuleType:
    """AUTOMATIC1111's stand-in of a module that has a file of its own here."""
    path = Path(__file__).parents[4] / "standin" / "modules" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"modules.original_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
