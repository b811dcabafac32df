"""Every sampler with an asynchronous form on every schedule: k 1e-9 beside the host's own.

``ASYNDM_TABLE=docs/samplers.json`` writes what was measured there, by :class:`works.Table`;
``ASYNDM_ROWS=0-8`` runs some of the rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from jobs import TWINS, apart, give_the_jobs_noise, make, ticked
from works import NOT_RUN, Table, numbers, version

from asyndm.hosts.faces import EXCHANGED

REAL = os.environ.get("ASYNDM_WEBUI_DIR")
# Enough steps for the third order, no more.
SMALL = {"steps": 5, "width": 64, "height": 64, "cfg_scale": 4}
SCHEDULES = (
    *("Automatic", "Uniform", "Karras", "Exponential", "SGM Uniform", "KL Optimal", "Simple"),
    "Beta",
)
SAMPLERS = (*(twin for _, twin in TWINS), *EXCHANGED)
NUDGE = 2e-6  # of a level: some of a float32's last bits
NONE = "has none"  # a schedule of a sampler on timesteps of its own
pytestmark = pytest.mark.skipif(not REAL, reason="no real WebUI: set ASYNDM_WEBUI_DIR")


@pytest.fixture(scope="module")
def table(host):
    made = Table(host.name, SCHEDULES)
    made.version = version(host.txt2img(prompt="", steps=1))
    return made


Tie = tuple[int, int]  # the timesteps that a level's last bits decide between


@contextmanager
def rounded(host, chosen: dict[Tie, int]) -> Iterator[set[Tie]]:
    """Forge's own rounding of levels, a tie as it is chosen; yields all ties there were."""
    predictor, ties = host.root().predictor, set()
    plain = predictor.timestep

    def timestep(sigma: torch.Tensor) -> torch.Tensor:
        made, low, high = (plain(sigma * (1 + by)) for by in (0, -NUDGE, NUDGE))
        ties.update(
            (a, b) for a, b in zip(low.flatten().tolist(), high.flatten().tolist()) if a != b
        )
        for tie, choice in chosen.items():
            made = torch.where((low == tie[0]) & (high == tie[1]), choice, made)
        return made

    predictor.timestep = timestep
    try:
        yield ties
    finally:
        del predictor.timestep


def ties_of(host, asked: dict) -> list[Tie]:
    """Those of a plain job."""
    with rounded(host, {}) as ties:
        make(host, "txt2img", **asked)
    return sorted(ties)


def told_by_rounding(host, asked: dict, made) -> bool:
    """Whether a picture is the host's own once ties of its levels fall to another timestep."""
    if not hasattr(getattr(host.root(), "predictor", None), "timestep"):
        return False
    ties = ties_of(host, asked)
    for choice in product(*ties):
        with rounded(host, dict(zip(ties, choice))):
            plain = make(host, "txt2img", **asked)
        if apart(plain.images[0], made.images[0]) <= 1:
            return bool(ties)
    return False


@pytest.mark.parametrize("sampler", [SAMPLERS[i] for i in numbers() if i < len(SAMPLERS)])
def test_a_sampler_on_every_schedule(host, table, traces, monkeypatch, sampler):
    from modules import sd_samplers, sd_schedulers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")
    give_the_jobs_noise(monkeypatch, sampler)
    own_times = "timesteps" in type(_construct(sampler)).__module__
    found, rounding = {}, set()
    for schedule in SCHEDULES:
        table.tell(sampler, schedule, NOT_RUN)
        if schedule not in sd_schedulers.schedulers_map:
            continue
        if own_times and schedule != "Automatic":
            found[schedule] = NONE
        else:
            asked = {"sampler_name": sampler, "scheduler": schedule, **SMALL}
            plain = make(host, "txt2img", **asked)
            made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
            note = made.parameters.get("AsynDM note")
            found[schedule] = note or apart(plain.images[0], made.images[0])
            if not note and found[schedule] > 1 and told_by_rounding(host, asked, made):
                rounding.add(schedule)
            if made.info["sampler_name"] != sampler:
                found[schedule] = f"wrong: {made.info['sampler_name']}"
        table.tell(sampler, schedule, found[schedule])
    if os.environ.get("ASYNDM_TABLE"):  # now: a run that is ended keeps what it has
        table.write(Path(os.environ["ASYNDM_TABLE"]))
    for schedule, value in found.items():
        right = value == NONE or (isinstance(value, int) and value <= 1)
        assert right or schedule in rounding, (schedule, value)


@pytest.mark.parametrize("steps", [4, 5, 6])
def test_forges_rounding_decides_one_cell(host, traces, steps):
    """DPM2 a on SGM Uniform in Forge main: at 5 steps levels are ties, at 4 and 6 none is."""
    if host.name != "Forge":
        pytest.skip("a matter of Forge main's rounding")
    asked = {"sampler_name": "DPM2 a", "scheduler": "SGM Uniform", **SMALL, "steps": steps}
    ties = ties_of(host, asked)
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    if steps == 5:
        assert ties == [(499, 500), (832, 833)]
        assert told_by_rounding(host, asked, made)
        return
    assert not ties and apart(plain.images[0], made.images[0]) <= 1


def _construct(sampler: str):
    from modules import sd_samplers, shared

    return sd_samplers.create_sampler(sampler, shared.sd_model)
