"""bench tune's adaptive arm: a strength by prompt and picture, and whether it is kept."""

from __future__ import annotations

import hashlib
import json
import sqlite3

import numpy as np
import pytest
import tiny_checkpoint
from alignment_toys import bench

pytest.importorskip("optuna", reason="pip install 'asyndm[bench]'")

from tune_toys import BEST, Toy, install, tune

from asyndm import cli
from asyndm.bench.alignment import adaptive, drawing
from asyndm.bench.alignment.adaptive import Glimpse, Rule
from asyndm.bench.alignment.backends import Backend, Job, Setup, open_backend
from asyndm.bench.alignment.backends.webui import WebUI
from asyndm.bench.alignment.methods import parse
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.prompt_sets import Prompt
from asyndm.bench.alignment.store import Store
from asyndm.core.settings import SettingsError
from asyndm.scenes.text import parse_prompt

ARMS = ("--arms", "constant", "adaptive")
FOUND = "adaptive:a=.5,b=.1,c=.1,centre=.3,spread=.1"


class Toyed(Toy):
    """Its best strength may depend on a prompt's objects and on a picture's share.

    Attributes:
        by_objects, by_share: how much.
        looks: (prompt, seed) of every glimpse.
    """

    def __init__(self, by_objects=0.0, by_share=0.0):
        super().__init__(Setup(steps=3, cfg=2.5))
        self.by_objects, self.by_share, self.looks = by_objects, by_share, []

    def share(self, job):
        return float(np.random.default_rng([job.seed, 7]).uniform(0.1, 0.5))

    def best(self, job):
        more = self.by_objects * (parse_prompt(job.prompt.text).total - 2)
        return BEST["k"] - 0.3 + more + self.by_share * (self.share(job) - 0.3) / 0.115

    def glimpse(self, jobs):
        assert {job.method.text for job in jobs} == {"asyndm:k=.5"}
        self.looks += [(job.prompt.text, job.seed) for job in jobs]
        totals = [parse_prompt(job.prompt.text).total for job in jobs]
        return [Glimpse(n, self.share(job), 6) for n, job in zip(totals, jobs)]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return install(tmp_path, monkeypatch, Toyed())


def told(folder):
    return json.loads((folder / "tune.json").read_text())


@pytest.mark.parametrize(("by_objects", "by_share"), [(0.2, 0.0), (0.0, 0.2)])
def test_a_slope_that_is_there_is_found_and_kept(tmp_path, toy, capsys, by_objects, by_share):
    toy.by_objects, toy.by_share = by_objects, by_share
    folder = tmp_path / "t"
    assert tune(folder, *ARMS, "--trials", 14, "--limit", 10, "--fresh", 16) == 0
    report = told(folder)
    method = parse(report["arms"]["adaptive"]["method"])[0]
    rule = method.rule
    assert (rule.b if by_objects else rule.c) > 0.05
    shares = [toy.share(Job(None, None, seed)) for _, seed in dict.fromkeys(toy.looks[:10])]
    assert rule.centre == pytest.approx(np.mean(shares), abs=1e-4)
    assert rule.spread == pytest.approx(np.std(shares), abs=1e-4)
    found = report["confirmed"]["adaptive"]
    assert found["kept"] and found["value"] > found["low"] > 0
    assert sum(found["strengths"].values()) == 16 and len(found["strengths"]) > 2
    assert "fresh prompts: +" in capsys.readouterr().out.splitlines()[-1]
    # The difference, from the values themselves.
    plan, store = Plan.load(folder / "confirm"), Store(folder / "confirm")
    store.refresh()
    lines = (folder / "confirm" / "scores").rglob("*.jsonl")
    values = {one["key"]: one["value"] for path in lines for one in map(json.loads, open(path))}
    own, other = (
        np.array([[values[key] for key in row] for row in plan.keys(parse(text)[0])])
        for text in (report["arms"]["adaptive"]["method"], found["against"])
    )
    assert found["value"] == pytest.approx((own - other).mean())
    # One row of the report, each picture at its own k, its rows those of both runs.
    confirmed = json.loads((folder / "confirm" / "report.json").read_text())
    rows = {one["text"]: one["rows"] for one in confirmed["methods"]}
    assert rows[report["arms"]["adaptive"]["method"]] == 12 and rows[found["against"]] == 6
    for prompt, (key,) in zip(plan.prompts, plan.keys(method)):
        drawn = store.records[key]["adaptive"]
        seen = Glimpse(parse_prompt(prompt.text).total, drawn["share"], 6)
        assert drawn["k"] == rule.k(seen) and (f"asyndm:k={drawn['k']:g}", prompt.text) in toy.drawn


