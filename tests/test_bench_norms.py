"""What the benches of levelled norms say follows from their rows."""

from __future__ import annotations

import pytest
import torch

from asyndm.bench import norm_cost, norms
from asyndm.network.norms import LevelledNorms
from asyndm.scenes.levelled import scene_table
from asyndm.scenes.mixed import patch_timesteps
from asyndm.scenes.pipeline import ScenePipeline


def test_host_norms_harm_and_levelled_ones_mend_on_shadows():
    pipeline = ScenePipeline.load("shadows")
    scenes = norms.make_scenes(pipeline, 8, 5)
    table = scene_table(pipeline, scenes=8, seed=6)
    host, own = (
        norms.grid(pipeline, scenes, name, level, (500,), (0.45,))[0]
        for name, level in (("host", None), ("levelled", LevelledNorms(table)))
    )
    assert (host["t_object"], host["t_background"]) == (500, 275)
    assert host["objects"]["change"] > 0.5 > 0.3 > own["objects"]["change"]
    text = norms.describe({"scenes": 8, "rows": [host, own], "tables": []})
    assert f"{own['objects']['change']:+7.1%}" in text


def test_the_cost_is_that_beside_hosts_norms(monkeypatch):
    def operations(size, method, tiny):
        return {"levelled": 102, "asyndm": 100}[method]

    def memory(size, method, tiny, device):
        return {"peak": {"levelled": 101, "asyndm": 100}[method]}

    def alternate(timed, methods, end, most):
        return {"levelled": [4.0, 9.0], "asyndm": [4.0, 9.0]}

    for each in (operations, memory, alternate):
        name = {"operations": "count_operations", "memory": "memory_in_fresh_process"}
        monkeypatch.setattr(norm_cost, name.get(each.__name__, each.__name__), each)
    figures = norm_cost.norm_costs([(16, 16)], 0.01, True, "cpu")
    size = figures["sizes"]["16x16"]
    assert (size["operations_ratio"], size["peak_memory_ratio"]) == pytest.approx((1.02, 1.01))
    assert size["time_ratio"] == 1 and "1.000 to 1.000" in norm_cost.describe(figures)


def test_patch_timesteps_have_no_patch_clearer_than_their_clearest():
    objects = torch.zeros(4000, 16, 16, dtype=torch.bool)
    times, index = patch_timesteps(objects, 1000, torch.Generator().manual_seed(0))
    assert times.shape == (4000, 64) and 0 <= times.min() and times.max() <= 999
    assert index.shape == (4000, 16, 16) and (index[0, :2, :2] == 0).all() and index.max() == 63
    u = 1 - times / 999
    # The clearest of 64 half normal patches is close to the logit-normal's level: median of 0.7.
    clearest = u.max(1).values
    assert torch.logit(clearest.clamp(1e-6, 1 - 1e-6)).median() == pytest.approx(0.7, abs=0.1)
    assert (u.mean(1) / clearest).mean() == pytest.approx(0.62, abs=0.06)
