"""Pages of tables that test runs on real hosts measured: one section a host, one row a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOT_RUN = "not run"


def page(
    head: str, first: str, columns: Sequence[str], hosts: Sequence[str], table: dict[str, Any]
) -> str:
    """The page of a table {host: {row: {column: value, "date", "version"}}}.

    Rows whose names differ in capitals alone are one ("SD upscale" is "SD Upscale" in Neo).

    Args:
        head: what stands above.
        first: the heading of the rows' names.
        columns: what was measured.
        hosts: in order; one that is not in the table was not run.
    """
    parts = [head]
    names = dict(sorted((row.casefold(), row) for rows in table.values() for row in rows))
    for host in hosts:
        rows = {name.casefold(): (name, row) for name, row in table.get(host, {}).items()}
        parts.append(f"## {host}\n")
        if not rows:
            parts.append("Not run.\n")
            continue
        parts.append(_line([first, *columns, "Version", "Date"]))
        parts.append("|" + "---|" * (len(columns) + 3))
        for key in names:
            name, row = rows.get(key, (names[key], {}))
            cells = [row.get(column, NOT_RUN) for column in columns]
            ran = any(cell != NOT_RUN for cell in cells)
            cells += [row["version"], row["date"]] if ran else ["", ""]
            parts.append(_line([name, *cells]))
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
