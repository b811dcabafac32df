"""Draw whatever a folder does not hold yet."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .backends import Backend, Drawn, Job
from .plan import Plan
from .store import Store

_PAUSE = 1.0  # seconds between looks at what other processes hold


def draw(plan: Plan, backend: Backend, store: Store, quiet: bool = False) -> int:
    """Until every picture of the plan is there; other processes may do the same.

    Args:
        quiet: without a bar.

    Returns:
        How many this process drew.

    Raises:
        SettingsError: the disk is full, a server died: what is there stays.
    """
    waiting = list(plan.batches(backend.batch))
    total = sum(len(batch) for batch in waiting)
    made = 0
    with tqdm(total=total, unit="picture", desc="draw", disable=quiet) as bar:
        while waiting:
            held = []
            for batch in waiting:
                drawn = _batch(batch, plan, backend, store)
                if drawn is None:
                    held.append(batch)
                else:
                    made += drawn
                    bar.update(len(batch))
            if len(held) == len(waiting):
                time.sleep(_PAUSE)
            waiting = held
    return made


def _batch(
    batch: list[tuple[str, int, Job]], plan: Plan, backend: Backend, store: Store
) -> int | None:
    """Draw a batch; None while another process does."""
    keys = [key for key, _, _ in batch]
    if not store.missing(keys):
        return 0
    lock = store.claim(keys[0])
    if lock is None:
        store.refresh()
        return None if store.missing(keys) else 0
    try:
        store.refresh()
        absent = set(store.missing(keys))
        todo = [one for one in batch if one[0] in absent]
        if todo:
            drawn = backend.draw([job for _, _, job in todo])
            lines = [record_of(*one, done, plan) for one, done in zip(todo, drawn)]
            store.add([(line, one.image, one.mask) for line, one in zip(lines, drawn)])
        return len(todo)
    finally:
        lock.release()


def record_of(key: str, seed: int, job: Job, done: Drawn, plan: Plan) -> dict[str, Any]:
    """The line of a picture."""
    shared = plan.setup
    record = {
        "key": key,
        "method": job.method.canonical(shared.cfg or 0.0, shared.steps),
        "model": plan.identity,
        "prompt": job.prompt.text,
        "seed": job.seed,
        "number": seed,
        "rows": done.rows,
        "seconds": round(done.seconds, 4),
        "w_eff": done.w_eff,
        "size": list(done.image.size),
        **looks(done.image),
    }
    if done.notes:
        record["notes"] = list(done.notes)
    return record


def looks(image: Image.Image) -> dict[str, float]:
    """What strong guidance raises, whatever a picture shows.

    Returns:
        ``saturation``: mean of HSV's, 0 to 1; ``contrast``: standard deviation of the luma
        (ITU-R BT.601), 0 to 0.5.
    """
    rgb = image.convert("RGB")
    saturation = np.asarray(rgb.convert("HSV"), np.float64)[..., 1].mean() / 255
    luma = np.asarray(rgb.convert("L"), np.float64).std() / 255
    return {"saturation": round(float(saturation), 6), "contrast": round(float(luma), 6)}
