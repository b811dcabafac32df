"""The page of samplers on real hosts is that of the measured table."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("samplers_table", ROOT / "tools/samplers_table.py")
samplers_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samplers_table)


# A rounding of the host's that falls to either side; the page tells which.
KNOWN = {("Forge", "DPM2 a", "SGM Uniform"): 3}


def table() -> dict:
    return json.loads((ROOT / "docs" / "samplers.json").read_text("utf-8"))


def test_the_page_is_that_of_the_table():
    page = (ROOT / "docs" / "samplers.md").read_text("utf-8")
    assert page == samplers_table.page(table()), "run tools/samplers_table.py"


def test_every_cell_that_was_run_is_the_hosts_own():
    for host, rows in table().items():
        assert host in samplers_table.HOSTS
        for name, row in rows.items():
            assert set(row) == {*samplers_table.SCHEDULES, "date", "version"}, name
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) and row["version"] != "unknown"
            for schedule in samplers_table.SCHEDULES:
                value = row[schedule]
                known = KNOWN.get((host, name, schedule), 1)
                assert value in (samplers_table.NOT_RUN, "has none") or value in range(known + 1)


def test_what_was_not_run_is_said():
    cells = dict.fromkeys(samplers_table.SCHEDULES, 1)
    cells |= {"date": "2026-01-02", "version": "1"}
    page = samplers_table.page({"A1111": {"Heun": cells}, "Forge": {"LMS": cells}})
    assert page.count("| Heun | 1 |") == 1 and page.count("| Heun | not run |") == 1
    assert "## Neo\n\nNot run." in page


def test_what_a_host_lacks_is_not_listed_there():
    cells = dict.fromkeys(samplers_table.SCHEDULES, 1)
    cells |= {"date": "2026-01-02", "version": "1"}
    page = samplers_table.page({"A1111": {"Heun": cells}, "Neo": {"ER SDE": cells}})
    assert page.count("| ER SDE |") == 1 and page.count("| Heun |") == 2
