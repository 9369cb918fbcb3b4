"""Section VI-C: adaptive traffic signal control, every signal an agent that chooses its next green phase; SUMO drives.

The default network is a grid of 5x5 signals under a demand that no controller can let pass without queues; any other
SUMO network comes in by ``net_file`` and ``route_file``. Options that sumo-rl has, too, have its names.

The paper's reward counts who halts within 50 m of a signal. It can be gamed: whoever lets nobody in has short queues.
So episodes also tell how many vehicles arrived, how many still wait to depart, and what delay all of them had.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.envs.atsc_traffic import SYSTEM, SignalTraffic, Timing, layout
from dmpo_deep.envs.signals import departures, read_network
from dmpo_deep.envs.simulated import Simulated
from dmpo_deep.envs.sumo import BACKENDS
from dmpo_deep.envs.validate import require_choices, require_discrete

DATA = Path(__file__).parent / "data"
GRID_NETWORK, GRID_DEMAND = DATA / "grid5x5.net.xml", DATA / "grid5x5.rou.xml"
WAVE, MOST_WAVE = 5.0, 2.0
"""Unit of detector counts in observations, and what these are clipped at."""
LONG_GREEN = 60.0
"""Seconds: unit of the time since green began in observations."""
REWARD_UNIT, MOST_BACKLOG = 20.0, 10.0
"""Vehicles at a signal that a training reward of -1 stands for, also the unit of queues in observations; and what the
backlog is clipped at there."""
OBSERVATIONS: Mapping[str, Sequence[str]] = {
    "wave": (),
    "wave_and_phase": ("phase",),
    "queue_and_phase": ("queue", "phase"),
}
"""Name of an observation -> what it has beside the wave."""
MANAGED = ("net-file", "route-files", "begin", "step-length", "seed", "time-to-teleport")
"""SUMO's options that have arguments of their own here."""


@dataclass(frozen=True, eq=False)
class Signals:
    """What ``B`` copies of a network look like after a step; ``L`` incoming lanes of all signals, ``n`` signals."""

    phase: np.ndarray
    """Green phase, ``[B, n]``, an action."""
    green: np.ndarray
    """Seconds since its green began, ``[B, n]``."""
    detected: np.ndarray
    """Vehicles on the last 50 m of incoming lanes, ``[B, L]``."""
    queued: np.ndarray
    """Those of them that halt (slower than 1.39 m/s), ``[B, L]``."""
    on_lane: np.ndarray
    """Vehicles on whole incoming lanes, ``[B, L]``."""
    halting: np.ndarray
    """Those of them that halt (slower than 0.1 m/s), ``[B, L]``."""
    leaving: np.ndarray
    """Vehicles on outgoing lanes, ``[B, lanes]``."""
    backlog: np.ndarray
    """Vehicles that wait to depart towards a signal, ``[B, n]``."""
    time: np.ndarray
    """Seconds since the start, ``[B]``."""


def _queue(env: SignalGrid, state: Signals) -> np.ndarray:
    result: np.ndarray = (state.queued[:, env.by_link[0]] * env.by_link[1]).sum(axis=-1)
    return result


def _queue_and_backlog(env: SignalGrid, state: Signals) -> np.ndarray:
    result: np.ndarray = (state.halting[:, env.incoming[0]] * env.incoming[1]).sum(axis=-1) + state.backlog
    return result


def _pressure(env: SignalGrid, state: Signals) -> np.ndarray:
    entering = (state.on_lane[:, env.incoming[0]] * env.incoming[1]).sum(axis=-1)
    result: np.ndarray = np.abs(entering - (state.leaving[:, env.outgoing[0]] * env.outgoing[1]).sum(axis=-1))
    return result


COSTS: Mapping[str, Callable[[SignalGrid, Signals], np.ndarray]] = {
    "queue": _queue,
    "queue_and_backlog": _queue_and_backlog,
    "pressure": _pressure,
}
"""Name of a reward -> vehicles ``[B, n]`` that it charges each signal."""


