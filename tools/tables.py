"""Pages of tables that test runs on real hosts measured: one section a host, one row a job."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

NOT_RUN = "not run"
NOT_THERE = "not in this host"


def page(
    head: str,
    first: str,
    columns: Sequence[str],
    hosts: Sequence[str],
    table: dict[str, Any],
    there: Mapping[str, Collection[str]] | None = None,
    leave_out: bool = False,
) -> str:
    """The page of a table {host: {row: {column: value, "date", "version"}}}.

    Rows whose names differ in capitals alone are one ("SD upscale" is "SD Upscale" in Neo).

    Args:
        head: what stands above.
        first: the heading of the rows' names.
        columns: what was measured.
        hosts: in order; one that is not in the table was not run.
        there: the names of the rows that a host has, run or not, where that is known. A row that
            is another host's and not this one's is :data:`NOT_THERE`.
        leave_out: such rows are left out.
    """
    has = {host: {name.casefold() for name in rows} for host, rows in (there or {}).items()}
    parts = [head]
    named = [row for rows in (*(there or {}).values(), *table.values()) for row in rows]
    names = dict(sorted((row.casefold(), row) for row in named))
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
            elsewhere = any(key in theirs for theirs in has.values())
            lacks = host in has and key not in has[host] and elsewhere
            if lacks and leave_out:
                continue
            cells = [row.get(column, NOT_THERE if lacks else NOT_RUN) for column in columns]
            ran = any(cell not in (NOT_RUN, NOT_THERE) for cell in cells)
            cells += [row["version"], row["date"]] if ran else ["", ""]
            parts.append(_line([name, *cells]))
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