def test_where_nothing_depends_on_it_the_constant_stays(tmp_path, toy, capsys):
    folder = tmp_path / "t"
    assert tune(folder, *ARMS, "--trials", 6, "--fresh", 12) == 0
    found = told(folder)["confirmed"]["adaptive"]
    assert not found["kept"] and found["low"] <= 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("tune: adaptive minus constant on 12 fresh prompts: ")
    assert "it is not kept" in last
    assert not (folder / "confirm" / "asyndm-profiles").exists()  # no setting was invented


def test_its_rows_are_counted_in_every_trial_and_nothing_is_drawn_twice(tmp_path, toy, capsys):
    folder = tmp_path / "t"
    assert tune(folder, "run", *ARMS, "--trials", 6) == 0
    said = capsys.readouterr().out
    budget, fresh = 6 * 8 * 6, 3 * 6 * 6 + 6 * 6
    assert "6 of its rows a picture are for the share after 3 steps" in said
    assert f"the confirmation {fresh}: {2 * budget + 48 + fresh} rows in all" in said
    arm = told(folder)["arms"]["adaptive"]
    for one in arm["trials"]:
        assert one["rows"] == one["prompts"] * 12
    assert budget <= arm["rows"] < budget + 8 * 12
    assert arm["trials"][0]["method"].startswith("adaptive:a=0.5,b=0,c=0,")
    assert len(toy.drawn) == len(set(toy.drawn)) and len(toy.looks) == len(set(toy.looks)) == 8
    tried = {text for text, _ in toy.drawn if text not in ("sync",)}
    own = {one["method"] for one in told(folder)["arms"]["constant"]["trials"]}
    for text in tried - own:  # those that are his alone lie on the grid
        assert float(text.removeprefix("asyndm:k=")) * 20 % 1 == pytest.approx(0, abs=1e-9)


def test_a_death_repeats_and_loses_nothing(tmp_path, toy):
    folder, args = tmp_path / "t", ["--arms", "adaptive", "--trials", 4, "--limit", 12]
    for die in (14, 21, 33, None):
        toy.die = die
        assert tune(folder, "run", *args) == (130 if die else 0)
    assert len(toy.drawn) == len(set(toy.drawn)) and len(toy.looks) == 12
    trials = told(folder)["arms"]["adaptive"]["trials"]
    methods = [one["method"] for one in trials]
    assert len(methods) == len(set(methods)) >= 2
    assert len({parse(text)[0].rule.centre for text in methods}) == 1
    assert not (folder / "result").exists()  # it alone leaves no preset


def test_a_folder_that_was_begun_without_it_goes_on_with_it(tmp_path, toy, capsys):
    folder = tmp_path / "t"
    toy.die = 8 + 3 * 8 + 4  # in the second arm
    assert tune(folder, "run", "--arms", "constant", "cfg") == 130
    toy.die, before = None, len(toy.drawn)
    plan = json.loads((folder / "tune-plan.json").read_text())
    assert plan["arms"] == ["constant", "cfg"] and "begun" not in plan
    assert tune(folder, "run", *ARMS) == 0
    assert not {text for text, _ in toy.drawn[before:] if text.startswith("cfg")}
    assert len(toy.drawn) == len(set(toy.drawn))
    assert {*told(folder)["arms"]} == {"constant", "adaptive"}
    with sqlite3.connect(folder / "studies.db") as storage:
        names = [name for (name,) in storage.execute("select study_name from studies")]
    assert len(names) == 3 and len({name.rpartition("-")[0] for name in names}) == 1
    count = len(toy.drawn)
    assert tune(folder, "run") == 0 and len(toy.drawn) == count
    assert tune(folder, "run", "--arms", "constant") == 2  # chosen
    assert "arms: this folder was begun with" in capsys.readouterr().err


