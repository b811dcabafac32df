"""What many timesteps cost a transformer: `bench overhead --shapes sd35 flux chroma` itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from asyndm.bench import overhead, transformer_cost
from asyndm.bench.chroma import Chroma
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.network import attach


def small() -> transformer_cost.Built:
    """In Chroma's shape, and its weights count."""
    torch.manual_seed(0)
    network = Chroma(2, 2, 48, 2, 24, 40).eval()
    x, t, text = torch.randn(1, 16, 8, 8), torch.full((1,), 0.5), torch.randn(1, 12, 40)
    return transformer_cost.Built(network, lambda: network(x, t, text), Rows.only_cond(1))


_told = transformer_cost.told


def told(built: transformer_cost.Built, levels: int) -> NetworkCall:
    return _told(built, (8, 8), levels, "cpu")


@torch.no_grad()
def test_the_counted_chroma_is_steered_like_the_hosts():
    built = small()
    plain = built.call()
    uniform = told(built, 1)
    uniform.timestep_table = torch.full((1,), 0.5)
    with attach(built.network, uniform):
        assert torch.allclose(built.call(), plain, atol=1e-5)
    with attach(built.network, told(built, 4)):
        assert float((built.call() - plain).abs().max()) > 1e-3
    assert torch.equal(built.call(), plain)


def test_the_figures_of_a_run(monkeypatch):
    monkeypatch.setattr(transformer_cost, "TIMED", (8, 8))
    monkeypatch.setattr(transformer_cost, "FULL", (8, 8))
    monkeypatch.setattr(transformer_cost, "FULL_DEPTH", {"chroma": small})
    monkeypatch.setattr(
        transformer_cost, "told", lambda built, size, levels, device: told(built, levels)
    )
    kept = []
    figures = transformer_cost.transformer_costs(
        ["chroma"], 0.01, progress=False, few={"chroma": ("all", lambda device: small())},
        keep=lambda figures: kept.append(dict(figures["shapes"]["chroma"])),
    )  # fmt: skip
    found = figures["shapes"]["chroma"]
    assert found["operations_ratio_text"]["50"] > found["operations_ratio_text"]["10"] > 1
    assert found["operations_ratio_joint"]["10"] > found["operations_ratio_text"]["10"]
    for levels in ("10", "50"):
        low, high = found["time"][levels]["time_ratio_interval"]
        assert low <= found["time"][levels]["time_ratio"] <= high
    assert len(kept) == 2 and kept[-1] == found
    assert "chroma: time of all, 50: " in transformer_cost.describe(figures)


@pytest.mark.parametrize(
    "wrong",
    [["--shapes", "sd15"], ["--samplers", "--shapes", "flux"], ["--norms", "--shapes", "sd35"]],
)
def test_shapes_that_do_not_go_together_are_one_line(wrong, capsys):
    parser = argparse.ArgumentParser()
    overhead.add_arguments(parser)
    assert overhead.main(parser.parse_args(wrong)) == 2
    assert capsys.readouterr().err.startswith("--shapes: sd15 and sdxl go with --samplers")


def test_the_readme_tells_what_the_file_holds():
    root = Path(__file__).resolve().parents[2]
    shapes = json.loads((root / "docs" / "overhead-transformers.json").read_text())["shapes"]
    text = " ".join((root / "README.md").read_text("utf-8").split())
    said = text[text.index("bench overhead --shapes sd35") :][:1200]
    for name in shapes:
        for softmax in ("text", "joint"):
            ten, fifty = shapes[name][f"operations_ratio_{softmax}"].values()
            assert f"{ten:.3f} and {fifty:.3f}" in said, name
        for of in (shapes[name].get("time") or {}).values():
            if "pairs" in of:  # by number of timesteps; the seconds stand beside
                ratio, (low, high) = of["time_ratio"], of["time_ratio_interval"]
                shown = [f"{x:.3f}".removeprefix("0") for x in (ratio, low, high)]
                assert "{} ({} to {})".format(*shown) in said, name


def test_the_readme_tells_what_a_gpu_took():
    root = Path(__file__).resolve().parents[2]
    file = root / "docs" / "overhead-transformers-h200.json"
    shapes = json.loads(file.read_text("utf-8"))["shapes"]
    text = " ".join((root / "README.md").read_text("utf-8").split())
    said = text[text.index("docs/overhead-transformers-h200.json") :][:300]
    for name in ("sd35", "flux"):
        times = shapes[name]["time"]
        for of in (times["10"], times["50"]):
            ratio, (low, high) = of["time_ratio"], of["time_ratio_interval"]
            assert f"{ratio:.3f} ({low:.3f} to {high:.3f})" in said, name


@pytest.mark.slow
def test_many_timesteps_cost_a_few_percent_at_most():
    """At full depth on torch's meta device, so that twelve billion parameters need no memory."""
    pytest.importorskip("diffusers")
    figures = transformer_cost.transformer_costs(transformer_cost.SHAPES, 1, timed=False)
    for shape, found in figures["shapes"].items():
        text = found["operations_ratio_text"]
        most = (1.12, 1.12) if shape.startswith("chroma") else (1.03, 1.05)
        assert text["10"] <= most[0] and text["50"] <= most[1], shape
