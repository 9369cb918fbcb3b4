"""What a learner should prefer: driving or crashing on the platoon, driving or standing still on the ring.

python benchmarks/incentives.py [RUN ...]

Discounted returns of an agent from the start of an episode, means over agents and training draws. On the platoon: what
driving costs at the discount of the presets, in training units, and what a collision at once is charged; if that is
less than the best controller's cost, learning well means crashing. On the ring: what controllers are worth at several
discounts. Standing still is worth 0. Going faster by u, once and for all, costs 40 u and brings at most 0.2 u / (1 -
gamma), so that up to gamma = 0.995 nothing is worth more. Then, for cars that stand or tremble about zero: what one of
them gets for setting out alone, its neighbourhood of the paper's critic radius with it, and each of 22 that set out
together. One car among humans, when waves have formed: what driving like them is worth to it, and what damping them.

With run directories of a platoon: what their policies pay, beside the best controller, in all and in each ten seconds;
and what it would bring to the agent, to the neighbourhood that its critic judges and to everybody if one agent followed
that controller, all others going on as they do, or if all did; and how probable the agent itself takes the controller's
actions to be in the first ten seconds. What is never tried is never learnt, however much it would bring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import Policy, make_env
from dmpo_deep.envs.ring import CARS
from dmpo_deep.evaluate import load_agents
from dmpo_deep.nets import one_thread, tensor
from dmpo_deep.ppo import LocalAgents
from dmpo_theory import graph

PLATOONS, DRIVERS, GAMMA = ("catchup", "slowdown"), ("linear", "mixture", "always", "random"), 0.99
TREMBLES = (0.0, 0.05, 0.2)
AMONG_HUMANS = ("idm", "proportional-0.1", "proportional-0.3", "pi")
HUMANS = {"humans": 21, "start": "bunched", "warmup": 750}
RING, GAMMAS = ("proportional-0.1", "proportional-0.3", "linear", "random"), (0.99, 0.995, 0.998, 0.999)


def rewards(task: str, make: Callable[[Any], Policy], copies: int, **options: Any) -> np.ndarray:
    """Mean reward of each agent in each step of an episode, ``[horizon, n]``, in training units."""
    env, rng = make_env(task, copies, **options), np.random.default_rng(0)
    policy, obs, rows = make(env), env.reset(rng), []
    for _ in range(env.horizon):
        obs, reward, *_ = env.step(policy(obs, rng)[0])
        rows.append(reward.mean(axis=0))
    return np.array(rows)


def discounted(reward: np.ndarray, gamma: float) -> np.ndarray:
    """Sum of ``gamma**t reward[t]`` for each agent, ``[n]``."""
    worth: np.ndarray = gamma ** np.arange(len(reward)) @ reward
    return worth


def setting_out(tremble: float, gammas: Sequence[float]) -> list[tuple[float, float, float]]:
    """Discounted gain of 0.05 m/s^2 more for ever: a lone car's, its neighbourhood's with it, each of all cars.

    Args:
        tremble: standard deviation of everybody's acceleration in m/s^2, the same draws for all that is compared.
        gammas: discounts, one triple each.
    """

    def paid(more: np.ndarray) -> np.ndarray:
        def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            action = np.clip(more + tremble * rng.standard_normal(obs.shape[:2]), -1, 1)
            return action[..., None], np.zeros(obs.shape[:2])

        return rewards("ring", lambda env: policy, 32)

    car, stays = CARS // 2, paid(np.zeros(CARS))
    lone, together = (paid(more) - stays for more in (0.05 * (np.arange(CARS) == car), np.full(CARS, 0.05)))
    near, gains = graph.ring(CARS).mask(3)[car], []
    for gamma in gammas:
        gain = discounted(lone, gamma)
        gains.append((float(gain[car]), float(gain[near].sum()), float(discounted(together, gamma).mean())))
    return gains


def driving(task: str, make: Callable[[Any], Policy], gamma: float = GAMMA) -> tuple[float, np.ndarray]:
    """Cost of an agent's episode, discounted, and of each 100 steps; a platoon that collides pays the frozen tail."""
    cost = -rewards(task, make, 64, collision="freeze", gamma=gamma)
    return float(discounted(cost, gamma).mean()), cost.mean(axis=1).reshape(-1, 100).sum(axis=1)


