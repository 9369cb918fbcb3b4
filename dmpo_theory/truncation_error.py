r"""The error of truncation of an MDP whose every table is free, and its derivative for all of them.

With ``V_j = (I - gamma P)^{-1} r_j`` and an error ``sum_j c_j^T V_j``, one more solve with the same matrix gives the
derivative for all tables at once:

    lambda_j = (I - gamma P)^{-T} c_j,    d error = sum_j lambda_j^T (d r_j + gamma dP V_j) + dc_j^T V_j.

The error is taken at state 0 of every agent, with placeholders 1 for the states that are not seen: as states may be
relabelled, this is any pair of states that differ. ``P`` is formed densely: up to about a thousand joint states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dmpo_theory.errors import require_memory
from dmpo_theory.gradient import conditioning_sets
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP, contract

N_ACTIONS = 2


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
    coins = [first_row(pi, 1) for pi in tables.policy]
    moves = [first_row(p, 2) for p in tables.transition]
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
        by_move, by_coin = first_row(by_table.transition[k], 2), first_row(by_table.policy[k], 1)
        by_move += np.outer([-1.0, 1.0] if k == agent else coins[k], by_law)
        by_coin += gap * coins[k][::-1] if k == agent else moves[k] @ by_law
    return chance * gap, by_table


def first_row(table: Array, axes: int) -> Array:
    """A view of what a table says where all agents are in state 0: its last ``axes`` axes."""
    part: Array = table[(0,) * (table.ndim - axes)]
    return part


def _pay(family: Family, tables: Tables, k: int) -> Array:
    """Rewards ``[S_k, A_k]`` with an axis of length 1 for every neighbour, as policies have them."""
    return np.expand_dims(tables.reward[k], [axis for axis, j in enumerate(family.graph.neighbors(k)) if j != k])
