r"""A product kernel ``P(s'|s) = prod_i P_i(s_i' | s_{M_i})`` applied without forming it, one agent at a time.

``(P f)(s) = sum_{s'} prod_i P_i(s_i'|s_{M_i}) f(s')``. Once the next states of a set ``E`` are summed out, what is left
depends on the states ``N[E] = union of M_i, i in E``, and on the next states outside ``E``: ``prod_{N[E]} S_j
prod_{not E} S_j`` numbers, each a sum of ``S_i`` products if i went last. The order of elimination decides the cost:
the widest intermediate table has ``S^(n + pathwidth)`` entries for the best one.

A :class:`Elimination` applies ``P`` with numpy; :class:`dmpo_theory.compiled.CompiledElimination` does the same tens
of times faster. Both work on any set of agents ``inside``: a function of their next states becomes a function of the
states that their factors read, ``outside``, whatever the size of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.errors import too_many_axes
from dmpo_theory.mdp import Array, contract

TABLE_NUMBERS = 2**16
"""Compiled, agents are summed out together while their table stays in the second-level cache, or hardly grows."""
OFF_CENTRE = 1024.0
"""Changes of a value are little but a constant if they are larger by this than what differs between joint states."""
HISTORY = 4
"""Changes of as many sweeps are extrapolated at once."""
_RIDGE = 1e-12


class Operator(Protocol):
    """What both routes offer. Functions are flat arrays, the first agent of ``inside`` or ``outside`` slowest.

    Attributes:
        inside: the agents whose next states are summed out.
        outside: the agents whose states the result depends on; ``inside`` is among them, and the same where it can be.
        multiplications: fused multiply-adds of one application.
        roundings: how many roundings an entry of the result goes through at most, the tables' own included.
    """

    inside: tuple[int, ...]
    outside: tuple[int, ...]
    multiplications: float
    roundings: int

    def apply(self, function: Array) -> Array:
        """``E[f(s') | s]``: from a function of ``inside`` to one of ``outside``."""
        ...

    def sweeps(
        self, value: Array, reward: Array, changes: Array, gamma: float, width: float, most: int
    ) -> tuple[float, float, int]:
        """``V = r + gamma P V`` in place, again and again, where inside and outside are the same.

        Until what a sweep changed differs between joint states by at most ``width``, or ``most`` times. Sweep t leaves
        its change in row ``t mod rows`` of ``changes``, and from :data:`HISTORY` of them the next one starts at their
        extrapolation (:func:`extrapolation`); with a single row nothing is extrapolated. Where the changes are little
        but a constant, gamma / (1 - gamma) times that is to come and is added at once: rows sum to 1 only up to a
        tolerance, so that it would widen the enclosure of the value. Returns the smallest and the largest change of the
        last sweep, and the number of sweeps.
        """
        ...

    def extrapolate(self, function: Array, changes: Array) -> None:
        """Move an iterate in place to where the last sweeps point, given what each of them changed: ``[HISTORY, X]``.

        Only by what differs between joint states: means of the changes are left out of account.
        """
        ...

    def push(self, law: Array) -> Array:
        """The law of ``s'`` when ``s`` has the given one: from ``outside`` to ``inside``, the adjoint of ``apply``."""
        ...

    def factor_gradients(self, law: Array, function: Array) -> dict[int, Array]:
        """``d E_{s ~ law} E[f(s')|s] / d P_i`` for each i inside: ``[S_j for j in parents[i]] + [S_i]``."""
        ...


class Elimination:
    """The numpy route: one ``einsum`` for each agent, all contexts at once."""

    def __init__(self, chain: ClosedLoop, inside: Collection[int] | None = None) -> None:
        self.chain = chain
        self.inside = tuple(range(chain.n)) if inside is None else tuple(sorted(inside))
        self.outside = (*self.inside, *sorted(read_outside(chain, self.inside)))
        if len(self.inside) + len(self.outside) > 52:
            raise too_many_axes(f"{len(self.inside)} agents")
        self._order = greedy_order(chain, self.inside)
        self.multiplications, _ = elimination_cost(chain, self._order)
        self.roundings = sum(chain.n_states[i] for i in self.inside)

    def apply(self, function: Array) -> Array:
        """As :meth:`Operator.apply`."""
        return self._apply(function, None)

    def sweeps(
        self, value: Array, reward: Array, changes: Array, gamma: float, width: float, most: int
    ) -> tuple[float, float, int]:
        """As :meth:`Operator.sweeps`."""
        low, high, done = 0.0, math.inf, 0
        while done < most:
            if abs(low + high) > OFF_CENTRE * max(high - low, width):
                value += gamma / (1 - gamma) * (low + high) / 2
            elif high - low <= width:
                break
            elif done % len(changes) == 0 and done and len(changes) > 1:
                self.extrapolate(value, changes)
            change = changes[done % len(changes)]
            following = reward + gamma * self.apply(value)
            np.subtract(following, value, out=change)
            value[:] = following
            low, high, done = float(change.min()), float(change.max()), done + 1
        return low, high, done

    def extrapolate(self, function: Array, changes: Array) -> None:
        """As :meth:`Operator.extrapolate`."""
        centred = changes - changes.mean(axis=1, keepdims=True)
        function -= extrapolation(centred @ centred.T) @ centred[1:]

    def push(self, law: Array) -> Array:
        """As :meth:`Operator.push`."""
        after = self.chain.n
        tensor, axes = law.reshape([self.chain.n_states[j] for j in self.outside]), list(self.outside)
        for step in reversed(range(len(self._order))):
            i = self._order[step]
            earlier = set[int]().union(*(self.chain.parents[k] for k in self._order[:step]))
            kept = [axis for axis in axes if axis >= after or axis in earlier] + [after + i]
            tensor = contract(self.chain.kernels[i], [*self.chain.parents[i], after + i], tensor, axes, kept)
            axes = kept
        return contract(tensor, axes, [after + i for i in self.inside]).reshape(-1)

    def factor_gradients(self, law: Array, function: Array) -> dict[int, Array]:
        """As :meth:`Operator.factor_gradients`."""
        after, outside = self.chain.n, list(self.outside)
        weights = law.reshape([self.chain.n_states[j] for j in outside])
        gradients = {}
        for i in self.inside:
            held = self._apply(function, i).reshape(*weights.shape, -1)
            gradients[i] = contract(weights, outside, held, [*outside, after], [*self.chain.parents[i], after])
        return gradients

    def _apply(self, function: Array, keep: int | None) -> Array:
        """With ``keep = i`` the coordinate ``s_i'`` is held instead of averaged, and becomes the last axis."""
        sizes, after = self.chain.n_states, self.chain.n
        tensor, axes = function.reshape([sizes[i] for i in self.inside]), [after + i for i in self.inside]
        for i in self._order:
            if i != keep:
                kept = sorted((set(axes) | set(self.chain.parents[i])) - {after + i})
                tensor = contract(self.chain.kernels[i], [*self.chain.parents[i], after + i], tensor, axes, kept)
                axes = kept
        wanted = [*self.outside, *([] if keep is None else [after + keep])]
        tensor = contract(tensor, axes, [axis for axis in wanted if axis in axes])
        full = [sizes[axis % after] for axis in wanted]
        narrow = [size if axis in axes else 1 for size, axis in zip(full, wanted, strict=True)]
        return np.broadcast_to(tensor.reshape(narrow), full).reshape(-1)


def extrapolation(products: Array) -> Array:
    """Weights of all changes but the first, to be taken off the last iterate: reduced rank extrapolation.

    Of all iterates' averages, ``sum_t c_t V_t`` with ``sum_t c_t = 1``, the one that a sweep would change least, as
    these sweeps' changes ``x_t`` have it: ``|sum_t c_t x_t|^2`` is smallest at ``c ~ G^{-1} 1``, G their inner
    products. It annihilates as many eigenvalues of the chain as there are changes less one.

    Args:
        products: ``G``, ``[rows, rows]``.
    """
    rows = len(products)
    scale, system = np.empty(rows), np.empty((rows, rows + 1))
    for i in range(rows):
        scale[i] = 1 / math.sqrt(max(products[i, i], 1e-300))
    for i in range(rows):
        for j in range(rows):
            system[i, j] = products[i, j] * scale[i] * scale[j]
        system[i, i] += _RIDGE  # changes that depend on each other leave it singular
        system[i, rows] = scale[i] / scale[rows - 1]
    for k in range(rows):  # Gauss and Jordan's elimination, which numba compiles ten times as fast as LAPACK's call
        for i in range(rows):
            factor = system[i, k] / system[k, k] if i != k else 0.0
            for j in range(k, rows + 1):
                system[i, j] -= factor * system[k, j]
    weights, total = np.empty(rows - 1), 0.0
    for k in range(rows):
        total += scale[k] * system[k, rows] / system[k, k]
        if k < rows - 1:
            weights[k] = total
    return weights / total


def read_outside(chain: ClosedLoop, members: Collection[int]) -> set[int]:
    """The agents not among ``members`` whose states the next states of ``members`` depend on."""
    return set[int]().union(*(chain.parents[i] for i in members)) - set(members)


def greedy_order(chain: ClosedLoop, members: Collection[int]) -> tuple[int, ...]:
    """An order of elimination of the members' next states: the smallest intermediate table next."""
    sizes, left, read, order = chain.n_states, sorted(set(members)), set[int](), list[int]()

    def growth(i: int) -> float:
        return math.prod((sizes[j] for j in chain.parents[i] if j not in read), start=1.0) / sizes[i]

    while left:
        best = min(left, key=growth)
        left.remove(best)
        read |= set(chain.parents[best])
        order.append(best)
    return tuple(order)


def elimination_cost(chain: ClosedLoop, order: Sequence[int]) -> tuple[float, float]:
    """Multiply-adds of an elimination, and the most numbers held if every step handles all contexts at once."""
    left, read = set(order), set[int]()
    multiplications, peak, before = 0.0, 0.0, _volume(chain, read, left)
    for i in order:
        left.remove(i)
        read |= set(chain.parents[i])
        after = _volume(chain, read, left)
        multiplications += chain.n_states[i] * after
        peak, before = max(peak, before + after), after
    return multiplications, peak


def _volume(chain: ClosedLoop, read: set[int], left: set[int]) -> float:
    sizes = chain.n_states
    return math.prod(float(sizes[j]) for j in read) * math.prod(float(sizes[j]) for j in left)
