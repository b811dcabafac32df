"""Every script the host ships, and what else people run: plain, ticked, ticked with masks.

``ASYNDM_TABLE=docs/works-with.json`` writes what was measured there, see ``works.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jobs import apart, scene
from works import (
    CELLS,
    REFUSED,
    Table,
    asked,
    difference,
    fitted,
    made_of,
    numbers,
    own_rows,
    prepare,
    rows,
    soft_inpainting,
    version,
    without,
)

REAL = os.environ.get("ASYNDM_WEBUI_DIR")
K = {"curvature": 0.8}
pytestmark = pytest.mark.skipif(not REAL, reason="no real WebUI: set ASYNDM_WEBUI_DIR")


@pytest.fixture(scope="module")
def table(host):
    """What this run measures; written when it is over."""
    made = Table(host.name, jobs=own_rows(host.folder) if REAL else ())
    made.version = version(host.txt2img(prompt="", steps=1)) if REAL else "stand-in"
    if REAL:
        prepare(host)
    return made


@pytest.fixture
def kept(table):
    """Written after every row: a run that is ended keeps what it has."""
    yield table
    if os.environ.get("ASYNDM_TABLE"):
        table.write(Path(os.environ["ASYNDM_TABLE"]))


@pytest.fixture(scope="module")
def bare(host, tmp_path_factory):
    """The same jobs of a host without the extension, from a process of its own."""
    out = tmp_path_factory.mktemp("bare") / "images.npz"
    subprocess.run(
        [sys.executable, str(Path(__file__))],
        env={**os.environ, "OUT": str(out), "ASYNDM_STANDIN": host.name},
        check=True,
        capture_output=True,
    )
    return np.load(out)


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", numbers())


def beside(masks, ticked):
    """The pictures without those of masks, which stand together somewhere among them.

    (Behind the images; other scripts, such as ControlNet, put pictures of their own behind them.)
    """
    more = max(0, len(masks) - len(ticked))
    without_them = [masks[:i] + masks[i + more :] for i in range(len(ticked), 0, -1)]
    return next((kept for kept in without_them if difference(kept, ticked) == 0), without_them[0])


def test_a_job_of_the_host(host, bare, kept, number):
    table = kept
    if number >= len(rows()):
        pytest.skip("this host has no more")
    row = rows()[number]
    for cell in CELLS:
        table.tell(row[0], cell, "not run")
    if asked(host.api, row) is None:
        pytest.skip(f"{row[0]}: nobody has said how it is run")
    assert str(bare[f"{number} row"]) == row[0], "rows have other numbers without the extension"
    if f"{number} failed" in bare:
        for cell in CELLS:
            table.tell(row[0], cell, "fails without AsynDM")
        pytest.skip(f"{row[0]}: fails without AsynDM")
    before = [bare[f"{number} {i}"] for i in range(int(bare[f"{number} count"]))]
    with fitted(host, row):
        measure(host, row, table, before)


def measure(host, row, table, before):
    """The cells of one row; ``before``: the images of a host without the extension."""
    job, made = asked(host.api, row), {}
    for cell, settings in zip(CELLS, ({}, K, {**K, "show_masks": True})):
        function, more = asked(host.api, row, **settings)
        try:
            made[cell] = made_of(host, function, more)
        except Exception as error:
            table.tell(row[0], cell, f"wrong: {type(error).__name__}")
            raise
    plain, ticked, masks = (made[cell].images for cell in CELLS)
    inside = "script_name" in job[1]
    kept = masks if inside else beside(masks, ticked)
    if job[0] == "batch":  # each picture's own masks are behind it
        kept = masks[:: len(masks) // len(ticked)]
    found = (difference(plain, before), difference(ticked, plain), difference(kept, ticked))
    for cell, value in zip(CELLS, found):
        table.tell(row[0], cell, value)
    said = str(made["masks"].info)
    if row[2] in REFUSED:
        assert found == (0, 0, 0) and "AsynDM note" in said and "synchronous" in said
        table.tell(row[0], "ticked", "one line, synchronous")
        return
    base = without(host.api, row)
    if base is not None:  # the host's feature is at work, or nothing of this says anything
        assert difference(plain, made_of(host, *base).images) != 0, "the host's feature did nothing"
    assert found[0] == 0 and isinstance(found[1], int) and found[1] > 3 and found[2] == 0, found
    if inside:
        assert "no pictures of masks join the gallery" in said
    else:
        assert len(masks) > len(ticked)


def test_the_hosts_own_list_of_jobs_is_kept(host, kept):
    """What the page tells "not in this host" from "not run" by."""
    assert {"txt2img", "X/Y/Z plot (txt2img)", "Seed (img2img)"} <= set(kept.jobs)
    assert not [name for name in kept.jobs if name.startswith("AsynDM")]
    for number, (name, _, file) in enumerate(rows()):
        print(number, name, file)


def test_forges_soft_inpainting_on_few_cores_answers_with_the_picture_sent(host, monkeypatch):
    """Forge main's own fault, see ``works.soft_inpainting``; with AsynDM as without."""
    names = soft_inpainting()
    if names is None:
        pytest.skip("this host's Soft Inpainting does not count cores")
    row = next(row for row in rows() if row[2] == "soft_inpainting")
    made: dict[tuple, np.ndarray] = {}
    for cores in (2, 8):
        monkeypatch.setitem(names, "cpu_count", lambda cores=cores: cores)
        for ticked in (False, True):
            made[cores, ticked] = made_of(host, *asked(host.api, row, **(K if ticked else {})))
    found = {key: each.images[0] for key, each in made.items()}
    sent = np.asarray(scene())
    assert np.array_equal(found[2, False], sent) and np.array_equal(found[2, True], sent)
    assert apart(found[8, False], sent) > 3 and apart(found[8, True], found[8, False]) > 3


def main() -> None:
    """The images of every row, made by a host without the extension."""
    from driver import StandIn
    from real_hosts import real_host

    host = (real_host() if REAL else StandIn)(extension=False)
    host.checkpoint("sd1")
    prepare(host)
    images = {}
    for number, row in enumerate(rows()):
        job = asked(host.api, row) if number in numbers() else None
        if job is None:
            continue
        images[f"{number} row"] = np.array(row[0])
        try:
            with fitted(host, row):
                made = made_of(host, *job).images
        except Exception as error:  # the host's own fault
            images[f"{number} failed"] = np.array(f"{type(error).__name__}: {error}"[:100])
            continue
        images[f"{number} count"] = np.array(len(made))
        images |= {f"{number} {i}": image for i, image in enumerate(made)}
    np.savez(os.environ["OUT"], **images)


if __name__ == "__main__":
    main()
