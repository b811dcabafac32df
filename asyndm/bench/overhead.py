"""What AsynDM costs: time, peak memory and operations against the plain network call.

`python -m asyndm bench overhead` measures a sampling step of Stable Diffusion 1.5's size with
random weights and guidance, at step 25 of 50, three ways: synchronous, AsynDM (with the capture of
attention, the masks and the clocks), and naive (time embedded for every pixel).

- Time: synchronous and AsynDM steps alternate in one process, which of them first changes from
  pair to pair; the ratio is the geometric mean over the pairs, with a t interval on the logarithms.
- Peak memory: each method in a fresh process, its largest resident size during one step (on a GPU:
  what torch's allocator held there); the weights count, as they do for whoever runs out of memory.
  The growth in the step is given, too.
- Operations: floating-point operations of matrix products and convolutions, counted, not measured.

On a GPU (`--device cuda`) the network is in half precision, as hosts have it there.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from asyndm.bench import guidance_cost, norm_cost, sampler_cost
from asyndm.bench.subject import METHODS, Subject, device_name
from asyndm.core.schedule import Size

SIZES = ((64, 64), (96, 64))  # latents of 512x512 and 768x512 pixels
TINY_SIZES = ((16, 16), (24, 16))
MIN_PAIRS, MAX_PAIRS = 3, 30
NAIVE_STEPS = 2
CONFIDENCE = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench overhead`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--minutes",
        type=float,
        default=9.0,
        help="aim to be done in so many minutes (default 9); at least "
        f"{MIN_PAIRS} pairs of steps are timed at each size",
    )
    parser.add_argument(
        "--samplers",
        action="store_true",
        help="instead of sizes: every sampler beside the same one synchronous, and SDXL's shape",
    )
    parser.add_argument(
        "--guidance", action="store_true", help="instead of sizes: every method of guidance"
    )
    parser.add_argument(
        "--norms",
        action="store_true",
        help="instead of AsynDM beside synchronous: levelled norms beside the host's",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=list(sampler_cost.SIZE),
        default=list(sampler_cost.SIZE),
        help="with --samplers: of these networks (default both)",
    )
    parser.add_argument(
        "--untimed",
        action="store_true",
        help="with --samplers or --guidance: count operations alone",
    )
    parser.add_argument(
        "--device", default="cpu", help="where torch runs the network: cpu (default), cuda, cuda:1"
    )
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Run the benchmark, or the one memory measurement a worker was started for."""
    if args.worker:
        method, height, width = args.worker
        size = int(height), int(width)
        print(json.dumps(_measure_memory(size, method, args.tiny, args.device)))
        return 0
    if problem := _missing(args.device):
        print(f"--device: {problem}", file=sys.stderr)
        return 2
    if not args.minutes > 0:
        print("--minutes: give a number above 0.", file=sys.stderr)
        return 2
    if args.json and not args.json.parent.is_dir():
        print(f"--json: there is no folder {args.json.parent}.", file=sys.stderr)
        return 2
    if args.samplers:
        figures = sampler_cost.sampler_costs(
            paired_ratio,
            args.minutes,
            args.tiny,
            timed=not args.untimed,
            device=args.device,
            shapes=args.shapes,
        )
        print(sampler_cost.describe(figures))
    elif args.guidance:
        figures = guidance_cost.guidance_costs(
            paired_ratio,
            args.minutes,
            args.tiny,
            timed=not args.untimed,
            device=args.device,
        )
        print(guidance_cost.describe(figures))
    elif args.norms:
        memory = partial(_memory_in_fresh_process, tiny=args.tiny, device=args.device)
        figures = norm_cost.norm_costs(
            TINY_SIZES if args.tiny else SIZES, args.minutes, args.tiny, args.device,
            count_operations, memory, alternate, paired_ratio,
        )  # fmt: skip
        print(norm_cost.describe(figures))
    else:
        figures = overhead(minutes=args.minutes, tiny=args.tiny, device=args.device)
        print(describe(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def overhead(
    minutes: float = 9.0, tiny: bool = False, progress: bool = True, device: str = "cpu"
) -> dict[str, Any]:
    """Measure everything at all sizes.

    Args:
        minutes: to aim for.
        tiny: a narrow network and small latents, to try the benchmark itself.
        progress: a progress bar on the error stream.
        device: where torch runs the network.

    Returns:
        The figures. `time_ratio` (with `time_ratio_interval`), `peak_memory_ratio` and
        `operations_ratio` are AsynDM / synchronous at the size where that ratio is largest; by size
        under `sizes`. The naive way's are measured at the first size.
    """
    end = time.monotonic() + 60 * minutes
    sizes = TINY_SIZES if tiny else SIZES
    by_size: dict[str, dict[str, Any]] = {_name(size): {} for size in sizes}
    jobs = [(size, m) for size in sizes for m in METHODS if m != "naive" or size == sizes[0]]
    with tqdm(total=2 * len(jobs) + len(sizes), disable=not progress, unit="part") as bar:
        for size in sizes:
            figures, methods = by_size[_name(size)], [m for s, m in jobs if s == size]
            bar.set_description(f"operations {_name(size)}")
            counts = {m: count_operations(size, m, tiny) for m in methods}
            bar.update(len(methods))
            figures["operations"] = counts
            figures |= _ratios("operations_ratio", counts)
        for size, method in jobs:
            bar.set_description(f"memory {method} {_name(size)}")
            figures = by_size[_name(size)]
            figures.setdefault("memory", {})[method] = _memory_in_fresh_process(
                size, method, tiny, device
            )
            bar.update()
        for number, size in enumerate(sizes):
            bar.set_description(f"time {_name(size)}")
            figures = by_size[_name(size)]
            for kind, key in (("peak", "peak_memory_ratio"), ("growth", "step_memory_ratio")):
                figures |= _ratios(key, {m: v[kind] for m, v in figures["memory"].items()})
            share = _cost(size) / sum(_cost(s) for s in sizes[number:])
            seconds = share * (end - time.monotonic())
            figures |= measure_time(size, seconds, tiny, size == sizes[0], device)
            bar.update()
    first = by_size[_name(sizes[0])]
    summary: dict[str, Any] = {}
    for key in ("time_ratio", "peak_memory_ratio", "operations_ratio"):
        worst = max(by_size.values(), key=lambda figures, key=key: figures[key])
        summary[key] = worst[key]
        if key == "time_ratio":
            summary["time_ratio_interval"] = worst["time_ratio_interval"]
        summary[f"naive_{key}"] = first[f"naive_{key}"]
    return summary | {
        "confidence": CONFIDENCE,
        "network": first["network"] + (", tiny" if tiny else ", Stable Diffusion 1.5's size"),
        "rows": 2,
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": torch.__version__,
        "sizes": by_size,
    }


def alternate(subject: Subject, times: dict[str, list[float]], end: float) -> None:
    """Time steps of two methods in turns until about ``end``; warmed up before."""
    pair = list(times)
    for method in pair:  # allocator, kernels, caches
        _timed(subject, method)
    while len(times[pair[0]]) < MAX_PAIRS:
        begun = time.monotonic()
        for method in pair:
            times[method].append(_timed(subject, method))
        pair.reverse()
        now = time.monotonic()
        if len(times[pair[0]]) >= MIN_PAIRS and now + (now - begun) > end:
            break


def measure_time(
    size: Size, seconds: float, tiny: bool, naive: bool, device: str = "cpu"
) -> dict[str, Any]:
    """Time alternating steps for about ``seconds``; the figures of one size."""
    end = time.monotonic() + seconds
    subject = Subject(size, tiny, device)
    timesteps = subject.timesteps
    times: dict[str, list[float]] = {"synchronous": [], "asyndm": []}
    slow = [_timed(subject, "naive") for _ in range(NAIVE_STEPS)] if naive else []
    alternate(subject, times, end)
    if naive:  # some 2 times as slow, so a few steps must do; the median is given, no interval
        times["naive"] = slow
    ratio, interval = paired_ratio(times["asyndm"], times["synchronous"])
    medians = {method: statistics.median(values) for method, values in times.items()}
    figures: dict[str, Any] = {
        "network": subject.library,
        "timesteps": timesteps,
        "pairs": len(times["asyndm"]),
        "seconds": times,
        "time_ratio": ratio,
        "time_ratio_interval": interval,
        "time_ratio_of_medians": medians["asyndm"] / medians["synchronous"],
    }
    if naive:
        figures["naive_time_ratio"] = medians["naive"] / medians["synchronous"]
    return figures


def paired_ratio(a: list[float], b: list[float]) -> tuple[float, list[float]]:
    """Geometric mean of a / b over pairs, and its interval from Student's t on the logarithms.

    Raises:
        ValueError: fewer than two pairs.
    """
    from scipy import stats

    if len(a) != len(b) or len(a) < 2:
        raise ValueError("At least two pairs are needed.")
    logs = np.log(a) - np.log(b)
    mean, error = float(logs.mean()), float(stats.sem(logs))
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1))
    return math.exp(mean), [math.exp(mean - reach), math.exp(mean + reach)]


