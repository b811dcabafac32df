"""The contract of scores."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyndm.core.settings import SettingsError

from ..prompt_sets import Prompt


class Absent(SettingsError):
    """A score cannot run here: its weights, its server or its library are missing. One line."""


@dataclass(frozen=True)
class Value:
    """Of one picture.

    Attributes:
        value: None where it could not be judged, and ``reason`` says why.
        reason: why a picture fails, or what the judge said.
        parts: further figures.
    """

    value: float | None
    reason: str = ""
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the user gave for scores.

    Attributes:
        weights: name -> folder or file.
        server, model: an OpenAI-compatible server's base URL, and the model to ask.
        device: where models run.
        reference: a folder of pictures that whole sets are compared with.
    """

    weights: dict[str, Path] = field(default_factory=dict)
    server: str | None = None
    model: str | None = None
    device: str = "cpu"
    reference: Path | None = None

    def path(self, score: str, name: str, what: str) -> Path:
        """Where weights lie.

        Raises:
            Absent: nobody said, or there is nothing.
        """
        path = self.weights.get(name)
        if path is None:
            raise Absent(f"{score}: no weights; give --weights {name}=FOLDER ({what}).")
        if not path.exists():
            raise Absent(f"{score}: {path} does not exist; give --weights {name}=FOLDER ({what}).")
        return path


class Score:
    """Judges pictures.

    Attributes:
        name: as it is asked for.
        direction: 1 = more is better, -1 = less is better, 0 = neither.
        range: what values can be.
        batch: pictures at once.
        rate: values are 0 or 1.
    """

    name = ""
    direction = 1
    range: tuple[float, float] = (-math.inf, math.inf)
    batch = 16
    rate = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def version(self) -> dict[str, Any]:
        """What values depend on besides the picture and its prompt."""
        return {}

    def score(self, images: list[Image.Image], prompts: list[Prompt]) -> list[Value]:
        """Of each picture.

        Raises:
            SettingsError: it cannot go on, e.g. a server died.
        """
        raise NotImplementedError


class SetScore(Score):
    """Judges all pictures of a method at once, by the features of each."""

    def features(self, images: list[Image.Image]) -> np.ndarray:
        """float32 [n, d]."""
        raise NotImplementedError

    def reference(self) -> Iterator[tuple[str, Image.Image]]:
        """(name, picture) of those that sets are compared with.

        Raises:
            SettingsError: one cannot be read.
        """
        raise NotImplementedError

    def distance(self, mine: np.ndarray, others: np.ndarray) -> Value:
        """Of features [n, d] and [m, d]."""
        raise NotImplementedError


def hash_of(path: Path) -> str:
    """Of a file, or of all files in a folder by name."""
    digest = hashlib.sha256()
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for one in files:
        digest.update(str(one.relative_to(path)).encode() if path.is_dir() else b"")
        with open(one, "rb") as content:
            while piece := content.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()[:16]


def libraries(*names: str) -> dict[str, str]:
    """Versions of what is installed."""
    return {name: importlib.metadata.version(name) for name in names}