class SignalGrid(Simulated):
    """``batch`` copies of a network of signals; see :class:`dmpo_deep.envs.NetworkedEnv` for the contract.

    An action is the green phase that a signal is to show next. The metric is the paper's, minus the vehicles that halt
    in front of detectors, each once for every link of its lane, summed over signals and averaged over the steps of an
    episode. Do not read it without the outcomes.

    Args:
        batch: number of copies.
        net_file: a SUMO network; the 5x5 grid by default.
        route_file: its demand; both or none.
        num_seconds: of an episode.
        begin_time: second at which an episode begins.
        delta_time: seconds between decisions.
        yellow_time: seconds of yellow at a change of phase, a part of ``delta_time``.
        min_green: seconds for which a signal stays green before it follows a request to change.
        time_to_teleport: seconds after which SUMO lifts a blocked vehicle over the obstacle; -1 for never.
        sumo_seed: SUMO's seed in every episode; drawn by default.
        lanes: ``"distinct"``: a signal observes each of its lanes once; ``"by_link"``: once a link, the original.
        observation: ``"wave"`` is vehicles on the detectors over 5, at most 2; ``"wave_and_phase"`` adds the phase, as
            a one-hot code, and the time since its green began over 60 s, at most 1; ``"queue_and_phase"`` adds what the
            reward charges, too: vehicles that halt on each whole lane over 20, at most 2, and those that wait to depart
            towards the signal over 20, at most 10.
        reward_fn: ``"queue_and_backlog"``: halting vehicles on the incoming lanes and those that wait to depart
            towards the signal; ``"pressure"``: the difference between vehicles on incoming and outgoing lanes;
            ``"queue"``: the paper's, which can be gamed. Minus these over 20 is the local reward.
        additional_sumo_cmd: further options of SUMO, as on its command line.
        gridlock: for training: vehicles that halt or wait to depart, in all, beyond which an episode is cut short as by
            the time limit; never by default, and never where ``draws`` are given.
        isolated: each copy in a process of its own, which may crash or hang; without, one copy in this process.
        backend: of SUMO: ``"libsumo"``, ``"traci"``, or ``"sumo-gui"`` to watch.
        gamma: not used: no state ends the task.
        draws: in [0, 1), one per episode, taken by the copies in turn; each stands for a seed of SUMO. From the
            generator by default.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a damaged file, or one that does not fit the other, naming what.
    """

    task = "atsc"
    period: np.ndarray | None = None
    n_states: tuple[int, ...] | None = None
    warmup_steps = 0
    measures: Sequence[str] = SYSTEM[:4]
    outcomes: Sequence[str] = (*SYSTEM[4:6], *SYSTEM[7:8], "unfinished", "mean_delay")

    def __init__(
        self,
        batch: int,
        *,
        net_file: str | None = None,
        route_file: str | None = None,
        num_seconds: int = 3600,
        begin_time: int = 0,
        delta_time: int = 5,
        yellow_time: int = 2,
        min_green: int = 0,
        time_to_teleport: int = 600,
        sumo_seed: int | None = None,
        lanes: str = "distinct",
        observation: str = "wave",
        reward_fn: str = "queue_and_backlog",
        additional_sumo_cmd: str = "",
        gridlock: int | None = None,
        isolated: bool = True,
        backend: str = "libsumo",
        gamma: float = 0.99,
        draws: Sequence[float] | None = None,
    ) -> None:
        require_choices(
            lanes=(lanes, ("distinct", "by_link")),
            observation=(observation, OBSERVATIONS),
            reward_fn=(reward_fn, COSTS),
            backend=(backend, BACKENDS),
        )
        if not (0 <= yellow_time < delta_time and min_green >= 0 and begin_time >= 0):
            raise ValueError(
                f"yellow_time = {yellow_time}, delta_time = {delta_time}, min_green = {min_green}, begin_time = "
                f"{begin_time}; give seconds of at least 0, and less yellow than lies between decisions"
            )
        if num_seconds < delta_time or num_seconds % delta_time:
            raise ValueError(f"num_seconds = {num_seconds}; give a positive multiple of delta_time = {delta_time}")
        if (net_file is None) != (route_file is None):
            raise ValueError(
                f"net_file = {net_file!r}, route_file = {route_file!r}; give both, or none for the 5x5 grid"
            )
        if sumo_seed is not None and not 0 <= sumo_seed < 2**31:
            raise ValueError(f"sumo_seed = {sumo_seed}; give 0 to {2**31 - 1}")
        if gridlock is not None and gridlock < 1:
            raise ValueError(f"gridlock = {gridlock}; give at least 1 vehicle, or leave it out")
        files = (Path(net_file or GRID_NETWORK).resolve(), Path(route_file or GRID_DEMAND).resolve())
        self.network = network = read_network(files[0])
        """Signals, lanes and links."""
        self.timing = Timing(begin_time, num_seconds, delta_time, yellow_time, min_green)
        simulation = partial(
            SignalTraffic,
            network=network,
            origins=departures(files[1], network),
            files={"net-file": str(files[0]), "route-files": str(files[1])},
            timing=self.timing,
            sumo_seed=sumo_seed,
            options={"time-to-teleport": time_to_teleport, **_options(additional_sumo_cmd)},
            backend=backend,
        )
        self._layout = layout(network)
        width = max(part.stop for part in self._layout.values())
        super().__init__(self.task, simulation, batch, width, num_seconds // delta_time, isolated, draws)
        self.graph = network.graph
        counts = [len(signal.phases) for signal in network.signals]
        self._counts, self._widest = np.array(counts), max(counts)
        same = len(set(counts)) == 1
        self.action_space: Discrete | MultiDiscrete | Box = Discrete(counts[0]) if same else MultiDiscrete(counts)
        self.incoming = network.padded([s.incoming for s in network.signals], network.incoming)
        """Each signal's incoming lanes among those of all, ``[n, m]``, padded, and which are real."""
        self.outgoing = network.padded([s.outgoing for s in network.signals], network.outgoing)
        """The same of outgoing lanes."""
        self.by_link = network.padded([s.by_link for s in network.signals], network.incoming)
        """The same of the lane that each link leaves."""
        self._seen, self._observed = self.incoming if lanes == "distinct" else self.by_link, OBSERVATIONS[observation]
        m = self._seen[0].shape[1]
        beside = {"queue": [MOST_WAVE] * m + [MOST_BACKLOG], "phase": [1.0] * (self._widest + 1)}
        highest = np.array([MOST_WAVE] * m + [most for part in self._observed for most in beside[part]], np.float32)
        self.observation_space: Box = Box(np.zeros_like(highest), highest)
        self._cost = COSTS[reward_fn]
        self._gridlock = math.inf if gridlock is None or draws is not None else gridlock

    def signals(self) -> Signals:
        """The state of all signals and of the lanes around them."""
        parts = {name: self._frames[:, part] for name, part in self._layout.items() if name != "system"}
        for name in ("phase", "green"):
            parts[name] = parts[name].astype(int)
        return Signals(**parts, time=self._time * self.timing.delta_time)

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32; entries that a signal does not have are 0."""
        state, (index, real) = self.signals(), self._seen
        parts = [np.minimum(state.detected[:, index] * real / WAVE, MOST_WAVE)]
        if "queue" in self._observed:
            parts.append(np.minimum(state.halting[:, index] * real / REWARD_UNIT, MOST_WAVE))
            parts.append(np.minimum(state.backlog / REWARD_UNIT, MOST_BACKLOG)[..., None])
        if "phase" in self._observed:
            parts.append(state.phase[..., None] == np.arange(self._widest))
            parts.append(np.minimum(state.green / LONG_GREEN, 1)[..., None])
        return np.concatenate(parts, axis=-1, dtype=np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One step of ``delta_time``; see the contract. ``info`` also has the measures of the system ``[B]``."""
        self._require_running()
        require_discrete(action, (self.batch, len(self._counts)), self._counts)
        step, truncated = self._advance(action)
        state = self.signals()
        raw = -self._cost(self, state)
        system = dict(zip(SYSTEM, self._frames[:, self._layout["system"]].T, strict=True))
        metric = -_queue(self, state).sum(axis=-1) / self.horizon
        info = {**system, "raw_reward": raw, "metric": metric, "step": step, "collided": system["collisions"] > 0}
        truncated |= system["system_total_stopped"] + system["system_total_backlogged"] > self._gridlock
        self._end(truncated)
        return self.observe(), raw / REWARD_UNIT, np.zeros(self.batch, dtype=bool), truncated, info

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """No state ends the task: False and 0 for every copy ``[B]``."""
        return np.zeros(len(next_obs), dtype=bool), np.zeros(len(next_obs))


def _options(command: str) -> dict[str, object]:
    """SUMO's options from a command line, ``--name value`` or ``--flag``."""
    options: dict[str, object] = {}
    for word in shlex.split(command):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in MANAGED:
                raise ValueError(
                    f"additional_sumo_cmd has --{name}, which is set by an option of this task; leave it out"
                )
            options[name] = value if equals else True
        elif options and options[name] is True:
            options[name] = word
        else:
            raise ValueError(f"additional_sumo_cmd = {command!r}: {word!r} belongs to no option; write --name value")
    return options
