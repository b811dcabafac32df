"""bench alignment: CFG beside a method at equal rows and at equal effective guidance."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from alignment_toys import bench
from scipy import stats

from asyndm.bench.alignment import command, matching, prompt_sets
from asyndm.bench.alignment.backends import Setup
from asyndm.bench.alignment.methods import parse_all
from asyndm.bench.alignment.plan import Plan


def test_equal_rows_and_equal_guidance(tmp_path, weights):
    methods = ["sync", "pag", "s-cfg", "z-sampling", "cfg++:lambda=.3"]
    args = ["--backend", f"embedded:{weights}", "--match", "rows", "guidance", "--steps", 4]
    args += ["--pilot", 1]
    assert bench("run", "--folder", tmp_path, "--limit", 1, "--methods", *methods, *args) == 0
    plan = Plan.load(tmp_path)
    assert plan.companions["pag"]["rows"].text == "cfg:steps=6"
    assert plan.companions["z-sampling"]["rows"].canonical(2.5, 4)["steps"] == 8
    assert plan.companions["s-cfg"]["guidance"].plain
    by, told = plan.companions["cfg++:lambda=.3"]["guidance"], plan.pilots["cfg++:lambda=.3"]
    assert by.plain and by.w == pytest.approx(told["w_eff"], rel=1e-3)
    assert "other latents" in plan.unmatched["z-sampling by guidance"]
    bench("score", "--folder", tmp_path, "--scores", "contrast")
    bench("report", "--folder", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    reached = {(one["method"], one["by"]): one["reached"] for one in report["matched"]}
    assert {one["why"] for one in report["matched"] if one["reached"]} == {""}
    assert reached["pag", "rows"] and reached["s-cfg", "rows"] and not reached["z-sampling", "rows"]
    assert reached["cfg++:lambda=.3", "guidance"]  # its w hardly differs between pictures
    page = (tmp_path / "report.html").read_text()
    assert "z-sampling by guidance: not matched" in page


def test_a_file_has_no_development_prompts_besides_its_own(tmp_path, weights):
    """So the page says so; the pictures that tell are no pictures from before the family's name."""
    texts = [
        f"a {colour} {kind}" for colour in ("red", "blue", "green") for kind in ("star", "circle")
    ]
    (tmp_path / "p.txt").write_text("\n".join(texts))
    development = [text for text in texts if prompt_sets.is_development(text)]
    assert 0 < len(development) < len(texts)
    args = ["--backend", f"embedded:{weights}", "--match", "guidance", "--steps", 2, "--prompts"]
    args += [tmp_path / "p.txt", "--methods", "sync", "s-cfg", "--folder", tmp_path / "out"]
    assert bench(*args, "--scores", "contrast") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["named_at"] == 0
    assert report["pilots"]["s-cfg"]["here"] == len(development)
    assert "development prompts besides its own" in (tmp_path / "out" / "report.html").read_text()


def test_guidance_that_varies_is_measured_on_more_development_prompts(monkeypatch):
    drawn = []

    def draw(plan, backend, store):
        drawn.append((len(plan.prompts), [one.text for one in plan.methods]))
        for method in plan.methods:
            for number, (key,) in enumerate(plan.keys(method)):
                w = 2 + number % 2 if method.text == "s-cfg" else 2.5
                store.records[key] = {"w_eff": w, "rows": 8}

    monkeypatch.setattr(matching.drawing, "draw", draw)
    backend = SimpleNamespace(check=lambda methods, prompts: None)
    plan = plan_of(["sync", "pag", "s-cfg"])
    matching.match(plan, ["guidance"], backend, SimpleNamespace(records={}), 40)
    assert drawn == [(24, ["sync", "pag", "s-cfg"]), (40, ["s-cfg"])]
    assert {name: one["guidance"].text for name, one in plan.companions.items()} == {
        "pag": "cfg", "s-cfg": "cfg",
    }  # fmt: skip
    told = plan.pilots["s-cfg"]
    deviation = stats.sem([2 + n % 2 for n in range(40)]) * stats.t.ppf(0.975, 39)
    assert told["prompts"] == 40 and told["error"] == pytest.approx(deviation / 2.5)


def test_a_cheap_model_is_asked_more_prompts(tmp_path, monkeypatch):
    asked = []

    def stop(plan, kinds, backend, store, most):
        asked.append(most)
        raise Stopped

    monkeypatch.setattr(command.matching, "match", stop)
    for more in ([], ["--pilot", 7]):
        with pytest.raises(Stopped):
            bench("run", "--folder", tmp_path / f"F{len(more)}", "--limit", 1, *more)
    assert asked == [command.PILOT_EMBEDDED, 7]
    assert command.PILOT_EMBEDDED > 1600 > command.PILOT


class Stopped(Exception):
    """Nothing needs to be drawn."""


def plan_of(methods):
    prompts = [prompt_sets.Prompt("a circle", 0), prompt_sets.Prompt("a star", 1)]
    given = {"prompts": prompts, "seeds": [0], "identity": {}}
    source = {"name": "grammar", "split": "test"}
    return Plan(parse_all(methods), setup=Setup(steps=4, cfg=2.5), source=source, **given)


@pytest.mark.parametrize(
    ("rare", "share", "spread"), [(4.0, 0.1, 0.0), (2.5, 0.0, 0.083), (2.6, 0.5, 0.04)]
)
def test_guidance_is_matched_within_two_percent(monkeypatch, rare, share, spread):
    """Of a method as S-CFG, and of one that differs in a tenth of the pictures: 9 times of 10."""
    rng, off = np.random.default_rng(17), []

    def values(count):
        own = np.where(rng.random(count) < share, rare, 2.5)
        return own * np.maximum(rng.normal(1, spread, count), 0.5)

    def draw(plan, backend, store):
        for method in plan.methods:
            missing = [key for (key,) in plan.keys(method) if key not in store.records]
            for key, w in zip(missing, values(len(missing))):
                store.records[key] = {"w_eff": float(w) if method.text == "pag" else 2.5, "rows": 8}

    some = [prompt_sets.Prompt(f"prompt {number}", number) for number in range(1600)]
    monkeypatch.setattr(prompt_sets, "load", lambda name, split, count: some[:count])
    monkeypatch.setattr(matching.drawing, "draw", draw)
    backend = SimpleNamespace(check=lambda methods, prompts: None)
    for _ in range(20):
        plan = plan_of(["sync", "pag"])
        matching.match(plan, ["guidance"], backend, SimpleNamespace(records={}), 1600)
        w = plan.companions["pag"]["guidance"].w or 2.5
        off.append(w / (2.5 + share * (rare - 2.5)) - 1)
        assert plan.pilots["pag"]["error"] <= 0.01
    assert (np.abs(off) <= 0.02).mean() >= 0.9


def test_a_guidance_that_cannot_be_met_is_told(monkeypatch):
    heavy = 5 + 3 * np.random.default_rng(2).standard_normal(250) ** 2
    line = matching.why_not(list(heavy), 9.0, matching.known(list(heavy[:40])))
    off, half = 9 / heavy.mean() - 1, stats.sem(heavy) * stats.t.ppf(0.975, 249) / heavy.mean()
    assert f"off by {off:+.1%}" in line and f"±{half:.1%} on 250 prompts" in line
    needs = (1.96 * heavy.std(ddof=1) / heavy.mean() / 0.02) ** 2
    assert int(re.search(r"takes (\d+) prompts", line)[1]) == pytest.approx(needs, abs=2)
    assert "takes" not in matching.why_not([2.5, 2.51] * 20, 2.6, {})
    assert matching.known([3.0])["error"] is None
