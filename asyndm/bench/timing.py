"""Times of two ways to do the same: measured in turns, compared in pairs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from asyndm.bench.subject import Subject

MIN_PAIRS = 3
CONFIDENCE = 0.95


def alternate(
    timed: Callable[[str], float], methods: Sequence[str], end: float, most: int
) -> dict[str, list[float]]:
    """Time two methods in turns, which of them first changes from pair to pair.

    Args:
        timed: one run of a method, in seconds.
        methods: their names; each is run once before, for allocator, kernels and caches.
        end: of ``time.monotonic()``: about when to stop, after at least :data:`MIN_PAIRS` pairs.
        most: pairs.

    Returns:
        The seconds of each method, in the order of the pairs.
    """
    for method in methods:
        timed(method)
    times: dict[str, list[float]] = {method: [] for method in methods}
    order = list(methods)
    for done in range(1, most + 1):
        begun = time.monotonic()
        for method in order:
            times[method].append(timed(method))
        order.reverse()
        now = time.monotonic()
        if done >= MIN_PAIRS and now + (now - begun) > end:
            break
    return times


def seconds(subject: Subject, run: Callable[[], object]) -> float:
    """What ``run`` took, until the device has done it, too."""
    subject.wait()
    begun = time.perf_counter()
    run()
    subject.wait()
    return time.perf_counter() - begun


def step_seconds(subject: Subject, method: str) -> float:
    """What one step took, in a network that has the method's hooks already."""
    subject.settle()
    with subject.attached(method):
        return seconds(subject, lambda: subject.step(method))


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


def compared(times: dict[str, list[float]], method: str, plain: str) -> dict[str, object]:
    """The figures of a comparison: ``time_ratio`` method / plain, its interval, the pairs."""
    ratio, interval = paired_ratio(times[method], times[plain])
    return {"time_ratio": ratio, "time_ratio_interval": interval, "pairs": len(times[method])}


def matching(earlier: dict[str, Any], head: dict[str, Any], of: str) -> dict[str, Any]:
    """What ``earlier`` figures hold ``of`` something, where they were measured as this run will be.

    Raises:
        ValueError: they were measured otherwise.
    """
    for key, value in head.items():
        if earlier.get(key) != value:
            raise ValueError(
                f"it was measured with {key} {earlier.get(key)}, this run has {value}; name "
                "another file."
            )
    return earlier[of]
