"""Section VI-B, CACC: a platoon of eight vehicles behind a lead car, each choosing its car-following gains.

Vehicle ``i`` follows vehicle ``i - 1``; vehicle 0 follows the lead car, whose speed is given in advance. SI units. In
each step of 0.1 s a vehicle's action selects gains ``(alpha, beta)`` of the optimal-velocity rule
``u = alpha (V(h) - v) + beta (v_lead - v)``, where ``h`` is the gap to the car ahead and ``V(h)`` rises from 0 at 5 m
to 30 m/s at 35 m. The aim is a gap of 20 m at 15 m/s; a gap below 1 m is a collision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.envs.traffic import DT, Traffic
from dmpo_deep.envs.validate import require_copies, require_discrete, require_running
from dmpo_theory import graph

N, HORIZON = 8, 600
TARGET_HEADWAY, TARGET_SPEED, MAX_SPEED, MAX_ACCELERATION = 20.0, 15.0, 30.0, 2.5
COLLISION_HEADWAY, COLLISION_REWARD = 1.0, -300.0
STOP_HEADWAY, GO_HEADWAY = 5.0, 35.0
REWARD_SCALE, REWARD_LIMIT, METRIC_SCALE = 100.0, 5.0, 600.0
GAINS = np.array([(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
"""``(alpha, beta)`` of each action."""
FEATURE_LIMIT = 1.5
"""Bound on the acceleration feature: a start above the speed limit would make it -75 m/s^2 over 2.5."""
BRAKING_STEPS = 300
"""Steps over which the lead car of slow-down brakes."""

Start = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def catchup_start(draw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vehicle 0 starts 30-50 m behind a lead car of constant speed; everybody else is where it should be.

    Args:
        draw: ``[B]`` in [0, 1).

    Returns:
        headways ``[B, N]``, speeds ``[B, N]`` and the lead car's speed at steps 0 .. HORIZON ``[B, HORIZON + 1]``.
    """
    headway = np.full((len(draw), N), TARGET_HEADWAY)
    headway[:, 0] = TARGET_HEADWAY * (1.5 + draw)
    return headway, np.full((len(draw), N), TARGET_SPEED), np.full((len(draw), HORIZON + 1), TARGET_SPEED)


