"""Section VI's episodes, recorded: what cars or signals do in the first evaluation episode of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep.drawing import NothingToDraw
from dmpo_deep.envs import Policy, evaluation_env, make_env
from dmpo_deep.envs.atsc_traffic import SYSTEM
from dmpo_deep.envs.signals import GO, SignalNetwork
from dmpo_deep.envs.traffic import DT, Road, Traffic
from dmpo_deep.evaluate import EVALUATION_RANDOMNESS, load_agents
from dmpo_deep.learner import Population

Driver = Callable[[Any], Policy]
"""Makes the policy of an episode from its environment."""


@dataclass(frozen=True, eq=False)
class Drive:
    """Cars, from the start of an episode to its end."""

    task: str
    cars: Traffic
    """``[frames, cars]`` each."""
    road: Road | None
    """The loop that they drive on; None for a platoon on a straight lane."""

    @property
    def seconds(self) -> np.ndarray:
        """Since the start, ``[frames]``."""
        return DT * np.arange(len(self.cars.speed))

    @property
    def shown(self) -> tuple[int, ...]:
        """Cars to follow: the first, a middle and the last one of a platoon, four in a row on a loop."""
        n = self.cars.speed.shape[1]
        return (0, n // 2, n - 1) if self.road is None else (0, 1, 2, 3)

    def rows(self) -> list[dict[str, Any]]:
        """The numbers of the cars to follow, a row a car and frame."""
        return [
            {
                **{"task": self.task, "car": car + 1, "seconds": f"{seconds:.1f}"},
                **{name: float(getattr(self.cars, name)[frame, car]) for name in ("position", "speed", "headway")},
            }
            for car in self.shown
            for frame, seconds in enumerate(self.seconds)
        ]


@dataclass(frozen=True, eq=False)
class Junctions:
    """Signals and the lanes that lead to them, from the start of an episode to its end."""

    task: str
    network: SignalNetwork
    seconds: np.ndarray
    """Since the start, ``[frames]``."""
    halting: np.ndarray
    """Vehicles that halt on each incoming lane, ``[frames, L]``."""
    backlog: np.ndarray
    """Vehicles that wait to depart towards each signal, ``[frames, n]``."""
    waiting: np.ndarray
    """Both together by signal, ``[frames, n]``."""
    phase: np.ndarray
    """Green phases, ``[frames, n]``."""
    system: Mapping[str, np.ndarray]
    """Of the whole network, ``[frames]`` each; see :data:`dmpo_deep.envs.atsc_traffic.SYSTEM`."""

    @property
    def green(self) -> np.ndarray:
        """Whether somebody may leave an incoming lane, ``[frames, L]``."""
        lanes = []
        for i, signal in enumerate(self.network.signals):
            for lane in signal.incoming:
                links = [link.index for link in signal.links if link.source == lane]
                opened = np.array([any(state[link] in GO for link in links) for state in signal.phases])
                lanes.append(opened[self.phase[:, i]])
        return np.stack(lanes, axis=1)

    def rows(self) -> list[dict[str, Any]]:
        """The numbers of the whole network and who waits at which signal, a row a frame."""
        ids = [signal.id for signal in self.network.signals]
        return [
            {
                **{"task": self.task, "seconds": int(seconds)},
                **{name: float(values[frame]) for name, values in self.system.items()},
                **{f"waiting_{name}": int(count) for name, count in zip(ids, self.waiting[frame], strict=True)},
            }
            for frame, seconds in enumerate(self.seconds)
        ]


Recording = Drive | Junctions


def sampled(agents: Population) -> Driver:
    """Trained agents at the wheel, their actions sampled."""
    return lambda env: agents.policy()


def played(run: Path) -> Recording:
    """The first evaluation episode of a run's sampled policy; errors as :func:`dmpo_deep.evaluate.load_agents`."""
    agents, config = load_agents(run)
    return record(config.task, sampled(agents), config.preset.environment)


def require_something_to_see(task: str, options: Mapping[str, Any]) -> None:
    """Refuse a task that has neither cars nor signals, before anything is played.

    Raises:
        NothingToDraw: naming it.
    """
    with closing(make_env(task, 1, **options)) as env:
        if not any(hasattr(env, method) for method in _RECORDERS):
            raise NothingToDraw(f"there is no picture of {task}: it has neither cars nor signals")


def record(task: str, driver: Driver, options: Mapping[str, Any]) -> Recording:
    """Play the first evaluation episode, on the first published draw, to its end.

    Args:
        task: the task's id.
        driver: makes the policy, such as that of a reference controller.
        options: the task's options.

    Raises:
        NothingToDraw: the task has neither cars nor signals.
    """
    require_something_to_see(task, options)
    with closing(evaluation_env(task, **options)) as env:
        recorder = next(make for method, make in _RECORDERS.items() if hasattr(env, method))
        return recorder(env, _episode(env, driver(env)))


def _episode(env: Any, policy: Policy) -> Iterator[Mapping[str, Any]]:
    """What each step of the first copy's episode measures, when it is made; nothing at the start."""
    acts, starts = np.random.default_rng(0), np.random.default_rng(EVALUATION_RANDOMNESS)
    obs, ended = env.reset(starts), np.zeros(env.batch, dtype=bool)
    yield {}
    while not ended[0]:
        if ended.any():
            obs = env.reset(starts, ended)
        obs, _, terminated, truncated, info = env.step(policy(obs, acts)[0])
        ended = terminated | truncated
        yield info


def _drive(env: Any, episode: Iterator[Mapping[str, Any]]) -> Drive:
    frames = [env.traffic() for _ in episode]
    cars = {name: np.array([vars(frame)[name][0] for frame in frames]) for name in vars(frames[0])}
    return Drive(env.task, Traffic(**cars), env.road())


def _junctions(env: Any, episode: Iterator[Mapping[str, Any]]) -> Junctions:
    states, measured = [], []
    for info in episode:
        states.append(env.signals())
        measured.append([float(info[name][0]) if info else 0.0 for name in SYSTEM])
    seconds, halting, backlog, phase = (
        np.array([getattr(state, name)[0] for state in states]) for name in ("time", "halting", "backlog", "phase")
    )
    index, real = env.incoming
    waiting = (halting[:, index] * real).sum(axis=-1) + backlog
    system = dict(zip(SYSTEM, np.array(measured).T, strict=True))
    return Junctions(env.task, env.network, seconds, halting, backlog, waiting, phase, system)


_RECORDERS: Mapping[str, Callable[[Any, Iterator[Mapping[str, Any]]], Recording]] = {
    "signals": _junctions,
    "traffic": _drive,
}
"""What an environment can tell -> how it is recorded."""
