"""Methods of guidance in a host: what is asked of them besides a square and a short prompt."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REAL
from jobs import PROMPTS, apart, make, note, ticked
from test_host_guidance import (
    ALONE,
    NEUTRAL,
    SOME,
    STEPS,
    WAYS,
    measured,
    once,  # noqa: F401 - of all tests
    rows_seen,
)

# The network of the stand-ins itself takes no odd latents; one level lower their grid is odd.
SIZES = [(136, 200), (72, 256)] if REAL else [(144, 208)]
UNEQUAL = {  # (prompt, negative prompt): 77 and 154 tokens or more, either way
    "long": (PROMPTS["long"], "a dog"),
    "long negative": ("a cat beside a dog", PROMPTS["long"]),
    "parts": (f"{PROMPTS['AND']} AND {PROMPTS['long']} :0.3", ""),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", WAYS if REAL else ["s-cfg", "seg", "tpg", "z"])
def test_any_grid(host, traces, name, size):
    """No square, grids of odd sides: every method acts, and says nothing."""
    asked = {"sampler_name": "Euler", "steps": STEPS, "width": size[0], "height": size[1]}
    plain = make(host, "txt2img", **asked, **ticked(curvature=0.8))
    made = make(host, "txt2img", **asked, **ticked(curvature=0.8, **WAYS[name]))
    assert not note(made) and made.images[0].shape[:2] == plain.images[0].shape[:2]
    assert apart(plain.images[0], made.images[0]) > 1
    if name in NEUTRAL:
        own = make(host, "txt2img", **asked)
        same = make(host, "txt2img", **asked, **ticked(**ALONE, guidance=name, **NEUTRAL[name]))
        assert apart(own.images[0], same.images[0]) <= 1


@pytest.mark.parametrize("prompts", UNEQUAL)
@pytest.mark.parametrize("name", SOME if REAL else ["s-cfg", "pag"])
def test_prompts_of_unequal_length(host, traces, name, prompts):
    """A host runs rows of unequal contexts in calls of their own, or lengthens the shorter."""
    prompt, negative = UNEQUAL[prompts]
    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": prompt}
    asked["negative_prompt"] = negative
    plain = make(host, "txt2img", **asked)
    with rows_seen(host) as seen:
        made = make(host, "txt2img", **asked, **ticked(**ALONE, **WAYS[name]))
    assert not note(made) and apart(plain.images[0], made.images[0]) > 1
    rows = measured(made)[0]
    assert rows == sum(seen)
    parts = 3 if prompts == "parts" else 1
    if name == "z":  # down, up and down again; the last step does not zigzag
        assert rows == 3 * (STEPS - 1) * (parts + 1) + parts + 1
    else:
        assert rows == STEPS * (parts + 1 + (parts if name in ("seg", "pag", "tpg") else 0))
    if name in NEUTRAL:
        same = make(host, "txt2img", **asked, **ticked(**ALONE, guidance=name, **NEUTRAL[name]))
        assert apart(plain.images[0], same.images[0]) <= 1


EXCLUDED = [
    ({"guidance": "cfg++", "zigzag": 0.5}, "zigzag: cfg++ cannot zigzag"),
    ({"guidance": "apg", "zigzag": 0.5}, "zigzag: apg cannot zigzag"),
    ({"guidance": "cfg++w", "interval_high": 3}, "interval: cfg++w sets the guidance"),
    ({"interval_low": 3, "interval_high": 2}, "interval_low: 3 is not below interval_high"),
]


@pytest.mark.parametrize("settings,says", EXCLUDED, ids=[says for _, says in EXCLUDED])
def test_what_excludes_each_other_is_one_line_and_the_hosts_own_picture(
    host, traces, settings, says
):
    plain = make(host, "txt2img", steps=STEPS)
    made = make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8, **settings))
    assert says in note(made) and "\n" not in note(made)
    assert np.array_equal(plain.images[0], made.images[0])


@pytest.mark.parametrize("name", [*WAYS, "interval"])
def test_the_tick_governs_a_method_too(host, traces, name):
    """Unticked, whatever else is set: the host's own picture, and nothing told of it."""
    ways = {**WAYS, "interval": {"interval_high": 3.0}}[name]
    plain = make(host, "txt2img", steps=STEPS)
    off = ticked(enabled=False, curvature=0.8, clock="concave", **ways)
    made = make(host, "txt2img", steps=STEPS, **off)
    assert np.array_equal(plain.images[0], made.images[0])
    assert made.info["infotexts"] == plain.info["infotexts"]
