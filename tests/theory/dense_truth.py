"""Another route to everything: dense tables over joint states, joint actions and joint next states.

The policy is not averaged out of any factor, distances and conditional means are found anew, and linear systems are
refined in extended precision. :func:`check_operator` holds one operator against the dense kernel of its own agents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.elimination import HISTORY, Operator
from dmpo_theory.extended import ProductLaw, ReferenceLaw
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP
from dmpo_theory.routes import Route, operator

Array = np.ndarray


class DenseTruth:
    """Dense ``p[x, u, x']``, ``pi[x, u]`` and ``r[j, x, u]``, and all that follows from them."""

    def __init__(self, mdp: NetworkedMDP, policy: LocalPolicy) -> None:
        self.mdp, self.policy, self.n = mdp, policy, mdp.n
        self.states, self.actions = _all(mdp.n_states), _all(mdp.n_actions)
        count = len(self.states)
        transition, law = np.ones((count, 1, 1), np.longdouble), np.ones((count, 1), np.longdouble)
        for i in range(mdp.n):
            p = self._at(mdp.transition[i], mdp.transition_parents[i])
            transition = transition[:, :, None, :, None] * p[:, None, :, None, :]
            transition = transition.reshape(count, -1, transition.shape[3] * transition.shape[4])
            law = (law[:, :, None] * self._at(policy.table[i], policy.parents[i])[:, None, :]).reshape(count, -1)
        self.kernel = np.einsum("xu,xuy->xy", law, transition)
        self.law = law.astype(np.float64)
        self.transition = transition.astype(np.float64)
        self.rewards = np.stack([mdp.reward[j][self.states[:, None, j], self.actions[:, j]] for j in range(mdp.n)])
        self.hops = np.where(np.eye(mdp.n, dtype=bool), 0.0, math.inf)
        for i, j in mdp.graph.edges:
            self.hops[i, j] = self.hops[j, i] = 1.0
        for k in range(mdp.n):
            self.hops = np.minimum(self.hops, self.hops[:, k, None] + self.hops[k])

    def _at(self, table: Array, members: Sequence[int]) -> Array:
        """A table over the states of ``members`` at every joint state."""
        rows = table[tuple(self.states[:, j] for j in members)]
        return np.broadcast_to(rows, (len(self.states), *table.shape[len(members) :]))

    def values(self) -> Array:
        """``V_i``, ``[n, X]``."""
        return self._solve(self.kernel, np.einsum("xu,jxu->xj", self.law.astype(np.longdouble), self.rewards)).T

    def occupancy(self, start: Array) -> Array:
        """Normalised discounted occupancy, ``[X]``."""
        return self._solve(self.kernel.T, (1 - np.longdouble(self.mdp.gamma)) * start[:, None])[:, 0]

    def _solve(self, kernel: Array, right: Array) -> Array:
        gamma, identity = np.longdouble(self.mdp.gamma), np.eye(len(kernel))
        inverse = np.linalg.inv((identity - gamma * kernel).astype(np.float64))
        solution = np.zeros_like(right)
        for _ in range(3):  # the first is the plain solution
            residual = right + gamma * (kernel @ solution) - solution
            solution = solution + inverse @ residual.astype(np.float64)
        return solution.astype(np.float64)

    def ball(self, i: int, kappa: float) -> tuple[int, ...]:
        """``N_i^kappa``."""
        return tuple(int(j) for j in np.flatnonzero(self.hops[i] <= kappa))

    def _groups(self, seen: Sequence[int]) -> Array:
        """A number for each joint state that joint states share if they agree on ``seen``."""
        key = np.zeros(len(self.states), dtype=int)
        for j in seen:
            key = key * self.mdp.n_states[j] + self.states[:, j]
        return key

    def extended(self, function: Array, seen: Sequence[int], reference: ReferenceLaw) -> Array:
        """Conditional mean given ``s_seen``, ``[X]``."""
        key = self._groups(seen)
        if isinstance(reference, ProductLaw):
            unseen = [j for j in range(self.n) if j not in seen]
            weight = np.ones(len(key))
            for j in unseen:
                weight = weight * reference.marginals[j][self.states[:, j]]
        else:
            weight = reference.probabilities
        mass, uniform = np.bincount(key, weight), np.bincount(key)
        mean = np.bincount(key, function) / np.maximum(uniform, 1)
        known = mass > 0
        mean[known] = np.bincount(key, weight * function)[known] / mass[known]
        return mean[key]

    def ends(self, function: Array, seen: Sequence[int]) -> tuple[Array, Array]:
        """Smallest and largest value over the joint states that agree on ``seen``, ``[X]`` each."""
        key = self._groups(seen)
        low, high = np.full(len(key), math.inf), np.full(len(key), -math.inf)
        np.minimum.at(low, key, function)
        np.maximum.at(high, key, function)
        return low[key], high[key]

    def spans(self, values: Array) -> tuple[Array, Array]:
        """Spans ``[n, n]`` and mean spans ``[n]`` for ``kappa = 0 .. n-1``."""
        spans, mean = np.zeros((self.n, self.n)), np.zeros(self.n)
        for kappa in range(self.n):
            ends = [self.ends(values[i], self.ball(i, kappa)) for i in range(self.n)]
            spans[:, kappa] = [(high - low).max() for low, high in ends]
            above = sum(high - value for (_, high), value in zip(ends, values, strict=True)) / self.n
            below = sum(value - low for (low, _), value in zip(ends, values, strict=True)) / self.n
            mean[kappa] = max(above.max(), below.max())
        return spans, mean

    def deviations(self, values: Array, reference: ReferenceLaw) -> Array:
        """``max_s |V_i(s) - V_i(s_{N_i^kappa})|``, ``[n, n]``."""
        return np.array(
            [
                [np.abs(value - self.extended(value, self.ball(i, kappa), reference)).max() for kappa in range(self.n)]
                for i, value in enumerate(values)
            ]
        )

    def gradient(self, i: int, law: Array, weights: Array, after: Array) -> Array:
        """``E[(w . r + gamma f(s') - f(s)) grad log pi_i]``, nothing cancelled; shaped as the policy's table."""
        q = np.tensordot(weights, self.rewards, 1) + self.mdp.gamma * (self.transition @ after) - after[:, None]
        by_action = (law[:, None] * self.law * q) @ np.eye(self.mdp.n_actions[i])[self.actions[:, i]]
        own = self._at(self.policy.table[i], self.policy.parents[i])
        result = np.zeros_like(self.policy.table[i])
        moved = by_action - own * by_action.sum(axis=1, keepdims=True)
        _collect(result, tuple(self.states[:, j] for j in self.policy.parents[i]), moved)
        return result

    def truncated(
        self, i: int, values: Array, law: Array, kappa: float, reference: ReferenceLaw, reading: str, reward: str
    ) -> Array:
        """Agent i's truncated gradient, from the definitions."""
        members = self.ball(i, kappa)
        after = np.zeros(len(self.states))
        for j in members:
            seen = self.ball(j, kappa) if reading == "eq9" else members
            after += self.extended(values[j], seen, reference) / self.n
        counted = {"global": range(self.n), "neighborhood": members, "own": [i]}[reward]
        weights = np.zeros(self.n)
        weights[list(counted)] = 1.0 if reward == "own" else 1 / self.n
        return self.gradient(i, law, weights, after)


def random_tables(
    graph: AgentGraph,
    n_states: Sequence[int],
    n_actions: Sequence[int],
    gamma: float,
    rng: np.random.Generator,
    *,
    radii: tuple[int, int] = (1, 1),
    concentration: float = 1.0,
    thinned: float = 0.0,
) -> tuple[NetworkedMDP, LocalPolicy]:
    """Random tables that read ``N_i^m`` and ``N_i^p``, each parent (the agent itself too) left out at a probability."""

    def parents(radius: int) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(j for j in graph.neighbors(i, radius) if rng.random() >= thinned) for i in range(len(n_states))
        )

    def rows(members: Sequence[int], *shape: int) -> Array:
        leading = (*(n_states[j] for j in members), *shape[:-1])
        drawn = rng.dirichlet(np.full(shape[-1], concentration), leading)
        return drawn / drawn.sum(axis=-1, keepdims=True)

    reads, acts = parents(radii[0]), parents(radii[1])
    transition = tuple(rows(m, a, s) for m, a, s in zip(reads, n_actions, n_states, strict=True))
    reward = tuple(rng.uniform(-1, 1, (s, a)) for s, a in zip(n_states, n_actions, strict=True))
    mdp = NetworkedMDP(graph, gamma, transition, reward, reads)
    return mdp, LocalPolicy(mdp, tuple(rows(m, a) for m, a in zip(acts, n_actions, strict=True)), acts)


