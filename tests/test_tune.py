"""bench tune: arms of equal rows, kills, pruning, what is left, and the one confirmation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna", reason="pip install 'asyndm[bench]'")

from tune_toys import BEST, Toy, install, tune

import asyndm.bench.tune.command as command
from asyndm.bench.alignment.backends import Setup
from asyndm.bench.tune.space import ALSO, Space
from asyndm.bench.tune.space import USUAL_ARMS as ARMS
from asyndm.core.presets import Presets
from asyndm.core.profile import read_profile
from asyndm.core.settings import Settings, SettingsError
from asyndm.core.sigma_scale import SigmaScale
from asyndm.core.sigmas import make_sigmas
from asyndm.scenes.model import training_alphas


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return install(tmp_path, monkeypatch, Toy(Setup(steps=3, cfg=2.5)))


def test_every_arm_spends_what_was_said_and_leaves_what_it_found(tmp_path, toy, capsys):
    folder = tmp_path / "t"
    assert tune(folder, "--also", "threshold") == 0
    said = capsys.readouterr().out
    each = 3 * 8 * 6
    assert f"4 arms (learned, constant, cfg, shuffled) of {each} network rows each" in said
    assert f"plain guidance 48, the confirmation {5 * 6 * 6}: {4 * each + 48 + 180} rows" in said
    report = json.loads((folder / "tune.json").read_text())
    for arm in ARMS:
        spent = sum(one["rows"] for one in report["arms"][arm]["trials"])
        assert spent == report["arms"][arm]["rows"]
        assert each <= spent < each + 48  # to within a trial
    drawn = {text for text, _ in toy.drawn}
    assert {report["arms"][arm]["method"] for arm in ("learned", "constant")} <= drawn
    # The best of those whose prompts were all drawn, by pictures looked at here.
    tried = [one["method"] for arm in ARMS for one in report["arms"][arm]["trials"]]
    off = {text: toy.off(command.parse(text)[0]) for text in tried}
    for arm in ("learned", "constant", "cfg"):
        full = [one for one in report["arms"][arm]["trials"] if not one["given_up"]]
        best = min(full, key=lambda one: off[one["method"]])
        assert off[report["arms"][arm]["method"]] == pytest.approx(off[best["method"]], abs=0.1)
    # What is left is what a WebUI's folders hold.
    profile = read_profile("tuned", folder / "result" / "asyndm-profiles")
    settings = Settings.from_dict(Presets(folder / "result" / "asyndm-presets").values("tuned"))
    assert (settings.curve, settings.profile, settings.curvature) == ("learned", "tuned", 1.0)
    assert (
        profile.checkpoint == "ab" * 8
        and f"threshold={settings.threshold:.4g}" in (report["arms"]["learned"]["method"])
    )
    # Confirmed once, on prompts that nothing was chosen on.
    confirmed = json.loads((folder / "confirm" / "report.json").read_text())
    plan = json.loads((folder / "confirm" / "plan.json").read_text())
    fresh = {one["text"] for one in plan["prompts"]}
    assert len(fresh) == 6 and not fresh & {*confirmed["chosen"]["prompts"]}
    assert fresh <= {prompt for _, prompt in toy.drawn}
    found = [report["arms"][arm]["method"] for arm in ARMS]
    assert confirmed["asked"] == list(dict.fromkeys(["sync", *found]))
    assert set(report["confirmed"]["arms"]) == {*ARMS} and report["confirmed"]["prompts"] == 6
    count = len(toy.drawn)
    assert tune(folder) == 0 and len(toy.drawn) == count  # all is there
    assert "it is not tuned further" in capsys.readouterr().out
    assert tune(folder, "--trials", 9) == 2
    assert "trials: this folder was begun with 3, not 9" in capsys.readouterr().err


def test_more_rows_find_what_is_best_and_shuffled_verdicts_do_not(tmp_path, toy):
    args = ["--trials", 24, "--limit", 4, "--arms", "constant", "shuffled"]
    assert tune(tmp_path / "t", "run", *args) == 0
    report = json.loads((tmp_path / "t" / "tune.json").read_text())
    k = float(re.search(r"k=([\d.]+)", report["arms"]["constant"]["method"])[1])
    assert k == pytest.approx(BEST["k"], abs=0.08)
    shuffled = report["arms"]["shuffled"]["trials"]
    off = [toy.off(command.parse(one["method"])[0]) for one in shuffled]
    told = np.corrcoef(off, [one["mean"] for one in shuffled])[0, 1]
    constant = report["arms"]["constant"]["trials"]
    near = [toy.off(command.parse(one["method"])[0]) for one in constant]
    assert np.corrcoef(near, [one["mean"] for one in constant])[0, 1] < -0.9 and abs(told) < 0.6
    assert min(one["mean"] for one in shuffled) < 0 < max(one["mean"] for one in shuffled)


def test_what_is_clearly_worse_is_given_up(tmp_path, toy):
    toy.slope = 300.0
    args = ["--trials", 8, "--limit", 20, "--arms", "cfg"]
    assert tune(tmp_path / "t", "run", *args) == 0
    trials = json.loads((tmp_path / "t" / "tune.json").read_text())["arms"]["cfg"]["trials"]
    gave_up = [one for one in trials if one["given_up"]]
    assert gave_up and all(8 <= one["prompts"] < 20 for one in gave_up)
    assert len(trials) > 8  # their rows went to others
    best = max((one for one in trials if not one["given_up"]), key=lambda one: one["mean"])
    assert all(one["mean"] < best["mean"] for one in gave_up)


def test_a_death_in_a_trial_repeats_and_loses_nothing(tmp_path, toy):
    folder = tmp_path / "t"
    args = ["--arms", "learned", "--trials", 4, "--limit", 12]
    whole = []
    for die in (21, 33, 45, None):
        toy.die = die
        assert tune(folder, "run", *args) == (130 if die else 0)
        whole.append(len(toy.drawn))
    assert len(toy.drawn) == len(set(toy.drawn))  # no picture twice
    trials = json.loads((folder / "tune.json").read_text())["arms"]["learned"]["trials"]
    methods = [one["method"] for one in trials]
    assert len(methods) == len(set(methods)) >= 4
    assert {m for m, _ in toy.drawn} == {"sync", *methods}  # what was begun was ended
    assert sum(one["rows"] for one in trials) + 12 * 6 == len(toy.drawn) * 6


def test_a_trial_that_ends_while_it_is_looked_at_is_over(tmp_path, toy, monkeypatch):
    """Another process tells it between the list of running ones and the lock on it."""
    tunings = []
    made = command.Tuning
    monkeypatch.setattr(command, "Tuning", lambda *a: tunings.append(made(*a)) or tunings[-1])
    assert tune(tmp_path, "run", "--arms", "constant") == 0
    (tuning,) = tunings
    study = tuning.study("constant")
    trial = study.ask()
    lock = tuning._lock("constant", trial.number)
    acquire = type(lock).acquire

    def told_first(self, *args, **kwargs):
        if str(trial.number) in self.lock_file and not told:
            told.append(study.tell(trial, 0.25))
        return acquire(self, *args, **kwargs)

    told = []
    monkeypatch.setattr(type(lock), "acquire", told_first)
    tuning._revive(study, "constant")
    assert told and study.trials[trial.number].state.name == "COMPLETE"
    assert study.trials[trial.number].value == 0.25
    waiting = [one for one in study.trials if one.state.name == "WAITING"]
    assert not waiting


def test_profiles_of_all_parameters_can_be_run():
    rng = np.random.default_rng(0)
    from asyndm.core.parametrisation import VParametrisation

    scale = SigmaScale(make_sigmas("uniform", 12, VParametrisation(training_alphas())),
                       VParametrisation(training_alphas()))  # fmt: skip
    for knots in (4, 5, 6):
        space = Space(knots)
        for _ in range(20):
            values = {f"lag {n + 1}": rng.uniform(0, 4) for n in range(knots)}
            profile = space.profile(values)
            assert len(profile.knots) == knots and profile.name == space.profile(values).name
            assert all(-1 <= rate <= 1 for rate in profile.kappas(scale))
    still = Space().profile({f"lag {n + 1}": 0.0 for n in range(5)})
    assert set(still.kappas(scale)) == {0.0}
    assert set(ALSO) <= {*Settings.__dataclass_fields__, "w"}


def test_studies_lie_where_they_are_told_to(tmp_path, toy, monkeypatch):
    monkeypatch.setenv("ASYNDM_TUNE_STORAGE", f"sqlite:///{tmp_path / 'shared.db'}")
    args = ["--arms", "cfg", "--trials", 2, "--limit", 4]
    assert tune(tmp_path / "t", "run", *args) == 0
    assert (tmp_path / "shared.db").exists() and not (tmp_path / "t" / "studies.db").exists()
    kept = (tmp_path / "t" / "tune-plan.json").read_text()
    assert "shared.db" not in kept


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--knots", 3], "knots: 3"),
        (["--trials", 0], "trials: 0"),
        (["--also", "eta"], "also: 'eta' is unknown"),
        (["--backend", "webui:http://127.0.0.1:1"], "take embedded or diffusers"),
        (["--score", "contrast"], "cannot be tuned by"),
        (["--score", "clipscore"], "--weights clipscore=FOLDER"),
        (["--scores", "right"], "name it by --score"),
        (["--storage", "mysql://me:secret@127.0.0.1/x"], "storage: the database cannot be used"),
        (["confirm"], "holds no tuning"),
        (["--low", 4, "--high", 4.5], "high: 4.5"),
    ],
)
def test_bad_input_is_one_line(tmp_path, toy, args, says, capsys):
    assert tune(tmp_path / "t", *args) == 2
    error = capsys.readouterr().err
    assert error.startswith("asyndm: ") and error.count("\n") == 1 and says in error
    assert "secret" not in error and not toy.drawn


def test_a_confirmation_needs_a_choice(tmp_path, toy, capsys):
    toy.die = 5
    assert tune(tmp_path / "t", "run") == 130
    toy.die = None
    assert tune(tmp_path / "t", "confirm") == 2
    assert "nothing is chosen in" in capsys.readouterr().err


def test_a_name_that_is_none_is_one_line(tmp_path, toy, capsys):
    assert tune(tmp_path / "t", "--name", "../x", "--arms", "cfg") == 2
    assert "preset: give a name" in capsys.readouterr().err and not toy.drawn
    with pytest.raises(SettingsError):
        read_profile("../x", Path("."))
