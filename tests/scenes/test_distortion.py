"""Objects spoilt on purpose and redrawn, and the bench of it."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from asyndm.bench import distortion as bench
from asyndm.bench import repaint
from asyndm.core.settings import SettingsError
from asyndm.scenes.checker import check
from asyndm.scenes.model import SceneModel
from asyndm.scenes.pipeline import ScenePipeline
from asyndm.scenes.text import parse_prompt
from asyndm.scenes.world import draw, sample_scene


def scene(number):
    rng = np.random.default_rng([18, number])
    wish = repaint.single_objects(rng)
    return np.asarray(draw(sample_scene(rng, wish, 1.0))), wish


def cli(*arguments):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.main(parser.parse_args([*map(str, arguments)]))


@pytest.mark.parametrize("way", bench.WAYS)
def test_an_object_is_spoilt_inside_its_region_alone(way):
    wrong = 0
    for number in range(20):
        picture, wish = scene(number)
        job = bench.spoilt_job(picture, wish, number, way)
        inside = job.region.repeat(4, 0).repeat(4, 1)
        changed = (job.picture != picture).any(-1)
        assert changed.sum() > 20 and not changed[~inside].any()
        assert job.wish is wish and job.group == way
        wrong += not check(job.picture, wish).right
        again = bench.spoilt_job(picture, wish, number, way)
        np.testing.assert_array_equal(again.picture, job.picture)
    assert wrong >= {"blur": 8, "warp": 14, "wrong part": 18}[way]


def test_a_picture_that_is_not_right_is_not_spoilt():
    picture, _ = scene(0)
    assert bench.spoilt_job(picture, parse_prompt("four green stars"), 0, "blur") is None


def test_a_way_that_is_unknown_is_named():
    with pytest.raises(ValueError, match="'melt' is none of blur, warp, wrong part"):
        bench.spoil(np.zeros((64, 64, 3), np.uint8), np.ones((16, 16), bool), (0, 0, 9, 9), "melt",
                    np.random.default_rng(0))  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Rendered pictures in the place of drawn ones; what follows is real."""

    def drawn(pipeline, name, count, request):
        jobs = [(*scene(i), i, bench.WAYS[i % 3]) for i in range(count)]
        return [bench.spoilt_job(*job) for job in jobs]

    monkeypatch.setattr(bench, "spoilt_jobs", drawn)


def test_the_bench_reports_arms_and_ways(quick, tmp_path, capsys):
    path, lines = tmp_path / "distortion.json", tmp_path / "lines.jsonl"
    assert cli("--pictures", 4, "--steps", 3, "--json", path, "--lines", lines) == 0
    report = json.loads(path.read_text())
    assert report["bench"] == "distortion" and report["strength"] == 0.75
    plain, concave, slow = report["rows"]
    assert slow["method"] == "region slow, k .9"
    assert {"right_difference", "right_difference_to_concave"} <= {*slow}
    assert {name: group["pictures"] for name, group in report["groups"].items()} == {
        "blur": 2,
        "warp": 1,
        "wrong part": 1,
    }
    for group in report["groups"].values():
        assert {"before", *(row["method"] for row in report["rows"])} < {*group}
    of_parts = sum(g["pictures"] * g["plain inpainting"] for g in report["groups"].values())
    assert of_parts / 4 == pytest.approx(plain["right"]["value"])
    assert "blur" in capsys.readouterr().out
    with pytest.raises(SettingsError, match="is of another bench; name a new file"):
        parser = argparse.ArgumentParser()
        repaint.add_arguments(parser)
        options = ["--set", "development", "--steps", "3", "--strength", "0.75"]
        repaint.main(parser.parse_args([*options, "--lines", str(lines)]))


def test_a_model_that_draws_nothing_right_is_one_line(tmp_path):
    weights = tmp_path / "random.safetensors"
    model = SceneModel()
    model.save(weights)
    with pytest.raises(SettingsError, match="^steps: of 48 drawn pictures 0 are right"):
        cli("--pictures", 1, "--steps", 1, "--weights", weights)


def test_pictures_that_the_model_drew_are_spoilt():
    request = repaint.Request("", steps=10)
    jobs = bench.spoilt_jobs(ScenePipeline.load("shadows"), "development", 2, request)
    assert [job.group for job in jobs] == ["blur", "warp"]
    first = bench.SETS["development"][1]
    assert all(first <= job.seed < first + 40 for job in jobs)
