"""The joint Markov chain of a networked MDP under a local policy, kept in factors.

Given the joint state, agents act and move independently, so the kernel is a product,
``P(s'|s) = prod_i P_i(s_i' | s_{M_i})`` with ``P_i = sum_a pi_i p_i`` and ``M_i`` the parents of both. It is applied
by eliminating one ``s_i'`` after another; ``S^n x S^n`` numbers are never formed unless :attr:`ClosedLoop.matrix` is
asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from dmpo_theory.errors import require_memory
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP, Parents, contract, on_joint_states


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """The joint Markov chain of an MDP under a policy, kept in factors. Build it with :func:`closed_loop`.

    Attributes:
        n_states: ``S_i``, ``[n]``.
        parents: ``M_i``, whose states agent i's next state depends on.
        kernels: ``P_i``, ``[S_j for j in parents[i]] + [S_i]``.
        reward_parents: whose states the expected reward of agent i depends on.
        rewards: ``E[r_i | s]``, ``[S_j for j in reward_parents[i]]``.
    """

    n_states: tuple[int, ...]
    parents: Parents
    kernels: tuple[Array, ...]
    reward_parents: Parents
    rewards: tuple[Array, ...]

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.n_states)

    @property
    def size(self) -> int:
        """Number of joint states."""
        return math.prod(self.n_states)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Elimination order of the next states, greedy for the smallest intermediate tensor."""
        left, read, order = set(range(self.n)), set[int](), []
        while left:
            best = min(left, key=lambda i: (self._volume(read | set(self.parents[i]), left - {i}), i))
            left.remove(best)
            read |= set(self.parents[best])
            order.append(best)
        return tuple(order)

    def _volume(self, read: set[int], left: set[int]) -> float:
        return math.prod(self.n_states[j] for j in read) * math.prod(self.n_states[j] for j in left)

    def peak_bytes(self, columns: int) -> float:
        """Memory that one application of the kernel to ``columns`` functions at once takes."""
        left, read, peak = set(range(self.n)), set[int](), float(self.size)
        for i in self.order:
            before = self._volume(read, left)
            left.remove(i)
            read |= set(self.parents[i])
            peak = max(peak, before + self._volume(read, left))
        return 8.0 * peak * columns

    def reward_functions(self) -> Array:
        """``E[r_i | s]`` on all joint states, ``[n, X]``."""
        pairs = zip(self.rewards, self.reward_parents, strict=True)
        return np.stack([on_joint_states(table, members, self.n_states) for table, members in pairs])

    def apply(self, functions: Array, keep: int | None = None) -> Array:
        """``E[f(s') | s]`` for each row of ``functions [c, X]``: ``[c, X]``.

        With ``keep = i`` the coordinate ``s_i'`` is held instead of averaged: ``[c, X, S_i]``.
        """
        n = self.n
        tensor = functions.reshape(-1, *self.n_states)
        axes = [2 * n, *range(n, 2 * n)]  # labels: j for s_j, n + j for s_j', 2n for the row
        for i in self.order:
            if i == keep:
                continue
            factor_axes = [*self.parents[i], n + i]
            kept = sorted((set(axes) | set(self.parents[i])) - {n + i, 2 * n})
            tensor = contract(self.kernels[i], factor_axes, tensor, axes, [2 * n, *kept])
            axes = [2 * n, *kept]
        full = [tensor.shape[0], *(self.n_states[j] if j in axes else 1 for j in range(n))]
        wide = [tensor.shape[0], *self.n_states]
        if keep is not None:
            full, wide = [*full, self.n_states[keep]], [*wide, self.n_states[keep]]
        tensor = np.broadcast_to(tensor.reshape(full), wide)
        return tensor.reshape(tensor.shape[0], self.size, *wide[n + 1 :])

    def push(self, law: Array) -> Array:
        """The law of ``s'`` when ``s`` has the given law, ``[X]``: the adjoint of :meth:`apply`."""
        n = self.n
        needed = [set(self.parents[i]) for i in self.order]  # read at step k
        tensor, axes = law.reshape(self.n_states), list(range(n))
        for step in reversed(range(n)):
            i = self.order[step]
            earlier = set().union(*needed[:step])
            present = set().union(earlier, needed[step])
            unread = tuple(position for position, axis in enumerate(axes) if axis < n and axis not in present)
            tensor, axes = tensor.sum(axis=unread), [axis for axis in axes if axis >= n or axis in present]
            kept = [*sorted(axis for axis in axes if axis >= n or axis in earlier), n + i]
            tensor = contract(self.kernels[i], [*self.parents[i], n + i], tensor, axes, kept)
            axes = kept
        return np.transpose(tensor, np.argsort(axes)).reshape(-1)

    @cached_property
    def matrix(self) -> Array:
        """The dense kernel ``P[x, x']``; ``ProblemTooLarge`` if it would not fit."""
        n = self.n
        what = f"the dense kernel of {self.size:.6g} joint states"
        require_memory(16.0 * self.size**2, what, "use the factored operator, or fewer agents or local states")
        result = np.ones((1,) * (2 * n))
        for i in range(n):
            axes = [j for j in range(2 * n) if j not in self.parents[i] and j != n + i]
            result = result * np.expand_dims(self.kernels[i], axes)
        return np.broadcast_to(result, self.n_states * 2).reshape(self.size, self.size)


@lru_cache(maxsize=1)  # one gradient after another asks for the same chain
def closed_loop(mdp: NetworkedMDP, policy: LocalPolicy) -> ClosedLoop:
    """Average the policy out of every factor: ``P_i = sum_a pi_i p_i`` and ``E[r_i | s]``."""
    parents, kernels, reward_parents, rewards = [], [], [], []
    for i in range(mdp.n):
        read, acts = list(mdp.transition_parents[i]), list(policy.parents[i])
        members = sorted({*read, *acts})
        action, after = mdp.n, mdp.n + 1
        kernels.append(
            contract(mdp.transition[i], [*read, action, after], policy.table[i], [*acts, action], [*members, after])
        )
        parents.append(tuple(members))
        members = sorted({i, *acts})
        rewards.append(contract(mdp.reward[i], [i, action], policy.table[i], [*acts, action], members))
        reward_parents.append(tuple(members))
    return ClosedLoop(mdp.n_states, tuple(parents), tuple(kernels), tuple(reward_parents), tuple(rewards))
