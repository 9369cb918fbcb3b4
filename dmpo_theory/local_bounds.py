r"""Bounds on truncation for one's own network: capped Dobrushin coefficients, for values and for gradients.

Everything here is read off single factors, so it works where the joint space is out of reach. For the closed-loop
kernels ``P_k`` and expected rewards ``rbar_i(s) = E[r_i | s]`` write

    C_kl = max TV(P_k(.|s), P_k(.|s~)) over s, s~ that differ at agent l only,   tau_k = the same over all s, s~,
    b_il = max |rbar_i(s) - rbar_i(s~)| over s, s~ that differ at agent l only,  span_i = max rbar_i - min rbar_i.

Couple two chains that start from states which agree outside a set B, every agent's step by a maximal coupling. The
chance that agent k's states differ at time t is at most

    m^0 = 1_B,   m^{t+1} = min(tau, C m^t),

so expected rewards differ by at most ``e^t_i = min(span_i, (b m^t)_i)`` and values by ``osc_B(V_i) <= sum_t gamma^t
e^t_i``. Two consequences, for every reference law:

* value: ``|V_i(s) - V_i(s_{N_i^kappa})| <= osc_B(V_i)`` with ``B`` all agents outside ``N_i^kappa``;
* gradient (Eq. 9): with ``K_i = max TV`` of ``p_i`` in ``a_i``,
  ``|g_i - g~_i| <= gamma K_i g_max / n (sum_{j not in N_i^kappa} osc_{i}(V_j) / 2 + sum_{j in N_i^kappa} osc_B(V_j))``,
  since the score has mean zero and ``a_i`` moves ``s_i'`` only.

*Cut.* The recursion runs within balls ``N_i^radius``. Outside, ``m^t`` is replaced by ``u^t``, the same recursion from
``u^0 = 1`` on the whole graph: it is never below, and being non-increasing it bounds all later terms as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from dmpo_theory.bounds import Setting
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.errors import GIB, ProblemTooLarge
from dmpo_theory.graph import AgentGraph, check_kappa
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP

ROWS = 1_000_000
"""Members of all balls together up to which the recursion is not cut; also what is held in memory at a time."""
LOOSENESS = 1e-5
"""A sum over time is closed by its bound once that loses no more than this fraction."""
_NEGLIGIBLE = 1e-12
_Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LocalQuantities:
    """What the bounds are made of; build it with :func:`local_quantities`.

    Attributes:
        setting: graph, discount, radii, reward ranges and score bounds.
        coupling: ``C``, sparse ``[n, n]``.
        reward: ``b``, sparse ``[n, n]``.
        tau: ``[n]``.
        reward_span: ``span`` of the expected rewards, ``[n]``.
        action_effect: ``K``, ``[n]``.
    """

    setting: Setting
    coupling: csr_array
    reward: csr_array
    tau: Array
    reward_span: Array
    action_effect: Array

    @property
    def graph(self) -> AgentGraph:
        """The agents' graph."""
        return self.setting.graph

    @property
    def gamma(self) -> float:
        """Discount factor."""
        return float(self.setting.gamma)

    @cached_property
    def _everywhere(self) -> list[Array]:
        return [np.ones(self.graph.n)]

    def everywhere(self, t: int) -> Array:
        """``u^t``, the recursion from all agents, ``[n]``; non-increasing in ``t``."""
        while len(self._everywhere) <= t:
            self._everywhere.append(np.minimum(self.tau, self.coupling @ self._everywhere[-1]))
        return self._everywhere[t]

    @cached_property
    def total_effect(self) -> Array:
        """``sum_j [b (I - gamma C)^{-1}]_{ji}``, a bound on ``sum_j osc_i(V_j)``: ``[n]``, ``inf`` if there is none.

        Any ``h >= b^T 1 + gamma C^T h`` is one, so what iteration gives is checked, not trusted.
        """
        effect: Array = np.asarray(self.reward.sum(axis=0), dtype=np.float64)
        back = (self.gamma * self.coupling.T).tocsr()
        start = effect + 1e-10 * effect.max()  # room for the check to pass
        total = start
        for _ in range(10_000):
            total = start + back @ total
            if (effect + back @ total <= total).all():
                return np.asarray(total)
            if total.max() > 1e12 * effect.max():
                break
        return np.full(self.graph.n, math.inf)


