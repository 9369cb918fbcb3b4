"""What a learner should prefer: driving or crashing on the platoon, driving or standing still on the ring.

python benchmarks/incentives.py [RUN ...]

Discounted returns of an agent from the start of an episode, means over agents and training draws. On the platoon: what
driving costs at the discount of the presets, in training units, and what a collision at once is charged; if that is
less than the best controller's cost, learning well means crashing. On the ring: what controllers are worth at several
discounts. Standing still is worth 0. Going faster by u, once and for all, costs 40 u and brings at most 0.2 u / (1 -
gamma), so that up to gamma = 0.995 nothing is worth more.

With run directories of a platoon: what their policies pay, beside the best controller, in all and in each ten seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import Policy, make_env
from dmpo_deep.evaluate import load_agents

PLATOONS, DRIVERS, GAMMA = ("catchup", "slowdown"), ("linear", "mixture", "always", "random"), 0.99
RING, GAMMAS = ("proportional-0.1", "proportional-0.3", "linear", "random"), (0.99, 0.995, 0.998, 0.999)


def rewards(task: str, make: Callable[[Any], Policy], copies: int, **options: Any) -> np.ndarray:
    """Mean reward of an agent in each step of an episode, ``[horizon]``, in training units."""
    env, rng = make_env(task, copies, **options), np.random.default_rng(0)
    policy, obs, rows = make(env), env.reset(rng), []
    for _ in range(env.horizon):
        obs, reward, *_ = env.step(policy(obs, rng)[0])
        rows.append(float(reward.mean()))
    return np.array(rows)


def discounted(reward: np.ndarray, gamma: float) -> float:
    """Sum of ``gamma**t reward[t]``."""
    return float(reward @ gamma ** np.arange(len(reward)))


def driving(task: str, make: Callable[[Any], Policy], gamma: float = GAMMA) -> tuple[float, np.ndarray]:
    """Cost of an agent's episode, discounted, and of each 100 steps; a platoon that collides pays the frozen tail."""
    cost = -rewards(task, make, 64, collision="freeze", gamma=gamma)
    return discounted(cost, gamma), cost.reshape(-1, 100).sum(axis=1)


def collision(task: str, scale: float, gamma: float = GAMMA) -> float:
    """Charge of a collision in the first step."""
    env = make_env(task, 1, collision_scale=scale, gamma=gamma)
    obs = env.reset(np.random.default_rng(0))
    return -float(env.termination(obs, np.zeros(1, dtype=int))[1][0])


def compare(run: Path) -> None:
    """A line for the best controller, and one for each policy of a run."""
    agents, config = load_agents(run)
    if (task := config.task) not in PLATOONS:
        raise SystemExit(f"{run} is a run of {task}; give one of {' or '.join(PLATOONS)}")
    policies: dict[str, Callable[[Any], Policy]] = {
        CONTROLLERS[task]["linear"].label: CONTROLLERS[task]["linear"].make,
        f"{run}, sampled": lambda env: agents.policy(),
        f"{run}, greedy": lambda env: agents.policy(greedy=True),
    }
    for name, make in policies.items():
        paid, parts = driving(task, make)
        sys.stdout.write(f"{task}: {name} costs {paid:.1f}; undiscounted, by 100 steps, {parts.round(1).tolist()}\n")


def main() -> None:
    """One line a task, and one a controller of the ring; or those of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    if runs := parser.parse_args().runs:
        for run in runs:
            compare(run)
        return
    for task in PLATOONS:
        costs = {CONTROLLERS[task][name].label: driving(task, CONTROLLERS[task][name].make)[0] for name in DRIVERS}
        paid = ", ".join(f"{label} {cost:.1f}" for label, cost in costs.items())
        charged = ", ".join(f"scale {scale:g}: {collision(task, scale):.1f}" for scale in (0.2, 0.5, 1.0))
        sys.stdout.write(f"{task}: driving costs {paid}; a collision at once {charged}\n")
    for name in RING:
        reward = rewards("ring", CONTROLLERS["ring"][name].make, 16, observation="local")
        worth = ", ".join(f"{discounted(reward, gamma):+.2f} at {gamma:g}" for gamma in GAMMAS)
        sys.stdout.write(f"ring: {CONTROLLERS['ring'][name].label} is worth {worth}\n")


if __name__ == "__main__":
    main()
