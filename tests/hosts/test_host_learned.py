"""The learned curve in a host: by API, in the parameters and back, on a plot's axis, bad input."""

from __future__ import annotations

from types import SimpleNamespace as Of

import numpy as np
import pytest
from jobs import apart, make, note, pasted, ticked
from test_host_jobs import plot

from asyndm.core.profile import PROFILES, Profile
from asyndm.hosts.infotext import PROFILE_KEY

SLOW = Profile(((-6.0, -6.1), (-3.0, -4.2), (0.0, -1.3), (4.0, 3.2)))
LEARNED = {"curve": "learned", "curvature": 1.0, "objects": "cat"}


@pytest.fixture
def profiles(host, tmp_path, monkeypatch):
    """A folder with two, one of which is of a checkpoint that is not loaded."""
    (tmp_path / "slow.json").write_text(SLOW.to_json())
    (tmp_path / "foreign.json").write_text(Profile(SLOW.knots, "0123456789abcdef").to_json())
    (tmp_path / "bad.json").write_text("{")
    monkeypatch.setattr(PROFILES, "folder", tmp_path)


def test_a_profile_steers_and_is_told(host, traces, profiles):
    plain = make(host, "txt2img")
    made = make(host, "txt2img", **ticked(**LEARNED, profile="slow"))
    quadratic = make(host, "txt2img", **ticked(curvature=1.0, objects="cat"))
    assert apart(made.images[0], plain.images[0]) > 3
    assert apart(made.images[0], quadratic.images[0]) > 3
    assert not note(made) and made.parameters[PROFILE_KEY].startswith("slow ")
    again = pasted(host, made.info["infotexts"][0])
    assert np.array_equal(made.images[0], again.images[0]) and not note(again)
    assert again.parameters[PROFILE_KEY] == made.parameters[PROFILE_KEY]
    still = make(host, "txt2img", **ticked(**{**LEARNED, "curvature": 1e-9}, profile="slow"))
    assert apart(still.images[0], plain.images[0]) <= 1


@pytest.mark.parametrize("kind", ["hires", "img2img", "inpaint"])
def test_other_jobs(host, traces, profiles, kind):
    """The rates are derived anew for a pass that begins in the middle of the noise."""
    made = make(host, kind, **ticked(**LEARNED, profile="slow"))
    same = make(host, kind, **ticked(**{**LEARNED, "curvature": 1e-9}, profile="slow"))
    assert apart(made.images[0], make(host, kind).images[0]) > 3 and not note(made)
    assert apart(same.images[0], make(host, kind).images[0]) <= 1


def test_the_axes_of_a_plot(host, traces, profiles):
    labels, made = plot(host, "[AsynDM] Profile", "slow,foreign", **ticked(**LEARNED))
    alone = make(host, "txt2img", **ticked(**LEARNED, profile="slow"))
    assert len(made.images) == 3 and "slow" in labels[0]
    assert np.array_equal(made.images[1], alone.images[0])
    assert np.array_equal(made.images[1], made.images[2])  # the same knots


@pytest.mark.parametrize(
    "settings, said, synchronous",
    [
        ({**LEARNED}, "profile: the learned curve needs one", True),
        ({**LEARNED, "profile": "nobody's"}, "is unknown; choose one of bad, foreign, slow", True),
        ({**LEARNED, "profile": "../slow"}, "is unknown", True),
        ({**LEARNED, "profile": "bad"}, "its file cannot be used", True),
        ({**LEARNED, "profile": "slow", "origin": "paper"}, "has no learned curve", True),
        ({"profile": "slow", "objects": "cat"}, "profile: the quadratic curve has none", False),
    ],
)
def test_what_cannot_be_or_does_nothing_is_one_line(
    host, traces, profiles, settings, said, synchronous
):
    made = make(host, "txt2img", **ticked(**settings))
    assert said in note(made)
    assert np.array_equal(made.images[0], make(host, "txt2img").images[0]) == synchronous


def test_another_checkpoint_is_told_by_its_hash_and_by_nothing_else(
    host, traces, profiles, monkeypatch, tmp_path
):
    """Where a host makes no hashes there is an older one, of 64 kB, and the file: neither tells."""
    from asyndm.hosts import shims

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    for info, said in (
        (Of(sha256="f" * 64, filename=str(file)), "was learned on another checkpoint"),
        (Of(sha256="0123456789abcdef" * 4, filename=str(file)), ""),
        (Of(sha256=None, shorthash=None, hash="688589af", filename=str(file)), ""),
    ):
        monkeypatch.setattr(shims, "checkpoint_in_use", lambda p, model, info=info: info)
        made = make(host, "txt2img", **ticked(**LEARNED, profile="foreign"))
        assert said in note(made) if said else not note(made)


def test_a_clock_that_is_the_hosts_needs_no_profile(host, traces, profiles):
    made = make(host, "txt2img", **ticked(**LEARNED, clock="synchronous", guidance="apg"))
    assert "needs one" not in note(made) and PROFILE_KEY not in made.parameters
