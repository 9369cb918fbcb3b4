"""Reference controllers of networked MDPs: uniform play, and a policy in tables."""

from __future__ import annotations

import numpy as np

from dmpo_deep.envs import NetworkedEnv, Policy, action_counts
from dmpo_deep.envs.tabular import Tabular
from dmpo_theory.mdp import LocalPolicy


def uniform(env: NetworkedEnv) -> Policy:
    """Every action of an agent with equal probability."""
    counts = np.array(action_counts(env))

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shape = obs.shape[:-1]
        return rng.integers(counts, size=shape), np.broadcast_to(-np.log(counts), shape).astype(np.float32)

    return policy


def given(env: Tabular) -> Policy:
    """The policy that came with the MDP."""
    return from_tables(env.policy)


def from_tables(policy: LocalPolicy) -> Policy:
    """``pi_i(a_i | s_{parents(i)})`` on one-hot observations."""

    def play(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        state = obs.argmax(axis=-1)
        action, logs = np.empty(state.shape, dtype=np.int64), np.empty(state.shape, dtype=np.float32)
        for i, (table, parents) in enumerate(zip(policy.table, policy.parents, strict=True)):
            probability = table[tuple(state[..., j] for j in parents)]
            below = probability.cumsum(axis=-1)[..., :-1]
            action[..., i] = chosen = (rng.random((*state.shape[:-1], 1)) >= below).sum(axis=-1)
            logs[..., i] = np.log(np.take_along_axis(probability, chosen[..., None], axis=-1)[..., 0])
        return action, logs

    return play
