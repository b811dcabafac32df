"""Inpainting with the embedded model, and its bench."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest
import torch

from asyndm.bench import repaint as bench
from asyndm.core.run import Director
from asyndm.core.settings import Settings, SettingsError
from asyndm.network.norms import Reach
from asyndm.scenes.checker import check
from asyndm.scenes.model import WEIGHTS
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.repaint import repaint
from asyndm.scenes.text import parse_prompt
from asyndm.scenes.train import to_input
from asyndm.scenes.world import draw, sample_scene

GIVEN = Settings(enabled=True, mask_source="given")


@pytest.fixture(scope="module")
def pipeline():
    return ScenePipeline.load("shadows")


@pytest.fixture(scope="module")
def jobs():
    rng = np.random.default_rng(0)
    return [bench.sample_job(rng) for _ in range(4)]


def run(pipeline, jobs, settings, **more):
    return repaint(
        pipeline,
        np.stack([job.picture for job in jobs]),
        torch.from_numpy(np.stack([job.region for job in jobs])),
        [job.wish.prompt() for job in jobs],
        list(range(len(jobs))),
        settings,
        Request("", steps=6),
        **more,
    )


@pytest.mark.parametrize("arm", [arm for arm in bench.ARMS if arm not in bench.REACH_OF])
def test_what_is_kept_is_kept(pipeline, jobs, arm, monkeypatch):
    monkeypatch.setattr(pipeline.model, "decode_pixels", lambda latents: latents)
    made = run(pipeline, jobs, bench.ARMS[arm], slow=bench.SLOW.get(arm, "region"))
    pictures = to_input(np.stack([job.picture for job in jobs]), torch.device("cpu"))
    with torch.no_grad():
        known = pipeline.model.autoencoder.encode(pictures).numpy()
    region = np.stack([job.region for job in jobs])[:, None].repeat(known.shape[1], 1)
    np.testing.assert_allclose(made[~region], known[~region], atol=1e-4)
    assert np.abs(made[region] - known[region]).mean() > 0.1


def test_an_arm_says_where_norms_are_levelled(pipeline, jobs, monkeypatch):
    """And the next arm is free of it."""
    monkeypatch.setattr(pipeline.model, "decode_pixels", lambda latents: latents)
    host = "region slow, k .9, context leads .5"
    arm, objects = f"{host}, levelled norms", f"{host}, levelled norms, objects only"
    monkeypatch.setitem(bench.REACH_OF, f"{host}, levelled norms, from 200 on", Reach(2000.0))
    names = (host, arm, objects, f"{arm}, from 200 on", arm)
    request = Request("", steps=6)
    own, level, part, never, again = (
        bench.painted_by(pipeline, jobs[:2], name, request) for name in names
    )
    assert np.array_equal(level, again) and np.abs(own - never).max() < 1e-4
    assert min(np.abs(own - level).max(), np.abs(part - level).max()) > 1e-3


def test_image_j_of_a_batch_is_the_image_alone(pipeline, jobs):
    settings = Settings(enabled=True, curvature=0.8, lead=0.5)
    together = run(pipeline, jobs[:1] * 2, settings)
    alone = run(pipeline, jobs[:1], settings)
    assert np.abs(together[0].astype(int) - alone[0]).max() <= 1


def test_a_weak_strength_changes_little(pipeline, jobs):
    weak, strong = (run(pipeline, jobs, GIVEN, strength=s) for s in (0.17, 1.0))
    original = np.stack([job.picture for job in jobs]).astype(float)
    assert np.abs(weak - original).mean() < np.abs(strong - original).mean()


def test_a_seam_is_the_extra_step_across_the_border():
    region = np.zeros((16, 16), bool)
    region[4:8, 4:8] = True
    original = np.full((64, 64, 3), 120, np.uint8)
    assert bench.seam(original, original, region) == 0
    brighter = original.copy()
    brighter[16:32, 16:32] += 6
    assert bench.seam(brighter, original, region) == pytest.approx(6)
    everywhere = original + np.uint8(6)
    assert bench.seam(everywhere, original, region) == 0


def test_the_bench_reports_every_method(tmp_path):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    path = tmp_path / "repaint.json"
    arguments = ["--pictures", "3", "--steps", "2", "--json", str(path)]
    assert bench.main(parser.parse_args(arguments)) == 0
    report = json.loads(path.read_text())
    assert [row["method"] for row in report["rows"]] == list(bench.ARMS)
    assert "seam_difference" in report["rows"][1] and "seam_difference" not in report["rows"][0]


def cli(*arguments):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.main(parser.parse_args([*map(str, arguments)]))


def test_a_control_needs_a_given_mask_and_a_name_that_is_known(pipeline, jobs):
    for settings in (Settings(enabled=True), Settings(mask_source="given", lead=0.5)):
        with pytest.raises(SettingsError, match="slow: context needs"):
            run(pipeline, jobs, settings, slow="context")
    with pytest.raises(SettingsError, match="slow: 'sideways' is unknown; choose of region"):
        run(pipeline, jobs, GIVEN, slow="sideways")


@pytest.mark.parametrize("slow", ["region", "all", "context"])
def test_a_control_slows_what_it_names(pipeline, jobs, slow, monkeypatch):
    """By the clocks of the last step, that is behind the director's own bounds."""
    behind = []
    advance = Director.advance

    def watched(self, i, denoised):
        time = self.clock.pixel_time
        behind.append(time.clock_table[time.index] < self.clock.step - 1e-4)
        return advance(self, i, denoised)

    monkeypatch.setattr(Director, "advance", watched)
    run(pipeline, jobs, GIVEN, slow=slow)
    region = torch.from_numpy(np.stack([job.region for job in jobs]))
    wanted = {"region": region, "all": torch.ones_like(region), "context": ~region}[slow]
    assert torch.equal(behind[2].expand_as(wanted), wanted)


