"""The cross-entropy method (Rubinstein 1999), to find the weights of a reference controller on training draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep.controllers import FAMILIES, Family
from dmpo_deep.envs import NetworkedEnv, make_env
from dmpo_deep.envs.traffic import EVALUATION_DRAWS
from dmpo_deep.episodes import play
from dmpo_theory.errors import unknown_name
from dmpo_theory.files import write_text

ELITE = 0.1
"""Share of a population that the next one is drawn around."""
EXPLORATION = 0.1
"""What is added to the spread of weights at the start, against early convergence; it decays to 0 by half-time."""
VALIDATION_DRAWS = 200
"""Training draws, other than those of the searches, that choose among restarts."""


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search stands after an iteration."""

    restart: int
    iteration: int
    weights: np.ndarray
    """Mean of the elite so far, the family's ``shape``."""
    metric: float
    """Mean metric of the elite on the training draws."""
    env_steps: int
    validation: float | None = None
    """After the last iteration of a restart: the mean metric of its weights on the validation draws."""


def search(
    task: str,
    controller: str,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    population: int = 128,
    draws: int = 16,
    iterations: int = 40,
    restarts: int = 8,
) -> Iterator[Found]:
    """Sample weights from a Gaussian, play each on the same training draws, refit the Gaussian to the elite, repeat.

    The spread of the Gaussian gets an addition that decays to 0 by half-time, against early convergence (Szita and
    Lorincz 2006). Which optimum is found is chance all the same, so that the search is repeated, each time on
    training draws of its own, and the results are compared on validation draws.

    Args:
        task: the task's id.
        controller: one of the task's families.
        options: the task's options.
        seed: of the training draws and of everything else.
        population: candidates in an iteration.
        draws: training draws on which each is played.
        iterations: of the method.
        restarts: searches from the start.

    Raises:
        ValueError: no such task or family, too small a number, or training draws among the evaluation draws.
    """
    for kind, name, known in (("task", task, FAMILIES), ("searchable controller", controller, FAMILIES.get(task, {}))):
        if name not in known:
            raise unknown_name(kind, name, known)
    for name, number, least in (
        *(("seed", seed, 0), ("population", population, 20), ("draws", draws, 1)),
        *(("iterations", iterations, 1), ("restarts", restarts, 1)),
    ):
        if number < least:
            raise ValueError(f"{name} = {number}; give at least {least}")
    family, rng = FAMILIES[task][controller], np.random.default_rng(seed)
    training, validation = rng.random((restarts, draws)), rng.random(VALIDATION_DRAWS)
    if np.isin(training, EVALUATION_DRAWS).any() or np.isin(validation, EVALUATION_DRAWS).any():
        raise ValueError(f"seed = {seed} gives training draws that are evaluation draws; give another seed")
    given = dict(options or {})
    check = make_env(task, VALIDATION_DRAWS, draws=validation, **given)
    envs = (make_env(task, population * draws, draws=np.tile(each, population), **given) for each in training)
    return _restarts(envs, check, family, rng, population, draws, iterations)


def _restarts(
    envs: Iterable[NetworkedEnv],
    check: NetworkedEnv,
    family: Family,
    rng: np.random.Generator,
    population: int,
    draws: int,
    last: int,
) -> Iterator[Found]:
    steps = 0
    for restart, env in enumerate(envs, start=1):
        mean, spread = np.zeros(family.shape), np.ones(family.shape)
        for iteration in range(1, last + 1):
            candidates = mean + spread * rng.standard_normal((population, *family.shape))
            played = play(env, family.make(env, np.repeat(candidates, draws, axis=0)), rng, rng)
            steps += played.env_steps
            scores = played.metric.reshape(population, draws).mean(axis=1)
            elite = np.argsort(scores)[-math.ceil(ELITE * population) :]
            mean, spread = candidates[elite].mean(axis=0), candidates[elite].std(axis=0)
            spread = spread + max(0.0, EXPLORATION * (1 - 2 * iteration / last))
            found = Found(restart, iteration, mean, float(scores[elite].mean()), steps)
            if iteration == last:
                checked = play(check, family.make(check, mean), rng, rng)
                steps += checked.env_steps
                found = replace(found, env_steps=steps, validation=checked.mean)
            yield found


def best(history: Sequence[Found]) -> Found:
    """The restart that is best on the validation draws; the last iteration if none has come to its end."""
    return max(reversed(history), key=lambda found: -math.inf if found.validation is None else found.validation)


def write(
    path: Path,
    task: str,
    controller: str,
    options: Mapping[str, Any],
    settings: Mapping[str, int],
    history: Sequence[Found],
) -> None:
    """Write the best weights as JSON, with the command that finds them again and what they reached."""
    chosen = best(history)
    flags = [f"--{name} {value}" for name, value in settings.items()]
    given = f"--set {' '.join(f'{name}={value}' for name, value in options.items())}" if options else ""
    record = {
        "task": task,
        "controller": controller,
        "command": " ".join(filter(None, ("dmpo search", task, "--controller", controller, given, *flags))),
        "restart": chosen.restart,
        "iterations": chosen.iteration,
        "training_metric": chosen.metric,
        "validation_metric": chosen.validation,
        "validation_metrics": [found.validation for found in history if found.validation is not None],
        "env_steps": history[-1].env_steps,
        "weights": chosen.weights.tolist(),
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