def random_chain(seed: int) -> ClosedLoop:
    """Up to five agents with 1 to 6 states that read anybody, not always themselves; some are read by nobody."""
    rng = np.random.default_rng([seed, 77])
    n = int(rng.integers(1, 6))
    sizes = [int(s) for s in rng.choice([1, 2, 2, 3, 4, 5, 6], n)]
    while float(math.prod(sizes)) ** 2 > 1e6:
        sizes[int(np.argmax(sizes))] -= 1
    graph = AgentGraph.from_edges(n, itertools.combinations(range(n), 2))
    thinned = float(rng.choice([0.0, 0.3, 0.6]))
    sharpness = float(rng.choice([0.05, 1.0]))
    mdp, policy = random_tables(graph, sizes, [1] * n, 0.9, rng, concentration=sharpness, thinned=thinned)
    return closed_loop(mdp, policy)


def check_operator(chain: ClosedLoop, route: Route, inside: Collection[int] | None, rng: np.random.Generator) -> float:
    """Hold ``apply``, ``push``, ``factor_gradients`` and ``sweep`` against dense tables; the worst relative error."""
    kernel = operator(chain, route, inside=inside)
    assert set(kernel.inside) == set(range(chain.n) if inside is None else inside)
    assert set(kernel.outside) == set(kernel.inside).union(*(chain.parents[i] for i in kernel.inside))
    function, law = _signed(rng, chain, kernel.inside), _signed(rng, chain, kernel.outside)
    dense, without = _dense_kernels(chain, kernel.inside, kernel.outside)
    following, pushed = kernel.apply(function), kernel.push(law)
    worst = _relative(following, dense @ function, dense @ np.abs(function))
    worst = max(worst, _relative(pushed, law @ dense, np.abs(law) @ dense))
    assert abs(pushed @ function - law @ following) <= 1e-13 * (np.abs(law) @ dense @ np.abs(function))
    gradients = kernel.factor_gradients(law, function)
    assert set(gradients) == set(kernel.inside)
    shape = [chain.n_states[i] for i in kernel.inside]
    states = _all([chain.n_states[j] for j in kernel.outside])
    for place, i in enumerate(kernel.inside):
        others = tuple(axis + 1 for axis in range(len(shape)) if axis != place)
        at = tuple(states[:, kernel.outside.index(j)] for j in chain.parents[i])
        expected, size = np.zeros_like(chain.kernels[i]), np.zeros_like(chain.kernels[i])
        for target, d, f in ((expected, law, function), (size, np.abs(law), np.abs(function))):
            moved = (d[:, None] * without[i] * f).reshape(-1, *shape).sum(axis=others)
            _collect(target, at, moved)
        worst = max(worst, _relative(gradients[i], expected, size))
        index = tuple(int(rng.integers(size)) for size in chain.kernels[i].shape)
        moved_kernel = chain.kernels[i].copy()
        moved_kernel[index] += 1.0  # the mean is linear in every factor: a whole step gives the derivative
        kernels = tuple(moved_kernel if k == i else old for k, old in enumerate(chain.kernels))
        stepped = law @ operator(replace(chain, kernels=kernels), route, inside=inside).apply(function)
        slack = 1e-12 * (np.abs(law) @ dense @ np.abs(function) + size[index])
        assert abs(stepped - law @ following - gradients[i][index]) <= slack
    if set(kernel.inside) == set(kernel.outside):
        value, reward, change = function.copy(), rng.standard_normal(len(function)), np.empty(len(function))
        low, high, done = kernel.sweeps(value, reward, change[None], 0.7, 0.0, 1)
        assert done == 1
        size = np.abs(reward) + dense @ np.abs(function)
        worst = max(worst, _relative(value, reward + 0.7 * following, size))
        assert (change == value - function).all()
        assert (low, high) == (change.min(), change.max())
        if len(function) > HISTORY:  # else some average changes nothing at all, and not one alone
            _check_extrapolation(kernel, function, rng.standard_normal((HISTORY, len(function))))
    return worst


