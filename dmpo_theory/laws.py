"""Laws of the joint state: the discounted occupancy and the stationary law of a networked MDP under a local policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import scipy.linalg
from scipy.sparse.csgraph import connected_components

from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.routes import Method, Route, choose_route, operator, reorder
from dmpo_theory.series import MAX_SWEEPS, PATIENCE, krylov


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
        method: as in :func:`local_values`.
        tolerance: largest L1 error of ``d``.
        memory_limit_gib: as in :func:`local_values`.
    """
    chain, gamma = closed_loop(mdp, policy), mdp.gamma
    route = choose_route(chain, method, 1, 1, memory_limit_gib)
    if route == "dense":
        start = _start_law(chain, start)
        law: Array = (1 - gamma) * scipy.linalg.solve((np.eye(chain.size) - gamma * chain.matrix).T, start)
        residual = np.abs((1 - gamma) * start + gamma * law @ chain.matrix - law).sum()
        return StateLaw(law, float(residual), route)
    kernel, everybody = operator(chain, route), range(chain.n)
    uniform, start = start is None, _start_law(chain, start)
    start = start if uniform else reorder(start, chain.n_states, everybody, kernel.inside)
    parts, states = [kernel], [start.copy()]
    if uniform:  # the components of a disconnected graph stay independent: the law at t is a product of small ones
        parts = [operator(chain, route, members) for members in chain.components]
        states = [np.full(size, 1 / size) for size in (math.prod(chain.n_states[i] for i in p.inside) for p in parts)]
    order = [i for part in parts for i in part.inside]
    law, weight = np.zeros(chain.size), 1.0
    for sweep in range(MAX_SWEEPS):
        if sweep == PATIENCE:  # the chain hardly mixes: solve for the occupancy of what is left
            law, state = (reorder(f, chain.n_states, order, kernel.inside).copy() for f in (law, _product(states)))
            parts, order, states = [kernel], list(kernel.inside), [state]
            rest, _ = krylov(
                lambda y: y - gamma * kernel.push(y), (1 - gamma) * state, (1 - gamma) * tolerance / chain.size, 1000
            )
            if rest is not None:
                states = [np.maximum(rest, 0.0)]
                break
        law += (1 - gamma) * weight * _product(states)
        following = [part.push(state) for part, state in zip(parts, states, strict=True)]
        for x, after in zip(states, following, strict=True):
            x -= after
        # With the tail closed by the next law the residual is weight gamma |P' x' - x'|, and P' contracts in L1.
        change = weight * gamma * sum(float(np.abs(x, out=x).sum()) for x in states)
        states, weight = following, weight * gamma
        if change <= (1 - gamma) * tolerance:
            break
    else:
        raise ArithmeticError(f'no convergence in {MAX_SWEEPS} sweeps at gamma = {gamma!r}; use method="dense"')
    law += weight * _product(states)
    law = reorder(law, chain.n_states, order, kernel.inside)
    residual = np.abs((1 - gamma) * start + gamma * kernel.push(law) - law).sum()
    return StateLaw(reorder(law, chain.n_states, kernel.inside, everybody), float(residual), route)


def _product(laws: Sequence[Array]) -> Array:
    """The joint law of independent parts, the first slowest."""
    return reduce(np.multiply.outer, laws).reshape(-1)


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
