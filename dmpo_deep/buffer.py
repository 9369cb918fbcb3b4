"""Algorithm 1, lines 2 and 4: D^E, the real transitions.

D^M, the model's data of one round (lines 6 and 11), is only ever the current model rollout, a
:class:`~dmpo_deep.rollout.Trajectory`: PPO wants samples of the current policy, so nothing older is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dmpo_deep.rollout import Trajectory

_FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "step")
_HELD = "held"


class TransitionBuffer:
    """The last ``capacity`` joint transitions in order of arrival, oldest first; indexable by field name.

    ``buffer["obs"]`` is ``[N, n, d]``, ``"action"`` ``[N, n]``, ``"reward"`` ``[N, n]``, ``"next_obs"`` ``[N, n, d]``,
    ``"terminated"`` ``[N]`` and ``"step"`` ``[N]``; ``"held"`` ``[N]`` marks what is held out of training.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._data: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._data["step"]) if self._data else 0

    def __getitem__(self, field: str) -> np.ndarray:
        return self._data[field]

    def add(self, trajectory: Trajectory, holdout: float = 0.0, rng: np.random.Generator | None = None) -> None:
        """Append the steps of ``trajectory``, time by time, a share ``holdout`` of them drawn to be held out."""
        columns = {field: getattr(trajectory, field) for field in _FIELDS}
        shape = trajectory.step.shape
        columns[_HELD] = np.zeros(shape, dtype=bool) if rng is None else rng.random(shape) < holdout
        for field, new in columns.items():
            new = new.reshape(-1, *new.shape[2:])
            old = self._data.get(field, new[:0])
            self._data[field] = np.concatenate([old, new])[-self._capacity :]

    def branch(self, k: int, recent: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Line 9: ``k`` of the ``recent`` newest states ``[k, n, d]`` and their step indices ``[k]``."""
        if not len(self):
            raise ValueError("no real transition to branch from yet; add a rollout first")
        chosen = len(self) - 1 - rng.integers(min(recent, len(self)), size=k)
        return self["obs"][chosen], self["step"][chosen]

    def state_dict(self) -> dict[str, Any]:
        """The stored arrays."""
        return dict(self._data)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._data = dict(state)
