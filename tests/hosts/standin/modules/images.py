"""Stands for ``modules/images.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo


def save_image(
    image: Image.Image, path: str, basename: str, seed: Any = None, prompt: Any = None,
    extension: str = "png", info: str | None = None, p: Any = None, suffix: str = "",
    **_: Any,
) -> tuple[str, None]:  # fmt: skip
    """The next free number in the folder, with the parameters in the picture's text."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{len(list(folder.iterdir())):05}-{seed}{suffix}.{extension}"
    text = PngInfo()
    text.add_text("parameters", info or "")
    image.save(folder / name, pnginfo=text)
    return str(folder / name), None
