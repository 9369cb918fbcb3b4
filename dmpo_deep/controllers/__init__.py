"""Section VI: the reference controllers that learners are held against, and the scale that they span."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmpo_deep.controllers import atsc, cacc, eight, own, ring, tabular
from dmpo_deep.envs import Policy, find_task
from dmpo_deep.envs.own import factory_of, is_own
from dmpo_deep.episodes import Episodes

DATA = Path(__file__).parent / "data"
LEVELS = DATA / "levels.json"
SCORED_BY: Mapping[str, str] = {"atsc": "mean_delay"}
"""Task id -> the outcome, the less the better, that its scale measures; the metric where none is named."""
IMMATERIAL = {"collision", "collision_scale", "gamma", "observation", "beyond_limit", "backend", "isolated", "graph"}
IMMATERIAL |= {"lanes", "reward_fn", "exploring_starts", "gridlock"}
"""Options of tasks that leave every controller's metric as it is."""


class Controller(NamedTuple):
    """A reference controller."""

    label: str
    """What to call it in tables."""
    make: Callable[[Any], Policy]
    """Its policy in an environment, made anew for every run of episodes: some remember."""
    knows: str
    """What it decides on."""


class Family(NamedTuple):
    """Controllers with weights, among which a search finds the best."""

    make: Callable[[Any, np.ndarray], Policy]
    """Environment and weights, of ``shape`` or one set for each copy ``[B, *shape]``."""
    shape: tuple[int, ...]


_PLATOON = {"mixture": Family(cacc.mixture, (1, 4)), "linear": Family(cacc.linear, (4, 6))}
FAMILIES: Mapping[str, Mapping[str, Family]] = {
    "catchup": _PLATOON,
    "slowdown": _PLATOON,
    "ring": {"linear": Family(ring.linear, (1, 4))},
    **{task: {} for task in ("eight", "atsc", "tabular")},
}
"""Task id -> families that can be searched, by name."""


def from_search(path: Path, task: str) -> Controller:
    """The controller whose weights ``dmpo search`` wrote to a file.

    Raises:
        ValueError: the file is no such file, or of another task.
    """
    try:
        record = json.loads(path.read_text())
        family = FAMILIES[record["task"]][record["controller"]]
        weights = np.array(record["weights"], dtype=float).reshape(family.shape)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file that dmpo search wrote ({error!r}); search again") from error
    if record["task"] != task:
        raise ValueError(f"{path} was found on {record['task']}, not on {task}; search there")
    return Controller(f"searched {record['controller']}", lambda env: family.make(env, weights), "as its family")


def _stored(name: str) -> Callable[[Any], Policy]:
    """The searched controller of ``data/NAME.json``, read when it is made."""
    return lambda env: from_search(DATA / f"{name}.json", env.task).make(env)


def _platoon(task: str) -> Mapping[str, Controller]:
    return {
        "always": Controller("always (0.5, 0.5)", partial(cacc.always, alpha=0.5, beta=0.5), "nothing"),
        "random": Controller("uniform random", cacc.uniform, "nothing"),
        "mixture": Controller("best state-free mixture", _stored(f"{task}-mixture"), "nothing"),
        "linear": Controller("searched linear", _stored(f"{task}-linear"), "own observation"),
    }


