"""Drawing by several Ray workers, on several GPUs or machines that share the folder.

Workers take batches as any processes do that share a folder; what a worker held when it died is
drawn by another, and Ray starts one anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from asyndm.core.settings import SettingsError

from .plan import Plan

_RETRIES = 10  # of a worker that died


def spread(folder: Path, workers: int, batch: int, options: dict[str, Any]) -> int:
    """Draw a folder's plan by so many workers; each takes a GPU where Ray has any.

    Args:
        folder: on a disk that all machines see under this path.
        workers: how many.
        batch: pictures at once.
        options: of the backend that do not change pictures.

    Returns:
        How many pictures the workers drew that lived to say so.

    Raises:
        SettingsError: a worker's own error, in one line.
        ModuleNotFoundError: Ray is not installed.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(
            num_cpus=None if _cluster() else workers, include_dashboard=False, log_to_driver=False
        )
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        part = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(_part)
        asked = (str(Path(folder).resolve()), batch, options)
        try:
            return sum(ray.get([part.remote(*asked) for _ in range(workers)]))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SettingsError):
                raise SettingsError(str(error.cause)) from None
            raise
        except ray.exceptions.RayError as error:
            why = str(error).splitlines()[0]
            raise SettingsError(
                f"ray: {why:.120}; what is drawn stays, the same command goes on."
            ) from None
    finally:
        if started:
            ray.shutdown()


def _cluster() -> bool:
    """Whether a cluster was started before (``ray start``) and is named in the environment."""
    import os

    return bool(os.environ.get("RAY_ADDRESS"))


def _part(folder: str, batch: int, options: dict[str, Any]) -> int:
    """What one worker does."""
    from .backends import open_backend
    from .drawing import draw
    from .store import Store

    plan, store = Plan.load(Path(folder)), Store(Path(folder))
    backend = open_backend(plan.backend, replace(plan.setup, options=options))
    if backend.identity() != plan.identity:
        raise SettingsError(f"backend: {plan.backend} is another model on this machine.")
    backend.batch = batch
    store.refresh()
    return draw(plan, backend, store)
