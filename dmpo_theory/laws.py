"""Laws of the joint state: the discounted occupancy and the stationary law of a networked MDP under a local policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dasum
from scipy.sparse.csgraph import connected_components

from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.elimination import HISTORY
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.routes import Method, Route, choose_route, operator, reorder
from dmpo_theory.series import MAX_SWEEPS, PATIENCE, krylov


@dataclass(frozen=True)
class StateLaw:
    """A law of the joint state.

    Attributes:
        law: probabilities, ``[X]``, sum 1.
        residual: L1 norm of the defining equation's residual, or a bound on it, but for rounding.
        method: the route taken.
    """

    law: Array
    residual: float
    method: Route


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
        method: as in :func:`~dmpo_theory.exact.local_values`.
        tolerance: largest L1 error of ``d``, as its residual in float64 bounds it.
        memory_limit_gib: as in :func:`~dmpo_theory.exact.local_values`.

    Raises:
        ArithmeticError: rounding keeps the residual above what the tolerance asks for.
    """
    chain, gamma = closed_loop(mdp, policy), mdp.gamma
    route = choose_route(chain, method, 1, 1, memory_limit_gib)
    if route == "dense":
        start = _start_law(chain, start)
        law: Array = (1 - gamma) * scipy.linalg.solve((np.eye(chain.size) - gamma * chain.matrix).T, start)
        residual = np.abs((1 - gamma) * start + gamma * law @ chain.matrix - law).sum()
        return StateLaw(law, float(residual), route)
    if start is None and len(chain.components) > 1 and (found := _by_components(chain, route, gamma, tolerance)):
        return found
    kernel, everybody = operator(chain, route), range(chain.n)
    start = reorder(_start_law(chain, start), chain.n_states, everybody, kernel.inside)
    law, enters, changes, earlier = start, (1 - gamma) * start, np.empty((HISTORY, chain.size)), math.inf
    for sweep in range(MAX_SWEEPS):
        if sweep == PATIENCE:  # the chain hardly mixes: solve for what is left
            target, size = gamma * kernel.push(changes[(sweep - 1) % HISTORY]), (1 - gamma) * tolerance / chain.size / 2
            rest, _ = krylov(lambda y: y - gamma * kernel.push(y), target, size, 1000)
            law = law if rest is None else _as_law(law + rest)
        elif 0 < sweep < PATIENCE and sweep % HISTORY == 0:
            kernel.extrapolate(law, changes)
            law = _as_law(law)
        change, following = changes[sweep % HISTORY], kernel.push(law)
        following *= gamma
        following += enters
        np.subtract(following, law, out=change)
        law = following
        residual = gamma * float(dasum(change))  # d - d_t has the residual gamma P' (d_t - d_{t-1})
        if residual <= (1 - gamma) * tolerance:
            return StateLaw(reorder(law, chain.n_states, kernel.inside, everybody), residual, route)
        if sweep % PATIENCE == PATIENCE - 1:  # sweeps contract in L1: where nothing falls any more, rounding is left
            if sweep > 2 * PATIENCE and residual >= earlier:
                raise ArithmeticError(
                    f"float64 cannot bound an occupancy's error by tolerance = {tolerance:g} at gamma = {gamma:g}; "
                    f"ask for tolerance = {2 * residual / (1 - gamma):.2g} or more"
                )
            earlier = residual
    raise ArithmeticError(f'no convergence in {MAX_SWEEPS} sweeps at gamma = {gamma!r}; use method="dense"')


def _by_components(chain: ClosedLoop, route: Route, gamma: float, tolerance: float) -> StateLaw | None:
    """From a uniform start the law at every time is a product of small ones; None where the chain hardly mixes."""
    parts = [operator(chain, route, members) for members in chain.components]
    laws = [np.full(size, 1 / size) for size in (math.prod(chain.n_states[i] for i in part.inside) for part in parts)]
    order, law, weight = [i for part in parts for i in part.inside], np.zeros(chain.size), 1.0
    for _ in range(PATIENCE):
        law += (1 - gamma) * weight * reduce(np.multiply.outer, laws).reshape(-1)
        earlier, laws, weight = laws, [part.push(x) for part, x in zip(parts, laws, strict=True)], gamma * weight
        # Closed by the next law x', the residual is gamma weight |P' x' - x'|, and P' contracts in L1.
        change = sum(float(dasum(x - before)) for x, before in zip(laws, earlier, strict=True))
        if gamma * weight * change <= (1 - gamma) * tolerance:
            law += weight * reduce(np.multiply.outer, laws).reshape(-1)
            return StateLaw(reorder(law, chain.n_states, order, range(chain.n)), gamma * weight * change, route)
    return None


def _as_law(function: Array) -> Array:
    """A function that is all but a law, made one."""
    law = np.maximum(function, 0.0)
    law /= law.sum()
    return law


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
    eliminating routes ``tolerance`` bounds the residual ``|d P - d|_1``, not the error: a chain that hardly mixes has a
    small residual far from its limit, and is better solved densely.
    """
    chain = closed_loop(mdp, policy)
    route = choose_route(chain, method, 1, 1, memory_limit_gib)
    start = _start_law(chain, start)
    if route == "dense":
        law = _dense_stationary(chain.matrix, start)
        return StateLaw(law, float(np.abs(law @ chain.matrix - law).sum()), route)
    kernel, everybody = operator(chain, route), range(chain.n)
    law = reorder(start, chain.n_states, everybody, kernel.inside)
    for _ in range(MAX_SWEEPS):
        following = kernel.push(law)
        if np.abs(following - law).sum() <= tolerance:
            break
        law = (law + following) / 2  # the lazy chain has the same limit and no period
    else:
        raise ArithmeticError(f'no convergence in {MAX_SWEEPS} sweeps; use method="dense", or a larger tolerance')
    law = law / law.sum()
    residual = float(np.abs(kernel.push(law) - law).sum())
    return StateLaw(reorder(law, chain.n_states, kernel.inside, everybody), residual, route)


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
