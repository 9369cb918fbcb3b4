"""Section VI-B, Flow: ring attenuation, 22 cars on a circular lane, where stop-and-go waves arise by themselves.

Car ``i`` follows car ``i + 1``; the last follows the first. SI units, ``dt`` = 0.1 s. All cars move at once from the
state at time ``t``: ``v' = max(0, min(v + dt a, v + dt IDM(v, gap, v_lead)))`` and ``x' = x + dt v'``, where ``a`` is
the commanded acceleration and IDM the intelligent driver model of Treiber, Hennecke and Helbing (2000). For a learning
car IDM is the simulator's safe-speed rule, which no command can exceed; a human car has no command and drives by IDM
itself, with noise. This is SUMO's Euler update, so that no simulator is needed; :mod:`dmpo_deep.envs.ring_sumo`
checks it.

No state ends the task: a car would have to cross its whole gap in one step, ``v > 10 gap`` after IDM's braking of
``dt (gap* / gap)^2`` with ``gap* >= 2 m + v``, which needs ``v > 60 m/s``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.envs.traffic import DT, Road, Traffic
from dmpo_deep.envs.validate import require_choices, require_continuous, require_copies, require_running
from dmpo_theory import graph

if TYPE_CHECKING:
    from dmpo_deep.envs.ring_sumo import SumoRing

CARS, HORIZON, CAR_LENGTH = 22, 3000, 5.0
SHORTEST, LONGEST = 220, 270
"""Ring lengths in m are drawn from these and the integers between."""
JUNCTIONS = 0.4
"""Metres that the four joints of the simulated road add to the ring's length."""
TOP_SPEED, TARGET_SPEED = 30.0, 20.0
STANDSTILL = 1e-5
"""IDM's speeds below are zero, as in SUMO."""
HOLE = 50.0
"""Metres left free ahead of the last car by a bunched start."""
LOCAL_SPEED, LOCAL_HEADWAY = 10.0, 20.0
"""Units of local observations."""
UNBOUNDED = float(np.finfo(np.float64).max)


class Driver(NamedTuple):
    """Parameters of the intelligent driver model; time headway 1 s, desired speed 30 m/s, exponent 4."""

    acceleration: float
    braking: float
    least_gap: float


SAFE = Driver(acceleration=2.6, braking=4.5, least_gap=2.5)
"""The safe-speed rule of learning cars."""
HUMAN = Driver(acceleration=1.0, braking=1.5, least_gap=2.0)


def idm(driver: Driver | np.ndarray, speed: np.ndarray, headway: np.ndarray, leader_speed: np.ndarray) -> np.ndarray:
    """Acceleration ``a (1 - (v/30)^4 - (s*/gap)^2)`` with ``s* = s0 + max(0, v + v (v - v_lead) / (2 sqrt(a b)))``.

    Args:
        driver: ``a``, ``b`` and ``s0``, numbers or arrays ``[cars]``.
        speed: ``[..., cars]``.
        headway: the gaps, ``[..., cars]``.
        leader_speed: ``[..., cars]``.
    """
    acceleration, braking, least_gap = driver
    wanted = np.maximum(speed + speed * (speed - leader_speed) / (2 * np.sqrt(acceleration * braking)), 0) + least_gap
    share = (speed / TOP_SPEED) ** 2
    result: np.ndarray = acceleration * (1 - share * share - (wanted / headway) ** 2)
    return result


def equilibrium_speed(length: np.ndarray | float, driver: Driver) -> np.ndarray:
    """The speed at which 22 equal cars drive evenly spaced, ``s0 + v = gap sqrt(1 - (v/30)^4)``, by bisection.

    Example:
        >>> equilibrium_speed(np.array([220.0, 245.0, 270.0]), SAFE).round(2)
        array([2.52, 3.65, 4.79])
    """
    gap = np.asarray((np.asarray(length) + JUNCTIONS) / CARS - CAR_LENGTH)
    low, high = np.zeros_like(gap), np.full_like(gap, TOP_SPEED)
    for _ in range(60):
        speed = (low + high) / 2
        slow = idm(driver, speed, gap, speed) > 0
        low, high = np.where(slow, speed, low), np.where(slow, high, speed)
    return low


