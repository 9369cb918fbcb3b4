"""Reference play for tasks of which nothing is known."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from dmpo_deep.controllers import tabular
from dmpo_deep.envs import NetworkedEnv, Policy


def uniform(env: NetworkedEnv) -> Policy:
    """Actions drawn uniformly; where a number has no bounds, from the standard normal distribution."""
    if not isinstance(env.action_space, Box):
        return tabular.uniform(env)
    low, high = env.action_space.low.astype(float), env.action_space.high.astype(float)
    bounded = np.isfinite(low) & np.isfinite(high)
    least, width = np.where(bounded, low, 0.0), np.where(bounded, high, 0.0) - np.where(bounded, low, 0.0)

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shape = (*obs.shape[:-1], len(low))
        drawn, normal = rng.random(shape), rng.standard_normal(shape)
        action = np.clip(np.where(bounded, least + width * drawn, normal), low, high)
        logs = np.where(bounded, -np.log(np.where(width > 0, width, 1.0)), -(normal**2) / 2 - np.log(2 * np.pi) / 2)
        return action, logs.sum(axis=-1).astype(np.float32)

    return policy
