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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dmpo_theory.certificate import Certificate
from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.elimination import elimination_cost, greedy_order, read_outside
from dmpo_theory.errors import memory_limit, require_memory
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.parallel import checked_threads, in_threads
from dmpo_theory.routes import has_numba, operator, reorder

LOOSENESS = 1e-4
"""Iteration ends once it could narrow the envelope by no more than this fraction."""
_NEGLIGIBLE = 1e-12
_TABLES = 6
"""Functions of the members' and their parents' states held at once."""


@dataclass(frozen=True, eq=False)
class Envelope:
    """Bounds on ``V_i`` that hold whatever the states outside a neighbourhood are.

    Attributes:
        agent: i.
        members: ``N_i^radius``, ascending.
        hops: distance of each member from agent i.
        lower: ``V^lo``, an axis for each member.
        upper: ``V^up``, likewise.
        sweeps: iterations made.
    """

    agent: int
    members: tuple[int, ...]
    hops: tuple[int, ...]
    lower: Array
    upper: Array
    sweeps: int

    def errors(self) -> Array:
        """Bound on ``|V_i(s) - V_i(s_{N_i^kappa})|`` for ``kappa = 0 .. max(hops)``; from there on it stays."""
        return self._spread(self.lower, self.upper)

    def least_errors(self) -> Array:
        """What the worst ``|V_i(s) - V_i(s_{N_i^kappa})|`` over states and reference laws is at least, likewise."""
        return np.maximum(self._spread(self.upper, self.lower), 0.0)

    def _spread(self, low: Array, high: Array) -> Array:
        """Largest ``max high - min low`` over members' states that agree on ``N_i^kappa``."""
        found = []
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
    kernel, sizes = operator(chain, inside=members), chain.n_states
    reward = reorder(chain.rewards[i].reshape(-1), sizes, chain.reward_parents[i], kernel.outside)
    inside = math.prod(sizes[j] for j in members)
    certificate = Certificate(chain, gamma, members, kernel.roundings)
    scale = chain.reward_sizes[i] / (1 - gamma)
    rounding = certificate.rounding(chain.reward_sizes[i], 2 * scale)
    low, high = np.zeros(inside), np.zeros(inside)
    lower = upper = low
    sweeps, narrower = 0, math.inf
    least = max(_NEGLIGIBLE * scale, rounding / (1 - gamma))
    while narrower > max(LOOSENESS * (upper - lower).max(), least):
        after_low, after_high = (
            (reward + gamma * kernel.apply(function)).reshape(inside, -1) for function in (low, high)
        )  # the adversary's states come last
        change_low, change_high = after_low.min(axis=1) - low, after_high.max(axis=1) - high
        low, high = low + change_low, high + change_high
        residual = certificate.carried_over(float(change_low.min()), float(change_high.max()))
        down, up = certificate.enclosure(*residual, rounding)
        lower, upper = low + down, high + up
        narrower = gamma / (1 - gamma) * float(np.ptp(change_low) + np.ptp(change_high))
        sweeps += 1
    hops = tuple(next(d for d in range(radius + 1) if j in graph.neighbors(i, d)) for j in members)
    shape = [sizes[j] for j in members]
    lower, upper = (reorder(function, sizes, kernel.inside, members).reshape(shape) for function in (lower, upper))
    return Envelope(i, members, hops, lower, upper, sweeps)


def each_envelope(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    radius: int,
    agents: Sequence[int] | None = None,
    *,
    threads: int | None = None,
    memory_limit_gib: float | None = None,
) -> Iterator[Envelope]:
    """Envelopes one agent after another, in their order: bounds on all worst errors of truncation, on any graph.

    Args:
        mdp: the networked MDP, of any number of agents.
        policy: a local policy of it.
        radius: of the envelopes; see :func:`envelope`.
        agents: whose; by default everybody's.
        threads: agents worked on at once; by default one for each processor.
        memory_limit_gib: as in :func:`envelope`.

    Example:
        >>> from dmpo_theory.graph import ring
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(ring(1000), rng=0)
        >>> for found in each_envelope(mdp, random_policy(mdp, rng=1), radius=5, agents=[0, 500]):
        ...     print(found.agent, found.least_errors()[:3].round(3), found.errors()[:3].round(3))
        0 [1.451 0.463 0.157] [1.455 0.468 0.162]
        500 [0.439 0.085 0.024] [0.439 0.085 0.024]
    """
    chain, threads = closed_loop(mdp, policy), checked_threads(threads)
    limit = memory_limit(memory_limit_gib) / threads

    def bound(i: int) -> Envelope:
        return envelope(chain, mdp.graph, mdp.gamma, i, radius, limit)

    return in_threads(bound, range(mdp.n) if agents is None else agents, threads)


def envelope_bytes(chain: ClosedLoop, members: Sequence[int], i: int) -> float:
    """Memory that an envelope on ``members`` takes at its peak."""
    everyone = {*members, *read_outside(chain, members)}
    table = math.prod(float(chain.n_states[j]) for j in everyone)
    if has_numba():
        return 8.0 * _TABLES * table
    return 8.0 * max(_TABLES * table, elimination_cost(chain, greedy_order(chain, members))[1])