def test_failures_are_told_by_kind():
    wish = parse_prompt("a red circle and a blue square")

    def kinds(prompt):
        picture = draw(sample_scene(np.random.default_rng(5), parse_prompt(prompt), 1.0))
        picture = np.asarray(picture)
        found = bench.failures(picture, wish, check(picture, wish))
        return {kind for kind, failed in found.items() if failed}

    assert kinds("a red circle and a blue square") == set()
    assert kinds("a red star and a blue square") == {"shape"}
    assert kinds("a green circle and a blue square") == {"colour"}
    assert kinds("a red circle") == {"count"}
    assert kinds("a red circle, a blue square and a star") == {"count"}


def test_no_two_sets_share_a_picture_or_a_noise():
    pictures, noises = [], []
    for scenes, noise in bench.SETS.values():
        rng = np.random.default_rng(scenes)
        pictures += [bench.sample_job(rng).picture.tobytes() for _ in range(20)]
        noises += range(noise, noise + 100_000)
    assert len(set(pictures)) == len(pictures)
    assert len(set(noises)) == len(noises)


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path):
    lines, whole = tmp_path / "part.jsonl", tmp_path / "whole.json"
    options = ["--steps", 2, "--set", "development", "--arms", "region slow, k .9"]
    cli(*options, "--pictures", 3, "--json", whole)
    cli(*options, "--pictures", 2, "--lines", lines)
    kept = lines.read_text()
    lines.write_text(kept + '{"arm": "region slow, k')  # stopped while it wrote
    cli(*options, "--pictures", 3, "--lines", lines, "--json", tmp_path / "again.json")
    assert lines.read_text().startswith(kept)
    ours, theirs = (json.loads(p.read_text()) for p in (tmp_path / "again.json", whole))
    assert ours["pictures"] == theirs["pictures"] == 3
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert mine["right"] == other["right"]
    with pytest.raises(SettingsError, match="is of another steps; name a new file"):
        cli(*options, "--steps", 3, "--lines", lines)
    weights = tmp_path / "other.safetensors"
    shutil.copy(WEIGHTS, weights)
    with pytest.raises(SettingsError, match="is of another weights; name a new file"):
        cli(*options, "--weights", weights, "--lines", lines)
    with pytest.raises(SettingsError, match="weights: .* cannot be read"):
        cli(*options, "--weights", tmp_path / "none.safetensors")


def test_a_file_that_cannot_hold_the_results_is_one_line(tmp_path):
    other = tmp_path / "other.jsonl"
    for text in ('{"arm": 1}\n', "[1]\n"):
        other.write_text(text)
        with pytest.raises(SettingsError, match="holds no results of this bench"):
            cli("--lines", other)
    with pytest.raises(SettingsError, match="does not exist; make it first"):
        cli("--lines", tmp_path / "nowhere" / "a.jsonl")
    with pytest.raises(SettingsError, match="arms: 'sideways' is unknown"):
        cli("--arms", "sideways")


def test_the_table_holds_exact_mcnemar():
    plain, arm, concave = "plain inpainting", "region slow, k .9", "concave for all, k .9"
    blank = dict.fromkeys(bench.MEASURES, 0.0)
    right = {plain: range(0, 3), arm: range(2, 12), concave: range(0, 2)}
    table = {(a, i): {**blank, "right": i in right[a]} for a in right for i in range(20)}
    rows = {row["method"]: row for row in bench.summarise(table, list(right), list(range(20)))}
    difference = rows[arm]["right_difference"]
    assert (difference["better"], difference["worse"]) == (9, 2)
    assert difference["p_value"] == pytest.approx(134 / 2048, rel=1e-4)  # 2 (1 + 11 + 55) / 2^11
    assert rows[arm]["right_difference_to_concave"]["better"] == 10
    assert "right_difference_to_concave" not in rows[plain]