def test_strengths_lie_on_a_grid_and_follow_the_rule():
    rule = Rule(0.5, 0.1, 0.1, 0.3, 0.1)
    assert rule.k(Glimpse(2, 0.3, 6)) == 0.5 and rule.k(Glimpse(3, 0.5, 6)) == 0.8
    assert rule.k(Glimpse(9, 0.9, 6)) == 1 and rule.k(Glimpse(0, 0, 0)) == 0
    assert Rule(0.33, 0, 0, 0, 1).k(Glimpse(1, 0, 0)) == pytest.approx(0.35)
    assert adaptive.usual([Glimpse(1, 0.25, 6)] * 3) == (0.25, 1.0)
    method = parse(f"{FOUND},threshold=.9,w=3")[0]
    assert method.at(0.35).canonical(7, 5) == parse("asyndm:threshold=.9,k=.35,w=3")[0].canonical(
        7, 5
    )
    assert parse("adaptive+pag:" + FOUND.partition(":")[2])[0].at(0).text == "asyndm+pag:k=0"
    assert method.canonical(7, 5) != parse(f"{FOUND},threshold=.9,w=3".replace("c=.1", "c=.2"))[
        0
    ].canonical(7, 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adaptive", "adaptive needs a, b, c, centre and spread"),
        ("adaptive:a=.5,b=0,c=0", "missing: centre, spread"),
        (FOUND.replace("a=.5", "a=2"), "a: '2' is out of range"),
        (FOUND.replace("spread=.1", "spread=0"), "spread: '0' is out of range"),
        (FOUND.replace("c=.1", "c=much"), "c: 'much'"),
        (FOUND + ",k=.7", "k is what its rule gives"),
        ("asyndm:a=.5", "no setting 'a'"),
    ],
)
def test_bad_values_are_one_line(text, says):
    with pytest.raises(SettingsError, match=".") as error:
        parse(text)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_backend_that_cannot_tell_the_share_is_one_line(tmp_path, toy, capsys, monkeypatch):
    monkeypatch.setattr(Toyed, "glimpse", Backend.glimpse)
    assert tune(tmp_path / "t", *ARMS) == 2
    error = capsys.readouterr().err
    assert error.startswith("asyndm: ") and error.count("\n") == 1
    assert "cannot tell what share" in error and not toy.drawn


def test_a_webui_refuses_the_rule_before_it_draws():
    with pytest.raises(SettingsError, match="take embedded or diffusers:PATH"):
        WebUI.check(object.__new__(WebUI), parse(FOUND), [])


# --- the backends themselves ---


def jobs_of(backend, text, *prompts):
    return [Job(parse(text)[0], Prompt(one, n), 40 + n) for n, one in enumerate(prompts)]


def test_the_small_models_share_is_that_of_the_whole_runs_third_mask(weights):
    backend = open_backend(f"embedded:{weights}", Setup(steps=5))
    jobs = jobs_of(backend, "asyndm:k=.5", "two red circles", "a blue square above a star")
    seen = drawing.glimpsed(jobs, backend)
    assert [one.objects for one in seen] == [2, 2] and [one.rows for one in seen] == [6, 6]
    whole = backend._sampled(jobs).director.history.frames()
    assert [one.share for one in seen] == pytest.approx(whole[3].mask.mean((1, 2)).tolist())
    assert all(0 < one.share < 1 for one in seen)


