"""What several seeds say together: interquartile means and ratios of medians, with bootstrap 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

SEEDS_FOR_INTERVAL = 3


def interquartile_mean(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over seeds, ``[seeds, E]``: the mean of the middle half and its bootstrap 95 % interval, ``[E]`` each.

    All three are NaN where a seed is; the interval is also NaN with fewer than three seeds.
    """
    center, low, high = np.full((3, scores.shape[1]), np.nan)
    known = ~np.isnan(scores).any(axis=0)
    center[known] = stats.trim_mean(scores[:, known], 0.25, axis=0)
    if len(scores) >= SEEDS_FOR_INTERVAL and known.any():
        interval = stats.bootstrap(
            (scores[:, known],),
            lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low[known], high[known] = interval.low, interval.high
    return center, low, high


def lower_median(x: np.ndarray) -> np.ndarray:
    """Of each row ``[K, N]``: the lower of two middle ones, so that no infinity is averaged with a number."""
    return np.sort(x, axis=1)[:, (x.shape[1] - 1) // 2]


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """:func:`lower_median` of ``above`` over that of ``below``, with its bootstrap interval; NaN if both are inf."""
    rng = np.random.default_rng(0)

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            quotient: np.ndarray = lower_median(a) / lower_median(b)
        return quotient

    a, b = np.array([above], dtype=float), np.array([below], dtype=float)
    drawn = ratio(*(rng.choice(x[0], (10_000, x.shape[1])) for x in (a, b)))
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, (0.025, 0.975), method="nearest") if len(known) else (np.nan, np.nan)
    return float(ratio(a, b)[0]), float(low), float(high)
