"""Environment steps per second of every task: in one process at batch 1, 16 and 256; in SUMO, by each of its ways.

python benchmarks/envs.py [--only TASK...]

Steps include the checks of actions, rewards, observations, and resets of copies that end; a step of one copy counts as
one. The best of several repetitions, by the clock and by the processor time that the process got: on a machine with
other work the second is what a core can do. The load of the machine stands beside them.

Tasks in SUMO are driven by a reference controller. In this process by libsumo and by TraCI, which needs the program
`sumo` (`pip install eclipse-sumo`); in one worker process and in two. The processor time is that of all processes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
import psutil
from gymnasium.spaces import Box

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import ENVIRONMENTS, NetworkedEnv, action_counts, make_env
from dmpo_deep.envs.sumo import require_sumo

SIMULATED = {"eight": ("timetable", 1500), "atsc": ("greedy-lanes-15", 240)}
"""Task -> the controller that drives it, and steps of a repetition: an episode, and the first 20 minutes of one."""
WAYS = {
    "libsumo, this process": (1, {"isolated": False}),
    "traci, this process": (1, {"isolated": False, "backend": "traci"}),
    "libsumo, one worker": (1, {}),
    "libsumo, two workers": (2, {}),
}
"""Name -> batch and options."""


def actions(env: NetworkedEnv, rng: np.random.Generator) -> np.ndarray:
    """Random actions that do not crash a platoon at once."""
    shape = (env.batch, env.graph.n)
    if not isinstance(env.action_space, Box):
        return rng.integers(np.minimum(2, np.array(action_counts(env)) - 1), action_counts(env), size=shape)
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


def processor_time() -> float:
    """Of this process, its workers and the programs that they run, in s."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def simulated(task: str, batch: int, options: dict[str, object], repetitions: int) -> tuple[float, float]:
    """The same of a controller's episodes in SUMO, which are the same by every way; resets are not counted."""
    controller, steps = SIMULATED[task]
    draws = [0.25] * batch
    env = make_env(task, batch, draws=draws, **options)
    policy, rng, best = CONTROLLERS[task][controller].make(env), np.random.default_rng(0), (0.0, 0.0)
    for _ in range(repetitions):
        obs = env.reset(rng)
        start, start_cpu = time.perf_counter(), processor_time()
        for _ in range(steps):
            obs, *_ = env.step(policy(obs, rng)[0])
        wall, cpu = time.perf_counter() - start, processor_time() - start_cpu
        best = max(best[0], batch * steps / wall), max(best[1], batch * steps / cpu)
    env.close()
    return best


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS), metavar="TASK")
    options = parser.parse_args()
    sys.stdout.write(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores\n")
    for task in options.only:
        if task in SIMULATED:
            for name, (batch, given) in WAYS.items():
                try:
                    require_sumo(str(given.get("backend", "libsumo")))
                except ImportError as error:
                    sys.stdout.write(f"{task:10s} {name}: skipped, {error}\n")
                    continue
                wall, cpu = simulated(task, batch, given, options.repetitions)
                sys.stdout.write(f"{task:10s} {name:22s}: {wall:12,.0f} steps/s, {cpu:12,.0f} steps/CPU-s\n")
                sys.stdout.flush()
            continue
        for batch in (1, 16, 256):
            found = [steps_per_second(task, batch, options.seconds) for _ in range(options.repetitions)]
            wall, cpu = (max(column) for column in zip(*found, strict=True))
            sys.stdout.write(f"{task:10s} batch {batch:4d}: {wall:12,.0f} steps/s, {cpu:12,.0f} steps/CPU-s\n")
            sys.stdout.flush()
    sys.stdout.write(f"load after: {os.getloadavg()[0]:.2f}\n")


if __name__ == "__main__":
    main()
