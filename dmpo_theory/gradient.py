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
from dmpo_theory.routes import apply_kernel, operator, reorder

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
    chain, n_actions = closed_loop(mdp, policy), mdp.n_actions[i]
    # What does not depend on a_i cancels, so the value of action 0 may be left out of all.
    q = np.zeros((mdp.n_joint_states, n_actions))
    for a in range(1, n_actions):
        q[:, a] = mdp.gamma * apply_kernel(chain.replacing(i, _against_action_0(mdp, policy, i, a)), continuation)
    others = np.asarray(reward_weights, dtype=np.float64).copy()
    others[i] = 0.0
    q += (others @ chain.reward_functions())[:, None]
    q += reward_weights[i] * on_joint_states(mdp.reward[i], (i,), mdp.n_states)
    pi = on_joint_states(policy.table[i], policy.parents[i], mdp.n_states)
    centred: Array = q - (pi * q).sum(axis=1, keepdims=True)
    return pi * centred


def largest_state_gradient(mdp: NetworkedMDP, policy: LocalPolicy, i: int, continuation: Array) -> float:
    """``max_s |E[gamma f(s') grad log pi_i | s]|`` in the 2-norm: the worst law of the state; ``f`` is ``[X]``.

    As :func:`state_gradient` without rewards, but nothing of ``A_i`` times the joint space is held.
    """
    chain, everybody = closed_loop(mdp, policy), range(mdp.n)
    order = operator(chain).inside
    pi = [
        reorder(policy.table[i][..., a].reshape(-1), mdp.n_states, policy.parents[i], order)
        for a in range(mdp.n_actions[i])
    ]
    function = reorder(continuation, mdp.n_states, everybody, order)
    q, mean = list[Array](), np.zeros(mdp.n_joint_states)
    for a in range(1, mdp.n_actions[i]):
        kernel = operator(chain.replacing(i, _against_action_0(mdp, policy, i, a)))
        q.append(kernel.apply(function))
        mean += pi[a] * q[-1]
    squares = (pi[0] * mean) ** 2
    for probability, value in zip(pi[1:], q, strict=True):
        squares += (probability * (value - mean)) ** 2
    return mdp.gamma * float(np.sqrt(squares.max()))


def _against_action_0(mdp: NetworkedMDP, policy: LocalPolicy, i: int, a: int) -> Array:
    """``p_i(s_i'|., a) - p_i(s_i'|., 0)`` over the parents in the closed loop, ``[S_j for j in parents] + [S_i]``."""
    chain, read = closed_loop(mdp, policy), mdp.transition_parents[i]
    difference = mdp.transition[i][..., a, :] - mdp.transition[i][..., 0, :]
    shape = [mdp.n_states[j] if j in read else 1 for j in chain.parents[i]]
    return np.broadcast_to(difference.reshape(*shape, -1), chain.kernels[i].shape)


def policy_gradient(mdp: NetworkedMDP, policy: LocalPolicy, values: Array, law: Array) -> tuple[Array, ...]:
    """The exact ``g_i`` of every agent: ``n`` arrays shaped as the policy's tables.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        values: exact ``V_i``, ``[n, X]``, or their mean ``[X]``.
        law: the law ``d`` of the state, ``[X]``.
    """
    mean = values if values.ndim == 1 else values.mean(axis=0)
    through = _through_kernels(mdp, policy, mean, range(mdp.n), law)
    visited = _visited(mdp, policy, law)
    return tuple(_in_logits(mdp, policy, i, through[i], visited[i], 1 / mdp.n) for i in range(mdp.n))


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

    A function of ``s'_U`` moves with agent i's policy through the factors in ``U`` alone. In the reading of Eq. 9 agent
    j's extended value is a function of ``s'`` in ``N_j^kappa``, so that it cancels in the gradients of all who do not
    see j: one reverse pass for the sum of all of them is enough. In Theorem 2's every neighbourhood needs its own.

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
    everybody = tuple(range(mdp.n))
    balls = [mdp.graph.neighbors(i, kappa) for i in everybody]
    # (function of the joint state, what it sees, whose policies it counts for)
    parts: list[tuple[Array, tuple[int, ...], Sequence[int]]] = []
    if reading == "eq9":
        total = np.zeros(mdp.n_joint_states)
        for value, ball in zip(values, balls, strict=True):
            total += extended_value(mdp, value, ball, reference)
        parts = [(total, everybody, everybody)]
    elif reading == "theorem2":
        for ball in dict.fromkeys(balls):
            total = values[list(ball)].sum(axis=0)
            counts = tuple(i for i in everybody if balls[i] == ball)
            parts.append((extended_value(mdp, total, ball, reference), ball, counts))
    else:
        raise _unknown_reading(reading)
    through = [np.zeros_like(kernel) for kernel in closed_loop(mdp, policy).kernels]
    for function, seen, count_for in parts:
        found = _through_kernels(mdp, policy, function / mdp.n, seen, law)
        for i in count_for:
            through[i] += found[i]
    weights, visited = [_reward_weights(mdp, i, balls[i], reward)[i] for i in everybody], _visited(mdp, policy, law)
    return tuple(_in_logits(mdp, policy, i, through[i], visited[i], weights[i]) for i in everybody)


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
    raise _unknown_reading(reading)


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


