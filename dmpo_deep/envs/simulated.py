"""What tasks in a simulator share: episodes, their draws, and a state that is saved as the actions that led to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmpo_deep.envs.validate import require_copies, require_running
from dmpo_deep.envs.workers import Fleet, Maker

PROCESS = 2**28
"""Bytes of a copy's process."""


class Simulated(ABC):
    """``batch`` copies of a simulated task.

    Args:
        task: its id.
        make: makes each copy's simulation.
        batch: number of copies.
        width: length of a frame.
        horizon: steps of an episode.
        isolated: each copy in a process of its own.
        draws: in [0, 1), one per episode, taken by the copies in turn; from the generator by default.
    """

    def __init__(
        self,
        task: str,
        make: Maker,
        batch: int,
        width: int,
        horizon: int,
        isolated: bool,
        draws: Sequence[float] | None,
    ) -> None:
        self._draws = require_copies(task, batch, draws, PROCESS, several=True)
        self.batch, self.horizon = batch, horizon
        self.fleet = Fleet(make, batch, width, isolated)
        """The simulations."""
        self._frames = np.zeros((batch, width))
        self._episode = np.zeros(batch, dtype=int)
        self._time = np.full(batch, horizon)  # nothing runs before the first reset

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where`` (all by default); observations ``[B, n, d]``."""
        where = np.ones(self.batch, dtype=bool) if where is None else where
        if where.any():
            if self._draws is None:
                seeds = rng.random(int(where.sum()))
            else:
                seeds = self._draws[(np.arange(self.batch) + self.batch * self._episode)[where] % len(self._draws)]
            self._frames = self.fleet.start(seeds, where)
            self._episode, self._time = self._episode + where, np.where(where, 0, self._time)
        return self.observe()

    @property
    def time(self) -> np.ndarray:
        """Steps since the episodes began, ``[B]``."""
        return self._time

    @abstractmethod
    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""

    def _require_running(self) -> None:
        require_running(self._time >= self.horizon)

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of all copies: the index of the step ``[B]``, and which copies ``[B]`` end with it by the limit."""
        self._frames, lost = self.fleet.step(action)
        step, self._time = self._time, self._time + 1
        return step, (self._time >= self.horizon) | lost

    def _end(self, ended: np.ndarray) -> None:
        self._time = np.where(ended, self.horizon, self._time)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit: the seeds and actions of the running episodes."""
        return {"fleet": self.fleet.state_dict(), "time": self._time.copy(), "episode": self._episode.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, by playing the running episodes again."""
        self._frames = self.fleet.load_state_dict(state["fleet"])
        self._time, self._episode = np.array(state["time"]), np.array(state["episode"])

    def close(self) -> None:
        """End the simulations; a reset starts them anew."""
        self.fleet.close()
        self._time = np.full(self.batch, self.horizon)
