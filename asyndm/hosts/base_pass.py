"""The synchronous pass that fixed masks are read from, ahead of the run itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from modules import shared
from torch import Tensor

from asyndm.core.masks import MapAverage, NothingSeen
from asyndm.core.settings import SettingsError
from asyndm.guidance.measure import RowCounter
from asyndm.hosts.noise import rewound

if TYPE_CHECKING:
    from asyndm.hosts.hosted import HostRun


def base_pass(run: HostRun) -> Tensor:
    """Attention averaged over a synchronous pass, [B, O, gh, gw]; the run starts afresh.

    The host's own sampler and its own CFG; what it cost is kept in the run's ``base_rows``.

    Raises:
        SettingsError: a refiner would change the model.
    """
    if getattr(run.p, "refiner_checkpoint_info", None) is not None:
        raise SettingsError(
            "mask_source: fixed masks need two passes, and a refiner changes the model in the "
            "first; choose dynamic."
        )
    average = MapAverage()

    def collect(state: dict) -> None:
        with suppress(NothingSeen):  # a step cache's
            average.add(run.capture.read())
        shared.state.sampling_step = state["i"]

    step, rows = run.denoiser.step, RowCounter(run.call, run.batch)
    with rewound(run.p.rng, run.job.x.device):
        run.attach()
        with rows.watching(run.network()):
            run.job.run_twin(collect)
    run.denoiser.step = step
    if run.failure is not None:
        raise run.failure
    run.base_rows = rows.counts
    return average.read()  # none: said like all that fails before the first step