def local_quantities(mdp: NetworkedMDP, policy: LocalPolicy) -> LocalQuantities:
    """Everything that the local bounds need, from one pass over the factors.

    Example:
        >>> from dmpo_theory.graph import random_regular
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(random_regular(3, 100, np.random.default_rng(0)), coupling=0.2)
        >>> local = local_quantities(mdp, random_policy(mdp, coupling=0.2))
        >>> value_error_bound(local, [0, 1, 2]).max(axis=0).round(1)
        array([2.7, 1.1, 0.4])
    """
    chain = closed_loop(mdp, policy)
    coupling: list[tuple[int, int, float]] = []
    reward: list[tuple[int, int, float]] = []
    for k in range(mdp.n):
        for axis, j in enumerate(chain.parents[k]):
            coupling.append((k, j, _variation(np.moveaxis(chain.kernels[k], axis, -2))))
        for axis, j in enumerate(chain.reward_parents[k]):
            reward.append((k, j, float(np.ptp(chain.rewards[k], axis=axis).max())))
    return LocalQuantities(
        setting=Setting.of(mdp, policy),
        coupling=_sparse(coupling, mdp.n),
        reward=_sparse(reward, mdp.n),
        tau=np.array([_variation(kernel.reshape(-1, kernel.shape[-1])) for kernel in chain.kernels]),
        reward_span=np.array([np.ptp(table) for table in chain.rewards]),
        action_effect=np.array([_variation(table) for table in mdp.transition]),
    )


def value_error_bound(local: LocalQuantities, kappas: Sequence[int], radius: float | None = None) -> Array:
    """Bound on ``|V_i(s) - V_i(s_{N_i^kappa})|`` over all states and reference laws: ``[n, len(kappas)]``.

    Args:
        local: from :func:`local_quantities`.
        kappas: radii of truncation.
        radius: hops within which the recursion runs, at least ``max(kappas)``; the larger the tighter. By default
            as many as keep all balls within :data:`ROWS` members together.

    Raises:
        ValueError: ``radius`` is below ``max(kappas)``.
        ProblemTooLarge: the balls ``N_i^max(kappas)`` alone have more than :data:`ROWS` members.
    """
    result = np.zeros((local.graph.n, len(kappas)))
    for ball in _balls(local.graph, _radius(local, kappas, radius)):
        result[ball.agents] = _oscillation_outside(local, ball, np.asarray(kappas))
    return result


def gradient_error_bound(local: LocalQuantities, kappas: Sequence[int], radius: float | None = None) -> Array:
    """Bound on ``|g_i - g~_i|``, Eq. 9, over all laws of the state and reference laws: ``[n, len(kappas)]``.

    The 2-norm in softmax logits, as :func:`dmpo_theory.gradient.score_bound`. Arguments as
    :func:`value_error_bound`.
    """
    graph, setting = local.graph, local.setting
    radius = _radius(local, kappas, radius)
    inside = value_error_bound(local, kappas, radius)
    result = np.zeros((graph.n, len(kappas)))
    whole = np.bincount(graph.components, local.reward_span)[graph.components]
    latest = float(setting.discount(setting.first_effect(radius + 1))) / (1 - local.gamma)
    for ball in _balls(graph, radius):
        upper, lower = _effect_of_the_centre(local, ball)

        def sums(weights: Array, chosen: npt.NDArray[np.bool_], ball: _Balls = ball) -> Array:
            return np.asarray(np.bincount(ball.owner, weights * chosen, minlength=len(ball.agents)), dtype=np.float64)

        everyone = np.ones(len(ball.owner), dtype=bool)
        total = local.total_effect[ball.agents]
        # agents beyond the ball: by the light cone, and by what paths within the ball leave of the total effect
        beyond = np.maximum(whole[ball.agents] - sums(local.reward_span[ball.member], everyone), 0.0) * latest
        beyond = np.where(ball.closed, 0.0, np.minimum(beyond, np.maximum(total - sums(lower, everyone), 0.0)))
        for c, kappa in enumerate(kappas):
            near = ball.hops <= kappa
            outside = np.minimum(sums(upper, ~near) + beyond, np.maximum(total - sums(lower, near), 0.0))
            result[ball.agents, c] = outside / 2 + sums(inside[ball.member, c], near)
    scale = local.gamma * local.action_effect * np.array(setting.g_max, dtype=np.float64) / graph.n
    return np.asarray(scale[:, None] * result)


