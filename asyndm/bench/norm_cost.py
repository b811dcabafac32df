"""What levelled norms cost: a step with them beside the same step with the host's norms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from asyndm.bench.subject import LEVELLED, Subject, device_name
from asyndm.core.schedule import Size

METHODS = (LEVELLED, "asyndm")


def norm_costs(
    sizes: Sequence[Size],
    minutes: float,
    tiny: bool,
    device: str,
    operations: Callable[[Size, str, bool], int],
    memory: Callable[[Size, str], dict[str, int]],
    alternate: Callable[[Subject, dict[str, list[float]], float], None],
    paired_ratio: Callable,
) -> dict[str, Any]:
    """Levelled norms / the host's norms, both with AsynDM, by size.

    Args:
        operations, memory, alternate, paired_ratio: of ``bench overhead``.
    """
    end, by_size = time.monotonic() + 60 * minutes, {}
    for number, size in enumerate(tqdm(sizes, unit="size")):
        counts = {method: operations(size, method, tiny) for method in METHODS}
        peaks = {method: memory(size, method)["peak"] for method in METHODS}
        areas = [height * width for height, width in sizes[number:]]
        subject = Subject(size, tiny, device)
        times: dict[str, list[float]] = {method: [] for method in METHODS}
        alternate(
            subject, times, time.monotonic() + areas[0] / sum(areas) * (end - time.monotonic())
        )
        ratio, interval = paired_ratio(*(times[method] for method in METHODS))
        by_size["x".join(map(str, size))] = {
            "operations_ratio": counts[LEVELLED] / counts["asyndm"],
            "peak_memory_ratio": peaks[LEVELLED] / peaks["asyndm"],
            "time_ratio": ratio,
            "time_ratio_interval": interval,
            "pairs": len(times[LEVELLED]),
            "seconds": times,
        }
    return {
        "confidence": 0.95,
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
