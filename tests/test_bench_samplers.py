"""What every sampler costs: the benchmark itself, on a narrow network."""

from __future__ import annotations

import argparse
import json
import re
import statistics
from contextlib import nullcontext
from pathlib import Path

import pytest

from asyndm.bench import guidance_cost, overhead, sampler_cost
from asyndm.bench.sampler_cost import describe, sampler_costs
from asyndm.core.rules import REGISTRY


@pytest.mark.slow
def test_every_rule_is_measured():
    figures = sampler_costs(0.1, tiny=True, progress=False)
    assert set(figures["samplers"]) == set(REGISTRY)
    for rule, found in figures["samplers"].items():
        low, high = found["time_ratio_interval_sd15"]
        assert low <= found["time_ratio_sd15"] <= high and found["pairs_sd15"] >= 3
        assert 1 <= found["operations_ratio_sd15"] < 1.05  # narrow: the capture weighs more
        assert f"{rule}: operations" in describe(figures)


def test_a_run_that_was_cut_off_goes_on(tmp_path, monkeypatch, capsys):
    """What the file holds is not measured again; a file of another machine is one line."""
    monkeypatch.setattr(sampler_cost, "_operations", lambda *a: 1)
    measured, file = [], tmp_path / "figures.json"

    def cut_off(subject, rule, until):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(rule)
        return {"time_ratio": 1.0, "time_ratio_interval": [0.9, 1.1], "pairs": 3}

    def run(*more):
        parser = argparse.ArgumentParser()
        overhead.add_arguments(parser)
        arguments = ["--samplers", "--tiny", "--json", str(file), *more]
        return overhead.main(parser.parse_args(arguments))

    monkeypatch.setattr(sampler_cost, "_time", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run("--resume")
    monkeypatch.setattr(sampler_cost, "_time", lambda *a: measured.append(a[1]) or {"pairs": 4})
    kept = json.loads(file.read_text())
    assert run("--resume") == 0
    assert measured == list(REGISTRY)
    both = json.loads(file.read_text())["samplers"]
    assert [both[rule]["pairs_sd15"] for rule in REGISTRY][:3] == [3, 3, 4]
    capsys.readouterr()
    for wrong, said in ((kept | {"threads": 99}, "threads 99"), ({}, "no figures"), ("x", "")):
        file.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
        assert run("--resume") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error and str(file) in error


def test_methods_that_were_timed_are_not_timed_again(tmp_path, monkeypatch):
    """`--guidance --resume`: what the file holds stays as it is, the rest is measured."""
    monkeypatch.setattr(guidance_cost, "run", lambda *a: 10)
    jobs = [(name, clock) for name in guidance_cost.WAYS for clock in guidance_cost.CLOCKS]
    measured, file = [], tmp_path / "figures.json"

    def run(stop):
        def timed(subject, name, clock, until):
            if len(measured) == stop:
                raise KeyboardInterrupt
            measured.append((name, clock))
            return {"time_ratio": float(stop), "time_ratio_interval": [0.9, 1.1], "pairs": 3}

        monkeypatch.setattr(guidance_cost, "_time", timed)
        parser = argparse.ArgumentParser()
        overhead.add_arguments(parser)
        return overhead.main(
            parser.parse_args(["--guidance", "--tiny", "--resume", "--json", str(file)])
        )

    monkeypatch.setattr(guidance_cost, "FlopCounterMode", lambda display: _Counted())
    with pytest.raises(KeyboardInterrupt):
        run(3)
    assert run(99) == 0 and measured == jobs
    kept = json.loads(file.read_text())["methods"]
    assert [kept[name][clock]["time_ratio"] for name, clock in jobs[:4]] == [3, 3, 3, 99]


class _Counted(nullcontext):
    """A counter of operations that counts one."""

    def __enter__(self):
        return self

    def get_total_flops(self):
        return 1


def test_the_readme_says_what_the_file_says():
    root = Path(__file__).resolve().parents[1]
    kept = json.loads((root / "docs" / "overhead-samplers.json").read_text("utf-8"))["samplers"]
    assert set(kept) == set(REGISTRY)
    text = (root / "README.md").read_text("utf-8")
    said = re.search(r"at most ([\d.]+) at Stable Diffusion 1.5's shape, ([\d.]+) at SDXL's", text)
    for value, shape in zip(said.groups(), ("sd15", "sdxl"), strict=True):
        most = max(found[f"operations_ratio_{shape}"] for found in kept.values())
        assert f"{most:.4f}" == value and most <= 1.02


def test_the_readme_says_what_a_fast_card_took():
    root = Path(__file__).resolve().parents[1]
    kept = json.loads((root / "docs" / "overhead-h200.json").read_text("utf-8"))["samplers"]
    text = " ".join((root / "README.md").read_text("utf-8").split())
    said = re.search(
        r"took ([\d.]+) to ([\d.]+) times its twin's time at the first shape, ([\d.]+) to ([\d.]+)",
        text,
    )
    ratios = [[found[f"time_ratio_{s}"] for found in kept.values()] for s in ("sd15", "sdxl")]
    assert list(said.groups()) == [f"{end(each):.2f}" for each in ratios for end in (min, max)]


def test_the_readme_says_what_it_took_again():
    root = Path(__file__).resolve().parents[1]
    text = " ".join((root / "README.md").read_text("utf-8").split())
    said = re.search(
        r"it took ([\d.]+) to ([\d.]+) times as long at the first shape \(median ([\d.]+)\), and "
        r"([\d.]+) to ([\d.]+) at the second \((\d+) of the (\d+) rules there were, median "
        r"([\d.]+)\); the lower end is at most 1.05 for (\d+) of (\d+) and (\d+) of (\d+)",
        text,
    ).groups()
    told, low = [], []
    for shape in ("sd15", "sdxl"):
        file = root / "docs" / f"overhead-h200-{shape}.json"
        kept = json.loads(file.read_text("utf-8"))["samplers"].values()
        ratios = [found[f"time_ratio_{shape}"] for found in kept]
        told.append([f"{x:.2f}" for x in (min(ratios), max(ratios), statistics.median(ratios))])
        ends = [found[f"time_ratio_interval_{shape}"][0] for found in kept]
        low += [str(sum(end <= 1.05 for end in ends)), str(len(ends))]
    rules = [low[3], low[1]]
    assert list(said) == [*told[0], *told[1][:2], *rules, told[1][2], *low]


@pytest.mark.parametrize(
    ("file", "shape", "sentence"),
    [
        (
            "overhead-cpu.json",
            "sd15",
            r"a run took ([\d.]+) to ([\d.]+) times its twin's time, by sampler \((\d+) of the "
            r"(\d+) rules\), and the lower end of every interval is at most ([\d.]+);",
        ),
        (
            "overhead-cpu-sdxl.json",
            "sdxl",
            r"it took ([\d.]+) to ([\d.]+) times \((\d+) of the (\d+) rules\), and the lower "
            r"end is at most ([\d.]+)\.",
        ),
    ],
)
def test_the_readme_says_what_a_cpu_took(file, shape, sentence):
    root = Path(__file__).resolve().parents[1]
    kept = json.loads((root / "docs" / file).read_text("utf-8"))["samplers"]
    assert set(kept) == set(REGISTRY)
    said = re.search(sentence, " ".join((root / "README.md").read_text("utf-8").split()))
    timed = [found for found in kept.values() if f"time_ratio_{shape}" in found]
    ratios = [found[f"time_ratio_{shape}"] for found in timed]
    lowest = max(found[f"time_ratio_interval_{shape}"][0] for found in timed)
    low, high, those, rules, lower = said.groups()
    assert [low, high, lower] == [f"{v:.2f}" for v in (min(ratios), max(ratios), lowest)]
    assert [those, rules] == [str(len(timed)), str(len(REGISTRY))]
    assert lowest <= 1.05