def replaced(task: str, learnt: Policy, who: np.ndarray) -> np.ndarray:
    """Discounted rewards of the agents ``[n]`` if those marked in ``who [n]`` follow the best controller instead."""

    def make(env: Any) -> Policy:
        best = CONTROLLERS[task]["linear"].make(env)

        def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            action, log_prob = learnt(obs, rng)
            return np.where(who, best(obs, rng)[0], action), log_prob

        return policy

    return discounted(rewards(task, make, 64, collision="freeze", gamma=GAMMA), GAMMA)


def tried(task: str, agents: LocalAgents, steps: int = 100) -> np.ndarray:
    """How probable each agent takes the best controller's action to be, where its own policy leads to.

    Returns:
        Means of log-probabilities over 64 copies and the first ``steps`` steps, ``[n]``.
    """
    env, rng = make_env(task, 64, collision="freeze"), np.random.default_rng(0)
    learnt, best, obs = agents.policy(), CONTROLLERS[task]["linear"].make(env), env.reset(rng)
    total, everyone = np.zeros(env.graph.n), np.arange(env.graph.n)
    for _ in range(steps):
        with torch.no_grad():
            logs = agents.actor.log_probabilities(agents.actor.net.gather(tensor(obs))).numpy()
        action = best(obs, rng)[0]
        total += logs[everyone, np.arange(64)[:, None], action].mean(axis=0)
        obs, *_ = env.step(learnt(obs, rng)[0])
    return total / steps


def collision(task: str, scale: float, gamma: float = GAMMA) -> float:
    """Charge of a collision in the first step."""
    env = make_env(task, 1, collision_scale=scale, gamma=gamma)
    obs = env.reset(np.random.default_rng(0))
    return -float(env.termination(obs, np.zeros(1, dtype=int))[1][0])


def compare(run: Path) -> None:
    """What the best controller and a run's policies pay; who would gain if one agent, or all, followed the former."""
    agents, config = load_agents(run)
    if (task := config.task) not in PLATOONS or not isinstance(agents, LocalAgents):
        raise SystemExit(
            f"{run} is a run of {config.algo} on {task}; give one of {' or '.join(PLATOONS)}, and not of ic3net"
        )
    policies: dict[str, Callable[[Any], Policy]] = {
        CONTROLLERS[task]["linear"].label: CONTROLLERS[task]["linear"].make,
        f"{run}, sampled": lambda env: agents.policy(),
        f"{run}, greedy": lambda env: agents.policy(greedy=True),
    }
    for name, make in policies.items():
        paid, parts = driving(task, make)
        sys.stdout.write(f"{task}: {name} costs {paid:.1f}; undiscounted, by 100 steps, {parts.round(1).tolist()}\n")
    network = make_env(task, 1).graph
    now = replaced(task, agents.policy(), np.zeros(network.n, bool))
    tries = tried(task, agents)
    for agent, near in enumerate(network.mask(agents.preset.kappa_critic)):
        gain = replaced(task, agents.policy(), np.arange(network.n) == agent) - now
        gained = f"itself {gain[agent]:+.1f}, its neighbourhood {gain[near].sum():+.1f}, everybody {gain.sum():+.1f}"
        sys.stdout.write(
            f"{task}: if agent {agent} alone followed the controller: {gained}; log-probability {tries[agent]:.1f}\n"
        )
    gain = replaced(task, agents.policy(), np.ones(network.n, bool)) - now
    sys.stdout.write(f"{task}: if all did: everybody {gain.sum():+.1f}, each {gain.round(1).tolist()}\n")


@one_thread()
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
        worth = ", ".join(f"{discounted(reward, gamma).mean():+.2f} at {gamma:g}" for gamma in GAMMAS)
        sys.stdout.write(f"ring: {CONTROLLERS['ring'][name].label} is worth {worth}\n")
    for name in AMONG_HUMANS:
        reward = rewards("ring", CONTROLLERS["ring"][name].make, 16, observation="local", **HUMANS)
        worth = ", ".join(f"{discounted(reward, gamma).mean():+.1f} at {gamma:g}" for gamma in GAMMAS)
        sys.stdout.write(f"ring, one car among humans: {CONTROLLERS['ring'][name].label} is worth {worth}\n")
    for tremble in TREMBLES:
        rows = zip(setting_out(tremble, GAMMAS), GAMMAS, strict=True)
        gains = ("{:+.2f}, {:+.2f}, {:+.2f} at {:g}".format(*gain, gamma) for gain, gamma in rows)
        sys.stdout.write(f"ring, trembling by {tremble:g}: lone car, neighbourhood, each of all: {'; '.join(gains)}\n")


if __name__ == "__main__":
    main()
