"""Paired comparisons of methods that drew the same prompts at the same seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval (bootstrap over prompts)."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Method minus baseline on the same prompts and seeds."""

    estimate: Estimate
    better: int  # pairs only the method got right (or better)
    worse: int
    p_value: float  # exact sign test over pairs (for right/wrong: McNemar's exact test)

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.estimate.as_dict(),
            "better": self.better,
            "worse": self.worse,
            "p_value": self.p_value,
        }


def mean_over_prompts(values: np.ndarray) -> Estimate:
    """Mean of [prompts, seeds], its interval from resampling prompts (their seeds stay together).

    NaN entries (no background to measure) are left out.

    Raises:
        ValueError: nothing is left.
    """
    kept = ~np.isnan(values).all(axis=1)
    if not kept.any():
        raise ValueError("There is no value to average.")
    by_prompt = np.nanmean(values[kept], axis=1)
    value = float(by_prompt.mean())
    if len(by_prompt) < 2 or np.ptp(by_prompt) == 0:
        return Estimate(value, value, value)
    interval = stats.bootstrap(
        (by_prompt,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=_RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(4504),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def compare(method: np.ndarray, baseline: np.ndarray) -> Difference:
    """Paired difference of two arrays [prompts, seeds].

    Raises:
        ValueError: the shapes differ.
    """
    if method.shape != baseline.shape:
        raise ValueError(f"{method.shape} and {baseline.shape} are not paired.")
    difference = method - baseline
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    return Difference(mean_over_prompts(difference), better, worse, float(p_value))


def dose_response(differences: dict[float, np.ndarray]) -> Estimate | None:
    """Slope of the paired difference over the dose, in units of one full dose.

    Args:
        differences: dose -> [prompts, seeds], the same prompts at every dose.

    Returns:
        None where there are fewer than two doses.
    """
    if len(differences) < 2:
        return None
    doses = np.array(sorted(differences))
    weights = (doses - doses.mean()) / np.square(doses - doses.mean()).sum()
    # a slope per prompt and seed is linear in the differences, so the mean's interval serves
    return mean_over_prompts(sum(w * differences[d] for w, d in zip(weights, doses)))
