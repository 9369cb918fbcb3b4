"""Many episodes in worker processes: what becomes of their memory, and what is left of processes and files.

python benchmarks/soak.py [--only TASK...]

20 episodes of the signals and 200 of the figure eight, in two workers. In mid-run one worker is killed by SIGKILL in
mid-episode; its episode has to go on in a new one. Printed are the memory of each worker (RSS, in MiB) after its first
episode, half-way and at the end, and what is left after closing. The exit status is 1 if a worker grew by more than a
tenth after its second episode, or if anything is left.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import psutil

from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import make_env
from dmpo_deep.envs.sumo import FILES

SOAKS = {"atsc": ("greedy-lanes-15", 20), "eight": ("timetable", 200)}
"""Task -> the controller that drives it, and episodes of all workers together."""
WORKERS, GROWTH = 2, 1.1


def resident(pid: int) -> float:
    """Memory of a process, in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def inputs() -> set[str]:
    """Folders of input that are there and still are after the second that SUMO of somebody else may need to read it."""
    found = []
    for _ in range(2):
        found.append({str(path) for path in Path(tempfile.gettempdir()).glob(f"{FILES}*")})
        time.sleep(1)
    return set.intersection(*found)


def soak(task: str, controller: str, episodes: int) -> bool:
    """Play the episodes, print what was found, and say whether all is well."""
    before = inputs()
    env, rng = make_env(task, WORKERS), np.random.default_rng(0)
    policy = CONTROLLERS[task][controller].make(env)
    each, start, seen, killed = episodes // WORKERS, time.perf_counter(), set(), 0
    memory: list[list[float]] = []
    warnings.simplefilter("ignore", RuntimeWarning)  # that an episode is played again is what the kill is for
    for episode in range(each):
        obs, running, steps = env.reset(rng), np.ones(WORKERS, dtype=bool), 0
        seen.update(env.fleet.workers)
        while running.any():
            if episode == each // 2 and steps == env.horizon // 2:
                killed = env.fleet.workers[0]
                os.kill(killed, signal.SIGKILL)
            obs, _, terminated, truncated, _ = env.step(policy(obs, rng)[0])
            running &= ~(terminated | truncated)
            steps += 1
            if running.any() and not running.all():
                raise RuntimeError(f"{controller} ends episodes of {task} early; give one whose episodes are whole")
        seen.update(env.fleet.workers)
        memory.append([resident(pid) for pid in env.fleet.workers])
    env.close()
    found = sorted(inputs() - before) + [f"process {pid}" for pid in sorted(seen) if psutil.pid_exists(pid)]
    rss = np.array(memory)
    survivor = rss[1:, 1:]  # the first worker is another one since the kill
    growth = float((survivor.max(axis=0) / survivor[0]).max())
    said = "; ".join(
        f"worker {k}: {a:.0f}, {b:.0f}, {c:.0f}" for k, (a, b, c) in enumerate(rss[[0, each // 2, -1]].T.tolist())
    )
    sys.stdout.write(
        f"{task}: {each * WORKERS} episodes in {time.perf_counter() - start:.0f} s; MiB after the first, half-way, at "
        f"the end: {said}; growth after the second {growth - 1:.1%}; worker {killed} killed, {len(seen)} seen; left: "
        f"{', '.join(found) or 'nothing'}\n"
    )
    sys.stdout.flush()
    return growth < GROWTH and not found and len(seen) == WORKERS + 1


def main() -> None:
    """Soak the tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(SOAKS), default=sorted(SOAKS), metavar="TASK")
    tasks = parser.parse_args().only
    results = [soak(task, *SOAKS[task]) for task in tasks]
    if not all(results):
        sys.exit("something is left, or grew")


if __name__ == "__main__":
    main()
