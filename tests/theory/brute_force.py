"""A second, slow route to everything: plain loops over joint states, joint actions and joint next states."""

from __future__ import annotations

import itertools

import numpy as np

from dmpo_theory.mdp import LocalPolicy, NetworkedMDP


def joint_states(mdp: NetworkedMDP) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, mdp.n_states)))


def joint_actions(mdp: NetworkedMDP) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, mdp.n_actions)))


def transition(mdp: NetworkedMDP, s: tuple[int, ...], a: tuple[int, ...], after: tuple[int, ...]) -> float:
    return float(
        np.prod([mdp.transition[i][(*(s[j] for j in mdp.transition_parents[i]), a[i], after[i])] for i in range(mdp.n)])
    )


def action_law(mdp: NetworkedMDP, policy: LocalPolicy, s: tuple[int, ...], a: tuple[int, ...]) -> float:
    return float(np.prod([policy.table[i][(*(s[j] for j in policy.parents[i]), a[i])] for i in range(mdp.n)]))


def kernel(mdp: NetworkedMDP, policy: LocalPolicy) -> np.ndarray:
    """``P[x, x']`` by summing over joint actions."""
    states, actions = joint_states(mdp), joint_actions(mdp)
    return np.array(
        [
            [sum(action_law(mdp, policy, s, a) * transition(mdp, s, a, t) for a in actions) for t in states]
            for s in states
        ]
    )


def rewards(mdp: NetworkedMDP, policy: LocalPolicy) -> np.ndarray:
    """``E[r_i | x]``, ``[n, X]``."""
    states, actions = joint_states(mdp), joint_actions(mdp)
    return np.array(
        [
            [sum(action_law(mdp, policy, s, a) * mdp.reward[i][s[i], a[i]] for a in actions) for s in states]
            for i in range(mdp.n)
        ]
    )


def values(mdp: NetworkedMDP, policy: LocalPolicy) -> np.ndarray:
    p = kernel(mdp, policy)
    return np.linalg.solve(np.eye(len(p)) - mdp.gamma * p, rewards(mdp, policy).T).T


def gradient(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    i: int,
    law: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """``E[(w . r + gamma after(s') - before(s)) grad log pi_i]``, nothing cancelled."""
    states, actions = joint_states(mdp), joint_actions(mdp)
    result = np.zeros_like(policy.table[i])
    for x, s in enumerate(states):
        for a in actions:
            reward = sum(weights[j] * mdp.reward[j][s[j], a[j]] for j in range(mdp.n))
            following = sum(transition(mdp, s, a, t) * after[y] for y, t in enumerate(states))
            residual = reward + mdp.gamma * following - before[x]
            seen = tuple(s[j] for j in policy.parents[i])
            score = -policy.table[i][seen].copy()
            score[a[i]] += 1
            result[seen] += law[x] * action_law(mdp, policy, s, a) * residual * score
    return result
