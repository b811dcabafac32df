"""Files beside an image's own: its number, its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyndm.core.shadow import shadowed


@contextmanager
def as_image(p: Any, index: int) -> Iterator[None]:
    """The host's patterns for names see image ``index`` of the job, as when it saved that one."""
    iteration, place = divmod(index, p.batch_size)
    with shadowed(p, "iteration", iteration), shadowed(p, "batch_index", place):
        yield


def place_of(image: Any, p: Any, suffix: str) -> dict[str, Any]:
    """Where the host's ``save_image`` shall put what belongs to an image.

    Args:
        image: of the gallery; the host notes on it where it was saved.
        suffix: end of the file's name.

    Returns:
        Keyword arguments: beside the image, under its name and number. Where it was not saved, the
        host's next number in its own folder.
    """
    saved = getattr(image, "already_saved_as", None)
    if not saved or not os.path.exists(saved):
        return {"path": p.outpath_samples, "suffix": suffix}
    saved = Path(saved)
    return {
        "path": str(saved.parent),
        "forced_filename": f"{saved.stem}{suffix}",
        "save_to_dirs": False,
    }


def beside(image: Any, ending: str) -> Path | None:
    """A free file's name like that of an image the host has saved; None where it was not.

    Args:
        image: the host notes on it where it saved it.
        ending: of the file's name, with its dot.
    """
    saved = getattr(image, "already_saved_as", None)
    if not saved or not os.path.exists(saved):
        return None
    return Path(saved).resolve().with_suffix(ending)
