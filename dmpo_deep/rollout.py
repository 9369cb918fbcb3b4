"""Algorithm 1, lines 4 and 9-11: one rollout function, for the real environment and for the learned one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dmpo_deep.envs import Policy, RolloutEnv
from dmpo_deep.envs.validate import require_finite_answer


@dataclass(frozen=True, eq=False)
class Trajectory:
    """``T`` consecutive steps of ``B`` copies. ``next_obs`` is what a step led to, before any reset."""

    obs: np.ndarray
    """``[T, B, n, d]`` float32."""
    action: np.ndarray
    """``[T, B, n, ...]``."""
    log_prob: np.ndarray
    """``[T, B, n]`` of the actions, under the policy that chose them."""
    reward: np.ndarray
    """``[T, B, n]`` in training units, float32."""
    next_obs: np.ndarray
    """``[T, B, n, d]`` float32."""
    terminated: np.ndarray
    """``[T, B]``: the task ended at this step."""
    truncated: np.ndarray
    """``[T, B]``: the time limit cut the episode at this step."""
    step: np.ndarray
    """``[T, B]``: 0-based index of the step in its episode."""
    metric: np.ndarray
    """``[T, B]``: the step's share of the paper's metric."""

    @property
    def ended(self) -> np.ndarray:
        """``[T, B]``: the episode ended here, one way or the other."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended


Forget = Callable[[np.ndarray], None]
"""Called with the copies ``[B]`` that were reset, for policies that remember."""


NO_LIMIT = np.iinfo(np.int64).max
"""Of steps: the episode is not cut."""


def rollout(
    env: RolloutEnv,
    policy: Policy,
    steps: int,
    rng: np.random.Generator,
    forget: Forget | None = None,
    limit: np.ndarray | None = None,
) -> Trajectory:
    """Continue ``env`` for ``steps`` steps of each copy; copies that end are reset at once, and forgotten.

    Args:
        env: what to act in.
        policy: who acts.
        steps: of each copy.
        rng: source of actions and resets.
        forget: told of resets.
        limit: ``[B]``, the steps after which the running episodes are cut, if they have not ended before; set to
            :data:`NO_LIMIT` where that came to pass.

    Raises:
        FloatingPointError: an observation or reward is no finite number; the message names the step.
    """
    obs, rows = env.observe(), []
    require_finite_answer(env, observation=obs)
    for _ in range(steps):
        action, log_prob = policy(obs, rng)
        next_obs, reward, terminated, truncated, info = env.step(action)
        require_finite_answer(env, info["step"], observation=next_obs, reward=reward)
        reward = reward.astype(np.float32)
        if limit is not None:
            truncated = truncated | (~terminated & (info["step"] + 1 >= limit))
            limit[terminated | truncated] = NO_LIMIT
        rows.append((obs, action, log_prob, reward, next_obs, terminated, truncated, info["step"], info["metric"]))
        ended = terminated | truncated
        if ended.any():
            obs = env.reset(rng, ended)
            require_finite_answer(env, observation=obs)
            if forget is not None:
                forget(ended)
        else:
            obs = next_obs
    return Trajectory(*(np.stack(column) for column in zip(*rows, strict=True)))


class RealEnv(RolloutEnv, Protocol):
    """What a collector needs: the part of :class:`~dmpo_deep.envs.NetworkedEnv` that runs and is saved."""

    batch: int
    horizon: int
    warmup_steps: int

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Collector:
    """The running real environment: continues where the last rollout stopped and keeps the books.

    ``env_steps`` counts every step of every copy, those that resets warm up with included; ``finished`` holds the
    metric of the whole episodes that the last rollout ended.

    If ``stagger``, copies are out of step: the first episode of copy ``k`` of ``B`` is cut, as by the time limit,
    ``k/B`` of the horizon early. Otherwise all are in the same part of an episode, and what a new policy does in
    another part is seen only many rollouts later.

    Raises:
        ValueError: there is no horizon to be cut.
    """

    def __init__(self, env: RealEnv, rng: np.random.Generator, stagger: bool) -> None:
        self.env, self.rng = env, rng
        self.env_steps = env.warmup_steps * env.batch
        self.finished: list[float] = []
        self._running = np.zeros(env.batch)
        self._limit = np.full(env.batch, NO_LIMIT)
        if stagger:
            if env.horizon == math.inf:
                raise ValueError("stagger = True needs episodes that are cut; give a finite horizon, or stagger=false")
            early = np.arange(env.batch) * env.horizon // env.batch
            self._limit[early > 0] = (env.horizon - early)[early > 0]
        env.reset(rng)

    def collect(self, policy: Policy, steps: int, forget: Forget | None = None) -> Trajectory:
        """``steps`` more steps of each copy, as :func:`rollout`."""
        partial = self._limit < NO_LIMIT
        trajectory = rollout(self.env, policy, steps, self.rng, forget, self._limit)
        self.env_steps += steps * self.env.batch + int(trajectory.ended.sum()) * self.env.warmup_steps
        self.finished = []
        for metric, ended in zip(trajectory.metric, trajectory.ended, strict=True):
            self._running += metric
            self.finished += self._running[ended & ~partial].tolist()
            self._running[ended] = 0.0
            partial &= ~ended
        return trajectory

    @property
    def train_return(self) -> float | None:
        """Mean metric of the episodes that the last rollout ended; None if it ended none."""
        return float(np.mean(self.finished)) if self.finished else None

    def state_dict(self) -> dict[str, Any]:
        """Environment, generator and books."""
        return {
            "env": self.env.state_dict(),
            "rng": self.rng.bit_generator.state,
            "env_steps": self.env_steps,
            "running": self._running.copy(),
            "limit": self._limit.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.env.load_state_dict(state["env"])
        self.rng.bit_generator.state = state["rng"]
        self.env_steps, self._running = state["env_steps"], np.array(state["running"])
        self._limit = np.array(state.get("limit", self._limit))  # earlier checkpoints have none
