"""The overhead benchmark itself, on a tiny network."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asyndm.bench import footprint, overhead, timing
from asyndm.bench.subject import METHODS, Subject, build_unet

SIZE = (16, 16)
LDM = "ldm.modules.diffusionmodules.openaimodel"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    overhead.add_arguments(parser)
    return overhead.main(parser.parse_args([*arguments, "--tiny"]))


def test_the_run_is_in_its_middle_and_goes_on() -> None:
    subject = Subject(SIZE, tiny=True)
    assert subject.timesteps == 26  # one curvature: at most step + 1
    clock = subject.director.clock.clocks()
    assert len(clock.unique()) > 5
    for method in ("asyndm", "naive"):
        subject.restart()
        with subject.attached(method):
            first = subject.step(method)
        assert torch.isfinite(first).all()
        assert subject.timesteps == 27
        subject.i = 45
        subject.settle()
        assert subject.timesteps == 26


def test_asyndm_and_the_naive_way_calculate_the_same() -> None:
    results = []
    for method in ("asyndm", "naive", "synchronous"):
        subject = Subject(SIZE, tiny=True)
        with subject.attached(method):
            results.append(subject.step(method))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(results[0], results[2], rtol=1e-2, atol=1e-2)


def test_operations_of_the_real_size_are_counted_without_doing_any() -> None:
    plain, table, naive = (
        footprint.count_operations((64, 64), method, False) for method in METHODS
    )
    assert plain > 1e12
    assert 1 < table / plain < 1.01
    assert naive / plain > 1.1


class Started(TorchDispatchMode):
    """Counts the operators that torch starts; views cost nothing on a device."""

    VIEWS = ("view", "expand", "transpose", "t", "slice", "select", "unsqueeze", "permute")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator.overloadpacket.__name__.removeprefix("_unsafe_") not in self.VIEWS
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("shape", "library", "most"),
    [("sd15", "ldm", 1.059), ("sd15", "diffusers", 1.053), ("sdxl", "diffusers", 1.062)],
)
def test_few_operators_are_started_besides(shape, library, most, monkeypatch) -> None:
    """A fast GPU waits for each: once there were 1.30 and 1.24 times the plain step's."""
    pytest.importorskip("diffusers")
    if library == "diffusers":
        monkeypatch.setitem(sys.modules, LDM, None)
    subject, counts = Subject((64, 64), False, "meta", shape), {}
    for method in ("synchronous", "asyndm"):
        with subject.attached(method):
            subject.step(method)  # what is kept for all steps is made
            with Started() as started:
                subject.step(method)
        counts[method] = started.count
    assert subject.library == library
    assert 1 < counts["asyndm"] / counts["synchronous"] <= most


@pytest.mark.parametrize("library", ["ldm", "diffusers"])
def test_few_functions_are_called_besides(library, monkeypatch) -> None:
    """Nor is a program fast: SD 1.5's step once called 1.16 times the plain one's, and a host's
    attaching as much as four more steps."""
    pytest.importorskip("diffusers")
    if library == "diffusers":
        monkeypatch.setitem(sys.modules, LDM, None)
    subject, counts = Subject(SIZE, tiny=True), {}
    for method in ("synchronous", "asyndm"):
        with subject.attached(method):
            subject.step(method)
            counts[method] = functions_called(lambda method=method: subject.step(method))

    def attach_alone() -> None:
        with subject.attached("asyndm"):
            pass

    assert 1 < counts["asyndm"] / counts["synchronous"] <= 1.12
    assert functions_called(attach_alone) <= 0.5 * counts["synchronous"]


def functions_called(run) -> int:
    """Python's and C's."""
    count = 0

    def seen(frame, event, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def test_paired_ratio_is_students_t_on_logarithms() -> None:
    ratio, (low, high) = timing.paired_ratio([2.0, 8.0, 4.0], [1.0, 4.0, 2.0])
    assert (ratio, low, high) == pytest.approx((2.0, 2.0, 2.0))
    # Logarithms -d, 0, d: standard error d / sqrt(3); t(2 degrees, 97.5%) = 4.302653.
    d = 0.1
    ratio, (low, high) = timing.paired_ratio([math.exp(-d), 1.0, math.exp(d)], [1.0] * 3)
    assert ratio == pytest.approx(1)
    reach = 4.302653 * d / math.sqrt(3)
    assert (math.log(low), math.log(high)) == pytest.approx((-reach, reach))
    with pytest.raises(ValueError, match="two pairs"):
        timing.paired_ratio([1.0], [1.0])


def test_the_command_writes_its_figures(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(overhead, "TINY_SIZES", (SIZE,))
    file = tmp_path / "figures.json"
    assert run("--json", str(file), "--minutes", "0.01") == 0
    figures = json.loads(file.read_text())
    low, high = figures["time_ratio_interval"]
    assert low <= figures["time_ratio"] <= high
    assert figures["sizes"]["16x16"]["pairs"] == timing.MIN_PAIRS
    for key in ("peak_memory_ratio", "operations_ratio", "naive_operations_ratio"):
        assert 0.5 < figures[key] < 3
    assert "AsynDM / synchronous" in capsys.readouterr().out


def test_bad_options_are_one_line(tmp_path, capsys) -> None:
    assert run("--minutes", "0") == 2
    assert run("--json", str(tmp_path / "missing" / "file.json")) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_diffusers_stands_in_for_ldm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setitem(sys.modules, LDM, None)
    library, unet, width = build_unet(True, torch.device("meta"))
    assert library == "diffusers"
    assert unet.config.cross_attention_dim == width


def test_every_kind_of_bench_is_run_by_its_option(monkeypatch, tmp_path) -> None:
    """With the arguments that it takes; each kind's own figures are tested beside it."""
    for option, module, name in (
        ("--samplers", overhead.sampler_cost, "sampler_costs"),
        ("--guidance", overhead.guidance_cost, "guidance_costs"),
        ("--norms", overhead.norm_cost, "norm_costs"),
    ):
        signature, seen = inspect.signature(getattr(module, name)), []

        def measured(*args, signature=signature, seen=seen, **kwargs):
            seen.append(signature.bind(*args, **kwargs))
            return {}

        monkeypatch.setattr(module, name, measured)
        monkeypatch.setattr(module, "describe", str)
        assert run(option, "--json", str(tmp_path / "figures.json")) == 0 and len(seen) == 1
