"""Seven reservoirs with power stations on a river and its two branches: an environment of one's own, whole.

    dmpo check-env examples/reservoirs.py:Reservoirs
    dmpo evaluate examples/reservoirs.py:Reservoirs
    dmpo train examples/reservoirs.py:Reservoirs --algo dmpo --steps 12000 --out runs/reservoirs

Every week each station chooses how much water to send through its turbines. Energy is water times head, so that full
reservoirs make more of it; a full one spills when the flood comes, and the river must never run dry. What a station
lets go reaches the next one downstream a week later. Volumes are in million cubic metres, hm3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import networkx as nx
import numpy as np
from gymnasium.spaces import Box

from dmpo_deep.envs import Environment, Policy
from dmpo_deep.envs.validate import require_continuous, require_copies, require_running
from dmpo_theory.graph import AgentGraph

DOWNSTREAM = {0: 2, 1: 2, 2: 5, 3: 4, 4: 5, 5: 6}
"""Who receives whose water: sources 0, 1 and 3, the mouth of the river behind 6."""
CAPACITY, TURBINES, ECOLOGICAL = 100.0, 30.0, 2.0
"""hm3 in a full reservoir; hm3 a week through the turbines, and that must flow at least."""
INFLOW = np.array([6.0, 5.0, 2.0, 6.0, 2.0, 2.0, 1.0])
"""hm3 of rain and melting snow a week, mean over the year."""
SPILLED, DRY = 0.05, 0.5
"""What a hm3 that is spilled or that the river lacks costs, in units of a hm3 through the turbines at full head."""


def by_level(gain: float) -> Callable[[Environment], Policy]:
    """A rule of the textbooks: release in proportion to what is above a quarter of the capacity."""

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        share = np.clip(gain * ((obs[..., :1] + 1) / 2 - 0.25), 0, 1)
        return share, np.zeros(share.shape[:-1], dtype=np.float32)

    return lambda env: policy


class Reservoirs(Environment):
    """``batch`` rivers for ``weeks`` weeks; a station sees its level, what arrives, its last inflow, and the season."""

    reach = 1  # what a station does reaches its neighbours within a step; dmpo check-env sees to it
    measures = ("spilled", "level")
    controllers = {"by-level-1": by_level(1.0), "by-level-2": by_level(2.0)}  # noqa: RUF012

    def __init__(
        self, batch: int, *, weeks: int = 104, drought: float = 1.0, draws: Sequence[float] | None = None
    ) -> None:
        self._draws = require_copies("reservoirs", batch, draws, 8 * 7 * 8)
        self.batch, self.horizon, self.drought = batch, weeks, drought
        self.graph = AgentGraph.from_networkx(nx.Graph(DOWNSTREAM.items()))
        self.action_space = Box(0.0, 1.0, (1,), np.float32)
        self.observation_space = Box(-np.inf, np.inf, (5,), np.float32)
        self.flow = np.zeros((7, 7))
        self.flow[tuple(zip(*DOWNSTREAM.items(), strict=True))] = 1.0
        self.level, self.arriving, self.rain = (np.zeros((batch, 7)) for _ in range(3))
        self.start, self.time = np.zeros(batch, dtype=int), np.full(batch, weeks)
        self.rng = np.random.default_rng(0)

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Half-full reservoirs in a random week of the year; the weather is drawn from a generator of its own."""
        if where is None:
            self.rng, where = np.random.default_rng(rng.integers(2**63)), np.ones(self.batch, dtype=bool)
        draw = self.rng.random(self.batch) if self._draws is None else self._draws
        self.start = np.where(where, (52 * draw).astype(int), self.start)
        self.time = np.where(where, 0, self.time)
        for state, value in ((self.level, CAPACITY / 2), (self.arriving, 0.0), (self.rain, 0.0)):
            state[where] = value
        return self.observe()

    def observe(self) -> np.ndarray:
        """Level and arriving water, the last weeks' weather, and the season; all around 1: ``[B, 7, 5]``."""
        season = np.broadcast_to((2 * np.pi / 52 * (self.start + self.time))[:, None], self.level.shape)
        seen = (2 * self.level / CAPACITY - 1, self.arriving / TURBINES, self.rain, np.sin(season), np.cos(season))
        return np.stack(seen, axis=-1).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One week."""
        require_running(self.time >= self.horizon)
        require_continuous(action, (self.batch, 7, 1), 1.0, "give shares of the turbines, 0 to 1")
        season = 2 * np.pi / 52 * (self.start + self.time)[:, None]
        self.rain = 0.8 * self.rain + 0.3 * self.rng.standard_normal((self.batch, 7))
        natural = self.drought * INFLOW * (1 + 0.9 * np.sin(season)) * np.exp(self.rain - 0.125)
        released = np.minimum(TURBINES * np.maximum(action[..., 0], 0), self.level)
        head = 0.5 + 0.5 * self.level / CAPACITY
        level = self.level - released + natural + self.arriving
        spilled = np.maximum(level - CAPACITY, 0)
        self.level, self.arriving = level - spilled, (released + spilled) @ self.flow
        lacking = np.maximum(ECOLOGICAL - released - spilled, 0)
        reward = (released * head - SPILLED * spilled - DRY * lacking) / 10
        step, self.time = self.time, self.time + 1
        ends = np.zeros(self.batch, dtype=bool)
        info = {"raw_reward": reward, "metric": reward.mean(axis=1), "step": step, "collided": ends}
        info |= {"spilled": spilled.mean(axis=1), "level": self.level.mean(axis=1)}
        return self.observe(), reward, ends.copy(), self.time >= self.horizon, info
