r"""How far a computed value can be off: the residual, with every rounding counted.

Let ``V`` be the function that was returned and ``R = r + gamma P V - V`` its residual in exact arithmetic. Then
``V_i - V = sum_t gamma^t P^t R`` lies between ``min R / (1 - gamma)`` and ``max R / (1 - gamma)``. What is computed is
``R`` up to rounding. Products and sums with non-negative factors are good to a relative ``k u / (1 - k u)`` after k
roundings in whatever order (u = 2^-53, fused multiply-add allowed), so the computed ``P V`` is off by at most that
times ``max |V|``. The tables are taken as the exact numbers that float64 holds: a table of dyadic rationals is the
rational instance itself. Rows that do not quite sum to one are allowed for, also those of agents whose states never
matter.

References:
    N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, Section 3.1.
    E. Porteus, Some bounds for discounted sequential decision processes, Management Science 18, 1971.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.mdp import ROW_SUM_TOLERANCE, Array

UNIT_ROUNDOFF = 2.0**-53
_UNDERFLOW = 1e-290
_OUTWARDS = 8 * UNIT_ROUNDOFF
Number = TypeVar("Number", float, Array)


class Certificate:
    """Turns residuals of functions computed with one kernel into enclosures of the value.

    Args:
        chain: the closed loop.
        gamma: discount factor.
        agents: whose next states the kernel sums out.
        roundings: in one application of it, see :class:`dmpo_theory.elimination.Operator`.

    Raises:
        ArithmeticError: gamma is so near 1 that rows summing to a little more than 1 may make the values diverge.
    """

    def __init__(self, chain: ClosedLoop, gamma: float, agents: Sequence[int], roundings: int) -> None:
        # Rows of transitions and of policies were accepted as summing to 1 up to a tolerance.
        off = 2.1 * chain.n * ROW_SUM_TOLERANCE
        low, high = 1 - off, 1 + off
        if gamma * high >= 1:
            raise ArithmeticError(
                f"gamma = {gamma!r} is too near 1: rows of {chain.n} agents' tables may sum to as much as {high!r}, "
                "and the values may diverge; use a smaller gamma"
            )
        averaging = sum(chain.n_actions[i] for i in agents)  # of the policy, in every factor
        k = (roundings + averaging + 4) * UNIT_ROUNDOFF
        self._relative = k / (1 - k) if k < 1 else math.inf
        self._falls = (gamma * low, gamma * high)
        self._weights = (1 - gamma * low, 1 - gamma * high)
        self._left_out = 0.0
        if len(agents) < chain.n:
            self._left_out = gamma * float(np.delete(chain.row_errors, list(agents)).sum())

    def rounding(self, reward: float, value: float) -> float:
        """How far the residual of values of size ``value`` may be off, rewards being of size ``reward``."""
        return self._relative * (reward + (1 + max(self._falls)) * value) + 1.1 * self._left_out * value + _UNDERFLOW

    def carried_over(self, low: float, high: float) -> tuple[float, float]:
        """Bounds on the residual of a function that the last sweep changed by something in ``[low, high]``."""
        return min(fall * low for fall in self._falls), max(fall * high for fall in self._falls)

    def enclosure(self, low: Number, high: Number, rounding: float) -> tuple[Number, Number]:
        """``(lower, upper)`` such that ``V + lower <= V_i <= V + upper``, if the residual lies in ``[low, high]``."""
        most, least = self._weights
        below, above = low - rounding, high + rounding
        lower = np.minimum(below / most, below / least)
        upper = np.maximum(above / most, above / least)
        return lower - _OUTWARDS * abs(lower), upper + _OUTWARDS * abs(upper)

    def centred(self, low: float, high: float, reward: float, value: float) -> tuple[float, float]:
        """``(width, middle)`` such that ``V + middle`` is within ``width`` of the value, the sum rounded.

        V is what a sweep left that changed it by something in ``[low, high]``, and is of size ``value``; rewards are of
        size ``reward``.
        """
        before = value + max(abs(low), abs(high))
        lower, upper = self.enclosure(*self.carried_over(low, high), self.rounding(reward, before))
        middle = float(lower + upper) / 2
        width = max(float(upper) - middle, middle - float(lower))
        width += 2 * UNIT_ROUNDOFF * (value + abs(middle) + 2 * width)
        return min((max(-float(lower), float(upper)), 0.0), (width, middle))  # not to move V rounds nothing

    def reachable(self, reward: float) -> float:
        """An error in value that can be certified whatever the values are, for rewards of this size."""
        return 2 * self.rounding(reward, reward / min(self._weights)) / min(self._weights)

    def out_of_reach(self, reward: float) -> float:
        """An error in value that cannot be certified whatever the values are, for rewards of this size."""
        return self.rounding(reward, 0.0) / max(self._weights)
