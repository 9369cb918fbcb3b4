r"""Theorem 2: the exact policy gradient of each agent and its truncations, in every reading of the text.

With softmax logits ``theta_i[s_{parents(i)}, a] = log pi_i`` and a stated law ``d`` of the state,

    g_i = E_{s ~ d, a ~ pi, s' ~ p}[(r + gamma V(s') - V(s)) grad log pi_i(a_i | s_{parents(i)})].

The baseline ``V(s)`` has no effect on the expectation and is left out. The derivative of ``E_{s(0)} V`` is this with
``d`` the normalised occupancy, divided by ``1 - gamma``. A truncation replaces ``V`` by a mean of extended values of
the agents in ``N_i^kappa``. The paper gives it two conditioning sets, and rewards in three ways:

* ``reading="eq9"``, reading (i): ``(1/n) sum_{j in N_i^kappa} V_j(s_{N_j^kappa})``;
* ``reading="theorem2"``, reading (ii): ``(1/n) sum_{j in N_i^kappa} V_j(s_{N_i^kappa})``;
* ``reward="global"`` (a): ``r``, the mean of all rewards;
* ``reward="neighborhood"`` (b): ``(1/n) sum_{j in N_i^kappa} r_j``, the same in expectation as (a);
* ``reward="own"`` (c): ``r_i`` with weight 1, as printed after Eq. 9: it does not match the weights ``1/n`` of the
  values, and its error does not vanish with kappa.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.extended import ReferenceLaw, extended_value
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP, contract, on_joint_states

Reading = Literal["eq9", "theorem2"]
Reward = Literal["global", "neighborhood", "own"]


def state_gradient(mdp: NetworkedMDP, policy: LocalPolicy, i: int, continuation: Array, reward_weights: Array) -> Array:
    r"""``E[(sum_j w_j r_j + gamma f(s')) grad log pi_i | s]`` for every joint state: ``[X, A_i]``.

    At a joint state only the row of logits that agent i reads there moves, so ``A_i`` numbers hold the gradient.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        i: the agent whose logits move.
        continuation: ``f``, ``[X]``.
        reward_weights: ``w``, ``[n]``.
    """
    chain = closed_loop(mdp, policy)
    n, action, after = mdp.n, mdp.n, mdp.n + 1
    states = list(range(n))
    following = chain.apply(continuation[None], keep=i)[0].reshape(*mdp.n_states, mdp.n_states[i])
    axes = [*mdp.transition_parents[i], action, after]
    q: Array = mdp.gamma * contract(mdp.transition[i], axes, following, [*states, after], [*states, action])
    others = np.asarray(reward_weights, dtype=np.float64).copy()
    others[i] = 0.0
    q = q + (others @ chain.reward_functions()).reshape(*mdp.n_states, 1)
    own = mdp.reward[i].reshape([mdp.n_states[j] if j == i else 1 for j in states] + [mdp.n_actions[i]])
    q = (q + reward_weights[i] * own).reshape(-1, mdp.n_actions[i])
    pi = on_joint_states(policy.table[i], policy.parents[i], mdp.n_states)
    centred: Array = q - (pi * q).sum(axis=1, keepdims=True)
    return pi * centred


def policy_gradient(mdp: NetworkedMDP, policy: LocalPolicy, values: Array, law: Array) -> tuple[Array, ...]:
    """The exact ``g_i`` of every agent: ``n`` arrays shaped as the policy's tables.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        values: exact ``V_i``, ``[n, X]``.
        law: the law ``d`` of the state, ``[X]``.
    """
    weights = np.full(mdp.n, 1 / mdp.n)
    return tuple(
        expected_gradient(mdp, policy, i, state_gradient(mdp, policy, i, values.mean(axis=0), weights), law)
        for i in range(mdp.n)
    )


def truncated_gradient(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    values: Array,
    law: Array,
    kappa: float,
    *,
    reference: ReferenceLaw,
    reading: Reading = "eq9",
    reward: Reward = "global",
) -> tuple[Array, ...]:
    """The truncated gradient of every agent: ``n`` arrays shaped as the policy's tables.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        values: exact ``V_i``, ``[n, X]``.
        law: the law of the state, ``[X]``.
        kappa: radius of the truncation.
        reference: law of the states that an extended value does not see.
        reading: whose neighbourhood ``V_j`` is conditioned on, see the module's page.
        reward: which rewards enter, and how weighted.
    """
    return tuple(
        expected_gradient(
            mdp,
            policy,
            i,
            truncated_state_gradient(
                mdp, policy, i, values, kappa, reference=reference, reading=reading, reward=reward
            ),
            law,
        )
        for i in range(mdp.n)
    )


def truncated_state_gradient(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    i: int,
    values: Array,
    kappa: float,
    *,
    reference: ReferenceLaw,
    reading: Reading = "eq9",
    reward: Reward = "global",
) -> Array:
    """Agent i's truncated gradient at every joint state, ``[X, A_i]``; arguments as :func:`truncated_gradient`."""
    members = mdp.graph.neighbors(i, kappa)
    seen = conditioning_sets(mdp.graph, i, kappa, reading)
    continuation = sum(extended_value(mdp, values[j], seen[j], reference) for j in members) / mdp.n
    return state_gradient(mdp, policy, i, np.asarray(continuation), _reward_weights(mdp, i, members, reward))


def conditioning_sets(graph: AgentGraph, i: int, kappa: float, reading: Reading) -> dict[int, tuple[int, ...]]:
    """``U_j``, what ``V_j`` is conditioned on in agent i's gradient, for each ``j`` in ``N_i^kappa``."""
    members = graph.neighbors(i, kappa)
    if reading == "eq9":
        return {j: graph.neighbors(j, kappa) for j in members}
    if reading == "theorem2":
        return dict.fromkeys(members, members)
    raise ValueError(f'reading = {reading!r}; choose "eq9" or "theorem2"')


def expected_gradient(mdp: NetworkedMDP, policy: LocalPolicy, i: int, by_state: Array, law: Array) -> Array:
    """The mean over joint states of a gradient ``[X, A_i]``, shaped as agent i's policy table."""
    unread = tuple(j for j in range(mdp.n) if j not in policy.parents[i])
    weighted = (law[:, None] * by_state).reshape(*mdp.n_states, mdp.n_actions[i])
    return np.asarray(weighted.sum(axis=unread))


def score_bound(policy: LocalPolicy, i: int) -> float:
    """``g_max`` of agent i: the largest 2-norm of ``grad log pi_i`` in softmax logits over reads and actions."""
    pi = policy.table[i].reshape(-1, policy.table[i].shape[-1])
    squared = 1 - 2 * pi + (pi**2).sum(axis=1, keepdims=True)  # |e_a - pi|^2
    return float(np.sqrt(max(squared[pi > 0].max(), 0.0)))


def _reward_weights(mdp: NetworkedMDP, i: int, members: Sequence[int], reward: Reward) -> Array:
    weights = np.zeros(mdp.n)
    if reward == "global":
        weights[:] = 1 / mdp.n
    elif reward == "neighborhood":
        weights[list(members)] = 1 / mdp.n
    elif reward == "own":
        weights[i] = 1.0
    else:
        raise ValueError(f'reward = {reward!r}; choose "global", "neighborhood" or "own"')
    return weights
