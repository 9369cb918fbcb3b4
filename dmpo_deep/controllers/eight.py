"""Reference controllers of the figure eight: SUMO's own drivers, and a timetable for the crossing.

Each takes the environment first and returns a policy, observations and a generator to accelerations ``[B, 14, 1]`` and
log-probabilities ``[B, 14]``, within the environment's limit. They read the cars' physical state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dmpo_deep.envs import Policy
from dmpo_deep.envs.eight_road import AGENT, CARS, IDM, KRAUSS
from dmpo_deep.envs.figure_eight import FigureEight
from dmpo_deep.envs.ring import SAFE, idm, leaders
from dmpo_deep.envs.traffic import DT

TABLE_SPEED, TABLE_ACCELERATION = 18.5, 1.0
"""m/s that slots of the timetable reach, and m/s^2 with which they do."""
PLACE_GAIN, SPEED_GAIN = 0.5, 1.5
"""Of a car's distance from its slot, in 1/s^2, and of the difference in speed, in 1/s."""
FORESIGHT = 300
"""Steps for which plans are played in thought."""
TAIL = 5.0
"""Length of a car in m."""


def _policy(env: FigureEight, rule: Callable[[np.ndarray], np.ndarray], driver: int = AGENT) -> Policy:
    env.hand_over(driver)

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        wanted = rule(env.traffic().speed)
        return np.clip(wanted, -env.limit, env.limit)[..., None], np.zeros(wanted.shape, dtype=np.float32)

    return policy


def uniform(env: FigureEight) -> Policy:
    """Accelerations drawn uniformly within the limit."""
    env.hand_over(AGENT)
    density = np.float32(-np.log(2 * env.limit))

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        action = rng.uniform(-env.limit, env.limit, (*obs.shape[:-1], 1))
        return action, np.full(action.shape[:-1], density)

    return policy


def constant_speed(env: FigureEight, speed: float) -> Policy:
    """``a = speed - v``: everybody at one speed, whoever is in the way."""
    return _policy(env, lambda v: speed - v)


def humans(env: FigureEight) -> Policy:
    """SUMO's drivers by the intelligent driver model, which keep all rules of priority, from the next reset on."""
    return _policy(env, np.zeros_like, IDM)


def krauss(env: FigureEight) -> Policy:
    """SUMO's default drivers (Krauss 1998, imperfection 0.5), with all rules, from the next reset on."""
    return _policy(env, np.zeros_like, KRAUSS)


def timetable(env: FigureEight) -> Policy:
    """Each car keeps to a slot of a pattern that moves along the lap and is free of conflict in the crossing.

    Cars cross half a lap apart, so what counts is where they are modulo half a lap. The pattern alternates there
    between both streams, a fifteenth of half a lap apart; 14 being even, one pair of followers comes together and gets
    two fifteenths. On the road that makes gaps of two fifteenths but for one of four. All slots accelerate together.
    Which car gets which slot is tried out in thought at the start, by the rules of motion of the cars.
    """
    env.hand_over(AGENT)
    first = np.zeros((env.batch, CARS))

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        cars = env.traffic()
        for copy in np.flatnonzero(env.time == 0):
            first[copy] = _assigned(env, cars.position[copy])
        wanted = _towards(env, first, env.time[:, None] * DT, cars.position, cars.speed)
        return wanted[..., None], np.zeros(wanted.shape, dtype=np.float32)

    return policy


def _towards(env: FigureEight, first: np.ndarray, time: Any, position: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Accelerations ``[..., 14]`` towards slots that started at ``first [..., 14]``."""
    rising = np.minimum(time, TABLE_SPEED / TABLE_ACCELERATION)
    slot_speed = TABLE_ACCELERATION * rising
    slot = first + slot_speed * (time - rising / 2)
    ahead = (slot - position + env.lap / 2) % env.lap - env.lap / 2
    result: np.ndarray = np.clip(PLACE_GAIN * ahead + SPEED_GAIN * (slot_speed - speed), -env.limit, env.limit)
    return result


def _assigned(env: FigureEight, position: np.ndarray) -> np.ndarray:
    """Where the slots of cars at rest at ``position [14]`` start, ``[14]``: of 14 assignments one without conflict."""
    gaps = np.full(CARS, 2.0)
    gaps[CARS // 2 - 1] = 4.0
    pattern = np.concatenate(([0.0], gaps[:-1].cumsum())) * env.lap / gaps.sum()
    slots = np.stack([np.roll(pattern, turn) for turn in range(CARS)])
    off = np.exp(2j * np.pi * (position - slots) / env.lap).mean(axis=1)
    slots = slots + np.angle(off)[:, None] * env.lap / (2 * np.pi)
    x, v = np.tile(position, (CARS, 1)), np.zeros((CARS, CARS))
    free = np.full(CARS, FORESIGHT)
    for step in range(FORESIGHT):
        a = _towards(env, slots, step * DT, x, v)
        gap = (leaders(x) - x) % env.lap - TAIL
        v = np.maximum(np.minimum(v + DT * a, v + DT * idm(SAFE, v, gap, leaders(v))), 0)
        x = (x + DT * v) % env.lap
        free = np.where(env.collides(x) & (free == FORESIGHT), step, free)
    best: np.ndarray = slots[free.argmax()]
    return best
