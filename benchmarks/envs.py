"""Environment steps per second of every task on one core, at batch 1, 16 and 256.

python benchmarks/envs.py

Steps include the checks of actions, rewards, observations, and resets of copies that end; a step of one copy counts as
one. The best of several repetitions, by the clock and by the processor time that the process got: on a machine with
other work the second is what a core can do. The load of the machine stands beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
from gymnasium.spaces import Discrete

from dmpo_deep.envs import ENVIRONMENTS, NetworkedEnv, make_env


def actions(env: NetworkedEnv, rng: np.random.Generator) -> np.ndarray:
    """Random actions that do not crash a platoon at once."""
    shape = (env.batch, env.graph.n)
    if isinstance(env.action_space, Discrete):
        return rng.integers(2, env.action_space.n, size=shape)
    return rng.uniform(-1, 1, (*shape, *env.action_space.shape))


def steps_per_second(task: str, batch: int, seconds: float) -> tuple[float, float]:
    """Steps of all copies together, per second by the clock and per second of processor time."""
    env, rng = make_env(task, batch), np.random.default_rng(0)
    env.reset(rng)
    chosen = [actions(env, rng) for _ in range(50)]
    count, start, start_cpu = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds:
        for action in chosen:
            _, _, terminated, truncated, _ = env.step(action)
            if (ended := terminated | truncated).any():
                env.reset(rng, ended)
        count += batch * len(chosen)
    return count / spent, count / (time.process_time() - start_cpu)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    sys.stdout.write(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores\n")
    for task in ENVIRONMENTS:
        for batch in (1, 16, 256):
            found = [steps_per_second(task, batch, options.seconds) for _ in range(options.repetitions)]
            wall, cpu = (max(column) for column in zip(*found, strict=True))
            sys.stdout.write(f"{task:10s} batch {batch:4d}: {wall:12,.0f} steps/s, {cpu:12,.0f} steps/CPU-s\n")
            sys.stdout.flush()
    sys.stdout.write(f"load after: {os.getloadavg()[0]:.2f}\n")


if __name__ == "__main__":
    main()