def _unknown_reading(reading: str) -> ValueError:
    return ValueError(f'reading = {reading!r}; choose "eq9" or "theorem2"')


def _through_kernels(
    mdp: NetworkedMDP, policy: LocalPolicy, function: Array, seen: Sequence[int], law: Array
) -> dict[int, Array]:
    """``d E_{s ~ law} E[f(s')|s] / d P_i`` for each i in ``seen``, of an ``f [X]`` that depends on ``s'_seen`` only."""
    chain = closed_loop(mdp, policy)
    kernel = operator(chain, inside=seen)
    table = function.reshape(mdp.n_states)[tuple(slice(None) if j in seen else 0 for j in range(mdp.n))]
    read = sorted(kernel.outside)
    return kernel.factor_gradients(
        reorder(marginal(law, read, mdp.n_states), mdp.n_states, read, kernel.outside),
        reorder(table.reshape(-1), mdp.n_states, sorted(seen), kernel.inside),
    )


def _in_logits(mdp: NetworkedMDP, policy: LocalPolicy, i: int, through: Array, visited: Array, weight: float) -> Array:
    """From the gradient in ``P_i``, and the own reward at a weight, to the one in agent i's softmax logits.

    The other agents' rewards do not depend on ``a_i`` and cancel; ``visited`` is the law of what else matters.
    """
    chain, n = closed_loop(mdp, policy), mdp.n
    acts, action, after = list(policy.parents[i]), n, n + 1
    axes = [*mdp.transition_parents[i], action, after]
    q: Array = mdp.gamma * contract(through, [*chain.parents[i], after], mdp.transition[i], axes, [*acts, action])
    q = q + weight * contract(visited, sorted({*acts, i}), mdp.reward[i], [i, action], [*acts, action])
    pi = policy.table[i]
    return np.asarray(pi * (q - (pi * q).sum(axis=-1, keepdims=True)))


def _visited(mdp: NetworkedMDP, policy: LocalPolicy, law: Array) -> list[Array]:
    """The law of what agent i's policy reads, and of its own state, for every agent: ``[S_j for j ascending]``."""

    def of(agents: Sequence[int], law: Array, known: Sequence[int]) -> list[Array]:  # by halves: few sums are long
        members = sorted({*agents}.union(*(policy.parents[i] for i in agents)))
        law = marginal(law, [known.index(j) for j in members], [mdp.n_states[j] for j in known])
        if len(agents) == 1:
            return [law.reshape([mdp.n_states[j] for j in members])]
        middle = len(agents) // 2
        return of(agents[:middle], law, members) + of(agents[middle:], law, members)

    return of(range(mdp.n), law, range(mdp.n))


def marginal(law: Array, members: Sequence[int], n_states: Sequence[int]) -> Array:
    """The law of the states of ``members`` (ascending), ``[prod S_j]``, from one of the joint state, ``[X]``."""
    kept, runs = set(members), list[tuple[bool, int]]()
    for j, size in enumerate(n_states):  # neighbouring axes with the same fate are one axis
        if runs and runs[-1][0] == (j in kept):
            runs[-1] = (j in kept, runs[-1][1] * size)
        else:
            runs.append((j in kept, size))
    if not runs[0][0]:  # numpy sums over the first and over the last axis fast, over one between others slowly
        law, runs = law.reshape(runs[0][1], -1).sum(axis=0), runs[1:]
    if runs and not runs[-1][0]:
        law, runs = law.reshape(-1, runs[-1][1]) @ np.ones(runs[-1][1]), runs[:-1]
    axes = tuple(axis for axis, (keep, _) in enumerate(runs) if not keep)
    summed: Array = law.reshape([size for _, size in runs]).sum(axis=axes)
    return summed.reshape(-1)
