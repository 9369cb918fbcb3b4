"""One episode of each copy of an environment, and what is measured on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dmpo_deep.envs import NetworkedEnv, Policy
from dmpo_deep.envs.validate import require_finite_answer


@dataclass(frozen=True, eq=False)
class Episodes:
    """``E`` episodes: one on each copy, or several."""

    metric: np.ndarray
    """The paper's metric of each episode, ``[E]``."""
    collided: np.ndarray
    """Whether there was a collision, ``[E]``."""
    measures: Mapping[str, np.ndarray]
    """Means over the steps of each episode, ``[E]``: ``speed`` (m/s), ``headway`` (m) and what else the task has."""
    env_steps: int
    """Steps of all copies together, warm-up included."""
    outcomes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the task says at the end of each episode, ``[E]``."""
    score: float | None = None
    """The mean result on the scale of reference controllers, where the task has one."""
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
        measured = ", ".join(
            f"{prefix}{k} {x.mean():.2f} (sd {x.std(ddof=1):.2f})"
            for prefix, given in (("mean ", self.measures), ("", self.outcomes))
            for k, x in given.items()
        )
        count = f"{self.collisions} of {len(self.metric)} collided"
        score = "" if self.score is None else f"; normalised score {self.score:.3f}, random {self.random_score:.3f}"
        return f"{self.mean:.2f} (sd {self.sd:.2f}; {'; '.join(filter(None, (count, measured)))}){score}"


def require_end(env: NetworkedEnv) -> None:
    """Refuse episodes that never end."""
    if env.horizon == math.inf:
        raise ValueError(f"the episodes of {env.task} have no end to be measured at; give horizon=1000")


def play(
    env: NetworkedEnv,
    policy: Policy,
    starts: np.random.Generator,
    acts: np.random.Generator,
    skip: int = 0,
    rounds: int = 1,
) -> Episodes:
    """Reset ``env`` and play ``policy`` to the end of one episode of each copy, or of several.

    Args:
        env: the environment.
        policy: observations and a generator to actions and log-probabilities.
        starts: generator for the environment's randomness.
        acts: generator for the policy's; may be the same.
        skip: steps at the start of every episode that the measures leave out; the metric never does.
        rounds: episodes of each copy; results of all first episodes come first, then of all second ones.

    Raises:
        ValueError: ``skip`` is negative or leaves nothing to measure.
        FloatingPointError: an observation or reward is no finite number.
    """
    if not 0 <= skip < env.horizon:
        raise ValueError(f"skip = {skip}; give 0 to {env.horizon - 1}, for some step of an episode must be measured")
    require_end(env)
    obs, copies = env.reset(starts), np.arange(env.batch)
    require_finite_answer(env, observation=obs)
    metric, steps = np.zeros((rounds, env.batch)), np.zeros((rounds, env.batch))
    measures, outcomes = ({name: np.zeros_like(metric) for name in names} for names in (env.measures, env.outcomes))
    episode, collided = np.zeros(env.batch, dtype=int), np.zeros((rounds, env.batch), dtype=bool)
    while (running := episode < rounds).any():
        obs, reward, terminated, truncated, info = env.step(policy(obs, acts)[0])
        require_finite_answer(env, info["step"], observation=obs, reward=reward)
        now = episode[running], copies[running]
        metric[now] += info["metric"][running]
        if (counted := running & (info["step"] >= skip)).any():
            for name, total in measures.items():
                total[episode[counted], copies[counted]] += info[name][counted]
        steps[now] += 1
        collided[now] |= info["collided"][running]
        if (ended := terminated | truncated).any():
            for name, last in outcomes.items():
                last[now] = info[name][running]
            episode += ended
            obs = env.reset(starts, ended) if (episode < rounds).any() else obs
    with np.errstate(invalid="ignore"):  # an episode that ends in a collision before ``skip`` has no measures
        means = {name: total / np.where(steps > skip, steps - skip, np.nan) for name, total in measures.items()}
    return Episodes(
        metric.ravel(),
        collided.ravel(),
        {name: mean.ravel() for name, mean in means.items()},
        int(steps.sum()) + rounds * env.batch * env.warmup_steps,
        {name: last.ravel() for name, last in outcomes.items()},
    )
