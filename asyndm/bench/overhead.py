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
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from asyndm.bench import guidance_cost, norm_cost, sampler_cost, transformer_cost
from asyndm.bench.footprint import count_operations, memory_in_fresh_process, size_name
from asyndm.bench.subject import METHODS, Subject, device_name
from asyndm.bench.timing import CONFIDENCE, MIN_PAIRS, alternate, compared, step_seconds
from asyndm.core.schedule import Size

SIZES = ((64, 64), (96, 64))  # latents of 512x512 and 768x512 pixels
TINY_SIZES = ((16, 16), (24, 16))
MAX_PAIRS = 30
NAIVE_STEPS = 2


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
        choices=[*sampler_cost.SIZE, *transformer_cost.SHAPES],
        help="with --samplers: of these U-Nets (sd15, sdxl; default both); without it: one step of "
        "these transformers (sd35, flux, chroma) at 10 and 50 timesteps",
    )
    parser.add_argument(
        "--untimed",
        action="store_true",
        help="with --samplers, --guidance or transformers: count operations alone",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with --samplers or --guidance: go on from what --json's file holds, written after "
        "each of them",
    )
    parser.add_argument(
        "--device", default="cpu", help="where torch runs the network: cpu (default), cuda, cuda:1"
    )
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Run the benchmark."""
    if problem := _missing(args.device):
        print(f"--device: {problem}", file=sys.stderr)
        return 2
    if not args.minutes > 0:
        print("--minutes: give a number above 0.", file=sys.stderr)
        return 2
    if args.json and not args.json.parent.is_dir():
        print(f"--json: there is no folder {args.json.parent}.", file=sys.stderr)
        return 2
    if args.resume and not ((args.samplers or args.guidance) and args.json):
        print("--resume: it goes with --samplers or --guidance, and --json FILE.", file=sys.stderr)
        return 2
    transformers = [s for s in args.shapes or () if s in transformer_cost.SHAPES]
    if args.shapes and (
        len(transformers) != (0 if args.samplers else len(args.shapes))
        or args.guidance
        or args.norms
    ):
        print("--shapes: sd15 and sdxl go with --samplers, the others alone.", file=sys.stderr)
        return 2
    if transformers:
        figures = transformer_cost.transformer_costs(
            transformers,
            args.minutes,
            timed=not args.untimed,
            device=args.device,
            keep=partial(_write, args.json),
        )
        print(transformer_cost.describe(figures))
    elif args.samplers or args.guidance:
        shapes = args.shapes or tuple(sampler_cost.SIZE)
        measure, bench, of = (
            (partial(sampler_cost.sampler_costs, shapes=shapes), sampler_cost, "samplers")
            if args.samplers
            else (guidance_cost.guidance_costs, guidance_cost, "methods")
        )
        try:
            figures = measure(
                args.minutes,
                args.tiny,
                timed=not args.untimed,
                device=args.device,
                earlier=_earlier(args.json, of) if args.resume else None,
                keep=partial(_write, args.json),
            )
        except ValueError as error:
            print(f"--resume: {args.json} cannot be gone on from: {error}", file=sys.stderr)
            return 2
        print(bench.describe(figures))
    elif args.norms:
        sizes = TINY_SIZES if args.tiny else SIZES
        figures = norm_cost.norm_costs(sizes, args.minutes, args.tiny, args.device)
        print(norm_cost.describe(figures))
    else:
        figures = overhead(minutes=args.minutes, tiny=args.tiny, device=args.device)
        print(describe(figures))
    _write(args.json, figures)
    return 0


def _write(file: Path | None, figures: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _earlier(file: Path, of: str) -> dict[str, Any] | None:
    """Figures ``of`` samplers or methods in a file; None where there is no file yet.

    Raises:
        ValueError: it holds none.
    """
    if not file.exists():
        return None
    figures = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(figures, dict) or not isinstance(figures.get(of), dict):
        raise ValueError(f"it holds no figures of {of}.")
    return figures


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
    by_size: dict[str, dict[str, Any]] = {size_name(size): {} for size in sizes}
    jobs = [(size, m) for size in sizes for m in METHODS if m != "naive" or size == sizes[0]]
    with tqdm(total=2 * len(jobs) + len(sizes), disable=not progress, unit="part") as bar:
        for size in sizes:
            figures, methods = by_size[size_name(size)], [m for s, m in jobs if s == size]
            bar.set_description(f"operations {size_name(size)}")
            counts = {m: count_operations(size, m, tiny) for m in methods}
            bar.update(len(methods))
            figures["operations"] = counts
            figures |= _ratios("operations_ratio", counts)
        for size, method in jobs:
            bar.set_description(f"memory {method} {size_name(size)}")
            figures = by_size[size_name(size)]
            figures.setdefault("memory", {})[method] = memory_in_fresh_process(
                size, method, tiny, device
            )
            bar.update()
        for number, size in enumerate(sizes):
            bar.set_description(f"time {size_name(size)}")
            figures = by_size[size_name(size)]
            for kind, key in (("peak", "peak_memory_ratio"), ("growth", "step_memory_ratio")):
                figures |= _ratios(key, {m: v[kind] for m, v in figures["memory"].items()})
            share = _cost(size) / sum(_cost(s) for s in sizes[number:])
            seconds = share * (end - time.monotonic())
            figures |= measure_time(size, seconds, tiny, size == sizes[0], device)
            bar.update()
    first = by_size[size_name(sizes[0])]
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


def measure_time(
    size: Size, seconds: float, tiny: bool, naive: bool, device: str = "cpu"
) -> dict[str, Any]:
    """Time alternating steps for about ``seconds``; the figures of one size."""
    end = time.monotonic() + seconds
    subject = Subject(size, tiny, device)
    timesteps = subject.timesteps
    timed = partial(step_seconds, subject)
    # some 2 times as slow, so a few steps must do; the median is given, no interval
    slow = [timed("naive") for _ in range(NAIVE_STEPS)] if naive else []
    times = alternate(timed, ("synchronous", "asyndm"), end, MAX_PAIRS)
    compared_pairs = compared(times, "asyndm", "synchronous")
    if naive:
        times["naive"] = slow
    medians = {method: statistics.median(values) for method, values in times.items()}
    figures: dict[str, Any] = {
        "network": subject.library,
        "timesteps": timesteps,
        "seconds": times,
        **compared_pairs,
        "time_ratio_of_medians": medians["asyndm"] / medians["synchronous"],
    }
    if naive:
        figures["naive_time_ratio"] = medians["naive"] / medians["synchronous"]
    return figures


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


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m asyndm bench overhead")
    add_arguments(_parser)
    sys.exit(main(_parser.parse_args()))