def _check_extrapolation(kernel: Operator, last: Array, changes: Array) -> None:
    """By orthogonal decomposition, without inner products: the average of the iterates whose change differs least."""
    centred = changes - changes.mean(axis=1, keepdims=True)
    towards = centred[:-1] - centred[-1]  # of averages with a weight on each iterate but the last
    weights = np.linalg.lstsq(towards.T, -centred[-1])[0]
    earlier = [last - centred[t + 1 :].sum(axis=0) for t in range(len(changes) - 1)]
    expected = last + sum(w * (iterate - last) for w, iterate in zip(weights, earlier, strict=True))
    moved = last.copy()
    kernel.extrapolate(moved, changes)
    assert np.abs(moved - expected).max() <= 1e-6 * max(1.0, float(np.abs(expected).max()))


def _all(sizes: Sequence[int]) -> Array:
    """Every joint state (or action), agent 0 slowest: ``[X, n]``."""
    return np.array(list(itertools.product(*map(range, sizes))), dtype=int).reshape(-1, len(sizes))


def _collect(target: Array, at: tuple[Array, ...], rows: Array) -> None:
    """Add every joint state's row to the entry of the table that it reads."""
    if at:
        np.add.at(target, at, rows)
    else:
        target += rows.sum(axis=0)


def _signed(rng: np.random.Generator, chain: ClosedLoop, agents: Sequence[int]) -> Array:
    return rng.standard_normal(math.prod(chain.n_states[j] for j in agents))


def _dense_kernels(chain: ClosedLoop, inside: Sequence[int], outside: Sequence[int]) -> tuple[Array, dict[int, Array]]:
    """The joint kernel of some agents, and the same with each one's factor replaced by 1."""
    states = _all([chain.n_states[j] for j in outside])
    factors = {}
    for i in inside:
        rows = chain.kernels[i][tuple(states[:, outside.index(j)] for j in chain.parents[i])]
        factors[i] = np.broadcast_to(rows, (len(states), chain.n_states[i]))

    def product(left_out: int | None) -> Array:
        result = np.ones((len(states), 1))
        for i in inside:
            factor = np.ones_like(factors[i]) if i == left_out else factors[i]
            result = (result[:, :, None] * factor[:, None, :]).reshape(len(states), -1)
        return result

    return product(None), {i: product(i) for i in inside}


def _relative(found: Array, expected: Array, size: Array) -> float:
    assert found.shape == expected.shape
    error = float((np.abs(found - expected) / np.maximum(size, 1e-290)).max())
    assert error <= 1e-13, error
    return error
