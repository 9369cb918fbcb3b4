r"""``V = r + gamma P V``: sweeps with MacQueen-Porteus bounds, and Krylov methods for chains that hardly mix.

If a sweep changes V by ``x``, the fixed point lies between ``V + gamma / (1 - gamma) min x`` and the same with ``max``,
V after the sweep. The bounds are rigorous and close as fast as the chain mixes, where ``x`` alone falls by gamma a
sweep. Changes of four sweeps tell where they lead (:func:`dmpo_theory.elimination.extrapolation`), and the next one
starts there: whatever it starts from, its own change certifies it. A chain that mixes slowly at a discount near 1
leaves many sweeps all the same; then ``(I - gamma P) y = gamma P x`` is solved for all that is to come, and what
its residual is still short of goes on as sweeps, under the same bounds.

References:
    J. MacQueen, A modified dynamic programming method for Markovian decision problems, 1966.
    E. Porteus, Some bounds for discounted sequential decision processes, Management Science 18, 1971.
    A. Sidi, Vector Extrapolation Methods with Applications, 2017.
    H. van der Vorst, Bi-CGSTAB, SIAM Journal on Scientific and Statistical Computing 13, 1992.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg

from dmpo_theory.elimination import HISTORY, Operator
from dmpo_theory.mdp import Array

MAX_SWEEPS = 1_000_000
PATIENCE = 60
"""Sweeps left from which a Krylov method is tried; see benchmarks/slow_chains.py."""
_CHECK_EVERY = 24
_GMRES_VECTORS, _GMRES_UP_TO = 30, 2**18


def fixed_point(
    kernel: Operator, reward: Array, value: Array, gamma: float, half_width: float
) -> tuple[float, float, int]:
    """Carry on ``V <- r + gamma P V`` in place until the bounds are ``2 half_width`` apart, or rounding stops them.

    Returns:
        the smallest and the largest change of the last sweep, and the number of applications of the kernel.
    """
    changes = np.empty((HISTORY, len(value)))
    range_wanted = min(2 * half_width * (1 - gamma) / max(gamma, sys.float_info.min), sys.float_info.max)
    sweeps, earlier, patience = 0, float(np.ptp(reward)), float(PATIENCE)  # what a sweep from V = 0 changes
    while sweeps < MAX_SWEEPS:
        low, high, more = kernel.sweeps(value, reward, changes, gamma, range_wanted, _CHECK_EVERY)
        sweeps += more
        if more < _CHECK_EVERY:
            return low, high, sweeps
        if sweeps > more and high - low >= earlier:  # no longer falling: rounding, or a jump that did no good
            if len(changes) == 1:
                return low, high, sweeps
            changes, patience = changes[-1:], math.inf  # sweeps alone always get there
        left = _sweeps_left(high - low, earlier, changes, gamma, range_wanted)
        earlier = high - low
        if left > patience:  # a long tail: solve (I - gamma P) y = gamma P x_t for all of it
            target = gamma * kernel.apply(changes[-1])
            size, most = (1 - gamma) * half_width / 8, int(2 * left)  # the pace still flatters
            tail, more = krylov(lambda y: y - gamma * kernel.apply(y), target, size, most)
            sweeps += more + 1
            if tail is None:
                patience = most  # again only if it turns out to be that many
            else:
                value += tail
    raise ArithmeticError(f"no convergence in {MAX_SWEEPS} sweeps at gamma = {gamma!r}; lower gamma")


def _sweeps_left(now: float, earlier: float, changes: Array, gamma: float, wanted: float) -> float:
    """At the pace of the last sweeps, between which nothing was extrapolated: from batch to batch it falls unevenly."""
    apart = len(changes) - 1 or _CHECK_EVERY
    before, now = float(np.ptp(changes[0])) if len(changes) > 1 else earlier, max(now, wanted)
    return math.log(now / wanted) / max(math.log(max(before / now, 1.0)) / apart, -math.log(gamma))


def krylov(operation: Callable[[Array], Array], target: Array, size: float, most: int) -> tuple[Array | None, int]:
    """Solve to a residual of root mean square ``size``; None if ``most`` applications do not get there.

    BiCGStab needs few vectors; it breaks down where powers of the kernel vanish, as in a shift register, and there a
    few dozen steps of GMRES are enough.
    """
    applied = 0

    def count(function: Array) -> Array:
        nonlocal applied
        applied += 1
        return operation(np.ravel(function))

    linear = scipy.sparse.linalg.LinearOperator((len(target),) * 2, matvec=count, dtype=np.float64)
    within = {"rtol": 0.0, "atol": size * math.sqrt(len(target))}
    with np.errstate(all="ignore"):  # a breakdown shows in what is returned
        found, failed = scipy.sparse.linalg.bicgstab(linear, target, maxiter=most // 2, **within)
        if (failed or not np.isfinite(found).all()) and len(target) <= _GMRES_UP_TO:
            restart = min(_GMRES_VECTORS, most)
            found, failed = scipy.sparse.linalg.gmres(linear, target, restart=restart, maxiter=1, **within)
    return (None if failed or not np.isfinite(found).all() else found), applied
