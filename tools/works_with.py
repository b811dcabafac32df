"""Write docs/works-with.md from docs/works-with.json; the file is written by a test run.

``python tools/works_with.py``; what is measured and how is in ``tests/hosts/works.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tables  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs"
HOSTS = ("A1111", "Forge", "Neo", "reForge", "Classic")
CELLS = ("plain", "ticked", "masks")
JOBS = "jobs of the host"  # as in tests/hosts/works.py
HEAD = """# What works with what

Written by `tools/works_with.py` from `works-with.json`, which a run of
`tests/hosts/test_host_jobs_table.py` on the real host writes (`ASYNDM_TABLE`); nothing here is
typed by hand. Every cell is the largest difference of two pictures, in 1/255, on a random model:

- *plain*: AsynDM installed and not ticked, beside the host without it (0 is right);
- *ticked*: ticked beside not ticked (more than 3 is right);
- *masks*: ticked with *Show masks* beside ticked (0 is right: the pictures of masks change no
  image and, inside a script, join no picture of its own).

*not in this host*: the host's own list of scripts, which the run writes down too, has no such one;
*not run*: it has, or nobody has asked it.

Forge main's Soft Inpainting is run as on a machine of eight cores: on six or fewer its own last
step answers with the picture that was sent, whatever was sampled (a test in that file shows it).
Neo's script of torch.compile is run with torch's own `eager` compiler, and its script of reference
images on a small Flux.2: other networks are told of no reference. Neo 2.26's page restores no
progress, with AsynDM or without: its button fills one component less than a job does.
"""


def page(table: dict[str, Any]) -> str:
    """The page of a table {host: {row: {cell: value, "date", "version"}}}.

    Beside the hosts it may hold, under :data:`JOBS`, {host: {"names": its jobs, ...}}.
    """
    measured = {host: rows for host, rows in table.items() if host != JOBS}
    there = {host: asked["names"] for host, asked in table.get(JOBS, {}).items()}
    return tables.page(HEAD, "Job", CELLS, HOSTS, measured, there)


def main() -> None:
    table = json.loads((DOCS / "works-with.json").read_text("utf-8"))
    (DOCS / "works-with.md").write_text(page(table), "utf-8")


if __name__ == "__main__":
    main()
