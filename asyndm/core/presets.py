"""Presets by name: those that come with AsynDM, and those a user saves, in one folder of files.

A user's preset is ``NAME.json``, an object of settings by name. It is only ever found by its
name: nothing that is a path can be one. What a picture is of, whether AsynDM is on and which
pictures are shown are no preset's business, see :data:`KEPT`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from asyndm.core.settings import PRESETS, Settings, SettingsError

KEPT = ("enabled", "objects", "show_masks", "save_masks")
FIELDS = tuple(f.name for f in dataclasses.fields(Settings) if f.name not in KEPT)
MOST_FILES, MOST_BYTES, MOST_LETTERS = 200, 16_384, 40
# Letters and digits of any script; inside also space, - and _. No dot, no slash, no colon.
NAME = re.compile(r"\w(?:[\w \-]*\w)?")
# Names of devices, which no file on Windows may have.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
_LOCK_SECONDS = 10


class Presets:
    """All presets there are.

    Attributes:
        folder: of the user's files, None where there is none (the studio).
        frozen: why none may be saved or removed now, "" = they may.
    """

    def __init__(self, folder: Path | None = None, frozen: str = "") -> None:
        self.folder, self.frozen = folder, frozen
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Those that come with AsynDM, then the user's by name."""
        return [*PRESETS, *sorted(self._files(), key=str.casefold)]

    def values(self, name: Any) -> dict[str, Any]:
        """All of :data:`FIELDS` under a preset.

        Raises:
            SettingsError: there is none of that name, or its file cannot be used; in one line.
        """
        if isinstance(name, str) and name in PRESETS:
            settings = Settings(**PRESETS[name])
        else:
            path = self._files().get(name) if isinstance(name, str) else None
            if path is None:
                shown = repr(name) if len(repr(name)) <= 60 else repr(name)[:57] + "..."
                known = ", ".join(self.names()[:30])
                raise SettingsError(f"preset: {shown} is unknown; choose one of {known}.")
            settings = _read(path)
        return {field: getattr(settings, field) for field in FIELDS}

    def behind(
        self, values: dict[str, Any], axes: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what a preset that is sent sets, axes with the values of a preset that is on one).

        Whatever is set by itself counts more than a preset: beside one that is sent what was
        sent, beside one on an axis the other axes.

        Args:
            values: sent by API; "preset" is taken out.
            axes: what an X/Y/Z cell changes.

        Raises:
            SettingsError: no such preset, or its file cannot be used.
        """
        under = self.values(values.pop("preset")) if "preset" in values else {}
        axes = dict(axes)
        if "preset" in axes:
            axes = {**self.values(axes.pop("preset")), **axes}
        return {name: value for name, value in under.items() if name != "eta"}, axes

    def readable(self) -> dict[str, dict[str, Any]]:
        """The values of every preset that can be used, by name."""
        found = {}
        for name in self.names():
            try:
                found[name] = self.values(name)
            except SettingsError:
                continue
        return found

    def save(self, name: Any, values: dict[str, Any]) -> str:
        """Write a user's preset, whole or not at all; one of that name is written over.

        Args:
            name: letters, digits, spaces, - and _.
            values: settings by name; only :data:`FIELDS` are kept.

        Returns:
            The name, without spaces around it.

        Raises:
            SettingsError: the name or a value cannot be used, or it cannot be written.
        """
        name = self.check_name(name)
        settings = Settings.from_dict({f: v for f, v in values.items() if f in FIELDS})
        text = json.dumps(settings.changed(), ensure_ascii=False, indent=1) + "\n"
        if len(text.encode()) > MOST_BYTES:
            raise SettingsError("preset: the settings are too long; shorten 'mask_colours'.")
        with self._writing() as folder:
            files = self._files()
            if name not in files and len(files) >= MOST_FILES:
                raise SettingsError(f"preset: there are {MOST_FILES} already; remove one first.")
            # Beside its place, so that a reader sees the old file or the new one.
            handle, draft = tempfile.mkstemp(prefix=".preset-", suffix=".tmp", dir=folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(draft, folder / f"{name}.json")
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
        return name

    def remove(self, name: Any) -> None:
        """Delete a user's preset.

        Raises:
            SettingsError: it is none of the user's, or it cannot be deleted.
        """
        name = self.check_name(name)
        with self._writing():
            path = self._files().get(name)
            if path is None:
                raise SettingsError(f"preset: {name!r} is none of your own; nothing is removed.")
            path.unlink()

    def _files(self) -> dict[str, Path]:
        """The user's files by name; links, other kinds and other names are none."""
        if self.folder is None:
            return {}
        try:
            found = sorted(self.folder.glob("*.json"))
        except OSError:
            return {}
        mine = [p for p in found if _is_name(p.stem) and p.is_file() and not p.is_symlink()]
        return {p.stem: p for p in mine[:MOST_FILES]}

    def check_name(self, name: Any) -> str:
        """A name for a user's preset, without spaces around it.

        Raises:
            SettingsError: it cannot be one.
        """
        name = name.strip() if isinstance(name, str) else name
        if not isinstance(name, str) or not _is_name(name):
            raise SettingsError(
                f"preset: give a name of 1 to {MOST_LETTERS} letters, digits, spaces, - and _."
            )
        if name.casefold() in PRESETS:
            raise SettingsError(f"preset: {name!r} comes with AsynDM; take another name.")
        return name

    def _writing(self) -> _Writing:
        if self.frozen:
            raise SettingsError(f"preset: {self.frozen}")
        if self.folder is None:
            raise SettingsError("preset: there is no folder for presets here.")
        return _Writing(self.folder, self._lock)


USER = Presets()
"""The presets of this process; a host says where the user's are."""


class _Writing:
    """The folder, made and locked against threads and other processes."""

    def __init__(self, folder: Path, threads: threading.Lock) -> None:
        self.folder, self.threads = folder, threads

    def __enter__(self) -> Path:
        self.threads.acquire()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.processes = FileLock(str(self.folder / ".lock"))
            self.processes.acquire(timeout=_LOCK_SECONDS)
        except BaseException as error:
            self.threads.release()
            self._say(error)
            raise
        return self.folder

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.processes.release()
        self.threads.release()
        self._say(error)

    def _say(self, error: BaseException | None) -> None:
        if isinstance(error, Timeout):
            raise SettingsError("preset: another process is writing; try again.") from None
        if isinstance(error, OSError):
            why = error.strerror or type(error).__name__
            raise SettingsError(f"preset: it cannot be written to {self.folder} ({why}).") from None


def _is_name(text: str) -> bool:
    fits = len(text) <= MOST_LETTERS and NAME.fullmatch(text)
    return bool(fits) and not _DEVICES.fullmatch(text)


def _read(path: Path) -> Settings:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES} bytes")
        values = json.loads(data.decode("utf-8-sig"))
        if not isinstance(values, dict):
            raise ValueError("it holds no settings by name")
        idle = [name for name in values if name in KEPT]
        if idle:
            raise ValueError(f"{idle[0]} is no part of a preset")
        return Settings.from_dict(values)
    except (OSError, ValueError, RecursionError) as error:  # JSON's and Unicode's too
        why = " ".join(str(error).split()).rstrip(".")[:120]
        raise SettingsError(
            f"preset: the file of {path.stem!r} cannot be used ({why}); save it anew."
        ) from None