class Ring:
    """``batch`` rings at once; see :class:`dmpo_deep.envs.NetworkedEnv` for the contract.

    An action is an acceleration in m/s^2. The local reward is ``4 (20 - |20 - v_i|)/(20 * 22) - 4 |a_i|/22`` after
    the step, with the action as given; every human car's speed counts for the learning car it follows, directly or
    behind other humans. The metric is the sum of rewards, ``4 mean(v)/20 - 4 sum |a|/22`` a step.

    Args:
        batch: number of copies.
        length: of the ring in m; drawn for each episode from 220, 221 .. 270 by default.
        humans: number of human cars; the learning ones are spread evenly among them.
        noise: standard deviation of human acceleration in m/s^2 per square root of a second.
        start: ``"even"``, or ``"bunched"`` with a hole of 50 m ahead of the last car; all at rest.
        warmup: steps at the start of an episode in which learning cars follow their safe speed.
        exploring_starts: share of episodes that start with all cars at a random speed up to the equilibrium, for
            training: where all stand, a car that starts alone only loses by it. Without effect if ``draws`` are given.
        observation: ``"paper"`` is ``v/30`` and the position as a fraction of the ring; ``"local"`` is speed, headway
            and the leader's speed over 10 m/s, 20 m and 10 m/s, which do not hide the ring's length.
        limit: largest acceleration of a learning car; inf for none.
        beyond_limit: ``"refuse"`` larger actions with an error, or ``"clip"`` them, as the original does, which
            charges them as given.
        actions: ``"aligned"``, or ``"original"``, where agent ``j`` commands the ``j``-th car in the alphabetical
            order of their numbers.
        backend: ``"numpy"``, or ``"sumo"`` for the simulator itself, one copy of it, without noise.
        gamma: not used: no state ends the task.
        draws: in [0, 1), one per copy; each stands for a length. From the generator by default.
    """

    task = "ring"
    n_states: tuple[int, ...] | None = None
    horizon = HORIZON
    measures: Sequence[str] = ("speed", "speed_sd", "headway", "headway_sd")
    outcomes: Sequence[str] = ()

    def __init__(
        self,
        batch: int,
        *,
        length: float | None = None,
        humans: int = 0,
        noise: float = 0.2,
        start: str = "even",
        warmup: int = 0,
        exploring_starts: float = 0.0,
        observation: str = "paper",
        limit: float = 1.0,
        beyond_limit: str = "refuse",
        actions: str = "aligned",
        backend: str = "numpy",
        gamma: float = 0.99,
        draws: Sequence[float] | None = None,
    ) -> None:
        require_choices(
            start=(start, ("even", "bunched")),
            observation=(observation, ("paper", "local")),
            beyond_limit=(beyond_limit, ("refuse", "clip")),
            actions=(actions, ("aligned", "original")),
            backend=(backend, ("numpy", "sumo")),
        )
        if not 0 <= humans < CARS:
            raise ValueError(f"humans = {humans}; give 0 to {CARS - 1}: of {CARS} cars at least one learns")
        if not (0 <= noise < np.inf and limit > 0 and warmup >= 0):
            raise ValueError(
                f"noise = {noise}, limit = {limit}, warmup = {warmup}; give a finite noise of at least 0, a positive "
                "limit and a warm-up of at least 0 steps"
            )
        hole = HOLE if start == "bunched" else 0.0
        if not 0 <= exploring_starts <= 1:
            raise ValueError(f"exploring_starts = {exploring_starts}; give a share of episodes, 0 to 1")
        if exploring_starts and backend == "sumo":
            raise ValueError("exploring_starts with backend = 'sumo', whose cars start at rest; use backend = 'numpy'")
        least = CARS * (CAR_LENGTH + SAFE.least_gap) + hole - JUNCTIONS
        if length is not None and not least <= length < np.inf:
            raise ValueError(
                f"length = {length} m is too short for {CARS} cars of {CAR_LENGTH:g} m, {SAFE.least_gap:g} m apart at "
                f"the start; give at least {least:g} m"
            )
        self._draws = require_copies(self.task, batch, draws, 8 * 30 * CARS)
        n = CARS - humans
        self.learning = np.arange(n) * CARS // n
        """Car of each agent, ``[n]``."""
        human = np.isin(np.arange(CARS), self.learning, invert=True)
        self.batch, self.warmup_steps, self.graph = batch, warmup, graph.ring(n) if n > 2 else graph.path(n)
        self.limit = limit
        """Largest acceleration of a learning car in m/s^2."""
        self._clips, self._local = beyond_limit == "clip", observation == "local"
        largest = np.inf if self._clips else limit
        self.action_space: Discrete | MultiDiscrete | Box = Box(-largest, largest, (1,), np.float64)
        highest = [np.inf] * 3 if self._local else [1.0, 1.0]
        self.observation_space: Box = Box(np.zeros(len(highest), np.float32), np.array(highest, np.float32))
        self.period: np.ndarray | None = None if self._local else np.array([np.inf, 1.0])
        self._order = np.argsort(sorted(range(n), key=str)) if actions == "original" else None
        self._learns, self._human = self.learning if humans else slice(None), np.flatnonzero(human)
        self._driver = np.where(human, np.array(HUMAN)[:, None], np.array(SAFE)[:, None]) if humans else SAFE
        led_by = np.searchsorted(self.learning, np.arange(CARS)) % n
        self._follows = (led_by[:, None] == np.arange(n)).astype(float)
        self._length, self._hole, self._kick = length, hole, noise * DT**1.5
        self._exploring = exploring_starts if draws is None else 0.0
        self._noise = np.random.default_rng(0)
        self._road = None if backend == "numpy" else _simulator(batch, human, noise)
        self._circumference = np.full((batch, 1), SHORTEST + JUNCTIONS)
        self._cars = placed(self._circumference, hole)
        self._time = np.full(batch, HORIZON)  # nothing runs before the first reset

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where`` (all by default); observations ``[B, n, d]``.

        Human noise comes from a generator that every reset seeds from ``rng``.
        """
        where = np.ones(self.batch, dtype=bool) if where is None else where
        if not where.any():
            return self.observe()
        draw = rng.random(int(where.sum())) if self._draws is None else self._draws[where]
        length = np.floor(SHORTEST + (LONGEST + 1 - SHORTEST) * draw) if self._length is None else self._length
        if self._human.size:
            self._noise = np.random.default_rng(rng.integers(2**63))
        self._circumference[where] = np.broadcast_to(length, draw.shape)[:, None] + JUNCTIONS
        circumference = self._circumference[where]
        cars = placed(circumference, self._hole)
        if self._exploring:
            moves, share = rng.random((2, *circumference.shape))
            cars.speed[:] = share * equilibrium_speed(circumference - JUNCTIONS, SAFE) * (moves < self._exploring)
            cars.leader_speed[:] = cars.speed
        if self._road is not None and where.any():
            self._road.start(float(circumference[0, 0]), cars.position[0])
        for _ in range(self.warmup_steps):
            cars = self._advance(cars, circumference, np.full((len(circumference), len(self.learning)), np.inf))
        new = {}
        for name, value in vars(self._cars).items():
            new[name] = value.copy()
            new[name][where] = getattr(cars, name)
        self._cars, self._time = Traffic(**new), np.where(where, 0, self._time)
        return self.observe()

    def _advance(self, cars: Traffic, circumference: np.ndarray, wanted: np.ndarray) -> Traffic:
        """Everybody's next state, given the speeds ``[B, n]`` that learning cars want."""
        if self._road is not None:
            return self._road.advance(self.learning, wanted[0])
        if not self._human.size:
            return advance(cars, circumference, self._driver, wanted)
        limit, nudge = np.full_like(cars.speed, np.inf), np.zeros_like(cars.speed)
        limit[:, self.learning] = wanted
        nudge[:, self._human] = self._kick * self._noise.standard_normal((len(nudge), self._human.size))
        return advance(cars, circumference, self._driver, limit, nudge)

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""
        cars, mine = self._cars, self._learns
        obs = np.empty((self.batch, len(self.learning), 3 if self._local else 2), dtype=np.float32)
        if self._local:
            obs[..., 0] = cars.speed[:, mine] / LOCAL_SPEED
            obs[..., 1] = cars.headway[:, mine] / LOCAL_HEADWAY
            obs[..., 2] = cars.leader_speed[:, mine] / LOCAL_SPEED
        else:
            obs[..., 0] = cars.speed[:, mine] / TOP_SPEED
            obs[..., 1] = cars.position[:, mine] / self._circumference
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One step of 0.1 s; see the contract. ``info`` has also means and deviations over the cars ``[B]``."""
        require_running(self._time >= HORIZON)
        largest = UNBOUNDED if self._clips else min(self.limit, UNBOUNDED)
        require_continuous(action, (self.batch, len(self.learning), 1), largest, _BEYOND)
        given = action[..., 0].astype(np.float64)
        command = np.minimum(np.maximum(given, -self.limit), self.limit) if self._clips else given
        if self._order is not None:
            command = command[:, self._order]
        wanted = self._cars.speed[:, self._learns] + DT * command
        self._cars = cars = self._advance(self._cars, self._circumference, wanted)
        step, self._time = self._time, self._time + 1

        score = TARGET_SPEED - np.abs(TARGET_SPEED - cars.speed)
        if self._human.size:
            score = score @ self._follows
        reward = 4 / (TARGET_SPEED * CARS) * score - 4 / CARS * np.abs(given)
        collided = np.minimum.reduce(cars.headway, axis=1) < 0
        info = {"raw_reward": reward, "metric": np.add.reduce(reward, axis=1), "step": step, "collided": collided}
        for name, value in (("speed", cars.speed), ("headway", cars.headway)):
            info[name] = mean = np.add.reduce(value, axis=1) / CARS
            info[f"{name}_sd"] = np.sqrt(np.add.reduce((value - mean[:, None]) ** 2, axis=1) / CARS)
        return self.observe(), reward, collided, (self._time >= HORIZON) & ~collided, info

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """No state ends the task: False and 0 for every copy ``[B]``."""
        return np.zeros(len(next_obs), dtype=bool), np.zeros(len(next_obs))

    def traffic(self) -> Traffic:
        """The state of all cars, human ones too."""
        return self._cars

    def road(self) -> Road:
        """The ring of the first copy, from above."""
        lap = float(self._circumference[0, 0])
        angle = np.linspace(0, 2 * np.pi, 361)
        return Road(lap * angle / (2 * np.pi), lap / (2 * np.pi) * np.stack([np.cos(angle), np.sin(angle)], axis=-1))

    @property
    def length(self) -> np.ndarray:
        """Ring lengths of the current episodes in m, ``[B]``."""
        return np.round(self._circumference[:, 0] - JUNCTIONS, 9)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        if self._road is not None:
            raise RuntimeError("the state of a simulation in SUMO is not kept; use backend='numpy', which is the same")
        arrays = {**vars(self._cars), "circumference": self._circumference, "time": self._time}
        return {name: value.copy() for name, value in arrays.items()} | {"noise": self._noise.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._cars = Traffic(**{name: np.array(state[name]) for name in vars(self._cars)})
        self._circumference, self._time = np.array(state["circumference"]), np.array(state["time"])
        self._noise.bit_generator.state = state["noise"]

    def close(self) -> None:
        """End the simulation, if there is one; a reset starts it anew."""
        if self._road is not None:
            self._road.close()


_BEYOND = "give accelerations within the limit, or the options limit=inf (none) or beyond_limit='clip' (the original)"


def leaders(speed: np.ndarray) -> np.ndarray:
    """What each car follows, ``[B, cars]`` from ``[B, cars]``: car ``i + 1``, and the last one car 0."""
    ahead = np.empty_like(speed)
    ahead[:, :-1], ahead[:, -1] = speed[:, 1:], speed[:, 0]
    return ahead


def advance(
    cars: Traffic,
    circumference: np.ndarray,
    driver: Driver | np.ndarray,
    limit: np.ndarray | float = np.inf,
    nudge: np.ndarray | float = 0.0,
) -> Traffic:
    """All cars' next state, ``v' = max(0, min(v + dt IDM, limit) + nudge)`` and ``x' = x + dt v'``.

    Args:
        cars: the state of ``B`` rings.
        circumference: of each, ``[B, 1]``.
        driver: parameters of IDM, for all cars or ``[cars]`` each.
        limit: largest next speeds ``[B, cars]``.
        nudge: noise on next speeds ``[B, cars]``.
    """
    speed = cars.speed + DT * idm(driver, cars.speed, cars.headway, cars.leader_speed)
    speed *= speed >= STANDSTILL
    speed = np.maximum(np.minimum(speed, limit) + nudge, 0)
    leader_speed = leaders(speed)
    position = cars.position + DT * speed
    position -= circumference * (position >= circumference)
    return Traffic(position, speed, cars.headway + DT * (leader_speed - speed), leader_speed)


def placed(circumference: np.ndarray, hole: float) -> Traffic:
    """Cars at rest, evenly spaced but for a hole ahead of the last one."""
    spacing = (circumference - hole) / CARS
    headway = np.repeat(spacing - CAR_LENGTH, CARS, axis=1)
    headway[:, -1] += hole
    return Traffic(spacing * np.arange(CARS), np.zeros_like(headway), headway, np.zeros_like(headway))


def _simulator(batch: int, human: np.ndarray, noise: float) -> SumoRing:
    from dmpo_deep.envs.ring_sumo import SumoRing

    if batch > 1:
        raise ValueError(f"batch = {batch}; SUMO has room for one ring in a process, so give batch = 1")
    if human.any() and noise:
        raise ValueError(f"noise = {noise}; SUMO's own drivers have none, so give noise = 0 with backend = 'sumo'")
    try:
        return SumoRing(human)
    except ImportError as error:
        raise ImportError(
            f"{error}, or leave out backend='sumo': the task works without it, and moves its cars by the same rule"
        ) from None
