"""Every sampler with an asynchronous form on every schedule: k 1e-9 beside the host's own.

``ASYNDM_TABLE=docs/samplers.json`` writes what was measured there, by :class:`works.Table`;
``ASYNDM_ROWS=0-8`` runs some of the rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from jobs import TWINS, apart, make, ticked
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


@contextmanager
def rounded(host, nudge: float = 0.0) -> Iterator[list[float]]:
    """Forge's own rounding of levels to timesteps, of the levels nudged; yields those levels."""
    predictor, levels = host.root().predictor, []
    plain = predictor.timestep

    def timestep(sigma: torch.Tensor) -> torch.Tensor:
        levels.extend(sigma.flatten().tolist())
        return plain(sigma * (1 + nudge))

    predictor.timestep = timestep
    try:
        yield levels
    finally:
        del predictor.timestep


def ties(host, asked: dict) -> dict[float, tuple[int, int]]:
    """The levels of a plain job that Forge gives one timestep or the next by their last bits."""
    with rounded(host) as levels:
        make(host, "txt2img", **asked)
    near = [torch.tensor(levels) * (1 + by) for by in (-NUDGE, NUDGE)]
    low, high = (host.root().predictor.timestep(each).tolist() for each in near)
    return {s: (int(a), int(b)) for s, a, b in zip(levels, low, high) if a != b}


def told_by_rounding(host, asked: dict, made) -> bool:
    """Whether a picture is the host's own once a tie of its levels falls to the other timestep."""
    if not hasattr(getattr(host.root(), "predictor", None), "timestep") or not ties(host, asked):
        return False
    found = []
    for nudge in (-NUDGE, NUDGE):
        with rounded(host, nudge):
            found.append(apart(make(host, "txt2img", **asked).images[0], made.images[0]))
    return min(found) <= 1


@pytest.mark.parametrize("sampler", [SAMPLERS[i] for i in numbers() if i < len(SAMPLERS)])
def test_a_sampler_on_every_schedule(host, table, traces, sampler):
    from modules import sd_samplers, sd_schedulers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")
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
    """DPM2 a on SGM Uniform in Forge main: at 5 steps a level is a tie, at 4 and 6 none is."""
    if host.name != "Forge":
        pytest.skip("a matter of Forge main's rounding")
    asked = {"sampler_name": "DPM2 a", "scheduler": "SGM Uniform", **SMALL, "steps": steps}
    found = ties(host, asked)
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    if steps == 5:
        assert list(found.values()) == [(832, 833)]
        assert told_by_rounding(host, asked, made)
        return
    assert not found and apart(plain.images[0], made.images[0]) <= 1


def _construct(sampler: str):
    from modules import sd_samplers, shared

    return sd_samplers.create_sampler(sampler, shared.sd_model)
