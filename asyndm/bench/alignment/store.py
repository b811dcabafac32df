"""Pictures and their records in a folder that many processes fill, and that survives a kill.

A picture's key is the hash of all it depends on. The PNG is written under another name and moved in
place, then its batch's lines are appended in one write, to a file of the process's own; so whatever
moment a process dies at, a line has its picture, and a picture without a line is drawn again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from asyndm.core.settings import SettingsError


def key_of(parts: dict[str, Any]) -> str:
    """The hash of what a picture depends on: method, model, prompt, seed, the run's settings."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def written(path: Path, content: bytes) -> None:
    """A file whole or not at all.

    Raises:
        SettingsError: it cannot be written, e.g. as the disk is full.
    """
    there = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(there, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(there, path)
    except OSError as error:
        there.unlink(missing_ok=True)
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"folder: {path} cannot be written ({error.strerror}); what is there stays, and the same "
        "command goes on from it."
    )


class Lines:
    """JSON lines in a folder: every process appends to a file of its own, all are read.

    Args:
        folder: of the files ``*.jsonl``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mine = folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._read: dict[Path, int] = {}

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """All lines in one write.

        Raises:
            SettingsError: they cannot be written.
        """
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        if not text:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            out = os.open(self._mine, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                start = os.fstat(out).st_size
                if os.write(out, text) < len(text):
                    os.ftruncate(out, start)  # no half line stays in the way of the next
                    raise OSError(28, "No space left on device")
                os.fsync(out)
            finally:
                os.close(out)
        except OSError as error:
            raise _unwritten(self._mine, error) from None

    def new(self) -> Iterator[dict[str, Any]]:
        """What was appended since the last call, by whomever; unfinished lines wait."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as lines:
                lines.seek(self._read.get(path, 0))
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    try:
                        value = json.loads(line)
                    except ValueError:  # torn by a full disk or a crashed machine
                        continue
                    if isinstance(value, dict):
                        yield value


class Store:
    """A bench's folder.

    Attributes:
        records: by key, those there are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, dict[str, Any]] = {}
        self._lines = Lines(folder / "records")

    def picture(self, key: str) -> Path:
        """Where a picture lies."""
        return self.folder / "images" / key[:2] / f"{key}.png"

    def mask(self, key: str) -> Path:
        """Where its mask lies, if it has one."""
        return self.picture(key).with_suffix(".mask.png")

    def refresh(self) -> None:
        """Read what was added since; the first record of a picture counts."""
        for record in self._lines.new():
            if "key" in record:
                self.records.setdefault(record["key"], record)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those that no record (or no picture) is there of."""
        return [k for k in keys if k not in self.records or not self.picture(k).exists()]

    def add(self, made: list[tuple[dict[str, Any], Image.Image, np.ndarray | None]]) -> None:
        """A batch of (record, picture, mask): all pictures, then all records.

        Raises:
            SettingsError: the disk is full, or the like.
        """
        for record, image, mask in made:
            if mask is not None:
                grey = Image.fromarray((np.clip(mask, 0, 1) * 255).round().astype(np.uint8))
                written(self.mask(record["key"]), png_of(grey, "L"))
            written(self.picture(record["key"]), png_of(image))
        fresh = [record for record, *_ in made if record["key"] not in self.records]
        self._lines.append(fresh)
        self.records.update({record["key"]: record for record in fresh})

    def claim(self, key: str) -> FileLock | None:
        """The right to draw a batch, named by its first picture; None where another process has it.

        The system gives it back when its holder dies.
        """
        lock = FileLock(self.folder / "locks" / key, timeout=0)
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            return None
        except OSError as error:
            raise _unwritten(self.folder, error) from None
        return lock


def png_of(image: Image.Image, mode: str = "RGB") -> bytes:
    """The same bytes for the same pixels."""
    out = io.BytesIO()
    image.convert(mode).save(out, "PNG")
    return out.getvalue()
