"""Section VI-B, Flow: figure eight, 14 cars on a closed lane that crosses itself; SUMO moves them.

Car ``i`` follows car ``i + 1``; the last follows the first. SI units, ``dt`` = 0.1 s. Cars that have driven half a lap
more than others meet them in the crossing: two cars *collide* when their bodies overlap the square in which the lanes
cross, one in each direction. By default no rule of the simulator prevents that: who crosses when is what the agents
have to learn. Following is safe, as on the ring, since a car never exceeds SUMO's safe speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.envs.eight_road import (
    AGENT,
    CAR_LENGTH,
    CAR_WIDTH,
    CARS,
    TOP_SPEED,
    EightRoad,
    centers,
    lap_length,
    road,
)
from dmpo_deep.envs.ring import leaders
from dmpo_deep.envs.simulated import Simulated
from dmpo_deep.envs.sumo import BACKENDS
from dmpo_deep.envs.traffic import Road, Traffic
from dmpo_deep.envs.validate import require_choices, require_continuous
from dmpo_deep.envs.workers import Fleet
from dmpo_theory.graph import AgentGraph, ring

HORIZON, LIMIT, TARGET_SPEED = 1500, 3.0, 20.0
SPEED_MODES: Mapping[str, int] = {"none": 33, "inside": 1, "rules": 25}
"""Right of way -> SUMO's speed mode, a bit set: 1 safe speed behind the leader, 8 right of way at the crossing, 16 red
lights, 32 disregard cars that are in the crossing."""
LEAST_RADIUS, LONGEST_WARMUP = 15.0, 5000
LOCAL_HEADWAY = 20.0
"""Unit of headways in observations."""


class FigureEight(Simulated):
    """``batch`` figure eights at once; see :class:`dmpo_deep.envs.NetworkedEnv` for the contract.

    An action is an acceleration in m/s^2. The local reward is ``(20 - |20 - v_i|)/20`` after the step, 0 for all at a
    collision, which ends the episode. The metric is the desired-velocity score ``max(0, |20| - |20 - v|)/|20|`` with
    Euclidean norms over the cars, summed over steps: at most 1500, and what a collision cuts off is lost.

    Args:
        batch: number of copies.
        radius: of the arcs in m; straight edges are as long.
        right_of_way: at the crossing. ``"none"``: the agents' business; ``"inside"``: nobody enters against a car that
            is inside, the original; ``"rules"``: westbound cars also yield.
        collision_rule: ``"end"``, or ``"ignore"`` for the loophole of a simulator that only warns: cars drive through
            each other.
        warmup: steps at the start of an episode in which SUMO's human drivers drive by all rules.
        shift: where the first car starts, in m; drawn for each episode by default. The original has 0.
        observation: ``"paper"`` is ``v/30`` and the place as a fraction of the lap; ``"local"`` adds headway over 20 m
            and the leader's speed over 30 m/s.
        graph: ``"cycle"`` links each car to the one ahead and behind; ``"conflict"`` also to the one half the fleet
            ahead, which reaches the crossing at about the same time.
        limit: largest acceleration.
        beyond_limit: ``"refuse"`` larger actions with an error, or ``"clip"`` them, as the original does.
        isolated: each copy in a process of its own, which may crash or hang; without, one copy in this process.
        backend: of SUMO: ``"libsumo"``, ``"traci"``, or ``"sumo-gui"`` to watch.
        gamma: not used: a collision is worth nothing, and all rewards are positive.
        draws: in [0, 1), one per episode, taken by the copies in turn; each stands for a shift and for SUMO's seed.
            From the generator by default.
    """

    task = "eight"
    n_states: tuple[int, ...] | None = None
    measures: Sequence[str] = ("speed", "speed_sd", "headway", "headway_sd")
    outcomes: Sequence[str] = ("length",)

    def __init__(
        self,
        batch: int,
        *,
        radius: float = 30.0,
        right_of_way: str = "none",
        collision_rule: str = "end",
        warmup: int = 0,
        shift: float | None = None,
        observation: str = "paper",
        graph: str = "cycle",
        limit: float = LIMIT,
        beyond_limit: str = "refuse",
        isolated: bool = True,
        backend: str = "libsumo",
        gamma: float = 0.99,
        draws: Sequence[float] | None = None,
    ) -> None:
        require_choices(
            right_of_way=(right_of_way, SPEED_MODES),
            collision_rule=(collision_rule, ("end", "ignore")),
            observation=(observation, ("paper", "local")),
            graph=(graph, ("cycle", "conflict")),
            beyond_limit=(beyond_limit, ("refuse", "clip")),
            backend=(backend, BACKENDS),
        )
        if not (LEAST_RADIUS <= radius < np.inf and 0 <= warmup <= LONGEST_WARMUP and 0 < limit < np.inf):
            raise ValueError(
                f"radius = {radius}, warmup = {warmup}, limit = {limit}; give a radius of at least {LEAST_RADIUS:g} m, "
                f"0 to {LONGEST_WARMUP} steps of warm-up and a positive limit"
            )
        if shift is not None and not 0 <= shift < np.inf:
            raise ValueError(f"shift = {shift} m; give a distance of at least 0")
        self._make = partial(
            EightRoad, radius=radius, speed_mode=SPEED_MODES[right_of_way], warmup=warmup, shift=shift, backend=backend
        )
        self.driver = AGENT
        super().__init__(self.task, partial(self._make, driver=AGENT), batch, 2 * CARS, HORIZON, isolated, draws)
        self.warmup_steps, self.limit = warmup, limit
        self.graph = cars_graph(graph)
        self._ends, self._clips, self._local = collision_rule == "end", beyond_limit == "clip", observation == "local"
        largest = np.inf if self._clips else limit
        self.action_space: Discrete | MultiDiscrete | Box = Box(-largest, largest, (1,), np.float64)
        highest = np.array([np.inf, 1, np.inf, np.inf] if self._local else [np.inf, 1], np.float32)
        self.observation_space: Box = Box(np.zeros_like(highest), highest)
        self.period: np.ndarray | None = np.where(highest == 1, 1.0, np.inf)
        self.lap = lap_length(radius)
        """Length of the lap in m."""
        self._centers, self._lane = np.array(centers(radius)), road(radius)

    def hand_over(self, driver: int) -> None:
        """From the next reset on, let ``driver`` drive: the agents, or SUMO's IDM or Krauss drivers by all rules."""
        if driver != self.driver:
            self.close()
            self.fleet = Fleet(partial(self._make, driver=driver), self.batch, 2 * CARS, self.fleet.isolated)
            self.driver = driver

    def traffic(self) -> Traffic:
        """The state of all cars."""
        speed, position = self._frames[:, :CARS], self._frames[:, CARS:]
        return Traffic(position, speed, (leaders(position) - position) % self.lap - CAR_LENGTH, leaders(speed))

    def road(self) -> Road:
        """The lap, from above."""
        return self._lane

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""
        return self._observed(self.traffic())

    def _observed(self, cars: Traffic) -> np.ndarray:
        obs = np.empty((self.batch, CARS, self.observation_space.shape[0]), dtype=np.float32)
        obs[..., 0], obs[..., 1] = cars.speed / TOP_SPEED, cars.position / self.lap
        if self._local:
            obs[..., 2], obs[..., 3] = np.maximum(cars.headway, 0) / LOCAL_HEADWAY, cars.leader_speed / TOP_SPEED
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One step of 0.1 s; see the contract. ``info`` has also means and deviations over the cars ``[B]``."""
        self._require_running()
        largest = float(np.finfo(np.float64).max) if self._clips else self.limit
        require_continuous(action, (self.batch, CARS, 1), largest, _BEYOND)
        command = np.minimum(np.maximum(action.astype(np.float64), -self.limit), self.limit)
        step, truncated = self._advance(command)
        cars = self.traffic()
        collided = self.collides(cars.position)
        short = TARGET_SPEED - cars.speed
        raw = TARGET_SPEED - np.abs(short)
        metric = np.maximum(1 - np.sqrt(np.add.reduce(short * short, axis=1) / CARS) / TARGET_SPEED, 0)
        if self._ends and collided.any():
            raw, metric = np.where(collided[:, None], 0, raw), np.where(collided, 0, metric)
        info = {"raw_reward": raw, "metric": metric, "step": step, "collided": collided, "length": step + 1}
        for name, value in (("speed", cars.speed), ("headway", cars.headway)):
            info[name] = mean = np.add.reduce(value, axis=1) / CARS
            info[f"{name}_sd"] = np.sqrt(np.add.reduce((value - mean[:, None]) ** 2, axis=1) / CARS)
        terminated = collided if self._ends else np.zeros_like(collided)
        self._end(terminated | truncated)
        return self._observed(cars), raw / TARGET_SPEED, terminated, truncated & ~terminated, info

    def collides(self, position: np.ndarray) -> np.ndarray:
        """Whether a northbound and a westbound body overlap the square they cross in; ``[B]`` from ``[B, 14]``."""
        entered = self._centers[:, None] - CAR_WIDTH / 2
        inside = (position[..., None, :] - entered) % self.lap < CAR_WIDTH + CAR_LENGTH
        result: np.ndarray = np.logical_and.reduce(np.logical_or.reduce(inside, axis=-1), axis=-1)
        return result

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Collisions ``[B]`` of predicted places, and the reward 0 ``[B]`` at them."""
        if not self._ends:
            return np.zeros(len(next_obs), dtype=bool), np.zeros(len(next_obs))
        return self.collides(next_obs[..., 1].astype(np.float64) * self.lap), np.zeros(len(next_obs))

    def crossing(self) -> np.ndarray:
        """Where on the lap the middle of the crossing lies, northwards and westwards, ``[2]`` in m."""
        return self._centers


_BEYOND = "give accelerations within the limit, or the option beyond_limit='clip' (the original)"


def cars_graph(name: str) -> AgentGraph:
    """The cycle of cars, or with chords between those that meet in the crossing.

    Example:
        >>> cars_graph("conflict").neighbors(0)
        (0, 1, 7, 13)
    """
    cycle = ring(CARS)
    half = CARS // 2
    chords = [(car, car + half) for car in range(half)] if name == "conflict" else []
    return AgentGraph.from_edges(CARS, [*cycle.edges, *chords])
