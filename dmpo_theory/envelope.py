r"""A certificate that plays against the unseen: bounds on ``V_i`` from a neighbourhood, whatever lies outside it.

Let ``W = N_i^radius`` and let ``y`` be the states of agents outside ``W`` that the kernels and the reward within it
read. Suppose an adversary chooses ``y`` afresh in every step, once against and once in favour of agent i:

    V^lo(x) <- min_y [rbar_i(x, y) + gamma E(V^lo(x') | x, y)],   V^up(x) <- max_y [...].

What the agents outside really do is one of the things it may do, so ``V^lo(s_W) <= V_i(s) <= V^up(s_W)`` for every
joint state; hence ``|V_i(s) - V_i(s_{N_i^kappa})|`` is at most the largest difference of ``V^up`` and ``V^lo`` over
states of ``W`` that agree on ``N_i^kappa``, for every ``kappa <= radius`` and every reference law. The operators are
monotone and move by ``gamma c`` when their argument moves by ``c``, so every step of the iteration gives bounds:

    V^up <= V_{k+1} + gamma / (1 - gamma) max (V_{k+1} - V_k),   and V^lo likewise from below with min.

Cost: a table over ``W`` and its parents, whatever the size of the graph.

References:
    E. Porteus, Some bounds for discounted sequential decision processes, Management Science 18, 1971.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.errors import require_memory
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import Array, contract

LOOSENESS = 1e-4
"""Iteration ends once it could narrow the envelope by no more than this fraction."""
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True, eq=False)
class Envelope:
    """Bounds on ``V_i`` that hold whatever the states outside a neighbourhood are.

    Attributes:
        members: ``N_i^radius``, ascending.
        hops: distance of each member from agent i.
        lower: ``V^lo``, an axis for each member.
        upper: ``V^up``, likewise.
        sweeps: iterations made.
    """

    members: tuple[int, ...]
    hops: tuple[int, ...]
    lower: Array
    upper: Array
    sweeps: int

    def errors(self) -> Array:
        """Bound on ``|V_i(s) - V_i(s_{N_i^kappa})|`` for ``kappa = 0 .. max(hops)``; from there on it stays."""
        low, high, found = self.lower, self.upper, []
        for kappa in reversed(range(max(self.hops) + 1)):
            shell = tuple(axis for axis, hops in enumerate(self.hops) if hops == kappa + 1)
            low, high = low.min(axis=shell, keepdims=True), high.max(axis=shell, keepdims=True)
            found.append(float((high - low).max()))
        return np.array(found[::-1])


def envelope(
    chain: ClosedLoop,
    graph: AgentGraph,
    gamma: float,
    i: int,
    radius: int,
    memory_limit_gib: float | None = None,
) -> Envelope:
    """``V^lo`` and ``V^up`` of agent i on ``N_i^radius``.

    Args:
        chain: from :func:`dmpo_theory.closed_loop.closed_loop`.
        graph: the agents' graph.
        gamma: discount factor.
        i: the agent.
        radius: the larger, the closer are the bounds, at a cost of ``prod S_j`` over ``N_i^radius`` and its parents.
        memory_limit_gib: refuse what needs more; by default 90 % of the memory available.

    Raises:
        ProblemTooLarge: before any allocation, with the GiB it would take.

    Example:
        >>> from dmpo_theory.closed_loop import closed_loop
        >>> from dmpo_theory.graph import ring
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(ring(200), coupling=0.2, rng=0)
        >>> chain = closed_loop(mdp, random_policy(mdp, coupling=0.2, rng=1))
        >>> envelope(chain, mdp.graph, mdp.gamma, 0, radius=3).errors().round(3)
        array([0.086, 0.007, 0.001, 0.   ])
    """
    members = graph.neighbors(i, radius)
    require_memory(
        envelope_bytes(chain, members, i),
        f"the envelope of agent {i} on the {len(members)} agents of N_{i}^{radius}",
        "use a smaller radius",
        memory_limit_gib,
    )
    outside = _read_outside(chain, members, i)
    everyone = sorted({*members, *outside})
    players, after, row = tuple(everyone.index(j) for j in outside), graph.n, 2 * graph.n
    reward = chain.rewards[i].reshape([chain.n_states[j] if j in chain.reward_parents[i] else 1 for j in everyone])
    shape = tuple(chain.n_states[j] for j in everyone)
    order = _order(chain, members)

    def sweep(functions: Array) -> Array:
        tensor, axes = functions, [row, *(after + j for j in members)]
        for k in order:
            kept = [row, *sorted((set(axes) | set(chain.parents[k])) - {after + k, row})]
            tensor = contract(chain.kernels[k], [*chain.parents[k], after + k], tensor, axes, kept)
            axes = kept
        tensor = tensor.reshape(2, *(chain.n_states[j] if j in axes else 1 for j in everyone))
        total = np.broadcast_to(reward + gamma * tensor, (2, *shape))
        return np.stack([total[0].min(axis=players), total[1].max(axis=players)])

    values = np.zeros((2, *(chain.n_states[j] for j in members)))
    scale = float(np.abs(chain.rewards[i]).max()) / (1 - gamma)
    axes = tuple(range(1, values.ndim))
    sweeps, narrower = 0, math.inf
    lower = upper = values[0]
    while narrower > max(LOOSENESS * (upper - lower).max(), _NEGLIGIBLE * scale):
        following = sweep(values)
        change, values = following - values, following
        smallest, largest = (
            gamma / (1 - gamma) * extreme for extreme in (change.min(axis=axes), change.max(axis=axes))
        )
        lower, upper = values[0] + smallest[0], values[1] + largest[1]
        narrower = float((largest - smallest).sum())
        sweeps += 1
    hops = tuple(next(d for d in range(radius + 1) if j in graph.neighbors(i, d)) for j in members)
    return Envelope(members, hops, lower, upper, sweeps)


def envelope_bytes(chain: ClosedLoop, members: Sequence[int], i: int) -> float:
    """Memory that an envelope on ``members`` takes at its peak: two functions, before and after a factor is applied."""
    sizes, left = chain.n_states, set(members)
    read: set[int] = set()
    peak = 0.0
    for k in _order(chain, members):
        before = _volume(sizes, read, left)
        left, read = left - {k}, read | set(chain.parents[k])
        peak = max(peak, before + _volume(sizes, read, left))
    return 16.0 * max(peak, 2 * _volume(sizes, {*members, *_read_outside(chain, members, i)}, set()))


def _read_outside(chain: ClosedLoop, members: Sequence[int], i: int) -> list[int]:
    read = set(chain.reward_parents[i]).union(*(chain.parents[k] for k in members))
    return sorted(read - set(members))


def _order(chain: ClosedLoop, members: Sequence[int]) -> list[int]:
    """Elimination order of the members' next states, greedy for the smallest intermediate table."""
    left, read, order = set(members), set[int](), list[int]()
    while left:
        best = min(left, key=lambda k: (_volume(chain.n_states, read | set(chain.parents[k]), left - {k}), k))
        left.remove(best)
        read |= set(chain.parents[best])
        order.append(best)
    return order


def _volume(sizes: Sequence[int], read: set[int], left: set[int]) -> float:
    return math.prod(float(sizes[j]) for j in read) * math.prod(float(sizes[j]) for j in left)