def count_operations(size: Size, method: str, tiny: bool) -> int:
    """Floating-point operations of one step, on the meta device: nothing is calculated."""
    subject = Subject(size, tiny, device="meta")
    with subject.attached(method), FlopCounterMode(display=False) as counter:
        subject.step(method)
    return counter.get_total_flops()


def describe(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    where = figures["device"]
    if where == "cpu":
        where += f", {figures['threads']} threads"
    lines = [f"One sampling step, {figures['network']}, guidance, {where}:"]
    for name, size in figures["sizes"].items():
        low, high = size["time_ratio_interval"]
        lines.append(
            f"{name} latents, {size['timesteps']} timesteps at once: AsynDM / synchronous "
            f"time {size['time_ratio']:.3f} ({low:.3f} to {high:.3f}, {size['pairs']} pairs), "
            f"peak memory {size['peak_memory_ratio']:.3f}, "
            f"operations {size['operations_ratio']:.4f}"
        )
        if "naive_time_ratio" in size:
            lines.append(
                f"{name} latents, naive / synchronous: time {size['naive_time_ratio']:.3f}, "
                f"peak memory {size['naive_peak_memory_ratio']:.3f}, "
                f"operations {size['naive_operations_ratio']:.4f}"
            )
    return "\n".join(lines)


def _timed(subject: Subject, method: str) -> float:
    subject.settle()
    with subject.attached(method):
        subject.wait()
        begun = time.perf_counter()
        subject.step(method)
        subject.wait()
        return time.perf_counter() - begun


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _cost(size: Size) -> float:
    return float(size[0] * size[1])


def _ratios(key: str, values: dict[str, float]) -> dict[str, float]:
    plain = max(values["synchronous"], 1)
    ratios = {key: values["asyndm"] / plain}
    return ratios | ({f"naive_{key}": values["naive"] / plain} if "naive" in values else {})


def _missing(device: str) -> str:
    """Why nothing can be measured there; empty where it can."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return f"{device!r} cannot be used: {str(error).splitlines()[0]}"
    return ""


def _memory_in_fresh_process(
    size: Size, method: str, tiny: bool, device: str = "cpu"
) -> dict[str, int]:
    """One step in a process of its own, so that nothing another method did counts.

    Raises:
        RuntimeError: the process failed; its last line says why.
    """
    command = [sys.executable, "-m", "asyndm.bench.overhead"]
    command += ["--worker", method, *map(str, size), *(["--tiny"] if tiny else [])]
    command += ["--device", device]
    done = subprocess.run(command, cwd=_root(), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"Measuring the memory of {method} at {_name(size)} failed: {reason}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure_memory(size: Size, method: str, tiny: bool, device: str = "cpu") -> dict[str, int]:
    """Bytes: held before the step, at its peak, and the difference."""
    subject = Subject(size, tiny, device)
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
        before = torch.cuda.memory_allocated(subject.device)
        with subject.attached(method):
            subject.step(method)
        peak = torch.cuda.max_memory_allocated(subject.device)
        return {"before": before, "peak": peak, "growth": peak - before}
    before = _resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts afresh
    except OSError:
        before = min(before, _resident("VmHWM"))  # building may have needed more: said by `peak`
    with subject.attached(method):
        subject.step(method)
    peak = _resident("VmHWM")
    return {"before": before, "peak": peak, "growth": max(peak - before, 0)}


def _resident(entry: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes; the peak where there is no /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(entry):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _root() -> Path:
    """The folder `asyndm` lies in: the worker must run the same code."""
    return Path(__file__).resolve().parents[2]


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m asyndm bench overhead")
    add_arguments(_parser)
    sys.exit(main(_parser.parse_args()))
