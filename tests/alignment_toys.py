"""What the tests of bench alignment share."""

from __future__ import annotations

from pathlib import Path

from asyndm import cli

ROOT = Path(__file__).resolve().parents[1]


def bench(*args):
    return cli.main(["bench", "alignment", *map(str, args)])


def small(folder, *more):
    """A few pictures in three steps by weights that load fast."""
    return ["--folder", folder, "--limit", 3, "--steps", 3, *more]
