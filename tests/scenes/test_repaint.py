"""Inpainting with the embedded model, and its bench."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

from asyndm.bench import repaint as bench
from asyndm.core.settings import Settings
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.repaint import repaint
from asyndm.scenes.train import to_input

GIVEN = Settings(enabled=True, mask_source="given")


@pytest.fixture(scope="module")
def pipeline():
    return ScenePipeline.load()


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


@pytest.mark.parametrize("settings", bench.ARMS.values(), ids=list(bench.ARMS))
def test_what_is_kept_is_kept(pipeline, jobs, settings, monkeypatch):
    monkeypatch.setattr(pipeline.model, "decode_pixels", lambda latents: latents)
    made = run(pipeline, jobs, settings)
    pictures = to_input(np.stack([job.picture for job in jobs]), torch.device("cpu"))
    with torch.no_grad():
        known = pipeline.model.autoencoder.encode(pictures).numpy()
    region = np.stack([job.region for job in jobs])[:, None].repeat(known.shape[1], 1)
    np.testing.assert_allclose(made[~region], known[~region], atol=1e-4)
    assert np.abs(made[region] - known[region]).mean() > 0.1


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