def slowdown_start(draw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everybody drives at 22.5-37.5 m/s, 20 m apart, behind a lead car that brakes evenly to 15 m/s in 30 s.

    Half of the draws start above the speed limit, and are at it after the first step. As :func:`catchup_start`.
    """
    fast = TARGET_SPEED * (1.5 + draw)
    lead = np.full((len(draw), HORIZON + 1), TARGET_SPEED)
    lead[:, :BRAKING_STEPS] = np.linspace(fast, TARGET_SPEED, BRAKING_STEPS, axis=-1)
    return np.full((len(draw), N), TARGET_HEADWAY), np.repeat(fast[:, None], N, axis=1), lead


def optimal_velocity(headway: np.ndarray) -> np.ndarray:
    """``V(h)`` in m/s: 0 up to 5 m, 30 from 35 m on, half a cosine wave between."""
    span = np.minimum(np.maximum(headway, STOP_HEADWAY), GO_HEADWAY) - STOP_HEADWAY
    speed: np.ndarray = MAX_SPEED / 2 * (1 - np.cos(np.pi * span / (GO_HEADWAY - STOP_HEADWAY)))
    return speed


def headway_of(obs: np.ndarray) -> np.ndarray:
    """Headways ``[..., N]`` in m from observations ``[..., N, 5]``.

    A follower's closing speed is the difference of two observed speeds. Vehicle 0 has only its own clipped feature,
    so that its headway is off by 0.1 s times whatever the closing speed exceeds 10 m/s by.
    """
    closing = np.concatenate([5 * obs[..., :1, 1], TARGET_SPEED * (obs[..., :-1, 0] - obs[..., 1:, 0])], axis=-1)
    return TARGET_HEADWAY * (1 + obs[..., 3]) - DT * closing


class Platoon:
    """``batch`` platoons at once; see :class:`dmpo_deep.envs.NetworkedEnv` for the contract.

    The observation of a vehicle is ``(v - 15)/15``, the clipped speed differences to the car ahead and to ``V(h)``
    over 5, ``(h + 0.1 (v_lead - v) - 20)/20`` and the last acceleration over 2.5. The local reward is
    ``-(h - 20)^2 - (v - 15)^2 - 0.1 u^2`` after the step, over 100 and clipped to [-5, 5] in training units. The
    metric is the sum of raw rewards over 600.

    Args:
        task: the task's id.
        start: the scenario, initial draws ``[B]`` to headways, speeds and lead speeds, as :func:`catchup_start`.
        batch: number of copies.
        collision: ``"end"`` terminates the episode and charges each agent ``collision_scale`` times the frozen tail,
            ``-3 (1 - gamma^(H - t)) / (1 - gamma)`` at step ``t``, instead of that step's reward. ``"freeze"`` is
            the original: the platoon stands frozen and every agent gets -300 (raw) a step to the horizon. The metric
            charges the frozen tail either way.
        collision_scale: fraction of the frozen tail that is charged in training.
        clip_acceleration: whether the acceleration feature is kept within 1.5; the original's is not, and is -30
            after the first step of slow-down at most.
        gamma: discount in that charge.
        draws: initial draws in [0, 1), one per copy and the same at every reset; from the generator by default.
    """

    action_space: Discrete | MultiDiscrete | Box = Discrete(len(GAINS))
    period: np.ndarray | None = None
    n_states: tuple[int, ...] | None = None
    horizon = HORIZON
    warmup_steps = 0
    measures: Sequence[str] = ("speed", "headway")
    outcomes: Sequence[str] = ()

    def __init__(
        self,
        task: str,
        start: Start,
        batch: int,
        *,
        collision: str = "end",
        collision_scale: float = 1.0,
        clip_acceleration: bool = True,
        gamma: float = 0.99,
        draws: Sequence[float] | None = None,
    ) -> None:
        if collision not in ("end", "freeze"):
            raise ValueError(f"collision = {collision!r}; give 'end' (the episode ends) or 'freeze' (the original)")
        if not (0 <= collision_scale < np.inf and 0 <= gamma < 1):
            raise ValueError(
                f"collision_scale = {collision_scale}, gamma = {gamma}; give a finite scale of at least 0 and gamma in "
                "[0, 1)"
            )
        self._draws = require_copies(task, batch, draws, 8 * (HORIZON + 9 * N))
        self.task, self.graph, self.batch = task, graph.path(N), batch
        self._least = -FEATURE_LIMIT if clip_acceleration else -np.inf
        self.observation_space: Box = Box(
            np.array([-1, -2, -2, -1.5, self._least], dtype=np.float32),
            np.array([1.5, 2, 2, np.inf, FEATURE_LIMIT], dtype=np.float32),
        )
        self._start, self._ends = start, collision == "end"
        self._scale, self._gamma = collision_scale, gamma
        self._rows = np.arange(batch)
        self._headway, self._speed, self._lead = start(np.zeros(batch))
        self._acceleration = np.zeros((batch, N))
        self._time = np.full(batch, HORIZON)  # nothing runs before the first reset
        self._collided = np.zeros(batch, dtype=bool)
        self._look(self._ahead(self._speed))

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where`` (all by default) with new draws; observations ``[B, N, 5]``."""
        where = np.ones(self.batch, dtype=bool) if where is None else where
        draw = rng.random(int(where.sum())) if self._draws is None else self._draws[where]
        self._headway[where], self._speed[where], self._lead[where] = self._start(draw)
        self._acceleration[where], self._time[where], self._collided[where] = 0.0, 0, False
        self._look(self._ahead(self._speed))
        return self.observe()

    def _ahead(self, speed: np.ndarray) -> np.ndarray:
        """Speeds of the cars ahead now ``[B, N]``, from the vehicles' speeds ``[B, N]``."""
        front = np.empty_like(speed)
        front[:, 0], front[:, 1:] = self._lead[self._rows, self._time], speed[:, :-1]
        return front

    def _look(self, front: np.ndarray) -> None:
        """Keep what drivers see now: speeds of the cars ahead ``[B, N]``, and differences to them and to V(h)."""
        self._front, self._closing = front, front - self._speed
        self._missing = optimal_velocity(self._headway) - self._speed

    def observe(self) -> np.ndarray:
        """Current observations ``[B, N, 5]``, float32."""
        obs = np.empty((self.batch, N, 5), dtype=np.float32)
        obs[..., 0] = (self._speed - TARGET_SPEED) / TARGET_SPEED
        obs[..., 1] = np.minimum(np.maximum(self._closing / 5, -2), 2)
        obs[..., 2] = np.minimum(np.maximum(self._missing / 5, -2), 2)
        obs[..., 3] = (self._headway + DT * self._closing - TARGET_HEADWAY) / TARGET_HEADWAY
        obs[..., 4] = np.maximum(self._acceleration / MAX_ACCELERATION, self._least)
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One control interval; see the contract. ``info`` has also mean ``speed`` and ``headway`` ``[B]``."""
        require_running((self._time >= HORIZON) | (self._collided & self._ends))
        require_discrete(action, (self.batch, N), len(GAINS))
        h, v, front = self._headway, self._speed, self._front
        command = GAINS[:, 0][action] * self._missing + GAINS[:, 1][action] * self._closing
        command = np.minimum(np.maximum(command, -MAX_ACCELERATION), MAX_ACCELERATION)
        speed = np.minimum(np.maximum(v + DT * command, 0), MAX_SPEED)
        step, self._time = self._time, self._time + 1
        ahead, acceleration = self._ahead(speed), (speed - v) / DT
        headway = h + DT / 2 * (front + ahead - v - speed)
        if self._collided.any():
            frozen = self._collided[:, None]
            headway, speed = np.where(frozen, h, headway), np.where(frozen, v, speed)
            acceleration, ahead = np.where(frozen, self._acceleration, acceleration), self._ahead(speed)
        self._headway, self._speed, self._acceleration = headway, speed, acceleration
        self._look(ahead)

        raw = -((headway - TARGET_HEADWAY) ** 2 + (speed - TARGET_SPEED) ** 2 + 0.1 * acceleration**2)
        self._collided = collided = self._collided | (headway < COLLISION_HEADWAY).any(axis=1)
        if any_collided := collided.any():
            raw[collided] = COLLISION_REWARD
        reward, metric = np.maximum(raw / REWARD_SCALE, -REWARD_LIMIT), np.add.reduce(raw, axis=1) / METRIC_SCALE
        terminated = collided & self._ends
        if any_collided and self._ends:
            reward[terminated] = self._charge(step[terminated])[:, None]
            metric[terminated] *= HORIZON - step[terminated]
        truncated = (self._time >= HORIZON) & ~terminated
        info = {"raw_reward": raw, "metric": metric, "step": step, "collided": collided.copy()}
        info |= {"speed": np.add.reduce(speed, axis=1) / N, "headway": np.add.reduce(headway, axis=1) / N}
        return self.observe(), reward, terminated, truncated, info

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Collision and its charge ``[B]`` in training units, from observations ``[B, N, 5]``; a pure function."""
        collided = np.any(headway_of(next_obs) < COLLISION_HEADWAY, axis=-1)
        return collided & self._ends, self._charge(step)

    def _charge(self, step: np.ndarray) -> np.ndarray:
        tail = (1 - self._gamma ** (HORIZON - step)) / (1 - self._gamma)
        return self._scale * COLLISION_REWARD / REWARD_SCALE * tail

    def traffic(self) -> Traffic:
        """The platoons' state; positions are those of bumpers, behind the lead car's."""
        return Traffic(-np.cumsum(self._headway, axis=1), self._speed.copy(), self._headway.copy(), self._front.copy())

    def road(self) -> None:
        """None: a straight lane, on which only distances count."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {name: getattr(self, f"_{name}").copy() for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in _STATE:
            setattr(self, f"_{name}", np.array(state[name]))
        self._look(self._ahead(self._speed))

    def close(self) -> None:
        """Nothing runs outside of this object."""


_STATE = ("headway", "speed", "acceleration", "lead", "time", "collided")
