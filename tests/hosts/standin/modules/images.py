"""Stands for ``modules/images.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo


def save_image(
    image: Image.Image, path: str, basename: str, seed: Any = None, prompt: Any = None,
    extension: str = "png", info: str | None = None, p: Any = None, suffix: str = "",
    forced_filename: str | None = None, **_: Any,
) -> tuple[str, None]:  # fmt: skip
    """The next free number in the folder, with the parameters in the picture's text."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    name = forced_filename or f"{len(list(folder.iterdir())):05}-{seed}{suffix}"
    name = f"{name}.{extension}"
    text = PngInfo()
    text.add_text("parameters", info or "")
    image.save(folder / name, pnginfo=text)
    image.already_saved_as = str(folder / name)
    return str(folder / name), None
