"""bench alignment: its statistics against closed forms, its report against the values."""

from __future__ import annotations

import csv
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from alignment_toys import bench, small
from PIL import Image
from scipy import stats

from asyndm.bench.alignment import statistics
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.store import Store

# --- statistics ---


def test_intervals_and_p_are_scipys_own_and_exact():
    rng = np.random.default_rng(3)
    difference = rng.normal(0.3, 1, (9, 2))
    paired = statistics.compare(difference, np.zeros((9, 2)))
    prompts = difference.mean(axis=1)
    signs = np.array(np.meshgrid(*[[1, -1]] * 9)).reshape(9, -1)  # all 512
    flipped = np.abs((signs * prompts[:, None]).mean(axis=0))
    assert paired.p == pytest.approx((flipped >= abs(prompts.mean()) - 1e-12).mean())
    expected = stats.bootstrap((prompts,), np.mean, n_resamples=20_000).confidence_interval
    assert paired.difference.low == pytest.approx(expected.low, abs=0.05)
    assert paired.difference.high == pytest.approx(expected.high, abs=0.05)
    assert paired.wins == pytest.approx((difference > 0).mean())


def test_seeds_of_a_prompt_are_no_independent_evidence():
    values = (np.random.default_rng(1).random((60, 1)) < 0.5).astype(float)
    assert statistics.mean(np.repeat(values, 5, axis=1)) == statistics.mean(values)


def test_holm_by_hand():
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert statistics.holm({}) == {}


def test_choice_per_prompt_gains_nothing_on_other_seeds():
    noise = np.random.default_rng(5).normal(size=(4, 400, 6))
    assert np.abs(statistics.chosen_on_others(noise).mean()) < 0.1  # 3 of its own deviations
    assert statistics.chosen_on_same(noise).mean() > 0.3
    assert statistics.best_seed(noise[0], 4).mean() > 0.9
    real = noise + 3 * np.eye(4)[:, np.arange(400) % 4, None]  # each prompt has its own best
    assert statistics.chosen_on_others(real).mean() > 2.5


def test_missing_values_are_left_out_of_pairs():
    one, two = np.array([[1.0], [np.nan], [3.0]]), np.array([[0.0], [5.0], [1.0]])
    assert statistics.compare(one, two).difference.value == pytest.approx(1.5)
    with pytest.raises(ValueError):
        statistics.compare(one * np.nan, two)


# --- report ---


@pytest.fixture(scope="module")
def reported(tmp_path_factory, weights):
    """A folder with two seeds, settings to choose from, and everything said about them."""
    folder = tmp_path_factory.mktemp("reported")
    args = ["--backend", f"embedded:{weights}", "--steps", 2, "--limit", 5, "--seeds", 2,
            "--methods", "sync", "asyndm:k=.3|.9", "cfg:w=1.5|4"]  # fmt: skip
    assert bench("--folder", folder, "--scores", "contrast", "objects", "noise", *args) == 0
    return folder


def test_the_report_says_what_the_values_say(reported):
    report = json.loads((reported / "report.json").read_text())
    plan, store = Plan.load(reported), Store(reported)
    store.refresh()
    score = report["scores"][0]
    assert score["name"] == "contrast" and report["named_at"] == 0
    for method in plan.methods:
        values = np.array(
            [[store.records[k]["contrast"] for k in row] for row in plan.keys(method)]
        )
        mean = score["means"][method.text]
        assert mean["value"] == pytest.approx(values.mean(), abs=1e-6)
        assert mean["spread"] == pytest.approx(values.mean(0).std(ddof=1), abs=1e-6)
    rows = list(csv.DictReader(open(reported / "differences.csv")))
    assert len(rows) == 12 and float(rows[0]["value"]) == score["beside"][0]["value"]
    family = {one["method"]: one["p"] for one in score["beside"]}
    corrected = {one["method"]: one["p_holm"] for one in score["beside"]}
    assert corrected == statistics.holm(family)
    how = {(one["family"], one["seeds"]) for one in score["freedom"]}
    assert {("asyndm", "same"), ("asyndm", "other"), ("cfg", "same"), ("the seed", "same")} <= how


