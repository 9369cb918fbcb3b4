r"""Eqs. 1-2: exact local values, discounted occupancy and stationary law of a networked MDP under a local policy.

Two routes compute with the closed-loop kernel ``P`` of :mod:`dmpo_theory.closed_loop`:

* *dense*: form ``P`` and solve ``(I - gamma P) V = r`` by LU;
* *factored*: never form ``P``; apply it factor by factor, and iterate with the MacQueen-Porteus bounds. With
  ``x_t = gamma^t P^t r_i`` they are rigorous and two-sided: ``V_i`` lies in
  ``sum_{t<=k} x_t + gamma / (1 - gamma) [min x_k, max x_k]``.

Every result carries its residual, computed from what is returned: ``max |r + gamma P V - V|`` bounds the error in
value by ``residual / (1 - gamma)``.

References:
    J. MacQueen, A modified dynamic programming method for Markovian decision problems, 1966.
    E. Porteus, Some bounds for discounted sequential decision processes, Management Science 18, 1971.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from scipy.sparse.csgraph import connected_components

from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.errors import ProblemTooLarge, require_memory
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP

Method = Literal["auto", "dense", "factored"]
DENSE_UP_TO = 512
"""Joint states up to which ``method="auto"`` takes the dense route."""
_MAX_SWEEPS = 1_000_000


@dataclass(frozen=True)
class Values:
    """Local values of all agents on all joint states.

    Attributes:
        values: ``V_i(x)``, ``[n, X]``.
        residual: ``max_x |r_i + gamma P V_i - V_i|`` for each agent, ``[n]``.
        error_bound: ``max residual / (1 - gamma)``, bounds ``|V_i(x) - values[i, x]|`` up to rounding.
        method: the route taken.
        sweeps: applications of the kernel; 0 for the dense route.
        seconds: wall time.
    """

    values: Array
    residual: Array
    error_bound: float
    method: str
    sweeps: int
    seconds: float


@dataclass(frozen=True)
class StateLaw:
    """A law of the joint state.

    Attributes:
        law: probabilities, ``[X]``, sum 1.
        residual: L1 norm of the defining equation's residual.
        method: the route taken.
    """

    law: Array
    residual: float
    method: str


def local_values(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    memory_limit_gib: float | None = None,
) -> Values:
    """All local values ``V_i(x) = E[sum_t gamma^t r_i(t) | s(0) = x]`` on all joint states.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        method: ``"dense"``, ``"factored"``, or ``"auto"``: dense up to 512 joint states.
        tolerance: largest error in value; the residual is at most ``(1 - gamma) tolerance``. By default 1e-10, or what
            float64 can give where values are so large that it cannot give that; ``error_bound`` says what was reached.
        memory_limit_gib: refuse what needs more; by default 90 % of the memory available.

    Raises:
        ProblemTooLarge: before any allocation, with the GiB it would take.
        ArithmeticError: float64 cannot reach the tolerance; the message says what was reached.

    Example:
        >>> from dmpo_theory.graph import ring
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(ring(4), rng=0)
        >>> result = local_values(mdp, random_policy(mdp, rng=1))
        >>> result.values.shape, result.error_bound < 1e-10
        ((4, 16), True)
    """
    started = time.perf_counter()
    chain = closed_loop(mdp, policy)
    dense = _use_dense(chain, method, chain.n, memory_limit_gib)
    rewards = chain.reward_functions()
    if tolerance is None:  # a value of size r / (1 - gamma) leaves a residual of a few units in its last place
        tolerance = max(1e-10, 8 * np.finfo(np.float64).eps * float(np.abs(rewards).max()) / (1 - mdp.gamma) ** 2)
    sweeps = 0
    if dense:
        factors = scipy.linalg.lu_factor(np.eye(chain.size) - mdp.gamma * chain.matrix)
        values: Array = scipy.linalg.lu_solve(factors, rewards.T).T
    else:
        values, sweeps = _discounted_sums(chain, mdp.gamma, rewards, tolerance)
    for attempt in range(4):  # iterative refinement: rounding in the first solve may leave a larger residual
        after = values @ chain.matrix.T if dense else chain.apply(values)
        residuals = rewards + mdp.gamma * after - values
        residual = np.abs(residuals).max(axis=1)
        if residual.max() <= (1 - mdp.gamma) * tolerance:
            seconds = time.perf_counter() - started
            bound = float(residual.max() / (1 - mdp.gamma))
            return Values(values, residual, bound, "dense" if dense else "factored", sweeps, seconds)
        if attempt < 3:
            if dense:
                values = values + scipy.linalg.lu_solve(factors, residuals.T).T
            else:
                correction, more = _discounted_sums(chain, mdp.gamma, residuals, tolerance / 2)
                values, sweeps = values + correction, sweeps + more
    raise ArithmeticError(
        f"values are good to {residual.max() / (1 - mdp.gamma):.2g} only: float64 cannot reach tolerance = "
        f"{tolerance:g} at gamma = {mdp.gamma:g} and rewards of size {np.abs(rewards).max():.3g}; "
        "ask for a larger tolerance"
    )


def occupancy(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    start: Array | None = None,
    *,
    method: Method = "auto",
    tolerance: float = 1e-10,
    memory_limit_gib: float | None = None,
) -> StateLaw:
    """Normalised discounted occupancy ``d(x) = (1 - gamma) sum_t gamma^t Pr(s(t) = x)``.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        start: law of ``s(0)``, ``[X]``; uniform by default.
        method: as in :func:`local_values`.
        tolerance: largest L1 error of ``d``.
        memory_limit_gib: as in :func:`local_values`.
    """
    chain, gamma = closed_loop(mdp, policy), mdp.gamma
    dense = _use_dense(chain, method, 1, memory_limit_gib)
    start = _start_law(chain, start)
    if dense:
        law: Array = (1 - gamma) * scipy.linalg.solve((np.eye(chain.size) - gamma * chain.matrix).T, start)
        residual = np.abs((1 - gamma) * start + gamma * law @ chain.matrix - law).sum()
        return StateLaw(law, float(residual), "dense")
    state, weight = start, 1.0
    law = np.zeros(chain.size)
    for _ in range(_MAX_SWEEPS):
        following = chain.push(state)
        # With the tail closed by the current law the residual is weight |following - state|, telescoping.
        if weight * gamma * np.abs(following - state).sum() <= (1 - gamma) * tolerance:
            break
        law += (1 - gamma) * weight * state
        state, weight = following, weight * gamma
    else:
        raise ArithmeticError(f'no convergence in {_MAX_SWEEPS} sweeps at gamma = {gamma!r}; use method="dense"')
    law += weight * state
    residual = np.abs((1 - gamma) * start + gamma * chain.push(law) - law).sum()
    return StateLaw(law, float(residual), "factored")


def stationary(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    start: Array | None = None,
    *,
    method: Method = "auto",
    tolerance: float = 1e-12,
    memory_limit_gib: float | None = None,
) -> StateLaw:
    """The stationary law that the chain's time averages approach from ``start`` (uniform by default).

    Periodic and reducible chains are allowed: with several recurrent classes the answer depends on ``start``. On the
    factored route ``tolerance`` bounds the residual ``|d P - d|_1``, not the error: a chain that hardly mixes has a
    small residual far from its limit, and is better solved densely.
    """
    chain = closed_loop(mdp, policy)
    dense = _use_dense(chain, method, 1, memory_limit_gib)
    start = _start_law(chain, start)
    if dense:
        law, route = _dense_stationary(chain.matrix, start), "dense"
    else:
        law, route = start, "factored"
        for _ in range(_MAX_SWEEPS):
            following = chain.push(law)
            if np.abs(following - law).sum() <= tolerance:
                break
            law = (law + following) / 2  # the lazy chain has the same limit and no period
        else:
            raise ArithmeticError(f'no convergence in {_MAX_SWEEPS} sweeps; use method="dense", or a larger tolerance')
        law = law / law.sum()
    return StateLaw(law, float(np.abs(chain.push(law) - law).sum()), route)


def _discounted_sums(chain: ClosedLoop, gamma: float, terms: Array, tolerance: float) -> tuple[Array, int]:
    """``sum_t gamma^t P^t f`` for each row ``f``, to ``tolerance``; and how often the kernel was applied."""
    total = terms.copy()
    if gamma == 0:
        return total, 0
    for sweep in range(_MAX_SWEEPS):
        low, high = terms.min(axis=1), terms.max(axis=1)
        half_width = gamma / (1 - gamma) * (high - low).max() / 2
        if half_width <= tolerance / 4:  # the rest is for rounding
            return total + (gamma / (1 - gamma) * (high + low) / 2)[:, None], sweep
        terms = gamma * chain.apply(terms)
        total += terms
    raise ArithmeticError(f"no convergence in {_MAX_SWEEPS} sweeps at gamma = {gamma!r}; lower gamma")


def _dense_stationary(kernel: Array, start: Array) -> Array:
    count, label = connected_components(kernel > 0, directed=True, connection="strong")
    closed = [c for c in range(count) if kernel[np.ix_(label == c, label != c)].sum() == 0]
    recurrent = np.isin(label, closed)
    law = np.where(recurrent, start, 0.0)
    if not recurrent.all():  # where transient mass is absorbed
        inner = kernel[np.ix_(~recurrent, ~recurrent)]
        visits = scipy.linalg.solve((np.eye(len(inner)) - inner).T, start[~recurrent])
        law[recurrent] += visits @ kernel[np.ix_(~recurrent, recurrent)]
    for c in closed:
        inside = label == c
        mass = law[inside].sum()
        inner = kernel[np.ix_(inside, inside)]
        equations = np.vstack([np.eye(len(inner)) - inner.T, np.ones(len(inner))])
        solution = scipy.linalg.lstsq(equations, np.append(np.zeros(len(inner)), 1.0))[0]
        law[inside] = mass * solution
    return law


def _use_dense(chain: ClosedLoop, method: Method, columns: int, limit_gib: float | None) -> bool:
    if method not in ("auto", "dense", "factored"):
        raise ValueError(f'method = {method!r}; choose "auto", "dense" or "factored"')
    what = f"a joint space of {chain.size:.6g} states ({chain.n} agents)"
    if method == "dense" or (method == "auto" and chain.size <= DENSE_UP_TO):
        remedy = 'use method="factored", or fewer agents or local states'
        require_memory(8.0 * (3 * chain.size**2 + 4 * columns * chain.size), f"{what}, dense,", remedy, limit_gib)
        _check_axes(chain)
        return True
    needed = chain.peak_bytes(columns) + 8.0 * 4 * columns * chain.size
    require_memory(needed, f"{what}, factored,", "use fewer agents or local states, or a sparser graph", limit_gib)
    _check_axes(chain)
    return False


def _check_axes(chain: ClosedLoop) -> None:
    if chain.n > 25:  # numpy's einsum has 52 labels, one for each s_i and s_i'
        raise ProblemTooLarge(
            f"{chain.n} agents need more array axes than numpy has, few as their joint states are; "
            "leave out agents that have one state only"
        )


def _start_law(chain: ClosedLoop, start: Array | None) -> Array:
    if start is None:
        return np.full(chain.size, 1.0 / chain.size)
    start = np.asarray(start, dtype=np.float64).reshape(-1)
    if start.shape != (chain.size,) or not (start >= 0).all() or abs(start.sum() - 1) > 1e-9:
        raise ValueError(
            f"start has shape {start.shape} and sum {start.sum():.12g}; give the probabilities of all "
            f"{chain.size} joint states"
        )
    return start
