"""Eqs. 7-9: what bootstrapped targets with truncated critics are in expectation, and where they settle.

A critic ``V(s_U)`` that is fitted to its own target ``sum_{l<T} gamma^l r(s_l) + gamma^T V(s_T)`` does not settle at
the conditional expectation of ``V_i`` but at the fixed point of ``V = Pi (gain + far V)``, where ``gain + far V`` is
the expected target and ``Pi`` the mean given what is seen, under the law of the data.

In a rollout of ``T`` steps the target of a state is closed at the rollout's end, after 1 to T steps; and where
episodes may be cut at every step, with probability ``cut``, it is closed there, too. The advantage is the same sum over
TD residuals, with every later one weighed by ``gamma lam``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.extended import ReferenceLaw, extended_value
from dmpo_theory.mdp import Array, NetworkedMDP


def step_targets(chain: ClosedLoop, gamma: float, steps: int, cut: float = 0.0) -> Iterator[tuple[Array, Array]]:
    """Expected targets with 1, 2, ... ``steps`` steps left: ``gain [n, X]`` and ``far [X, X]`` in ``gain + far V``.

    Args:
        chain: the chain.
        gamma: discount factor.
        steps: length ``T`` of a rollout.
        cut: probability that a step is the episode's last, whatever the state.
    """
    rewards, matrix = chain.reward_functions(), chain.matrix
    gain, far = rewards, gamma * matrix
    yield gain, far
    for _ in range(steps - 1):
        gain = rewards + gamma * (1 - cut) * gain @ matrix.T
        far = gamma * matrix @ (cut * np.eye(chain.size) + (1 - cut) * far)
        yield gain, far


def rollout_target(chain: ClosedLoop, gamma: float, steps: int, cut: float = 0.0) -> tuple[Array, Array]:
    """The mean of :func:`step_targets`: the expected target of a state anywhere in a rollout of ``steps`` steps."""
    gain, far = np.zeros((chain.n, chain.size)), np.zeros((chain.size, chain.size))
    for one_gain, one_far in step_targets(chain, gamma, steps, cut):
        gain += one_gain / steps
        far += one_far / steps
    return gain, far


def settled_critic(mdp: NetworkedMDP, gain: Array, far: Array, seen: Sequence[int], law: ReferenceLaw) -> Array:
    """The fixed point of ``V = Pi (gain + far V)``, as a function of the joint state: ``[X]``.

    Args:
        mdp: the networked MDP.
        gain: expected rewards of one agent's target, ``[X]``.
        far: weights of the critic at the target's end, ``[X, X]``.
        seen: the agents whose states the critic knows.
        law: the law of the others, given those.
    """
    start, known = seen_target(mdp, gain, far, seen, law)
    table = np.linalg.solve(np.eye(len(start)) - known, start)
    return np.asarray(table[states_of(mdp, seen)], dtype=np.float64)


def seen_target(
    mdp: NetworkedMDP, gain: Array, far: Array, seen: Sequence[int], law: ReferenceLaw
) -> tuple[Array, Array]:
    """``Pi gain`` and ``Pi far`` on tables over the ``L`` states of ``seen``: ``[L]`` and ``[L, L]``; see above."""
    codes = states_of(mdp, seen)
    first = np.unique(codes, return_index=True)[1]  # one joint state for each that is seen
    reach = far @ (codes[:, None] == codes[first])
    known = np.stack([extended_value(mdp, column, seen, law)[first] for column in reach.T], axis=1)
    return extended_value(mdp, gain, seen, law)[first], known


def states_of(mdp: NetworkedMDP, seen: Sequence[int]) -> npt.NDArray[np.int64]:
    """The flat index of the states of ``seen`` (ascending, C order) in every joint state, ``[X]``."""
    joint = np.unravel_index(np.arange(mdp.n_joint_states), mdp.n_states)
    chosen = tuple(joint[j] for j in seen)
    codes: npt.NDArray[np.int64] = np.ravel_multi_index(chosen, [mdp.n_states[j] for j in seen])
    return codes


def advantage_continuation(
    chain: ClosedLoop, gamma: float, lam: float, critics: Array, steps: int, cut: float = 0.0
) -> Array:
    """``f`` in ``A = r + gamma f(s') - V(s)``, the advantage expected anywhere in a rollout: ``[n, X]``.

    ``f`` is the critic at the next state and, weighed by ``lam (1 - cut)``, the advantage from there on.

    Args:
        chain: the chain.
        gamma: discount factor.
        lam: weight of longer returns; 0 is the TD residual.
        critics: one for each agent, ``[n, X]``.
        steps: length of a rollout.
        cut: as in :func:`step_targets`.
    """
    matrix = chain.matrix
    residual = chain.reward_functions() + gamma * critics @ matrix.T - critics
    ahead, total = np.zeros_like(critics), np.zeros_like(critics)
    for _ in range(steps):  # with 1, 2, ... steps left
        total += critics + lam * (1 - cut) * ahead
        ahead = residual + gamma * lam * (1 - cut) * ahead @ matrix.T
    return total / steps
