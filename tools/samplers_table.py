"""Write docs/samplers.md from docs/samplers.json; the file is written by a test run.

``python tools/samplers_table.py``; what is measured: ``tests/hosts/test_host_samplers_table.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

import tables  # noqa: E402

from asyndm.hosts.faces import COMFY  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs"
HOSTS = ("A1111", "Forge", "Neo", "reForge")
SCHEDULES = (
    *("Automatic", "Uniform", "Karras", "Exponential", "SGM Uniform", "KL Optimal", "Simple"),
    "Beta",
)
# Samplers that not every host has, as the hosts list them.
_OTHERS = ("A1111", "Forge", "reForge")
ONLY = {
    **dict.fromkeys(("DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM2 a"), _OTHERS),
    **dict.fromkeys(("IPNDM", "IPNDM_V", "DEIS", "DDPM"), ("Forge", "reForge")),
    "ER SDE": ("Neo", "reForge"),
    "Res Multistep": ("Neo",),
    "RES Multistep": ("reForge",),
    **dict.fromkeys(COMFY, ("reForge",)),
}
NOT_RUN = tables.NOT_RUN
HEAD = """# Samplers

Written by `tools/samplers_table.py` from `samplers.json`, which a run of
`tests/hosts/test_host_samplers_table.py` on the real host writes (`ASYNDM_TABLE`); nothing here is
typed by hand. Every cell is the largest difference, in 1/255, of a picture ticked at k = 1e-9 (the
general path: maps, tables, hooks) and the host's own sampler's, on a random model, 64x64, 5 steps.
At most 1 is right. *has none*: the sampler has timesteps of its own and no schedule. A 3 stands for
DPM2 a on Forge's SGM Uniform: with 5 steps levels lie half way between two timesteps (499 and 500,
832 and 833), and Forge rounds them to one or the other by the last bits of a float32. That is
shown by a test on the real host: with these levels rounded the other way Forge's own picture is the
same to 1, and with 4 or 6 steps no level is a tie and the difference is at most 1. Forge's DDPM was
given the job's noise: its own is of no seed. A host's table has the samplers that it has.
"""


def page(table: dict[str, Any]) -> str:
    """The page of a table {host: {sampler: {schedule: value, "date", "version"}}}."""
    names = {name for rows in table.values() for name in rows}
    there = {host: {n for n in names if host in ONLY.get(n, HOSTS)} for host in HOSTS}
    return tables.page(HEAD, "Sampler", SCHEDULES, HOSTS, table, there, leave_out=True)


def main() -> None:
    table = json.loads((DOCS / "samplers.json").read_text("utf-8"))
    (DOCS / "samplers.md").write_text(page(table), "utf-8")


if __name__ == "__main__":
    main()
