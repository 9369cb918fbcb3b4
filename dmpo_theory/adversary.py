r"""Theorems 1 and 2 under attack: an optimiser brings an instance's error of truncation as near to a bound as it can.

Every table of a networked MDP and of its policy is free: softmax rows of logits, rewards squashed into their range.
A truncated Newton method climbs the exact error from random starting points. With ``V_j = (I - gamma P)^{-1} r_j``
and an error ``sum_j c_j^T V_j``, one more solve with the same matrix gives the derivative for all tables at once:

    lambda_j = (I - gamma P)^{-T} c_j,    d error = sum_j lambda_j^T (d r_j + gamma dP V_j) + dc_j^T V_j.

Where the climb ends, part of the logits are drawn anew and it starts again. Nothing is taken from a known instance.

The error is taken at state 0 of every agent, with placeholders 1 for the states that are not seen: as states may be
relabelled, this is any pair of states that differ. ``P`` is formed densely: up to about a thousand joint states.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.errors import require_memory
from dmpo_theory.gradient import conditioning_sets
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP, contract

N_ACTIONS = 2
FAIR_COIN = math.sqrt(0.5)
"""``g_max`` of an agent that acts at random between two actions, the least it can be."""
HOPS, ENOUGH = 60, 0.999
"""How often a start climbs again at most, and the share of the supremum that makes it stop."""
REDRAWN, REACH = 0.3, 2.0
"""The share of logits that is drawn anew to climb again, and the size that the others are clipped to."""
ROUNDING = 1e-9
"""An error may exceed a corrected bound by this fraction, no more."""
CERTAIN = 40.0
"""A logit that makes an outcome certain: what others are left with is below rounding, and becomes 0."""


@dataclass(frozen=True)
class Attack:
    """The worst instance that was found, and how near it comes to the supremum.

    Attributes:
        claim: ``"theorem1"`` or ``"theorem2"``, the latter in reading (i).
        agent: whose value or gradient is truncated.
        kappa: radius of the truncation.
        mdp: the instance.
        policy: its policy.
        state: the joint state at which the error is taken.
        reference: what unseen states are taken to be, one for every agent.
        error: the error of truncation there, by the search's own solver.
        ratio: the error over the printed bound.
        limit: the corrected bound over the printed one.
        supremum: the largest ``limit`` there is: rewards fill their range.
        seed: of the best starting point.
        ratios: what each starting point led to, by seed.
        seconds: wall time of the search.
    """

    claim: str
    agent: int
    kappa: int
    mdp: NetworkedMDP
    policy: LocalPolicy
    state: tuple[int, ...]
    reference: tuple[int, ...]
    error: float
    ratio: float
    limit: float
    supremum: float
    seed: int
    ratios: dict[int, float]
    seconds: float

    @property
    def fraction(self) -> float:
        """How much of the supremum was reached."""
        return self.ratio / self.supremum


class BoundExceeded(ArithmeticError):
    """A corrected bound was exceeded: it is wrong, or the code is. ``found`` is the attack that did it."""

    def __init__(self, found: Attack) -> None:
        super().__init__(
            f"{found.claim}: the error is {found.ratio!r} of the printed bound, more than the {found.limit!r} that the "
            "corrected bound allows; keep found.mdp and found.policy of this exception with save_instance, and check "
            "them with check_instance"
        )
        self.found = found


@dataclass(frozen=True, eq=False)
class Tables:
    """All tables, or the derivative of a number for each of them: ``n`` arrays each, shaped as in the MDP."""

    transition: tuple[Array, ...]
    policy: tuple[Array, ...]
    reward: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Family:
    """All MDPs and policies of radius one on a graph, with two actions and rewards in ``reward_range``.

    Raises:
        ValueError: gamma outside [0, 1), or not at least two states, which are compared, for each agent.
        ProblemTooLarge: before any allocation, with the GiB that dense kernels would take.
    """

    graph: AgentGraph
    gamma: float
    n_states: tuple[int, ...]
    reward_range: tuple[float, float]

    @classmethod
    def of(cls, graph: AgentGraph, gamma: float, n_states: int | Sequence[int], signed: bool) -> Family:
        """The family with rewards in [-1, 1] or, if not signed, in [0, 1]."""
        sizes = (n_states,) * graph.n if isinstance(n_states, int) else tuple(n_states)
        return cls(graph, gamma, sizes, (-1.0 if signed else 0.0, 1.0))

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma = {self.gamma!r} is outside [0, 1); use a discount factor such as 0.9")
        if len(self.n_states) != self.graph.n or min(self.n_states) < 2:
            raise ValueError(f"n_states = {self.n_states!r}; give a number >= 2 for each of the {self.graph.n} agents")
        needed = 8.0 * self.size**2 * (4 * self.graph.n + 6)
        require_memory(needed, f"a search over {self.size:.6g} joint states", "use fewer agents or local states")

    @property
    def size(self) -> int:
        """Number of joint states."""
        return math.prod(self.n_states)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all transitions, then policies, then rewards."""
        read = [tuple(self.n_states[j] for j in self.graph.neighbors(i)) for i in range(self.graph.n)]
        transitions = [(*sizes, N_ACTIONS, own) for sizes, own in zip(read, self.n_states, strict=True)]
        return [*transitions, *((*sizes, N_ACTIONS) for sizes in read), *((own, N_ACTIONS) for own in self.n_states)]

    def unread(self, i: int) -> tuple[int, ...]:
        """The agents outside ``N_i``."""
        return tuple(j for j in range(self.graph.n) if j not in self.graph.neighbors(i))

    def placed(self, seen: Sequence[int]) -> npt.NDArray[np.int64]:
        """What every joint state becomes when the states that are not seen are replaced by 1: ``[X]``."""
        index = np.arange(self.size).reshape(self.n_states)
        for j in set(range(self.graph.n)) - set(seen):
            index = index.take([1], axis=j)
        return np.broadcast_to(index, self.n_states).ravel()

    def split(self, theta: Array) -> list[Array]:
        """Views of the parameters of each table."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(theta, ends[:-1]), self.shapes, strict=True)]

    def tables(self, theta: Array) -> Tables:
        """The tables of parameters ``theta``."""
        n, parts, (low, high) = self.graph.n, self.split(theta), self.reward_range
        weights = [np.exp(part - part.max(axis=-1, keepdims=True)) for part in parts[: 2 * n]]
        chances = [weight / weight.sum(axis=-1, keepdims=True) for weight in weights]
        rewards = [low + (high - low) * (1 + np.tanh(part)) / 2 for part in parts[2 * n :]]
        return Tables(tuple(chances[:n]), tuple(chances[n:]), tuple(rewards))

    def pull_back(self, tables: Tables, by_table: Tables) -> Array:
        """The derivative for ``theta``, given that for every table."""
        low, high = self.reward_range
        chances = zip((*tables.transition, *tables.policy), (*by_table.transition, *by_table.policy), strict=True)
        parts = [row * (d - (row * d).sum(axis=-1, keepdims=True)) for row, d in chances]
        rewards = zip(tables.reward, by_table.reward, strict=True)
        parts += [d * (r - low) * (high - r) * 2 / (high - low) for r, d in rewards]
        return np.concatenate([part.ravel() for part in parts])

    def instance(self, tables: Tables) -> tuple[NetworkedMDP, LocalPolicy]:
        """The tables as an MDP and a policy; what is impossible up to rounding is made so."""
        transition, policy = (
            [np.where(t < 1e-15, 0.0, t) for t in part] for part in (tables.transition, tables.policy)
        )
        mdp = NetworkedMDP(self.graph, self.gamma, tuple(transition), tables.reward)
        return mdp, LocalPolicy(mdp, tuple(policy))


@dataclass(frozen=True, eq=False)
class Solution:
    """Exact values of a member of a family, and what their derivative needs.

    Attributes:
        values: ``V_j``, ``[n, X]``.
        inverse: of ``I - gamma P``; at these sizes it costs little more than to solve twice.
        others: the product of all agents' kernels but agent i's, ``n`` arrays ``[S_0, .., S_n-1, S_0', .., S_n-1']``.
    """

    family: Family
    tables: Tables
    values: Array
    inverse: Array
    others: list[Array]

    @classmethod
    def of(cls, family: Family, tables: Tables) -> Solution:
        """Solve for all values at once."""
        n, sizes, unread = family.graph.n, family.n_states, [family.unread(k) for k in range(family.graph.n)]
        before, after = [np.ones(sizes * 2)], [np.ones(sizes * 2)]
        moves, rewards = [], []
        for k, (p, pi) in enumerate(zip(tables.transition, tables.policy, strict=True)):
            kernel = (pi[..., None] * p).sum(axis=-2)
            moves.append(np.expand_dims(kernel, (*unread[k], *(n + j for j in range(n) if j != k))))
            reward = np.expand_dims((pi * _pay(family, tables, k)).sum(axis=-1), unread[k])
            rewards.append(np.broadcast_to(reward, sizes).ravel())
        for k in range(n):
            before.append(before[-1] * moves[k])
            after.append(after[-1] * moves[n - 1 - k])
        matrix = np.eye(family.size) - family.gamma * before[n].reshape(family.size, family.size)
        inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        values = np.array(rewards) @ inverse.T
        return cls(family, tables, values, inverse, [before[k] * after[n - 1 - k] for k in range(n)])

    def derivative(self, weights: Array) -> Tables:
        """The derivative of ``sum_j weights[j] @ V_j`` for every table, by the adjoint; ``weights`` is ``[n, X]``."""
        family, tables, n, sizes = self.family, self.tables, self.family.graph.n, self.family.n_states
        adjoint = weights @ self.inverse
        by_joint = family.gamma * (adjoint.T @ self.values).reshape(sizes * 2)
        transition, policy, reward = [], [], []
        for k, (p, pi) in enumerate(zip(tables.transition, tables.policy, strict=True)):
            unread, others = family.unread(k), tuple(n + j for j in range(n) if j != k)
            by_kernel = np.expand_dims((by_joint * self.others[k]).sum(axis=(*unread, *others)), -2)
            by_reward = adjoint[k].reshape(sizes).sum(axis=unread)[..., None]
            neighbors = tuple(axis for axis, j in enumerate(family.graph.neighbors(k)) if j != k)
            transition.append(pi[..., None] * by_kernel)
            policy.append((p * by_kernel).sum(axis=-1) + by_reward * _pay(family, tables, k))
            reward.append((by_reward * pi).sum(axis=neighbors))
        return Tables(tuple(transition), tuple(policy), tuple(reward))


def theorem1_error(family: Family, agent: int, kappa: int, tables: Tables) -> tuple[float, Tables]:
    """``V_i(s) - V_i(s_{N_i^kappa})`` and its derivative for every table."""
    weights = np.zeros((family.graph.n, family.size))
    weights[agent, 0] += 1.0
    weights[agent, family.placed(family.graph.neighbors(agent, kappa))[0]] -= 1.0
    solution = Solution.of(family, tables)
    return float((weights * solution.values).sum()), solution.derivative(weights)


def theorem2_error(family: Family, agent: int, kappa: int, tables: Tables) -> tuple[float, Tables]:
    """``|g_i - g~_i|`` up to its sign, in reading (i), and its derivative for every table.

    With two actions it is ``sqrt(2) pi_0 pi_1 (F(1) - F(0))``, ``F(a) = gamma E[(V - V~)(s') | s, a_i = a]``.
    """
    n, solution = family.graph.n, Solution.of(family, tables)
    coins = [_first(pi, 1) for pi in tables.policy]
    moves = [_first(p, 2) for p in tables.transition]
    laws: list[Array] = [coin @ move for coin, move in zip(coins, moves, strict=True)]
    laws[agent] = moves[agent][1] - moves[agent][0]
    operands: list[Any] = [item for k, law in enumerate(laws) for item in (law, [k])]
    law = contract(*operands, list(range(n))).ravel()  # of s' after action 1, less that after action 0
    weights, missed = np.tile(law, (n, 1)), solution.values.copy()
    for j, seen in conditioning_sets(family.graph, agent, kappa, "eq9").items():
        placed = family.placed(seen)
        weights[j] -= np.bincount(placed, law, family.size)
        missed[j] -= solution.values[j, placed]
    gaps, chance = missed.sum(axis=0).reshape(family.n_states), float(coins[agent].prod())
    unit = family.gamma / n * math.sqrt(2)
    gap = unit * float(gaps.ravel() @ law)
    by_table = solution.derivative(unit * chance * weights)
    for k in range(n):  # the weights depend on the first move
        by_law = unit * chance * contract(gaps, list(range(n)), *operands[: 2 * k], *operands[2 * k + 2 :], [k])
        by_move, by_coin = _first(by_table.transition[k], 2), _first(by_table.policy[k], 1)
        by_move += np.outer([-1.0, 1.0] if k == agent else coins[k], by_law)
        by_coin += gap * coins[k][::-1] if k == agent else moves[k] @ by_law
    return chance * gap, by_table


def search_theorem1(
    graph: AgentGraph,
    agent: int,
    kappa: int,
    gamma: float = 0.9,
    *,
    signed: bool = True,
    n_states: int | Sequence[int] = 2,
    starts: int = 20,
    rng: np.random.Generator | int = 0,
) -> Attack:
    """Search for the largest ``|V_i(s) - V_i(s_{N_i^kappa})|`` over the bound of Eq. 12.

    Args:
        graph: the agents' graph.
        agent: whose value is truncated.
        kappa: radius of the truncation.
        gamma: discount factor.
        signed: rewards in [-1, 1]; otherwise in [0, 1].
        n_states: ``S_i``, one number for all agents or one each.
        starts: number of random starting points.
        rng: generator or seed.

    Raises:
        ValueError: the corrected bound is 0, so that there is nothing to find, or a number is out of range.
        BoundExceeded: the corrected bound is exceeded.

    Example:
        >>> from dmpo_theory.graph import path
        >>> found = search_theorem1(path(3), agent=0, kappa=1, starts=4)
        >>> found.supremum, bool(found.fraction > 0.99)
        (2.0, True)
    """
    family = Family.of(graph, gamma, n_states, signed)
    return _search("theorem1", family, partial(theorem1_error, family, agent, kappa), agent, kappa, starts, rng)


def search_theorem2(
    graph: AgentGraph,
    agent: int,
    kappa: int,
    gamma: float = 0.9,
    *,
    signed: bool = True,
    n_states: int | Sequence[int] | None = None,
    starts: int = 20,
    rng: np.random.Generator | int = 0,
) -> Attack:
    """Search for the largest ``|g_i - g~_i|`` over the bound of Eq. 14, in reading (i).

    Arguments and errors as :func:`search_theorem1`; by default the agent has 4 local states and each other one 3.
    """
    sizes = [4 if j == agent else 3 for j in range(graph.n)] if n_states is None else n_states
    family = Family.of(graph, gamma, sizes, signed)
    return _search("theorem2", family, partial(theorem2_error, family, agent, kappa), agent, kappa, starts, rng)


Error = Callable[[Tables], tuple[float, Tables]]


def _search(
    claim: str, family: Family, error: Error, agent: int, kappa: int, starts: int, rng: np.random.Generator | int
) -> Attack:
    began, graph, n = time.perf_counter(), family.graph, family.graph.n
    graph.neighbors(agent, kappa)  # complains of an agent or a kappa that does not exist
    if starts < 1:
        raise ValueError(f"starts = {starts}; give at least one starting point")
    printed, tight = (BOUNDS[f"{claim}-{form}"].value for form in ("printed", "tight"))
    ideal = Setting(graph, family.gamma, 1, 1, (family.reward_range,) * n, (FAIR_COIN,) * n)
    most = float(tight(ideal, kappa)[agent])
    if most == 0:
        raise ValueError(f"the corrected bound of agent {agent} at kappa = {kappa} is 0: lower kappa, or raise gamma")
    supremum = most / float(printed(ideal, kappa)[agent])
    found: dict[int, Attack] = {}
    for seed in np.random.default_rng(rng).integers(2**32, size=starts).tolist():
        theta = _hop(family, error, most, np.random.default_rng(seed))
        if claim == "theorem2":
            _, theta = _climb(family, error, most, _decided(family, theta, agent))
        tables = family.tables(theta)
        mdp, policy = family.instance(tables)
        setting, reached = Setting.of(mdp, policy), abs(error(tables)[0])
        unit, limit = float(printed(setting, kappa)[agent]), float(tight(setting, kappa)[agent])
        where, figures = ((0,) * n, (1,) * n), (reached, reached / unit, limit / unit, supremum)
        found[seed] = Attack(claim, agent, kappa, mdp, policy, *where, *figures, seed, {}, 0.0)
        if reached > limit * (1 + ROUNDING):
            raise BoundExceeded(found[seed])
    best = max(found.values(), key=lambda attack: attack.ratio)
    ratios = {seed: attack.ratio for seed, attack in found.items()}
    return replace(best, ratios=ratios, seconds=time.perf_counter() - began)


def _climb(family: Family, error: Error, most: float, theta: Array) -> tuple[float, Array]:
    """The local maximum of the error over ``most`` that truncated Newton steps reach from ``theta``.

    L-BFGS-B does as well, but on busy cores scipy's spends ten times as long in the threads of its linear algebra.
    """

    def descend(parameters: Array) -> tuple[float, Array]:
        tables = family.tables(parameters)
        value, by_table = error(tables)
        return -value / most, -family.pull_back(tables, by_table) / most

    result = minimize(descend, theta, jac=True, method="TNC")
    return -float(result.fun), np.asarray(result.x)


def _hop(family: Family, error: Error, most: float, rng: np.random.Generator) -> Array:
    """Climb from a random point, then from where that led with part of the logits drawn anew, and so on."""
    size = sum(math.prod(shape) for shape in family.shapes)
    best, theta = _climb(family, error, most, rng.normal(size=size))
    for _ in range(HOPS):
        if best >= ENOUGH:
            break
        anew = np.where(rng.random(size) < REDRAWN, rng.normal(size=size), np.clip(theta, -REACH, REACH))
        value, parameters = _climb(family, error, most, anew)
        if value >= best:
            best, theta = value, parameters
    return theta


def _decided(family: Family, theta: Array, agent: int) -> Array:
    """The agent takes its likelier action for sure, but flips its coin: elsewhere a score would only raise g_max."""
    theta = theta.copy()
    logits = family.split(theta)[family.graph.n + agent]
    coin = _first(logits, 1).copy()
    logits[:] = CERTAIN * np.eye(N_ACTIONS)[logits.argmax(axis=-1)]
    _first(logits, 1)[:] = coin
    return theta


def _first(table: Array, axes: int) -> Array:
    """A view of what a table says where all agents are in state 0: its last ``axes`` axes."""
    part: Array = table[(0,) * (table.ndim - axes)]
    return part


def _pay(family: Family, tables: Tables, k: int) -> Array:
    """Rewards ``[S_k, A_k]`` with an axis of length 1 for every neighbour, as policies have them."""
    return np.expand_dims(tables.reward[k], [axis for axis, j in enumerate(family.graph.neighbors(k)) if j != k])
