"""Reference controllers of the ring: what is known of damping stop-and-go waves, from public literature.

Each takes the environment first and returns a policy, observations and a generator to accelerations ``[B, n, 1]`` and
log-probabilities ``[B, n]``, within the environment's limit. They read the cars' physical state, not the observations;
the registry says what each must know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from dmpo_deep.envs import Policy
from dmpo_deep.envs.ring import CARS, HUMAN, LOCAL_HEADWAY, LOCAL_SPEED, SAFE, Ring, equilibrium_speed, idm
from dmpo_deep.envs.traffic import DT

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
"""Speed, headway and leader's speed of the learning cars, ``[B, n]`` each, to accelerations ``[B, n]``."""


def _policy(env: Ring, rule: Rule) -> Policy:
    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        cars, mine = env.traffic(), env.learning
        wanted = rule(cars.speed[:, mine], cars.headway[:, mine], cars.leader_speed[:, mine])
        return np.clip(wanted, -env.limit, env.limit)[..., None], np.zeros(wanted.shape, dtype=np.float32)

    return policy


def uniform(env: Ring) -> Policy:
    """Accelerations drawn uniformly from [-1, 1]."""

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        action = rng.uniform(-1, 1, (*obs.shape[:-1], 1))
        return np.clip(action, -env.limit, env.limit), np.full(action.shape[:-1], -np.log(2), dtype=np.float32)

    return policy


def zero(env: Ring) -> Policy:
    """Never accelerate."""
    return _policy(env, lambda speed, headway, leader_speed: np.zeros_like(speed))


def equilibrium(env: Ring) -> np.ndarray:
    """The speed ``[B, 1]`` at which the whole ring could drive evenly spaced."""
    return equilibrium_speed(env.length, HUMAN if len(env.learning) < CARS else SAFE)[:, None]


def proportional(env: Ring, gain: float) -> Policy:
    """``a = gain (v_eq - v)``, with the equilibrium speed of the ring, which depends on its length."""
    return _policy(env, lambda speed, headway, leader_speed: gain * (equilibrium(env) - speed))


def linear(env: Ring, weights: np.ndarray) -> Policy:
    """``a = weights . (1, v/10, gap/20, v_lead/10)``, ``weights [4]`` or ``[B, 1, 4]``, one rule a copy."""
    bias, own, gap, lead = np.moveaxis(np.asarray(weights), -1, 0)
    return _policy(
        env,
        lambda speed, headway, leader_speed: (
            bias + own * speed / LOCAL_SPEED + gap * headway / LOCAL_HEADWAY + lead * leader_speed / LOCAL_SPEED
        ),
    )


def human(env: Ring) -> Policy:
    """Drive by the intelligent driver model as human cars do, without noise (Treiber, Hennecke, Helbing 2000)."""
    return _policy(env, lambda speed, headway, leader_speed: idm(HUMAN, speed, headway, leader_speed))


def follower_stopper(env: Ring, share: float) -> Policy:
    """Drive at ``U = share v_eq`` where the gap allows, and stop smoothly where it does not (Stern et al. 2018).

    With ``dv = min(v_lead - v, 0)`` three gaps ``dx_k = dx_k0 + dv^2 / (2 d_k)`` separate: stop; a share of
    ``u = min(v_lead, U)``; from u to U; U. The acceleration reaches that speed in one step.
    """
    start, decay = np.array([4.5, 5.25, 6.0]), np.array([1.5, 1.0, 0.5])

    def rule(speed: np.ndarray, headway: np.ndarray, leader_speed: np.ndarray) -> Any:
        cruise = np.broadcast_to(share * equilibrium(env), speed.shape)
        closing = np.minimum(leader_speed - speed, 0)
        stop, slow, free = (x + closing**2 / (2 * d) for x, d in zip(start, decay, strict=True))
        adapted = np.minimum(leader_speed, cruise)
        command = adapted * np.clip((headway - stop) / (slow - stop), 0, 1)
        command += (cruise - adapted) * np.clip((headway - slow) / (free - slow), 0, 1)
        return (command - speed) / DT

    return _policy(env, rule)


def pi_saturation(env: Ring) -> Policy:
    """Drive at the own mean speed of the last 38 s, faster by up to 1 m/s behind a large gap (Stern et al. 2018).

    With ``target = mean + clip((gap - 7)/23, 0, 1)``, ``alpha = clip((gap - max(2 dv, 4))/2, 0, 1)``, ``dv = v_lead -
    v`` and ``beta = 1 - alpha/2`` the command is ``beta (alpha target + (1 - alpha) v_lead) + (1 - beta) command``.
    It remembers, so that it must be made anew for every episode.
    """
    past: deque[np.ndarray] = deque(maxlen=round(38 / DT))
    last: list[np.ndarray] = []
    total: list[np.ndarray] = [np.zeros(1)]

    def rule(speed: np.ndarray, headway: np.ndarray, leader_speed: np.ndarray) -> Any:
        total[0] = total[0] + speed - (past[0] if len(past) == past.maxlen else 0)
        past.append(speed)
        target = total[0] / len(past) + np.clip((headway - 7) / 23, 0, 1)
        alpha = np.clip((headway - np.maximum(2 * (leader_speed - speed), 4)) / 2, 0, 1)
        beta = 1 - alpha / 2
        before = last.pop() if last else speed
        last.append(beta * (alpha * target + (1 - alpha) * leader_speed) + (1 - beta) * before)
        return (last[0] - speed) / DT

    return _policy(env, rule)
