"""Cars that stand: from which starts a run's policies drive, and who could not set off though the road is free.

python benchmarks/standstill.py RUN [RUN ...]

Of runs on the ring: metric and speed of the sampled and the greedy policy and of two controllers from rest, as
evaluations start, and in motion, as most of training may. Of runs on the figure eight: the first evaluation episode of
the sampled policy, car by car: its speed in the last third, what acceleration its policy wants there, how probable the
policy makes one above zero, and the gap ahead. A car at rest that wants to brake stays at rest whatever it does about
it: its reward does not change, so neither does its policy, and nobody behind can pass.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import EVALUATION_DRAWS, Policy, make_env
from dmpo_deep.episodes import play
from dmpo_deep.evaluate import load_agents
from dmpo_deep.nets import one_thread, tensor
from dmpo_deep.ppo import LocalAgents

BESIDE = ("zero", "proportional-0.1")
"""Controllers of the ring to compare with: in motion even doing nothing has a return."""


def from_start(
    make: Callable[[Any], Policy], in_motion: bool, options: Mapping[str, Any]
) -> tuple[float, float, float]:
    """Mean metric and speed (m/s) of 48 episodes on the ring, and the share of those with less than 0.3 m/s."""
    env = make_env("ring", 48, **{**options, "exploring_starts": float(in_motion)})
    played = play(env, make(env), np.random.default_rng(0), np.random.default_rng(0))
    speed = played.measures["speed"]
    return played.mean, float(speed.mean()), float((speed < 0.3).mean())


class Cars(NamedTuple):
    """Means over the last third of an episode, ``[n]`` each."""

    speed: np.ndarray
    """m/s."""
    wanted: np.ndarray
    """Mean of the policy's accelerations before the bounds, m/s^2."""
    sets_off: np.ndarray
    """Probability of an acceleration above zero in a step."""
    gap: np.ndarray
    """To the car ahead, m."""
    steps: int
    """Of the episode."""


@torch.no_grad()
def cars(agents: LocalAgents, task: str, options: Mapping[str, Any]) -> Cars:
    """What the cars of the first evaluation episode do; all of it counts if it ends by a collision."""
    head, rows = agents.actor.head, []
    with closing(make_env(task, 1, draws=EVALUATION_DRAWS[:1], **{**options, "isolated": False})) as env:
        rng = np.random.default_rng(0)
        obs, ended = env.reset(rng), False
        while not ended:
            mean, sd = head._distribution(agents.actor.net(agents.actor.net.gather(tensor(obs))))
            wanted = mean[:, 0, 0].numpy()
            sets_off = torch.special.ndtr(mean[:, 0, 0] / sd[:, 0, 0]).numpy()
            obs, _, terminated, truncated, _ = env.step(agents.policy()(obs, rng)[0])
            ended = bool(terminated[0] | truncated[0])
            rows.append((env.traffic().speed[0], wanted, sets_off, env.traffic().headway[0]))
    last = rows if terminated[0] else rows[-len(rows) // 3 :]
    return Cars(*(np.mean(column, axis=0) for column in zip(*last, strict=True)), steps=len(rows))


@one_thread()
def main() -> None:
    """Eight lines for a run on the ring, a line a car for one on the figure eight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for run in parser.parse_args().runs:
        agents, config = load_agents(run)
        if config.task == "ring":
            sampled, greedy = agents.policy(), agents.policy(greedy=True)
            makers = {"sampled": lambda env, of=sampled: of, "greedy": lambda env, of=greedy: of}
            makers |= {name: CONTROLLERS["ring"][name].make for name in BESIDE}
            for name, make in makers.items():
                for start, in_motion in (("from rest", False), ("in motion", True)):
                    found = from_start(make, in_motion, config.preset.environment)
                    told = "{:.0f}, {:.2f} m/s, {:.0%} of episodes below 0.3 m/s".format(*found)
                    sys.stdout.write(f"{run}, {name}, {start}: {told}\n")
        elif config.task == "eight" and isinstance(agents, LocalAgents):
            found_cars = cars(agents, config.task, config.preset.environment)
            sys.stdout.write(f"{run}: {found_cars.steps} steps\n")
            for car, row in enumerate(zip(*found_cars[:4], strict=True)):
                told = "{:.2f} m/s, wants {:+.2f} m/s^2, above zero with probability {:.1e}, gap {:.1f} m".format(*row)
                sys.stdout.write(f"  car {car}: {told}\n")
        else:
            raise SystemExit(f"{run} is a run of {config.algo} on {config.task}; give ring, or eight but not of ic3net")


if __name__ == "__main__":
    main()