@pytest.mark.parametrize(("kind", "each"), [("1", 2), ("3.5", 2), ("Flux", 1)])
def test_a_checkpoints_share_likewise(tmp_path, kind, each):
    if kind != "1":
        diffusers = pytest.importorskip("diffusers")
        if not hasattr(diffusers, "FluxPipeline"):
            pytest.skip("this diffusers has no Flux")
        saved = tiny_checkpoint.save_flow(tmp_path / "saved", flux=kind == "Flux")
    else:
        saved = tiny_checkpoint.save(tmp_path / "saved")
    setup = Setup(steps=5, cfg=4.0, size=(32, 32), options={"device": "cpu"})
    backend = open_backend(f"diffusers:{saved}", setup)
    jobs = jobs_of(backend, "asyndm:k=.5", "a cat and a dog", "a bird")
    seen = drawing.glimpsed(jobs, backend)
    assert [one.objects for one in seen] == [2, 1]
    assert [one.rows for one in seen] == [3 * each] * 2
    _, whole = backend._called(jobs)
    third = whole.film[3].mask.mean((1, 2)).tolist()
    assert [one.share for one in seen] == pytest.approx(third) and max(third) > 0
    assert len(whole.film) == 5  # nothing of the short run stays
    # Drawn adaptively: each at the k of its own, as by that k alone.
    own = drawing._drawn(jobs_of(backend, FOUND, "a cat and a dog", "a bird"), backend)
    rule = parse(FOUND)[0].rule
    for job, one, known in zip(jobs, own, seen):
        k = rule.k(known)
        assert one.adaptive["k"] == k and one.rows == 8 * each
        alone = jobs_of(backend, f"asyndm:k={k:g}", "a cat and a dog", "a bird")[job.prompt.number]
        (plain,) = backend.draw([alone])
        off = np.abs(np.asarray(one.image, int) - np.asarray(plain.image, int))
        assert off.max() <= 1


def test_the_small_model_end_to_end(tmp_path, weights):
    folder = tmp_path / "t"
    args = ["--folder", folder, "--backend", f"embedded:{weights}", "--limit", 2, "--trials", 1,
            "--steps", 4, "--fresh", 2, *ARMS, "--score", "objects"]  # fmt: skip
    assert cli.main(["bench", "tune", *map(str, args)]) == 0
    report = told(folder)
    confirmed = json.loads((folder / "confirm" / "report.json").read_text())
    rows = {one["text"]: one["rows"] for one in confirmed["methods"]}
    assert rows[report["arms"]["adaptive"]["method"]] == 8 + 6
    assert report["confirmed"]["adaptive"]["prompts"] == 2
    # The same rule in a bench of one's own.
    again = ["--folder", tmp_path / "own", "--backend", f"embedded:{weights}", "--limit", 2]
    again += ["--steps", 4, "--methods", "sync", FOUND]
    assert bench("run", *again) == 0
    store = Store(tmp_path / "own")
    store.refresh()
    known = [one["adaptive"] for one in store.records.values() if "adaptive" in one]
    assert len(known) == 2 and all({*one} == {"k", "objects", "share"} for one in known)


def test_a_tuning_from_before_there_were_worlds_goes_on(tmp_path, toy):
    assert tune(tmp_path, "run", "--arms", "constant", "--world", "shadows") == 0
    path, before = tmp_path / "tune-plan.json", studies(tmp_path)
    path.write_text(path.read_text().replace('"embedded:shadows"', '"embedded"'))
    (tmp_path / "chosen.json").unlink()
    assert '"embedded"' in path.read_text()
    assert tune(tmp_path, "run") == 0
    assert studies(tmp_path) == before
    kept = json.loads(path.read_text()) | {"backend": "embedded", "model": toy.identity()}
    text = json.dumps(kept, sort_keys=True)  # as it was named then
    assert before == [f"asyndm-{hashlib.sha256(text.encode()).hexdigest()[:16]}-constant"]


def studies(folder):
    import optuna

    return optuna.get_all_study_names(f"sqlite:///{folder / 'studies.db'}")