def test_the_page_needs_nothing_but_itself(reported):
    page = (reported / "report.html").read_text()
    assert "<svg" in page and page.count("data:image/png") >= 25
    assert not re.findall(r'(?:src|href)="(?!data:)[^#]', page)
    assert "http" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_a_hostile_name_of_a_method_is_escaped(tmp_path):
    """Finished pictures are named by their folders; a plot is a text of its own."""
    names = ["sync", '"><script>alert(1)<', "<b>x&y $a_b$ {{1}}"]
    for shade, name in enumerate(names):
        for prompt in range(2):
            path = tmp_path / "in" / name / f"{prompt:05}" / "samples" / "0000.png"
            path.parent.mkdir(parents=True)
            Image.radial_gradient("L").point(lambda v, s=shade: v // (s + 1)).save(path)
    (tmp_path / "p.txt").write_text("a cat\na dog")
    args = ["--backend", f"images:{tmp_path / 'in'}", "--prompts", tmp_path / "p.txt"]
    assert bench("--folder", tmp_path / "o", *args, "--methods", *names, "--scores", "noise") == 0
    page = (tmp_path / "o" / "report.html").read_text()
    assert page.count("&lt;script&gt;alert(1)&lt;") > 4 and "&lt;b&gt;x&amp;y" in page
    assert "<script" not in page and "<b>x" not in page
    (plot,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert "$a_b$ {{1}}" in "".join(ElementTree.fromstring(plot).itertext())


def test_failures_are_shown_by_method_and_counted(reported):
    report = json.loads((reported / "report.json").read_text())
    page = (reported / "report.html").read_text()
    for score in report["scores"][1:]:
        values, store = {}, Store(reported)
        store.refresh()
        for path in (reported / "scores" / score["name"]).glob("*/*.jsonl"):
            values |= {one["key"]: one for one in map(json.loads, open(path))}
        for method in Plan.load(reported).methods:
            keys = [key for row in Plan.load(reported).keys(method) for key in row]
            against = [key for key in keys if values[key]["reason"]]
            assert score["failed"].get(method.text, 0) == len(against)
            shown = [one for one in score["failures"] if one["method"] == method.text]
            assert {one["key"] for one in shown} <= {*against}
            if against:
                assert f"<summary>{method.text}: {len(against)} of 10" in page
    assert any(score["failed"] for score in report["scores"])


def test_a_hostile_prompt_is_escaped(reported, tmp_path):
    shutil.copytree(reported, tmp_path / "x")
    path = tmp_path / "x" / "plan.json"
    plan = json.loads(path.read_text())
    store = Store(tmp_path / "x")
    bad = "<script>alert(1)</script>"
    plan["prompts"] = [{**plan["prompts"][0], "text": bad, "task": "<b>task"}]
    path.write_text(json.dumps(plan))
    plan = Plan.load(tmp_path / "x")
    picture = Image.new("RGB", (8, 8), "red")
    store.refresh()
    some = next(iter(store.records.values()))
    for method in plan.drawn:
        for key in plan.keys(method)[0]:
            store.add([({**some, "key": key, "prompt": bad, "notes": ["<i>note"]}, picture, None)])
    bench("score", "--folder", tmp_path / "x", "--scores", "contrast")
    bench("report", "--folder", tmp_path / "x")
    page = (tmp_path / "x" / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page and "<b>task" not in page and "<i>note" not in page


def test_genevals_folders_are_exported(reported, tmp_path):
    bench("report", "--folder", reported, "--export", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["asyndm_k=.3", "asyndm_k=.9", "cfg_w=1.5", "cfg_w=4", "sync"]
    assert len(list((tmp_path / "sync").glob("0000?/samples/000?.png"))) == 10
    json.loads((tmp_path / "sync" / "00000" / "metadata.jsonl").read_text())


def test_settings_are_chosen_on_development_prompts_and_reported_on_others(
    tmp_path, weights, capsys
):
    base = ["--backend", f"embedded:{weights}", "--steps", 2, "--limit", 3]
    scores = ["--scores", "contrast", "objects", "noise"]
    grid = ["--methods", "sync", "cfg:w=1|3", "asyndm:k=.2|.8"]
    assert bench("--folder", tmp_path / "dev", "--split", "development", *base, *grid, *scores,
                 "--choose", "noise") == 0  # fmt: skip
    chosen = json.loads((tmp_path / "dev" / "chosen.json").read_text())
    assert len(chosen["methods"]) == 3 and len(chosen["from"]["cfg"]) == 2
    best = min(chosen["from"]["asyndm"], key=chosen["from"]["asyndm"].get)
    assert best in chosen["methods"]
    test = ["--folder", tmp_path / "test", *base, "--chosen", tmp_path / "dev" / "chosen.json"]
    assert bench(*test, "--scores", "noise") == 0
    report = json.loads((tmp_path / "test" / "report.json").read_text())
    assert report["asked"] == chosen["methods"] and report["chosen"] == chosen
    assert "of 2" in (tmp_path / "test" / "report.html").read_text()
    capsys.readouterr()
    assert bench("report", "--folder", tmp_path / "test", "--choose", "noise") == 2
    assert "holds test prompts" in capsys.readouterr().err
    assert bench(*test, "--split", "development") == 2
    assert bench("report", "--folder", tmp_path / "dev", "--choose", "contrast") == 2


def test_a_report_none_of_whose_scores_ran_fails(tmp_path, weights, capsys):
    args = small(tmp_path, "--backend", f"embedded:{weights}", "--steps", 1, "--limit", 1)
    assert bench(*args, "--scores", "clipscore", "imagereward") == 1
    lines = capsys.readouterr().err
    assert "--weights clipscore=FOLDER" in lines and "--weights imagereward=FOLDER" in lines
    assert "none of clipscore, imagereward has a value" in lines
    assert bench("score", "--folder", tmp_path, "--scores", "clipscore") == 1
    assert bench("score", "--folder", tmp_path, "--scores", "clipscore", "noise") == 0
