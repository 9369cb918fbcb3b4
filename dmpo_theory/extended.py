"""Eqs. 6 and 9: extended values ``V_i(s_{N_i^kappa})``, for a stated reference law and for the worst one.

"The extended value" means nothing until one says which law the unseen states follow. Here it is always an argument:
a :class:`ProductLaw` (uniform and point laws among them), which does not depend on what is seen, or a
:class:`JointLaw` (stationary, occupancy, any law), conditioned on what is seen. The worst case over *all* reference
laws is a point mass on the unseen states that are farthest away, so :func:`span` gives it exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dmpo_theory.mdp import Array, NetworkedMDP


@dataclass(frozen=True)
class ProductLaw:
    """Unseen agents follow these marginals independently, whatever is seen: ``n`` arrays ``[S_i]``."""

    marginals: tuple[Array, ...]

    def averages(self, function: Array, shells: Iterable[Sequence[int]]) -> Iterator[Array]:
        """Means of ``function [S_0, ..., S_{n-1}]`` over the first shell of agents, the first two ...; axes kept."""
        for shell in shells:
            for j in shell:
                weights = self.marginals[j].reshape([-1 if k == j else 1 for k in range(function.ndim)])
                function = (function * weights).sum(axis=j, keepdims=True)
            yield function


@dataclass(frozen=True)
class JointLaw:
    """Unseen agents follow this law of the joint state, ``[X]``, conditioned on what is seen.

    Where the law gives what is seen no mass the conditional is not defined; the uniform law takes its place there.
    """

    probabilities: Array

    def averages(self, function: Array, shells: Iterable[Sequence[int]]) -> Iterator[Array]:
        """Conditional means of ``function [S_0, ..., S_{n-1}]`` given all but the first shell, all but two, ..."""
        mass, mean = self.probabilities.reshape(function.shape), function
        total = mass * function
        for shell in shells:
            axes = tuple(shell)
            mass, total = mass.sum(axis=axes, keepdims=True), total.sum(axis=axes, keepdims=True)
            mean = mean.mean(axis=axes, keepdims=True)
            yield np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), mean)


ReferenceLaw = ProductLaw | JointLaw


def uniform_law(mdp: NetworkedMDP) -> ProductLaw:
    """Unseen states are uniform."""
    return ProductLaw(tuple(np.full(size, 1 / size) for size in mdp.n_states))


def point_law(mdp: NetworkedMDP, state: Sequence[int]) -> ProductLaw:
    """Unseen agents are taken to be in fixed placeholder states, one given for every agent."""
    return ProductLaw(tuple(np.eye(size)[s] for size, s in zip(mdp.n_states, state, strict=True)))


def extended_value(mdp: NetworkedMDP, value: Array, seen: Sequence[int], law: ReferenceLaw) -> Array:
    """``E[V(s) | s_seen]`` when unseen states follow ``law``, as a function of the joint state: ``[X]``.

    Args:
        mdp: the networked MDP.
        value: a function of the joint state, ``[X]``, such as ``V_i``.
        seen: the agents whose states are known, such as ``mdp.graph.neighbors(i, kappa)``.
        law: the reference law of the others.

    Example:
        >>> from dmpo_theory.graph import path
        >>> from dmpo_theory.instances import random_mdp
        >>> mdp = random_mdp(path(2))
        >>> extended_value(mdp, np.array([0.0, 1.0, 2.0, 5.0]), [0], uniform_law(mdp))
        array([0.5, 0.5, 3.5, 3.5])
    """
    unseen = [j for j in range(mdp.n) if j not in set(seen)]
    (mean,) = law.averages(value.reshape(mdp.n_states), [unseen])
    return np.broadcast_to(mean, mdp.n_states).reshape(-1)


def deviation(mdp: NetworkedMDP, values: Array, law: ReferenceLaw) -> Array:
    """``max_s |V_i(s) - V_i(s_{N_i^kappa})|`` for every agent and ``kappa = 0 .. n-1``: ``[n, n]``."""
    return np.stack([agent_deviation(mdp, values[i], i, law) for i in range(mdp.n)])


def agent_deviation(mdp: NetworkedMDP, value: Array, i: int, law: ReferenceLaw) -> Array:
    """``max_s |V_i(s) - V_i(s_{N_i^kappa})|`` of one agent, ``kappa = 0 .. n-1``: ``[n]``."""
    result = np.zeros(mdp.n)
    means = law.averages(value.reshape(mdp.n_states), (shell for _, shell in _shells(mdp, i)))
    for (kappa, (low, high)), mean in zip(_envelopes(mdp, value, i), means, strict=True):
        result[kappa] = max((high - mean).max(), (mean - low).max())
    return result


def span(mdp: NetworkedMDP, values: Array) -> Array:
    """Worst ``|V_i(s) - V_i(s_{N_i^kappa})|`` over all states and reference laws, ``kappa = 0 .. n-1``: ``[n, n]``."""
    return np.stack([agent_span(mdp, values[i], i) for i in range(mdp.n)])


def agent_span(mdp: NetworkedMDP, value: Array, i: int) -> Array:
    """Largest ``max - min`` of ``V_i`` over joint states that agree on ``N_i^kappa``, ``kappa = 0 .. n-1``: ``[n]``."""
    result = np.zeros(mdp.n)
    for kappa, (low, high) in _envelopes(mdp, value, i):
        result[kappa] = (high - low).max()
    return result


def mean_span(mdp: NetworkedMDP, values: Array) -> Array:
    """Worst ``|V(s) - (1/n) sum_i V_i(s_{N_i^kappa})|`` over all states and reference laws, as in Remark 1: ``[n]``.

    Each agent may have a reference law of its own, and a different one for each thing it sees.
    """
    above, below = np.zeros((mdp.n, *mdp.n_states)), np.zeros((mdp.n, *mdp.n_states))
    for i in range(mdp.n):
        value = values[i].reshape(mdp.n_states)
        for kappa, (low, high) in _envelopes(mdp, values[i], i):
            above[kappa] += (high - value) / mdp.n
            below[kappa] += (value - low) / mdp.n
    worst: Array = np.maximum(above, below).reshape(mdp.n, -1).max(axis=1)
    return worst


def _envelopes(mdp: NetworkedMDP, value: Array, i: int) -> Iterator[tuple[int, tuple[Array, Array]]]:
    """Min and max of ``value`` over the states outside ``N_i^kappa``, from the largest kappa to 0."""
    low = high = value.reshape(mdp.n_states)
    for kappa, shell in _shells(mdp, i):
        low, high = low.min(axis=shell, keepdims=True), high.max(axis=shell, keepdims=True)
        yield kappa, (low, high)


def _shells(mdp: NetworkedMDP, i: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """For ``kappa = n-1 .. 0`` the agents that leave the neighbourhood; balls are nested, so they need one pass."""
    inner = set(range(mdp.n))
    for kappa in reversed(range(mdp.n)):
        ball = set(mdp.graph.neighbors(i, kappa))
        yield kappa, tuple(sorted(inner - ball))
        inner = ball
