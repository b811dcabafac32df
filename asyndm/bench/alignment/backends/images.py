"""A folder of finished pictures in GenEval's layout, one folder a method: nothing is drawn."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from asyndm.core.settings import SettingsError

from ..methods import Method
from ..prompt_sets import Prompt
from .base import Backend, Drawn, Job, Setup


class Images(Backend):
    """``FOLDER/METHOD/00000/samples/0000.png``: the prompt's number, the seed's number.

    Args:
        where: the folder; a method's name is its folder's.

    Raises:
        SettingsError: no such folder, or options that would change nothing.
    """

    batch = 64

    def __init__(self, where: str, setup: Setup) -> None:
        self.folder = Path(where)
        if not where or not self.folder.is_dir():
            raise SettingsError(f"backend: images:{where}: there is no such folder.")
        for name in ("cfg", "rule", "schedule", "size"):
            if getattr(setup, name) is not None:
                raise SettingsError(f"{name}: the pictures are finished; leave it out.")
        self.setup = setup

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*/*/samples/*.png")):
            there = path.stat()
            name = path.relative_to(self.folder)
            digest.update(f"{name} {there.st_size} {there.st_mtime_ns}\n".encode())
        return {"backend": "images", "folder": self.folder.name, "hash": digest.hexdigest()[:16]}

    def path(self, method: Method, prompt: Prompt, number: int) -> Path:
        where = self.folder / method.text / f"{prompt.number:05}" / "samples"
        return where / f"{number:04}.png"

    def check(self, methods: list[Method], prompts: list[Prompt]) -> None:
        for method in methods:
            if not (self.folder / method.text).is_dir():
                there = ", ".join(sorted(one.name for one in self.folder.iterdir() if one.is_dir()))
                raise SettingsError(f"methods: no folder {method.text!r}; there are {there}.")

    def draw(self, jobs: list[Job]) -> list[Drawn]:
        drawn = []
        for job in jobs:
            path = self.path(job.method, job.prompt, job.seed)
            try:
                with Image.open(path) as image:
                    drawn.append(Drawn(image.convert("RGB"), None, 0.0))
            except (OSError, ValueError):
                raise SettingsError(
                    f"backend: {path} is no picture; {job.prompt.text!r:.60} needs one."
                ) from None
        return drawn
