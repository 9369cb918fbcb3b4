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

from dmpo_theory import graph
from dmpo_theory.errors import require_memory

N, HORIZON, DT = 8, 600, 0.1
TARGET_HEADWAY, TARGET_SPEED, MAX_SPEED, MAX_ACCELERATION = 20.0, 15.0, 30.0, 2.5
COLLISION_HEADWAY, COLLISION_REWARD = 1.0, -300.0
STOP_HEADWAY, GO_HEADWAY = 5.0, 35.0
REWARD_SCALE, REWARD_LIMIT, METRIC_SCALE = 100.0, 5.0, 600.0
GAINS = np.array([(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
"""``(alpha, beta)`` of each action."""

EVALUATION_DRAWS = tuple(float(np.random.RandomState(1001 + k).rand()) for k in range(20))
"""The published initial draws on which every level is measured; nothing may be tuned on them."""

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


def optimal_velocity(headway: np.ndarray) -> np.ndarray:
    """``V(h)`` in m/s: 0 up to 5 m, 30 from 35 m on, half a cosine wave between."""
    span = np.clip(headway, STOP_HEADWAY, GO_HEADWAY) - STOP_HEADWAY
    speed: np.ndarray = MAX_SPEED / 2 * (1 - np.cos(np.pi * span / (GO_HEADWAY - STOP_HEADWAY)))
    return speed


def ahead(lead: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Speed of the car ahead of each vehicle ``[B, N]`` from the lead car's ``[B]`` and the vehicles' ``[B, N]``."""
    return np.concatenate([lead[:, None], speed[:, :-1]], axis=1)


def headway_of(obs: np.ndarray) -> np.ndarray:
    """Headways ``[..., N]`` in m from observations ``[..., N, 5]``.

    A follower's closing speed is the difference of two observed speeds. Vehicle 0 has only its own clipped feature,
    so that its headway is off by 0.1 s times whatever the closing speed exceeds 10 m/s by.
    """
    closing = np.concatenate([5 * obs[..., :1, 1], TARGET_SPEED * (obs[..., :-1, 0] - obs[..., 1:, 0])], axis=-1)
    return TARGET_HEADWAY * (1 + obs[..., 3]) - DT * closing


def always(alpha: float, beta: float) -> Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """The policy of constant gains: observations ``[B, N, 5]`` to actions and log-probabilities ``[B, N]``."""
    matches = np.flatnonzero((np.array([alpha, beta]) == GAINS).all(axis=1))
    if not matches.size:
        raise ValueError(f"gains ({alpha}, {beta}) are no action; choose from {GAINS.tolist()}")

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.full(obs.shape[:-1], matches[0]), np.zeros(obs.shape[:-1], dtype=np.float32)

    return policy


def uniform(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every action with equal probability; as :func:`always`."""
    shape = obs.shape[:-1]
    return rng.integers(len(GAINS), size=shape), np.full(shape, -np.log(len(GAINS)), dtype=np.float32)


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
        gamma: discount in that charge.
        draws: initial draws in [0, 1), one per copy and the same at every reset; from the generator by default.
    """

    n_actions = len(GAINS)
    observation_dim = 5
    horizon = HORIZON
    measures: Sequence[str] = ("speed", "headway")

    def __init__(
        self,
        task: str,
        start: Start,
        batch: int,
        *,
        collision: str = "end",
        collision_scale: float = 1.0,
        gamma: float = 0.99,
        draws: Sequence[float] | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch = {batch}; at least one copy is needed")
        if collision not in ("end", "freeze"):
            raise ValueError(f"collision = {collision!r}; give 'end' (the episode ends) or 'freeze' (the original)")
        if not (0 <= collision_scale < np.inf and 0 <= gamma < 1):
            raise ValueError(
                f"collision_scale = {collision_scale}, gamma = {gamma}; give a finite scale of at least 0 and gamma in "
                "[0, 1)"
            )
        require_memory(8 * batch * (HORIZON + 9 * N), f"{task} in {batch} copies", "give fewer copies")
        if draws is not None and len(draws) != batch:
            raise ValueError(f"{len(draws)} draws for batch = {batch}; give one per copy")
        self.task, self.graph, self.batch = task, graph.path(N), batch
        self._start, self._ends = start, collision == "end"
        self._scale, self._gamma = collision_scale, gamma
        self._draws = None if draws is None else np.asarray(draws, dtype=float)
        self._headway, self._speed, self._lead = start(np.zeros(batch))
        self._acceleration = np.zeros((batch, N))
        self._time = np.zeros(batch, dtype=np.int64)
        self._collided = np.zeros(batch, dtype=bool)

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where`` (all by default) with new draws; observations ``[B, N, 5]``."""
        where = np.ones(self.batch, dtype=bool) if where is None else where
        draw = rng.random(int(where.sum())) if self._draws is None else self._draws[where]
        self._headway[where], self._speed[where], self._lead[where] = self._start(draw)
        self._acceleration[where], self._time[where], self._collided[where] = 0.0, 0, False
        return self.observe()

    def observe(self) -> np.ndarray:
        """Current observations ``[B, N, 5]``, float32."""
        h, v = self._headway, self._speed
        closing = ahead(self._lead_at(0), v) - v
        features = [
            (v - TARGET_SPEED) / TARGET_SPEED,
            np.clip(closing / 5, -2, 2),
            np.clip((optimal_velocity(h) - v) / 5, -2, 2),
            (h + DT * closing - TARGET_HEADWAY) / TARGET_HEADWAY,
            self._acceleration / MAX_ACCELERATION,
        ]
        return np.stack(features, axis=-1).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One control interval; see the contract. ``info`` has also mean ``speed`` and ``headway`` ``[B]``."""
        alpha, beta = np.moveaxis(GAINS[action], -1, 0)
        h, v, front = self._headway, self._speed, ahead(self._lead_at(0), self._speed)
        command = alpha * (optimal_velocity(h) - v) + beta * (front - v)
        speed = np.clip(v + DT * np.clip(command, -MAX_ACCELERATION, MAX_ACCELERATION), 0, MAX_SPEED)
        headway = h + DT / 2 * (front + ahead(self._lead_at(1), speed) - v - speed)
        frozen = self._collided[:, None]
        self._headway = np.where(frozen, h, headway)
        self._acceleration = np.where(frozen, self._acceleration, (speed - v) / DT)
        self._speed = np.where(frozen, v, speed)
        step, self._time = self._time, self._time + 1

        collided, charge = self._collision(self._headway, step)
        self._collided = collided = collided | self._collided
        cost = (self._headway - TARGET_HEADWAY) ** 2 + (self._speed - TARGET_SPEED) ** 2 + 0.1 * self._acceleration**2
        raw = np.where(collided[:, None], COLLISION_REWARD, -cost)
        reward, metric = np.clip(raw / REWARD_SCALE, -REWARD_LIMIT, REWARD_LIMIT), raw.sum(axis=1) / METRIC_SCALE
        terminated = collided & self._ends
        reward = np.where(terminated[:, None], charge[:, None], reward)
        metric = np.where(terminated, metric * (self.horizon - step), metric)
        truncated = (self._time >= self.horizon) & ~terminated
        info = {"raw_reward": raw, "metric": metric, "step": step, "collided": collided}
        info |= {"speed": self._speed.mean(axis=1), "headway": self._headway.mean(axis=1)}
        return self.observe(), reward, terminated, truncated, info

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Collision and its charge ``[B]`` in training units, from observations ``[B, N, 5]``; a pure function."""
        collided, charge = self._collision(headway_of(next_obs), step)
        return collided & self._ends, charge

    def _collision(self, headway: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tail = (1 - self._gamma ** (self.horizon - step)) / (1 - self._gamma)
        return np.any(headway < COLLISION_HEADWAY, axis=-1), self._scale * COLLISION_REWARD / REWARD_SCALE * tail

    def _lead_at(self, offset: int) -> np.ndarray:
        return self._lead[np.arange(self.batch), np.minimum(self._time + offset, self.horizon)]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {name: getattr(self, f"_{name}").copy() for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in _STATE:
            setattr(self, f"_{name}", np.array(state[name]))


_STATE = ("headway", "speed", "acceleration", "lead", "time", "collided")
