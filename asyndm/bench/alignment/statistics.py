"""Paired comparisons: means whose intervals resample prompts, exact signs, families corrected.

Values are [prompts, seeds]; a prompt's seeds stay together, for they are no independent evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
_RESAMPLES = 5000
_SEED = 4504


@dataclass(frozen=True)
class Interval:
    """A mean over prompts, and its confidence interval (BCa bootstrap)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A method beside another one, on the same prompts and seeds.

    Attributes:
        difference: of the means.
        p: two-sided, by flipping the signs of the prompts' differences.
        wins: share of the pictures in which it is better, plus half of those that are equal.
    """

    difference: Interval
    p: float
    wins: float


def mean(values: np.ndarray) -> Interval:
    """Mean of the prompts' means; NaN is left out.

    Raises:
        ValueError: there is no value.
    """
    prompts = by_prompt(values)
    if not len(prompts):
        raise ValueError("there is no value")
    value = float(prompts.mean())
    if len(prompts) < 2 or np.ptp(prompts) == 0:
        return Interval(value, value, value)
    method = "BCa" if len(prompts) > 2 else "percentile"
    with np.errstate(all="ignore"):
        found = stats.bootstrap(
            (prompts,), np.mean, confidence_level=LEVEL, n_resamples=_RESAMPLES, method=method,
            random_state=np.random.default_rng(_SEED),
        ).confidence_interval  # fmt: skip
    return Interval(value, float(found.low), float(found.high))


def compare(method: np.ndarray, other: np.ndarray) -> Paired:
    """``method`` minus ``other``, both [prompts, seeds]; pairs with a NaN are left out.

    Raises:
        ValueError: the shapes differ, or no pair is left.
    """
    if method.shape != other.shape:
        raise ValueError(f"{method.shape} and {other.shape} are not paired")
    pairs = method - other
    difference = mean(pairs)
    kept = pairs[~np.isnan(pairs)]
    wins = float((kept > 0).mean() + (kept == 0).mean() / 2)
    prompts = by_prompt(pairs)
    if not prompts.any() or len(prompts) < 2:
        return Paired(difference, 1.0, wins)
    p = stats.permutation_test(
        (prompts,), np.mean, permutation_type="samples", vectorized=True, n_resamples=9999,
        random_state=np.random.default_rng(_SEED),
    ).pvalue  # fmt: skip
    return Paired(difference, float(p), wins)


def by_prompt(values: np.ndarray) -> np.ndarray:
    """The mean of each prompt's seeds, without prompts that have none."""
    kept = values[~np.isnan(values).all(axis=1)]
    return np.nanmean(kept, axis=1) if len(kept) else np.empty(0)


def spread(values: np.ndarray) -> float | None:
    """Standard deviation over seeds of the mean over prompts; None for one seed."""
    if values.shape[1] < 2:
        return None
    with np.errstate(all="ignore"):
        means = [np.nanmean(column) for column in values.T if not np.isnan(column).all()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction (1979) over a family."""
    corrected, highest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = highest
    return corrected


# --- choosing per prompt, as the authors do, and what that freedom alone is worth ---


def chosen_on_same(settings: np.ndarray) -> np.ndarray:
    """Each prompt's best setting by the very pictures it is reported on, [prompts, seeds].

    Args:
        settings: [settings, prompts, seeds], more is better.
    """
    means = _means(settings)
    return settings[means.argmax(0), np.arange(settings.shape[1])]


def chosen_on_others(settings: np.ndarray) -> np.ndarray:
    """As :func:`chosen_on_same`, but each seed's setting is chosen on the prompt's other seeds.

    Raises:
        ValueError: there are no other seeds.
    """
    seeds = settings.shape[2]
    if seeds < 2:
        raise ValueError("there are no other seeds")
    columns = []
    for seed in range(seeds):
        best = _means(np.delete(settings, seed, axis=2)).argmax(0)
        columns.append(settings[best, np.arange(settings.shape[1]), seed])
    return np.stack(columns, axis=1)


def best_seed(values: np.ndarray, among: int) -> np.ndarray:
    """The best of each prompt's first ``among`` seeds, [prompts, 1]: what choosing a seed gives."""
    few = values[:, :among]
    best = np.where(np.isnan(few), -np.inf, few).max(axis=1, keepdims=True)
    return np.where(np.isinf(best), np.nan, best)


def _means(settings: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(settings)).sum(axis=2)
    sums = np.nansum(settings, axis=2)
    return np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
