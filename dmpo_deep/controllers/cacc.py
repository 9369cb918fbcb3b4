"""Reference controllers of the platoons: constant gains, a state-free mixture, and a linear rule on own observations.

Each takes the environment first and returns a policy, observations ``[B, N, 5]`` and a generator to actions and
log-probabilities ``[B, N]``.
"""

from __future__ import annotations

import numpy as np

from dmpo_deep.envs import NetworkedEnv, Policy
from dmpo_deep.envs.cacc import GAINS

SHARPNESS = 5.0


def always(env: NetworkedEnv, alpha: float, beta: float) -> Policy:
    """Constant gains of the optimal-velocity rule."""
    matches = np.flatnonzero((np.array([alpha, beta]) == GAINS).all(axis=1))
    if not matches.size:
        raise ValueError(f"gains ({alpha}, {beta}) are no action; choose from {GAINS.tolist()}")

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.full(obs.shape[:-1], matches[0]), np.zeros(obs.shape[:-1], dtype=np.float32)

    return policy


def uniform(env: NetworkedEnv) -> Policy:
    """Every action with equal probability."""

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shape = obs.shape[:-1]
        return rng.integers(len(GAINS), size=shape), np.full(shape, -np.log(len(GAINS)), dtype=np.float32)

    return policy


def mixture(env: NetworkedEnv, weights: np.ndarray) -> Policy:
    """Actions drawn with probabilities ``softmax(5 weights)``, whatever the state; weights ``[4]`` or ``[B, 1, 4]``.

    The factor lets a search that starts from weights of size 1 rule actions out.
    """
    logits = SHARPNESS * (np.asarray(weights) - np.max(weights, axis=-1, keepdims=True))
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    below = np.exp(log_probability).cumsum(axis=-1)[..., :-1]

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        action = (rng.random((*obs.shape[:-1], 1)) > below).sum(axis=-1)
        every = np.broadcast_to(log_probability, (*obs.shape[:-1], len(GAINS)))
        return action, np.take_along_axis(every, action[..., None], axis=-1)[..., 0].astype(np.float32)

    return policy


def linear(env: NetworkedEnv, weights: np.ndarray) -> Policy:
    """The action of largest ``weights [4, 6] @ (1, own observation)``; or ``[B, 4, 6]``, one rule a copy."""
    slopes, offsets = np.asarray(weights)[..., 1:], np.asarray(weights)[..., :1]

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        scores = obs @ np.swapaxes(slopes, -1, -2) + np.swapaxes(offsets, -1, -2)
        return scores.argmax(axis=-1), np.zeros(obs.shape[:-1], dtype=np.float32)

    return policy
