"""ADetailer itself beside AsynDM in a real WebUI.

``ASYNDM_EXTENSIONS`` names its checkout, ``ASYNDM_SETTINGS`` its detector's folder: see works.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from jobs import make, note, ticked
from works import ADETAILER, runner_of


@pytest.fixture
def detailed(host, traces):
    """A job with ADetailer's pass, and AsynDM's settings if any."""
    scripts = runner_of("txt2img").alwayson_scripts
    if "ADetailer" not in [script.title() for script in scripts]:
        pytest.skip("no ADetailer in this host: set ASYNDM_EXTENSIONS")

    def made(repaint=True, **settings):
        both = ticked(**settings)["alwayson_scripts"] if settings else {}
        both |= {"ADetailer": {"args": [repaint, False, ADETAILER]}}
        return make(host, "txt2img", alwayson_scripts=both)

    return made


def changed(one, two) -> np.ndarray:
    """bool [H, W]: where two images differ."""
    return (one.images[0] != two.images[0]).any(-1)


def test_its_inner_pass_is_synchronous_unless_asked_for(detailed):
    plain, repaired = detailed(repaint=False), detailed()
    region = changed(plain, repaired)
    assert 0.05 < region.mean() < 0.9, "ADetailer did nothing, or all"
    ticked_, slow = (detailed(repaint=r, curvature=0.8) for r in (False, True))
    asked = detailed(curvature=0.8, adetailer=True)
    assert changed(plain, ticked_).mean() > 0.5
    for image in (slow, asked):  # around the region it is the ticked image
        outside = changed(ticked_, image)
        assert outside.any() and not (outside & ~grown(region)).any()
    assert changed(slow, asked).any() and not (changed(slow, asked) & ~grown(region)).any()
    assert not note(slow) and not note(asked)
    assert slow.info["sampler_name"] == asked.info["sampler_name"] == "Euler a"
    again = detailed()  # unticked after all that: as before
    assert not changed(again, repaired).any()


def grown(region: np.ndarray) -> np.ndarray:
    """The rectangle around a region: what may change of it, by the blur of its edge."""
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    made = np.zeros_like(region)
    made[max(rows[0] - 4, 0) : rows[-1] + 5, max(columns[0] - 4, 0) : columns[-1] + 5] = True
    return made


def test_a_note_names_the_pass_it_speaks_of(detailed):
    made = detailed(curvature=0.8, adetailer=True, objects="cat, unicorn")
    assert "ADetailer's pass: objects: 'unicorn' is not in the prompt" in note(made)
