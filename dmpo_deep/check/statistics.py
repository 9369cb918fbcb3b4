"""Tests with a stated level: independent copies, Student's t, Bonferroni inside a family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 1e-4
"""Probability with which a check of a correct program fails."""


ROUNDING = 1e-9
"""Of exact errors and bounds, relative to the size of what they are errors of."""
SINGLE = 16 * float(np.finfo(np.float32).eps)
"""Of means of what training computes in single precision, likewise."""
FEW = 400
"""Expected events below which a mean is too far from normal to be judged. At the cut, means of rare events are skewed
still, so that a family of them fails a few times as often as its level says."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: a family of tests, judged by its worst member."""

    check: str
    """What is checked."""
    about: str
    """On what: kappa, agent, model error."""
    tests: int
    """Size of the family."""
    worst: float
    """Largest deviation, in ``unit``."""
    p: float
    """Probability of a worst deviation as large in a correct program, at most."""
    where: str
    """The member that deviates most."""
    level: float
    unit: str = "standard errors"

    @property
    def passed(self) -> bool:
        """Whether the deviations can be chance."""
        return self.p >= self.level


def mean_is_zero(check: str, about: str, samples: np.ndarray, names: list[str], level: float, scale: float) -> Finding:
    """Whether columns of ``samples [C, m]``, of ``C`` independent copies, have mean zero; ``names`` are theirs.

    ``scale`` is the size of the numbers that the samples are differences of.
    """
    error, spread = samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return no_deviation(check, about, error, spread, len(samples) - 1, names, level, scale)


def no_deviation(
    check: str,
    about: str,
    error: np.ndarray,
    spread: np.ndarray,
    freedom: int,
    names: list[str],
    level: float,
    scale: float,
) -> Finding:
    """Whether errors ``[m]`` with standard errors ``[m]`` can be chance, or rounding of numbers of size ``scale``."""
    if not names:
        return Finding(check, about, 0, 0.0, 1.0, "too few data to judge any", level)
    beyond = np.maximum(np.abs(error) - SINGLE * scale, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(beyond == 0, 0.0, beyond / spread)
    score[np.isnan(score) | np.isnan(error)] = np.inf
    k = int(score.argmax())
    p = min(1.0, 2 * len(score) * float(stats.t.sf(score[k], freedom)))
    return Finding(check, about, len(score), float(score[k]), p, names[k], level)


def half_width(spread: np.ndarray, freedom: int, level: float) -> np.ndarray:
    """Half-widths of simultaneous intervals at confidence ``1 - level`` from standard errors ``[m]``."""
    return spread * float(stats.t.isf(level / 2 / max(spread.size, 1), freedom))


def within(check: str, about: str, pairs: list[tuple[float, float, str]], level: float, scale: float) -> Finding:
    """Whether no exact error exceeds its bound, pairs of both with a name; ``worst`` is the largest ratio.

    Errors that may be rounding of numbers of size ``scale`` count as none.
    """
    if not pairs:
        return Finding(check, about, 0, 0.0, 1.0, "nothing to judge", level, unit="of the bound")
    with np.errstate(divide="ignore"):
        ratios = [float(np.float64(error) / bound) if error > ROUNDING * scale else 0.0 for error, bound, _ in pairs]
    k = int(np.argmax(ratios))
    held = ratios[k] <= 1 + ROUNDING
    return Finding(check, about, len(pairs), float(ratios[k]), float(held), pairs[k][2], level, unit="of the bound")
