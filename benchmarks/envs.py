"""Environment steps per second of every task: in one process at batch 1, 16 and 256; in SUMO, by each of its ways.

python benchmarks/envs.py [--only TASK...]

Steps include the checks of actions, rewards, observations, and resets of copies that end; a step of one copy counts as
one. The best of several repetitions, by the clock and by the processor time that the process got: on a machine with
other work the second is what a core can do. The load of the machine stands beside them.

Tasks in SUMO are driven by a reference controller: by libsumo and by TraCI, which needs the program `sumo` (`pip
install eclipse-sumo`), in the environment's own process, and in one worker process or two. Two environments in
processes of their own that know nothing of each other show what two cores give; were each of their steps to wait for
the slower of the two, with nothing to pass on, that is what two workers could give. All ways take turns, so that a
machine whose pace changes is as fast for one as for another: medians over the turns, and the middle half of the ratio
of every two ways that are compared. The processor time is that of all processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
from gymnasium.spaces import Box

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import ENVIRONMENTS, NetworkedEnv, action_counts, make_env
from dmpo_deep.envs.sumo import require_sumo

SIMULATED = {"eight": ("timetable", 750, 2), "atsc": ("greedy-lanes-15", 60, 4)}
"""Task -> the controller that drives it, steps of a turn, turns of an episode (of the signals': its first 20 min)."""
WAYS: Mapping[str, tuple[int, int, dict[str, Any]]] = {
    "libsumo": (1, 1, {"isolated": False}),
    "TraCI": (1, 1, {"isolated": False, "backend": "traci"}),
    "libsumo, one worker": (1, 1, {}),
    "libsumo, two workers": (1, 2, {}),
    "libsumo twice, apart": (2, 1, {"isolated": False}),
}
"""Name -> environments, each in a process of its own, their batch and options."""
IN_STEP = ", waiting"
"""Added to the name of a way with several environments: every step takes as long as the slowest one's."""
RATIOS = (
    ("libsumo", "TraCI"),
    ("libsumo, two workers", "libsumo, one worker"),
    ("libsumo twice, apart", "libsumo"),
    ("libsumo twice, apart" + IN_STEP, "libsumo"),
)


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


def drive(task: str, batch: int, options: dict[str, Any], asked: Connection) -> None:
    """A process's life: a turn of the controller's episode whenever asked to.

    Answers with its processor time and the times of its steps, in s.
    """
    controller, steps, turns = SIMULATED[task]
    env = make_env(task, batch, draws=[0.25] * batch, **options)
    policy, rng, turn = CONTROLLERS[task][controller].make(env), np.random.default_rng(0), 0
    while True:
        if turn % turns == 0:
            obs = env.reset(rng)  # not counted
        asked.send("ready")
        if not asked.recv():
            env.close()
            return
        before, clock = processor_time(), [time.perf_counter()]
        for _ in range(steps):
            obs, *_ = env.step(policy(obs, rng)[0])
            clock.append(time.perf_counter())
        asked.send((processor_time() - before, np.diff(clock)))
        turn += 1


def take_turns(task: str, repetitions: int) -> dict[str, tuple[list[float], list[float]]]:
    """Steps per second of every way, by the clock and of processor time, turn by turn of so many episodes."""
    context = multiprocessing.get_context("spawn")
    drivers: dict[str, list[Connection]] = {}
    for name, (environments, batch, options) in WAYS.items():
        try:
            require_sumo(str(options.get("backend", "libsumo")))
        except ImportError as error:
            sys.stdout.write(f"{task:10s} {name}: skipped, {error}\n")
            continue
        for _ in range(environments):
            ours, theirs = context.Pipe()
            context.Process(target=drive, args=(task, batch, options, theirs)).start()
            drivers.setdefault(name, []).append(ours)
    several = [name + IN_STEP for name, asked in drivers.items() if len(asked) > 1]
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in (*drivers, *several)}
    _, steps, turns = SIMULATED[task]
    for _ in range(turns * repetitions):
        for name, asked in drivers.items():
            for driver in asked:
                driver.recv()  # is ready
            start = time.perf_counter()
            for driver in asked:
                driver.send(True)
            spent, durations = zip(*(driver.recv() for driver in asked), strict=True)
            count, seconds = len(asked) * WAYS[name][1] * steps, time.perf_counter() - start
            found[name][0].append(count / seconds)
            found[name][1].append(count / sum(spent))
            if len(asked) > 1:
                found[name + IN_STEP][0].append(count / np.max(durations, axis=0).sum())
                found[name + IN_STEP][1].append(count / sum(spent))
    for asked in drivers.values():
        for driver in asked:
            driver.recv()
            driver.send(False)
    return found


def simulated(task: str, repetitions: int) -> None:
    """Print the table of a task in SUMO."""
    found = take_turns(task, repetitions)
    for name, (wall, cpu) in found.items():
        sys.stdout.write(
            f"{task:10s} {name:29s}: {np.median(wall):12,.0f} steps/s, {np.median(cpu):12,.0f} steps/CPU-s\n"
        )
    for name, other in RATIOS:
        if name in found and other in found:
            low, middle, high = np.quantile(np.divide(found[name][0], found[other][0]), (0.25, 0.5, 0.75))
            sys.stdout.write(f"{task:10s} {name} / {other}: {middle:.2f} ({low:.2f} to {high:.2f})\n")
    sys.stdout.flush()


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
            simulated(task, options.repetitions)
            continue
        for batch in (1, 16, 256):
            found = [steps_per_second(task, batch, options.seconds) for _ in range(options.repetitions)]
            wall, cpu = (max(column) for column in zip(*found, strict=True))
            sys.stdout.write(f"{task:10s} batch {batch:4d}: {wall:12,.0f} steps/s, {cpu:12,.0f} steps/CPU-s\n")
            sys.stdout.flush()
    sys.stdout.write(f"load after: {os.getloadavg()[0]:.2f}\n")


if __name__ == "__main__":
    main()
