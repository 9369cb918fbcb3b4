"""Section III-A and Eq. 4: networked Markov decision processes and local policies, as factors.

The joint transition is a product over agents, ``p(s'|s, a) = prod_i p_i(s_i' | s_{parents(i)}, a_i)``, and so is the
joint policy, ``pi(a|s) = prod_i pi_i(a_i | s_{parents(i)})``. Eq. 4 prints ``s_{N_i^kappa}`` in ``p_i``; read so, no
claim of decay in kappa survives. Here the parents are the closed neighbourhood ``N_i`` unless set otherwise.

Axis order, everywhere: parents' states in ascending agent number, then the own action ``a_i``, then ``s_i'``. Joint
states ``x`` are flat indices of ``(s_0, ..., s_{n-1})`` in C order, agent 0 slowest; joint actions likewise.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dmpo_theory.errors import require_memory, shown, too_many_axes
from dmpo_theory.graph import AgentGraph

Array = npt.NDArray[np.float64]
Parents = tuple[tuple[int, ...], ...]

ROW_SUM_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class NetworkedMDP:
    """A networked MDP in factors; ``S_i`` and ``A_i`` may differ between agents. Arrays are copied and read-only.

    Attributes:
        graph: who is linked to whom.
        gamma: discount factor in [0, 1).
        transition: ``n`` arrays ``[S_j for j in transition_parents[i]] + [A_i, S_i]`` of probabilities.
        reward: ``n`` arrays ``[S_i, A_i]``; the global reward is their mean over agents.
        transition_parents: whose states ``p_i`` reads, ascending; by default ``N_i``.

    Raises:
        ValueError: gamma outside [0, 1), an array of a wrong shape, a row that is no probability distribution, or a
            parent that the graph does not connect to its agent. The message names the agent, the place and the value.

    Example:
        >>> from dmpo_theory.graph import path
        >>> from dmpo_theory.instances import random_mdp
        >>> random_mdp(path(3), rng=0)
        NetworkedMDP(n=3, S=(2, 2, 2), A=(2, 2, 2), gamma=0.9, joint states=8)
    """

    graph: AgentGraph
    gamma: float
    transition: tuple[Array, ...]
    reward: tuple[Array, ...]
    transition_parents: Parents = ()

    def __post_init__(self) -> None:
        n = self.graph.n
        gamma = float(self.gamma)
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma = {self.gamma!r} is outside [0, 1); use a discount factor such as 0.9")
        reward = _arrays("reward", self.reward, n)
        for i, table in enumerate(reward):
            if table.ndim != 2 or 0 in table.shape:
                raise ValueError(f"reward[{i}] has shape {table.shape}; expected [S_{i}, A_{i}], both at least 1")
            if not np.isfinite(table).all():
                raise ValueError(f"reward[{i}]{_first(~np.isfinite(table))} is not a finite number")
            _check_normal(f"reward[{i}]", table)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "reward", reward)
        parents = _parents("transition_parents", self.transition_parents, self.graph)
        object.__setattr__(self, "transition_parents", parents)
        transition = _arrays("transition", self.transition, n)
        for i, table in enumerate(transition):
            _check_distributions(f"transition[{i}]", table, (*self._sizes(parents[i]), *reward[i].shape[::-1]))
        object.__setattr__(self, "transition", transition)

    def _sizes(self, agents: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.reward[j].shape[0] for j in agents)

    @property
    def n(self) -> int:
        """Number of agents."""
        return self.graph.n

    @cached_property
    def n_states(self) -> tuple[int, ...]:
        """``S_i`` of every agent."""
        return self._sizes(range(self.n))

    @cached_property
    def n_actions(self) -> tuple[int, ...]:
        """``A_i`` of every agent."""
        return tuple(table.shape[1] for table in self.reward)

    @property
    def n_joint_states(self) -> int:
        """Number of joint states, the product of all ``S_i``."""
        return math.prod(self.n_states)

    @cached_property
    def radius(self) -> int:
        """Transition radius ``m``: the largest hop distance from an agent to a parent of its transition."""
        return _radius(self.graph, self.transition_parents)

    def __repr__(self) -> str:
        return (
            f"NetworkedMDP(n={self.n}, S={self.n_states}, A={self.n_actions}, gamma={self.gamma:g}, "
            f"joint states={self.n_joint_states})"
        )


@dataclass(frozen=True, eq=False)
class LocalPolicy:
    """A local stochastic policy ``pi_i(a_i | s_{parents(i)})`` for every agent of ``mdp``.

    Attributes:
        table: ``n`` arrays ``[S_j for j in parents[i]] + [A_i]`` of probabilities.
        parents: whose states ``pi_i`` reads, ascending; by default ``N_i``.
        radius: policy radius ``p``, the largest hop distance from an agent to one that its policy reads.

    Raises:
        ValueError: as :class:`NetworkedMDP`.
    """

    mdp: InitVar[NetworkedMDP]
    table: tuple[Array, ...]
    parents: Parents = ()
    radius: int = field(init=False)

    def __post_init__(self, mdp: NetworkedMDP) -> None:
        parents = _parents("policy_parents", self.parents, mdp.graph)
        table = _arrays("policy", self.table, mdp.n)
        for i, probabilities in enumerate(table):
            shape = (*(mdp.n_states[j] for j in parents[i]), mdp.n_actions[i])
            _check_distributions(f"policy[{i}]", probabilities, shape)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "parents", parents)
        object.__setattr__(self, "radius", _radius(mdp.graph, parents))


def to_joint(mdp: NetworkedMDP, memory_limit_gib: float | None = None) -> tuple[Array, Array]:
    """The dense joint form ``R[x, u], Q[x, u, x']`` with the mean reward, as QuantEcon's ``DiscreteDP`` takes it.

    Raises:
        ProblemTooLarge: when the tables would not fit, naming the GiB they need.
    """
    n, states, actions = mdp.n, mdp.n_joint_states, math.prod(mdp.n_actions)
    require_memory(
        8.0 * states * actions * (2 * states + 1),
        f"the dense joint form of {states:.3g} joint states and {actions:.3g} joint actions",
        "use dmpo_theory.exact, which never forms it, or fewer agents",
        memory_limit_gib,
    )
    letters = (range(n), range(n, 2 * n), range(2 * n, 3 * n))  # s_i, a_i, s_i'
    operands: list[Any] = []
    for i in range(n):
        operands += [mdp.transition[i], [*mdp.transition_parents[i], n + i, 2 * n + i]]
    everything = [*letters[0], *letters[1], *letters[2]]
    ones: list[Any] = []  # every axis appears, even those that no factor reads
    for axis, size in zip(everything, (*mdp.n_states, *mdp.n_actions, *mdp.n_states), strict=True):
        ones += [np.ones(size), [axis]]
    kernel = contract(*operands, *ones, everything)
    reward = np.zeros((*mdp.n_states, *mdp.n_actions))
    for i in range(n):
        reward += np.expand_dims(mdp.reward[i], [k for k in range(2 * n) if k not in (i, n + i)]) / n
    return reward.reshape(states, actions), kernel.reshape(states, actions, states)


def on_joint_states(table: Array, members: Sequence[int], n_states: Sequence[int]) -> Array:
    """A table over the states of ``members`` (ascending), and more axes, on all joint states: ``[X, ...]``."""
    tail = table.shape[len(members) :]
    shape = [size if j in members else 1 for j, size in enumerate(n_states)]
    return np.broadcast_to(table.reshape(*shape, *tail), (*n_states, *tail)).reshape(-1, *tail)


def contract(*operands: Any) -> Array:
    """``numpy.einsum(array, axes, array, axes, ..., axes_out)`` with any integers as axis labels."""
    result: Array = np.einsum(_subscripts(*map(tuple, operands[1::2]), tuple(operands[-1])), *operands[:-1:2])
    return result


@lru_cache(maxsize=2**14)  # the same few patterns for all agents, again and again
def _subscripts(*axes: tuple[int, ...]) -> str:
    label: dict[int, str] = {}
    for axis in itertools.chain(*axes[:-1]):
        if axis not in label and len(label) == len(string.ascii_letters):
            raise too_many_axes(f"tables over {len({*itertools.chain(*axes[:-1])})} states and actions")
        label.setdefault(axis, string.ascii_letters[len(label)])
    *factors, result = ("".join(label[axis] for axis in operand) for operand in axes)
    return f"{','.join(factors)}->{result}"


def _arrays(name: str, tables: Sequence[npt.ArrayLike], n: int) -> tuple[Array, ...]:
    if len(tables) != n:
        raise ValueError(f"{name} has {len(tables)} entries; expected one for each of the {n} agents")
    copies = []
    for i, table in enumerate(tables):
        try:
            copy = np.array(table, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}[{i}] is not a rectangular array of numbers: {error}") from None
        copy.setflags(write=False)
        copies.append(copy)
    return tuple(copies)


def _parents(name: str, parents: Sequence[Sequence[int]], graph: AgentGraph) -> Parents:
    if not parents:
        return tuple(graph.neighbors(i) for i in range(graph.n))
    if len(parents) != graph.n:
        raise ValueError(f"{name} has {len(parents)} entries; expected one list for each of the {graph.n} agents")
    for i, members in enumerate(parents):
        if list(members) != sorted(set(members)):
            raise ValueError(f"{name}[{i}] = {shown(list(members))} must be ascending without repeats")
        for j in members:
            if not isinstance(j, int | np.integer) or not 0 <= j < graph.n:
                raise ValueError(f"{name}[{i}] names the missing node {shown(j)}; agents are 0 .. {graph.n - 1}")
            if graph.components[i] != graph.components[j]:
                raise ValueError(f"{name}[{i}] names agent {j}, which no path links to agent {i}; add an edge")
    return tuple(tuple(int(j) for j in members) for members in parents)


def _radius(graph: AgentGraph, parents: Parents) -> int:
    radius = 0
    for i, members in enumerate(parents):
        while not set(members) <= set(graph.neighbors(i, radius)):
            radius += 1
    return radius


def _check_distributions(name: str, table: Array, shape: tuple[int, ...]) -> None:
    if table.shape != shape:
        raise ValueError(
            f"{name} has shape {table.shape}, expected {shape}: parents' states in ascending agent order, then the "
            "own action, then for transitions the own next state"
        )
    if not np.isfinite(table).all():
        raise ValueError(f"{name}{_first(~np.isfinite(table))} is not a finite number; every entry is a probability")
    if (table < 0).any():
        where = _first(table < 0)
        raise ValueError(f"{name}{where} = {table[tuple(where)]!r} is negative; every entry is a probability")
    _check_normal(name, table)
    error = np.abs(table.sum(axis=-1) - 1)
    if (error > ROW_SUM_TOLERANCE).any():
        where = _first(error > ROW_SUM_TOLERANCE)
        raise ValueError(
            f"{name}, row {where}, sums to {table[tuple(where)].sum()!r}, not to 1; divide the row by its sum, or in "
            'an instance file write rational strings such as "1/3"'
        )


def _check_normal(name: str, table: Array) -> None:
    denormal = (table != 0) & (np.abs(table) < np.finfo(np.float64).tiny)
    if denormal.any():
        where = _first(denormal)
        raise ValueError(
            f"{name}{where} = {table[tuple(where)]!r} is denormal: float64 holds fewer digits of it than of other "
            "numbers; write 0"
        )


def _first(bad: npt.NDArray[np.bool_]) -> list[int]:
    return [int(k) for k in np.argwhere(bad)[0]]
