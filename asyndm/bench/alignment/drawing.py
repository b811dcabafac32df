"""Draw whatever a folder does not hold yet."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .adaptive import Glimpse
from .backends import Backend, Drawn, Job
from .methods import parse
from .plan import Plan
from .store import Store

_PAUSE = 1.0  # seconds between looks at what other processes hold
PROBE = parse("asyndm:k=.5")[0]  # of whose first steps a glimpse is

Batch = list[tuple[str, int, Job]]  # (key, seed's number, job), of one method


def draw(
    plan: Plan,
    backend: Backend,
    store: Store,
    quiet: bool = False,
    batches: list[tuple[str, Batch]] | None = None,
) -> int:
    """Until every picture of the plan is there; other processes may do the same.

    Args:
        quiet: without a bar.
        batches: these instead of all of the plan's, each with the name it is claimed by; where
            two of one name share pictures, one process draws at a time, and nothing is drawn twice.

    Returns:
        How many this process drew.

    Raises:
        SettingsError: the disk is full, a server died: what is there stays.
    """
    waiting = batches
    if waiting is None:
        waiting = [(batch[0][0], batch) for batch in plan.batches(backend.batch)]
    total = sum(len(batch) for _, batch in waiting)
    made = 0
    with tqdm(total=total, unit="picture", desc="draw", disable=quiet) as bar:
        while waiting:
            held = []
            for name, batch in waiting:
                drawn = _batch(name, batch, plan, backend, store)
                if drawn is None:
                    held.append((name, batch))
                else:
                    made += drawn
                    bar.update(len(batch))
            if len(held) == len(waiting):
                time.sleep(_PAUSE)
            waiting = held
    return made


def _batch(name: str, batch: Batch, plan: Plan, backend: Backend, store: Store) -> int | None:
    """Draw a batch; None while another process does."""
    keys = [key for key, _, _ in batch]
    if not store.missing(keys):
        return 0
    lock = store.claim(name)
    if lock is None:
        store.refresh()
        return None if store.missing(keys) else 0
    try:
        store.refresh()
        absent = set(store.missing(keys))
        todo = [one for one in batch if one[0] in absent]
        if todo:
            drawn = _drawn([job for _, _, job in todo], backend)
            lines = [record_of(*one, done, plan) for one, done in zip(todo, drawn)]
            store.add([(line, one.image, one.mask) for line, one in zip(lines, drawn)])
        return len(todo)
    finally:
        lock.release()


def glimpsed(jobs: list[Job], backend: Backend) -> list[Glimpse]:
    """What is known before pictures are drawn, of the same noise; their methods are not read."""
    return backend.glimpse([replace(job, method=PROBE) for job in jobs])


def _drawn(jobs: list[Job], backend: Backend) -> list[Drawn]:
    """Pictures of one method; an adaptive one's are drawn together where their k is the same."""
    rule = jobs[0].method.rule
    if rule is None:
        return backend.draw(jobs)
    start = time.perf_counter()
    seen = glimpsed(jobs, backend)
    seconds = (time.perf_counter() - start) / len(jobs)
    strengths = [rule.k(one) for one in seen]
    made: dict[int, Drawn] = {}
    for k in sorted({*strengths}):
        places = [place for place, own in enumerate(strengths) if own == k]
        drawn = backend.draw([replace(jobs[at], method=jobs[at].method.at(k)) for at in places])
        for at, one in zip(places, drawn):
            known = {"k": k, "objects": seen[at].objects, "share": round(seen[at].share, 6)}
            made[at] = replace(
                one,
                rows=None if one.rows is None else one.rows + seen[at].rows,
                seconds=one.seconds + seconds,
                adaptive=known,
            )
    return [made[at] for at in range(len(jobs))]


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
    if done.adaptive is not None:
        record["adaptive"] = done.adaptive
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
