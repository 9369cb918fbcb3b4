"""What a learner should prefer: driving or crashing on the platoon, driving or standing still on the ring.

python benchmarks/incentives.py [RUN ...]

Discounted returns of an agent from the start of an episode, means over agents and training draws. On the platoon: what
driving costs at the discount of the presets, in training units, and what a collision at once is charged; if that is
less than the best controller's cost, learning well means crashing. On the ring: what controllers are worth at several
discounts. Standing still is worth 0. Going faster by u, once and for all, costs 40 u and brings at most 0.2 u / (1 -
gamma), so that up to gamma = 0.995 nothing is worth more. Then, for cars that stand or tremble about zero: what one of
them gets for setting out alone, its neighbourhood of critic radius 3 with it, and each of 22 that set out together.

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
from dmpo_deep.envs.ring import CARS, HORIZON
from dmpo_deep.evaluate import load_agents
from dmpo_theory import graph

PLATOONS, DRIVERS, GAMMA = ("catchup", "slowdown"), ("linear", "mixture", "always", "random"), 0.99
TREMBLES = (0.0, 0.05, 0.2)
RING, GAMMAS = ("proportional-0.1", "proportional-0.3", "linear", "random"), (0.99, 0.995, 0.998, 0.999)


def rewards(task: str, make: Callable[[Any], Policy], copies: int, **options: Any) -> np.ndarray:
    """Mean reward of an agent in each step of an episode, ``[horizon]``, in training units."""
    env, rng = make_env(task, copies, **options), np.random.default_rng(0)
    policy, obs, rows = make(env), env.reset(rng), []
    for _ in range(env.horizon):
        obs, reward, *_ = env.step(policy(obs, rng)[0])
        rows.append(float(reward.mean()))
    return np.array(rows)


def setting_out(tremble: float, gamma: float) -> tuple[float, float, float]:
    """Discounted gain of 0.05 m/s^2 more for ever: a lone car's, its neighbourhood's with it, each of all cars.

    Args:
        tremble: standard deviation of everybody's acceleration in m/s^2, the same draws for all that is compared.
        gamma: discount.
    """
    copies, weights = 32, gamma ** np.arange(HORIZON)

    def worth(more: np.ndarray) -> np.ndarray:
        env, rng = make_env("ring", copies), np.random.default_rng(0)
        env.reset(rng)
        action = (np.clip(more + tremble * rng.standard_normal((copies, CARS)), -1, 1) for _ in weights)
        result: np.ndarray = weights @ np.stack([env.step(a[..., None])[1].mean(axis=0) for a in action])
        return result

    car, stays = CARS // 2, worth(np.zeros(CARS))
    lone = worth(0.05 * (np.arange(CARS) == car)) - stays
    together = worth(np.full(CARS, 0.05)) - stays
    return float(lone[car]), float(lone[graph.ring(CARS).mask(3)[car]].sum()), float(together.mean())


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
    for tremble in TREMBLES:
        gains = ("{:+.2f}, {:+.2f}, {:+.2f} at {:g}".format(*setting_out(tremble, gamma), gamma) for gamma in GAMMAS)
        sys.stdout.write(f"ring, trembling by {tremble:g}: lone car, neighbourhood, each of all: {'; '.join(gains)}\n")


if __name__ == "__main__":
    main()
