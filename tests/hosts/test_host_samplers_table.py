"""Every sampler with an asynchronous form on every schedule: k 1e-9 beside the host's own.

``ASYNDM_TABLE=docs/samplers.json`` writes what was measured there, by :class:`works.Table`;
``ASYNDM_ROWS=0-8`` runs some of the rows.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
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
NONE = "has none"  # a schedule of a sampler on timesteps of its own
pytestmark = pytest.mark.skipif(not REAL, reason="no real WebUI: set ASYNDM_WEBUI_DIR")


@pytest.fixture(scope="module")
def table(host):
    made = Table(host.name, SCHEDULES)
    made.version = version(host.txt2img(prompt="", steps=1))
    return made


@pytest.mark.parametrize("sampler", [SAMPLERS[i] for i in numbers() if i < len(SAMPLERS)])
def test_a_sampler_on_every_schedule(host, table, traces, sampler):
    from modules import sd_samplers, sd_schedulers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")
    own_times = "timesteps" in type(_construct(sampler)).__module__
    found = {}
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
            if made.info["sampler_name"] != sampler:
                found[schedule] = f"wrong: {made.info['sampler_name']}"
        table.tell(sampler, schedule, found[schedule])
    if os.environ.get("ASYNDM_TABLE"):  # now: a run that is ended keeps what it has
        table.write(Path(os.environ["ASYNDM_TABLE"]))
    assert all(value == NONE or (isinstance(value, int) and value <= 1) for value in found.values())


def _construct(sampler: str):
    from modules import sd_samplers, shared

    return sd_samplers.create_sampler(sampler, shared.sd_model)
