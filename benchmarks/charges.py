"""What driving costs a platoon's agent, and what a collision is charged: which of them a learner should prefer.

python benchmarks/charges.py

Discounted costs from the start of an episode, in training units, means over agents and 64 training draws, at the
discount of the presets. If a collision at once costs less than the best controller, learning well means crashing.
"""

from __future__ import annotations

import sys

import numpy as np

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import make_env

TASKS, DRIVERS, GAMMA = ("catchup", "slowdown"), ("linear", "mixture", "always", "random"), 0.99


def driving(task: str, controller: str, gamma: float = GAMMA, copies: int = 64) -> float:
    """Discounted cost of an agent's episode; a platoon that collides pays the whole frozen tail."""
    env, rng = make_env(task, copies, collision="freeze", gamma=gamma), np.random.default_rng(0)
    policy, obs, cost = CONTROLLERS[task][controller].make(env), env.reset(rng), 0.0
    for step in range(env.horizon):
        obs, reward, *_ = env.step(policy(obs, rng)[0])
        cost -= gamma**step * float(reward.mean())
    return cost


def collision(task: str, scale: float, gamma: float = GAMMA) -> float:
    """Charge of a collision in the first step."""
    env = make_env(task, 1, collision_scale=scale, gamma=gamma)
    obs = env.reset(np.random.default_rng(0))
    return -float(env.termination(obs, np.zeros(1, dtype=int))[1][0])


def main() -> None:
    """One line a task."""
    for task in TASKS:
        paid = ", ".join(f"{CONTROLLERS[task][name].label} {driving(task, name):.1f}" for name in DRIVERS)
        charged = ", ".join(f"scale {scale:g}: {collision(task, scale):.1f}" for scale in (0.2, 0.5, 1.0))
        sys.stdout.write(f"{task}: driving costs {paid}; a collision at once {charged}\n")


if __name__ == "__main__":
    main()
