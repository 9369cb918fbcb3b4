"""Simulations to test with: one in this process at a time, and one without SUMO, to see what its processes do."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dmpo_deep.envs import NetworkedEnv, make_env
from dmpo_deep.envs.sumo import SimulationError


@contextmanager
def one_at_a_time(task: str) -> Iterator[Callable[..., NetworkedEnv]]:
    """Makes copies of a simulated task in this process, each in the place of the last."""
    made: list[NetworkedEnv] = []

    def make(**options):
        for env in made:
            env.close()
        made.append(make_env(task, 1, isolated=False, **options))
        return made[-1]

    try:
        yield make
    finally:
        for env in made:
            env.close()


class Counter:
    """Frames are the seed, the steps so far, the sum of all actions, and the process.

    It stands at module level so that workers can be sent it. Trouble comes at one step, of an episode that has not had
    it: in ``marks``, a folder, is who has.
    """

    def __init__(self, marks: Path | None = None, trouble: str = "", at: int = -1) -> None:
        self.marks, self.trouble, self.at = marks, trouble, at

    def start(self, seed):
        self.seed, self.steps, self.total = seed, 0, 0.0
        return self.frame()

    def frame(self):
        return np.array([self.seed, self.steps, self.total, os.getpid()])

    def step(self, action):
        if self.steps == self.at and not self.happened():
            if self.trouble == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble == "hangs":
                time.sleep(1000)
            if self.trouble == "fails":
                raise SimulationError("vehicle 'a' has no valid route")
            raise ValueError("a mistake of the user")
        self.steps, self.total = self.steps + 1, self.total + float(action.sum())
        return self.frame()

    def happened(self):
        """Whether it did before, in this process or another."""
        if self.marks is None:
            return False
        mark = self.marks / f"{self.seed}"
        happened = mark.exists()
        mark.touch()
        return happened

    def close(self):
        pass
