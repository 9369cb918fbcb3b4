"""One episode of each copy of an environment, and what is measured on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dmpo_deep.envs import NetworkedEnv, Policy


@dataclass(frozen=True, eq=False)
class Episodes:
    """One episode on each of ``B`` copies."""

    metric: np.ndarray
    """The paper's metric of each episode, ``[B]``."""
    collided: np.ndarray
    """Whether there was a collision, ``[B]``."""
    measures: Mapping[str, np.ndarray]
    """Means over the steps of each episode, ``[B]``: ``speed`` (m/s), ``headway`` (m) and what else the task has."""
    env_steps: int
    """Steps of all copies together, warm-up included."""
    score: float | None = None
    """The mean metric on the scale of reference controllers, where the task has one."""
    random_score: float | None = None
    """What uniformly random play has on that scale."""

    @property
    def mean(self) -> float:
        """Mean metric."""
        return float(self.metric.mean())

    @property
    def sd(self) -> float:
        """Standard deviation of the metric over copies."""
        return float(self.metric.std(ddof=1))

    @property
    def collisions(self) -> int:
        """Number of episodes with a collision."""
        return int(self.collided.sum())

    def __str__(self) -> str:
        measured = ", ".join(f"mean {k} {x.mean():.2f} (sd {x.std(ddof=1):.2f})" for k, x in self.measures.items())
        count = f"{self.collisions} of {len(self.metric)} collided"
        score = "" if self.score is None else f"; normalised score {self.score:.3f}, random {self.random_score:.3f}"
        return f"{self.mean:.2f} (sd {self.sd:.2f}; {'; '.join(filter(None, (count, measured)))}){score}"


def require_end(env: NetworkedEnv) -> None:
    """Refuse episodes that never end."""
    if env.horizon == math.inf:
        raise ValueError(f"the episodes of {env.task} have no end to be measured at; give horizon=1000")


def play(
    env: NetworkedEnv, policy: Policy, starts: np.random.Generator, acts: np.random.Generator, skip: int = 0
) -> Episodes:
    """Reset ``env`` and play ``policy`` to the end of one episode of each copy.

    Args:
        env: the environment.
        policy: observations and a generator to actions and log-probabilities.
        starts: generator for the environment's randomness.
        acts: generator for the policy's; may be the same.
        skip: steps at the start of every episode that the measures leave out; the metric never does.

    Raises:
        ValueError: ``skip`` is negative or leaves nothing to measure.
    """
    if not 0 <= skip < env.horizon:
        raise ValueError(f"skip = {skip}; give 0 to {env.horizon - 1}, for some step of an episode must be measured")
    require_end(env)
    obs = env.reset(starts)
    metric, steps = np.zeros(env.batch), np.zeros(env.batch)
    measures = {name: np.zeros(env.batch) for name in env.measures}
    running, collided = np.ones(env.batch, dtype=bool), np.zeros(env.batch, dtype=bool)
    while running.any():
        obs, _, terminated, truncated, info = env.step(policy(obs, acts)[0])
        metric[running] += info["metric"][running]
        if (counted := running & (info["step"] >= skip)).any():
            for name, total in measures.items():
                total[counted] += info[name][counted]
        steps += running
        collided |= running & info["collided"]
        if (ended := terminated | truncated).any():
            running &= ~ended
            obs = env.reset(starts, ended) if running.any() else obs
    with np.errstate(invalid="ignore"):  # an episode that ends in a collision before ``skip`` has no measures
        means = {name: total / np.where(steps > skip, steps - skip, np.nan) for name, total in measures.items()}
    return Episodes(metric, collided, means, int(steps.sum()) + env.batch * env.warmup_steps)
