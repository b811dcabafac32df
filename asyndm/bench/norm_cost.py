"""What levelled norms cost: a step with them beside the same step with the host's norms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from asyndm.bench.footprint import count_operations, memory_in_fresh_process, size_name
from asyndm.bench.subject import LEVELLED, Subject, device_name
from asyndm.bench.timing import CONFIDENCE, alternate, compared, step_seconds
from asyndm.core.schedule import Size

METHODS = (LEVELLED, "asyndm")
MAX_PAIRS = 30


def norm_costs(
    sizes: Sequence[Size],
    minutes: float,
    tiny: bool,
    device: str,
) -> dict[str, Any]:
    """Levelled norms / the host's norms, both with AsynDM, by size."""
    end, by_size = time.monotonic() + 60 * minutes, {}
    for number, size in enumerate(tqdm(sizes, unit="size")):
        counts = {method: count_operations(size, method, tiny) for method in METHODS}
        peaks = {m: memory_in_fresh_process(size, m, tiny, device)["peak"] for m in METHODS}
        areas = [height * width for height, width in sizes[number:]]
        until = time.monotonic() + areas[0] / sum(areas) * (end - time.monotonic())
        subject = Subject(size, tiny, device)
        times = alternate(partial(step_seconds, subject), METHODS, until, MAX_PAIRS)
        by_size[size_name(size)] = {
            "operations_ratio": counts[LEVELLED] / counts["asyndm"],
            "peak_memory_ratio": peaks[LEVELLED] / peaks["asyndm"],
            **compared(times, LEVELLED, "asyndm"),
            "seconds": times,
        }
    return {
        "confidence": CONFIDENCE,
        "network": subject.library + (", tiny" if tiny else ", Stable Diffusion 1.5's size"),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": torch.__version__,
        "sizes": by_size,
    }


def describe(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = [f"Levelled norms / host's, {figures['network']}, {figures['device']}:"]
    for name, size in figures["sizes"].items():
        low, high = size["time_ratio_interval"]
        lines.append(
            f"{name} latents: time {size['time_ratio']:.3f} ({low:.3f} to {high:.3f}, "
            f"{size['pairs']} pairs), peak memory {size['peak_memory_ratio']:.4f}, "
            f"operations {size['operations_ratio']:.4f}"
        )
    return "\n".join(lines)
