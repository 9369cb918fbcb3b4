"""The joint Markov chain of a networked MDP under a local policy, kept in factors.

Given the joint state, agents act and move independently, so the kernel is a product,
``P(s'|s) = prod_i P_i(s_i' | s_{M_i})`` with ``P_i = sum_a pi_i p_i`` and ``M_i`` the parents of both. It is applied
by eliminating one ``s_i'`` after another; ``S^n x S^n`` numbers are never formed unless :attr:`ClosedLoop.matrix` is
asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
        n_actions: ``A_i``, the number of terms in each entry of the above, ``[n]``.
        reward_sizes: ``max |r_i|`` before the policy was averaged out, ``[n]``.
    """

    n_states: tuple[int, ...]
    parents: Parents
    kernels: tuple[Array, ...]
    reward_parents: Parents
    rewards: tuple[Array, ...]
    n_actions: tuple[int, ...]
    reward_sizes: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.n_states)

    @property
    def size(self) -> int:
        """Number of joint states."""
        return math.prod(self.n_states)

    def reward_functions(self) -> Array:
        """``E[r_i | s]`` on all joint states, ``[n, X]``."""
        functions = np.empty((self.n, *self.n_states))
        for function, table, members in zip(functions, self.rewards, self.reward_parents, strict=True):
            function[...] = table.reshape([size if j in members else 1 for j, size in enumerate(self.n_states)])
        return functions.reshape(self.n, -1)

    @cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """The agents whose present state may ever matter to agent i's, itself among them, ``[n]``."""
        reach = [frozenset({i, *self.parents[i]}) for i in range(self.n)]
        while True:  # twice as many steps back each time
            wider = [frozenset().union(*(reach[j] for j in known)) for known in reach]
            if wider == reach:
                return tuple(reach)
            reach = wider

    @cached_property
    def components(self) -> tuple[tuple[int, ...], ...]:
        """The agents in sets that never affect each other, each ascending: the chain is a product of theirs."""
        found = list[frozenset[int]]()
        for reach in self.ancestors:
            met = [members for members in found if members & reach]
            found = [members for members in found if not members & reach] + [reach.union(*met)]
        return tuple(tuple(sorted(members)) for members in found)

    @cached_property
    def matrix(self) -> Array:
        """The dense kernel ``P[x, x']``; ``ProblemTooLarge`` if it would not fit."""
        what = f"the dense kernel of {self.size:.6g} joint states"
        require_memory(16.0 * self.size**2, what, "use an operator of dmpo_theory.routes, or fewer agents")
        pairs = zip(self.kernels, self.parents, strict=True)
        parts = [on_joint_states(kernel, members, self.n_states) for kernel, members in pairs]
        while len(parts) > 1:  # row by row Kronecker products, by halves: all but the last are small
            halves = zip(parts[::2], parts[1::2], strict=False)
            odd = parts[-1:] if len(parts) % 2 else []
            parts = [(a[:, :, None] * b[:, None, :]).reshape(self.size, -1) for a, b in halves] + odd
        return parts[0]

    @cached_property
    def row_errors(self) -> Array:
        """What the rows of each agent's factor are off 1 by at most, rounding included, ``[n]``."""
        eps = np.finfo(np.float64).eps
        return np.array(
            [
                float(np.abs(kernel.sum(axis=-1) - 1).max()) + (kernel.shape[-1] + terms) * eps
                for kernel, terms in zip(self.kernels, self.n_actions, strict=True)
            ]
        )

    def replacing(self, i: int, kernel: Array) -> ClosedLoop:
        """The same with another factor for agent i, which need not be a probability."""
        return replace(self, kernels=(*self.kernels[:i], kernel, *self.kernels[i + 1 :]))


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
    factors = (tuple(parents), tuple(kernels), tuple(reward_parents), tuple(rewards))
    sizes = tuple(float(np.abs(table).max()) for table in mdp.reward)
    return ClosedLoop(mdp.n_states, *factors, mdp.n_actions, sizes)