CONTROLLERS: Mapping[str, Mapping[str, Controller]] = {
    "catchup": _platoon("catchup"),
    "slowdown": _platoon("slowdown"),
    "ring": {
        "zero": Controller("zero action", ring.zero, "nothing"),
        "random": Controller("uniform random", ring.uniform, "nothing"),
        "idm": Controller("human (IDM)", ring.human, "own and leader's speed, gap"),
        "proportional-0.1": Controller(
            "proportional, 0.1/s", partial(ring.proportional, gain=0.1), "own speed, length"
        ),
        "proportional-0.3": Controller(
            "proportional, 0.3/s", partial(ring.proportional, gain=0.3), "own speed, length"
        ),
        "linear": Controller("searched linear", _stored("ring-linear"), "own and leader's speed, gap"),
        "linear-bunched": Controller(
            "searched linear, bunched start", _stored("ring-linear-bunched"), "own and leader's speed, gap"
        ),
        "linear-humans": Controller(
            "searched linear, among humans", _stored("ring-linear-humans"), "own and leader's speed, gap"
        ),
        "follower-stopper-0.86": Controller(
            "FollowerStopper, 0.86 v_eq", partial(ring.follower_stopper, share=0.86), "speeds, gap, length"
        ),
        "follower-stopper-0.98": Controller(
            "FollowerStopper, 0.98 v_eq", partial(ring.follower_stopper, share=0.98), "speeds, gap, length"
        ),
        "pi": Controller("PI with saturation", ring.pi_saturation, "speeds, gap, own past"),
    },
    "tabular": {
        "random": Controller("uniform random", tabular.uniform, "nothing"),
        "given": Controller("the policy with the MDP", tabular.given, "its parents' states"),
    },
    "eight": {
        "idm": Controller("humans (IDM), all rules", eight.humans, "SUMO drives"),
        "krauss": Controller("humans (Krauss), all rules", eight.krauss, "SUMO drives"),
        "random": Controller("uniform random", eight.uniform, "nothing"),
        "constant-7": Controller("constant 7 m/s", partial(eight.constant_speed, speed=7.0), "own speed"),
        "timetable": Controller("timetable of slots", eight.timetable, "all cars, and time"),
    },
    "atsc": {
        "fixed-20-10-20": Controller(
            "fixed time, 20/10/20 s", partial(atsc.fixed_time, seconds=(20, 10, 20, 0)), "time"
        ),
        "fixed-30-30-30": Controller(
            "fixed time, 30/30/30 s", partial(atsc.fixed_time, seconds=(30, 30, 30, 0)), "time"
        ),
        "random": Controller("uniform random", atsc.uniform, "nothing"),
        "greedy-5": Controller("greedy, every 5 s", partial(atsc.greedy, hold=5), "own detectors"),
        "greedy-15": Controller("greedy, every 15 s", partial(atsc.greedy, hold=15), "own detectors"),
        "greedy-lanes-15": Controller(
            "greedy on whole lanes, every 15 s", partial(atsc.greedy, hold=15, whole_lanes=True), "own lanes"
        ),
        "max-pressure-5": Controller(
            "max-pressure, every 5 s", partial(atsc.max_pressure, hold=5), "own and next lanes"
        ),
        "max-pressure-15": Controller(
            "max-pressure, every 15 s", partial(atsc.max_pressure, hold=15), "own and next lanes"
        ),
        "constant-1": Controller("constant phase 1", partial(atsc.constant, phase=1), "nothing"),
        "constant-3": Controller("constant phase 3", partial(atsc.constant, phase=3), "nothing"),
    },
}
"""Task id -> reference controllers by name."""


def controllers_of(task: str) -> Mapping[str, Controller]:
    """The task's reference controllers by name: of a user's own uniform play, and those its factory names.

    A factory names them in an attribute ``controllers``: name -> function from an environment to a policy.
    """
    if not is_own(task):
        return CONTROLLERS[task]
    named = getattr(factory_of(task), "controllers", {})
    random = Controller("uniform random", own.uniform, "nothing")
    return {"random": random} | {name: Controller(name, make, "see its source") for name, make in named.items()}


def normalised_score(task: str, options: Mapping[str, Any], episodes: Episodes) -> float | None:
    """``(R - R_trivial) / (R_best - R_trivial)``: 0 for the trivial controller, 1 for the best one known.

    The levels lie in ``data/levels.json`` with the command that made them. None where the task has none for these
    options, and where too little arrived for the result to mean anything.
    """
    level = _level(task, options)
    if level is None or arrivals(episodes) < level.get("least_arrivals", -math.inf):
        return None
    return _on_scale(level, result(task, episodes))


def random_level(task: str, options: Mapping[str, Any]) -> float | None:
    """The stored metric of uniformly random play; None where the task has no levels for these options."""
    level = _level(task, options)
    return None if level is None else float(level["random"])


def random_score(task: str, options: Mapping[str, Any]) -> float | None:
    """The normalised score of uniformly random play, whatever arrived."""
    level = _level(task, options)
    return None if level is None else _on_scale(level, level["random"])


def result(task: str, episodes: Episodes) -> float:
    """What the scale measures, the more the better: minus the outcome in :data:`SCORED_BY`, or the mean metric."""
    name = SCORED_BY.get(task)
    return episodes.mean if name is None else -float(episodes.outcomes[name].mean())


def arrivals(episodes: Episodes) -> float:
    """Mean number of vehicles that arrived; inf where none can."""
    return float(np.mean(episodes.outcomes.get("system_total_arrived", math.inf)))


def measured(task: str, options: Mapping[str, Any]) -> dict[str, float] | None:
    """Mean metric of each of the task's controllers as ``data/levels.json`` has it; None where it has not.

    For tasks whose episodes take long.
    """
    metrics = (_level(task, options) or {}).get("metrics", {})
    return metrics if metrics.keys() == controllers_of(task).keys() else None


def _on_scale(level: Mapping[str, Any], value: float) -> float:
    trivial, best = level["trivial"]["metric"], level["best"]["metric"]
    return float((value - trivial) / (best - trivial))


def material(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that controllers' metrics depend on: neither immaterial ones nor those at their default."""
    parameters = inspect.signature(find_task(task).make).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return {k: value for k, value in options.items() if k not in IMMATERIAL and value != defaults.get(k)}


def _level(task: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task's levels for these options."""
    for level in json.loads(LEVELS.read_text())["levels"]:
        if (level["task"], level["options"]) == (task, material(task, options)):
            return dict(level)
    return None