@dataclass(frozen=True, eq=False)
class _Balls:
    """The balls of some agents, a row for each member: whose ball, which member, how many hops away."""

    agents: _Index
    owner: _Index  # position in agents
    member: _Index
    hops: _Index
    closed: npt.NDArray[np.bool_]  # whether a ball is all of its agent's component, per agent

    def restrict(self, matrix: csr_array, rows: _Index) -> tuple[csr_array, csr_array]:
        """Rows of ``matrix`` at the given rows of the balls: columns at members of the same ball, and all others."""
        n = matrix.shape[0]
        node = self.member[rows]
        counts = np.diff(matrix.indptr)[node]
        row = np.repeat(np.arange(len(rows)), counts)
        entry = np.arange(len(row)) + np.repeat(matrix.indptr[node] - np.cumsum(counts) + counts, counts)
        column, data = matrix.indices[entry].astype(np.int64), matrix.data[entry]
        keys, wanted = self.owner * n + self.member, self.owner[rows][row] * n + column
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        here = keys[place] == wanted
        within = csr_array((data[here], (row[here], place[here])), shape=(len(rows), len(keys)))
        others = csr_array((data[~here], (row[~here], column[~here])), shape=(len(rows), n))
        return within, others


def _balls(graph: AgentGraph, radius: float) -> Iterator[_Balls]:
    """All balls ``N_i^radius``, as many at a time as have about :data:`ROWS` members."""
    first, size = 0, 64
    while first < graph.n:
        agents = np.arange(first, min(first + size, graph.n))
        ball = _grow(graph, agents, radius)
        yield ball
        first += size
        size = max(1, ROWS * len(agents) // len(ball.owner))


def _grow(graph: AgentGraph, agents: _Index, radius: float) -> _Balls:
    n, ends = graph.n, graph.adjacency.indptr
    known = shell = np.arange(len(agents)) * n + agents
    hops = np.zeros(len(agents), dtype=np.int64)
    distance = 0
    while distance < radius and len(shell):
        distance += 1
        owner, member = np.divmod(shell, n)
        counts = np.diff(ends)[member]
        entry = np.arange(counts.sum()) + np.repeat(ends[member] - np.cumsum(counts) + counts, counts)
        shell = np.setdiff1d(np.repeat(owner, counts) * n + graph.adjacency.indices[entry], known)
        known, hops = np.concatenate([known, shell]), np.concatenate([hops, np.full(len(shell), distance)])
        order = np.argsort(known, kind="stable")
        known, hops = known[order], hops[order]
    owner, member = np.divmod(known, n)
    whole = np.bincount(graph.components)[graph.components[agents]]
    return _Balls(agents, owner, member, hops, np.bincount(owner, minlength=len(agents)) == whole)


def _oscillation_outside(local: LocalQuantities, ball: _Balls, kappas: _Index) -> Array:
    """``osc_B(V_i)`` with ``B`` outside ``N_i^kappa`` for the agents of some balls, ``[agents, kappas]``."""
    gamma, agents = local.gamma, ball.agents
    step, step_out = ball.restrict(local.coupling, np.arange(len(ball.owner)))
    pay, pay_out = ball.restrict(local.reward, np.flatnonzero(ball.hops == 0))
    span, tau = local.reward_span[agents, None], local.tau[ball.member, None]
    differ = (ball.hops[:, None] > kappas).astype(np.float64)
    hidden = ~ball.closed[:, None] | (np.maximum.reduceat(differ, np.flatnonzero(np.diff(ball.owner, prepend=-1))) > 0)
    total, weight = np.zeros((len(agents), len(kappas))), 1.0
    t = 0
    while True:
        everywhere = local.everywhere(t)
        now = np.minimum(span, pay @ differ + (pay_out @ everywhere)[:, None])
        later = weight / (1 - gamma) * np.minimum(span, (local.reward @ everywhere)[agents, None])
        closing = weight * now / (1 - gamma)
        if weight <= _NEGLIGIBLE or (later - closing <= LOOSENESS * (total + closing)).all():
            return np.asarray(np.where(hidden, total + later, 0.0))
        total += weight * now
        differ = np.minimum(tau, step @ differ + (step_out @ everywhere)[:, None])
        weight, t = weight * gamma, t + 1


def _effect_of_the_centre(local: LocalQuantities, ball: _Balls) -> tuple[Array, Array]:
    """For each member j of agent i's ball: ``osc_i(V_j)``, and ``[b (I - gamma C)^{-1}]_{ji}`` from below, ``[rows]``.

    The second counts paths within the ball only, and finitely many of their steps.
    """
    gamma, setting = local.gamma, local.setting
    rows = np.arange(len(ball.owner))
    step, step_out = ball.restrict(local.coupling, rows)
    pay, pay_out = ball.restrict(local.reward, rows)
    span, tau = local.reward_span[ball.member], local.tau[ball.member]
    differ = (ball.hops == 0).astype(np.float64)
    path = differ * np.isfinite(local.total_effect[ball.member])  # of no use, and growing, where there is no total
    paths = np.zeros(len(rows))
    upper, weight = np.zeros(len(rows)), 1.0
    reached = max(setting.m, setting.p)
    t = 0
    while True:
        # by time t a difference has spread max(m, p) t hops: before that it is not outside the ball
        everywhere = local.everywhere(t) * (t * reached > ball.hops.max())
        now = np.minimum(span, pay @ differ + pay_out @ everywhere)
        later = weight / (1 - gamma) * np.minimum(span, (local.reward @ local.everywhere(t))[ball.member])
        closing = weight * now / (1 - gamma)
        loose, size = (np.bincount(ball.owner, x * (ball.hops > 0)) for x in (later - closing, upper + closing))
        if weight <= _NEGLIGIBLE or (loose <= LOOSENESS * size).all():
            return upper + later, pay @ paths
        upper += weight * now
        paths += weight * path
        differ = np.minimum(tau, step @ differ + step_out @ everywhere)
        path = step @ path
        weight, t = weight * gamma, t + 1


def _radius(local: LocalQuantities, kappas: Sequence[int], radius: float | None) -> float:
    least = max((check_kappa(kappa) for kappa in kappas), default=0)
    if radius is not None:
        if check_kappa(radius) < least:
            raise ValueError(f"radius = {radius!r} is below kappa = {least}; give at least {least}")
        return radius
    hops, graph = 0, local.graph
    if graph.n**2 <= ROWS:
        return math.inf
    while (size := len(_grow(graph, np.arange(graph.n), hops).owner)) <= ROWS:
        hops += 1
    if hops - 1 < least:
        raise ProblemTooLarge(
            f"the neighbourhoods N_i^{least} of {graph.n} agents have more than {ROWS} members together; with "
            f"N_i^{hops}'s {size} the recursion works through {160 * size / GIB:.2g} GiB in every step; use kappa <= "
            f"{hops - 1}, or pass radius = {least} to go on all the same"
        )
    return hops - 1


def _variation(table: Array) -> float:
    """Largest total variation between rows ``[..., x, :]`` and ``[..., x', :]`` of distributions."""
    rows, outcomes = table.shape[-2:]
    worst = 0.0
    if 2 ** (outcomes - 1) <= rows:  # TV(p, q) = max over events A of p(A) - q(A), and an event or its complement
        for event in itertools.product((0.0, 1.0), repeat=outcomes - 1):
            worst = max(worst, float(np.ptp(table[..., :-1] @ np.array(event), axis=-1).max()))
        return min(1.0, worst)
    for x in range(rows):
        worst = max(worst, float(np.abs(table - table[..., x : x + 1, :]).sum(axis=-1).max()) / 2)
    return min(1.0, worst)


def _sparse(entries: list[tuple[int, int, float]], n: int) -> csr_array:
    row, column, data = zip(*entries, strict=True) if entries else ((), (), ())
    matrix = csr_array((np.array(data, dtype=np.float64), (row, column)), shape=(n, n))
    matrix.eliminate_zeros()
    return matrix
