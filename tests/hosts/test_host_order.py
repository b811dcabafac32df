"""Objects in order in a host: the API, the parameters and back, a plot's axis, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from jobs import apart, make, note, pasted, ticked
from test_host_jobs import plot

ORDERED, WRITTEN = "cat > dog", "cat:0.4, dog:0.8"


def test_the_order_is_shares_of_the_curvature(host, traces):
    made = make(host, "txt2img", **ticked(objects=ORDERED, curvature=0.8))
    same = make(host, "txt2img", **ticked(objects=WRITTEN, curvature=0.1))
    turned = make(host, "txt2img", **ticked(objects="dog > cat", curvature=0.8))
    both = make(host, "txt2img", **ticked(objects="cat, dog", curvature=0.8))
    assert np.array_equal(made.images[0], same.images[0]) and not note(made)
    assert apart(made.images[0], turned.images[0]) > 3 and apart(made.images[0], both.images[0]) > 3
    again = pasted(host, made.info["infotexts"][0])
    assert "objects=cat > dog" in made.info["infotexts"][0]
    assert np.array_equal(made.images[0], again.images[0]) and not note(again)


@pytest.mark.parametrize("kind", ["hires", "img2img"])
def test_in_other_jobs_too(host, traces, kind):
    made = make(host, kind, **ticked(objects=ORDERED, curvature=0.8))
    same = make(host, kind, **ticked(objects=WRITTEN, curvature=0.1))
    assert np.array_equal(made.images[0], same.images[0])


def test_an_axis_of_a_plot_takes_an_order(host, traces):
    values = f'"{ORDERED}","cat, dog"'
    labels, made = plot(host, "[AsynDM] Object words", values, **ticked(curvature=0.8))
    cells = made.images[1:]
    alone = make(host, "txt2img", **ticked(objects=ORDERED, curvature=0.8))
    assert len(cells) == 2 and ORDERED in labels[0]
    assert np.array_equal(cells[0], alone.images[0]) and apart(cells[0], cells[1]) > 3


@pytest.mark.parametrize(
    "objects, said",
    [("cat > dog > cat", "is a circle"), ("cat > unicorn", "'unicorn' is not in the prompt")],
)
def test_what_cannot_be_is_one_line(host, traces, objects, said):
    made = make(host, "txt2img", **ticked(objects=objects, curvature=0.8))
    assert said in note(made)
    if "circle" in said:
        assert np.array_equal(made.images[0], make(host, "txt2img").images[0])
