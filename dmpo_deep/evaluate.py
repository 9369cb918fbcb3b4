"""Section VI: scores on the published evaluation draws, of trained policies and of reference controllers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmpo_deep import log
from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.checkpoint import load, restoring
from dmpo_deep.config import CONFIG, RunConfig, read_config
from dmpo_deep.controllers import (
    CONTROLLERS,
    Controller,
    controllers_of,
    from_search,
    material,
    measured,
    normalised_score,
    random_score,
)
from dmpo_deep.envs import Policy, evaluation_env, evaluation_rounds, named_task
from dmpo_deep.envs.own import is_own
from dmpo_deep.episodes import Episodes, play
from dmpo_deep.learner import Population
from dmpo_deep.nets import one_thread
from dmpo_theory.errors import unknown_name
from dmpo_theory.files import whole

EVALUATION = "evaluation.csv"
"""In a run directory: what its policies came to on each evaluation draw, the last time."""
EVALUATION_RANDOMNESS = (1001, 1)
"""Entropy of what evaluations draw beyond the published draws, such as the noise of human drivers."""


def evaluate_policy(task: str, policy: Policy, options: Mapping[str, Any] | None = None, seed: int = 0) -> Episodes:
    """Run ``policy`` once on every evaluation draw.

    Args:
        task: the task's id.
        policy: observations and a generator to actions and log-probabilities.
        options: the task's options.
        seed: of the policy's own randomness.
    """
    return _evaluate(task, lambda env: policy, options or {}, seed)


def evaluate_controller(
    task: str, controller: Controller, options: Mapping[str, Any] | None = None, seed: int = 0, skip: int = 0
) -> Episodes:
    """As :func:`evaluate_policy`, for a reference controller; measures leave out the first ``skip`` steps."""
    return _evaluate(task, controller.make, options or {}, seed, skip)


def _evaluate(
    task: str, make: Callable[[Any], Policy], options: Mapping[str, Any], seed: int, skip: int = 0
) -> Episodes:
    env = evaluation_env(task, **options)
    starts = np.random.default_rng(EVALUATION_RANDOMNESS)
    acts, rounds = np.random.default_rng(seed), evaluation_rounds(task)
    with closing(env):
        episodes = play(env, make(env), starts, acts, skip, rounds)
    score = normalised_score(task, options, episodes)
    return replace(episodes, score=score, random_score=random_score(task, options))


def load_agents(run: Path) -> tuple[Population, RunConfig]:
    """The trained agents of a run and its ``config.json``."""
    config = read_config(run)
    env = evaluation_env(config.task, **config.preset.environment)
    agents = ALGORITHMS[config.algo].population(env, config.preset, torch.Generator())
    path = run / log.CHECKPOINT
    state = load(path, config.identity)
    with restoring(path):
        agents.load_state_dict(state["learner"]["agents"])
    return agents, config


def default_out(target: str | Path) -> Path | None:
    """Where the results of a run go by default; None for a task."""
    return Path(target) / EVALUATION if (Path(target) / CONFIG).is_file() else None


@one_thread()
def evaluate(
    target: str | Path,
    controller: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    skip: int = 0,
) -> dict[str, Episodes]:
    """Evaluate a run's policies, sampled and greedy, or a task's reference controllers.

    Args:
        target: a run directory or a task's id.
        controller: one of the task's reference controllers; all of them by default.
        out: CSV file with one row per policy and draw; by default ``evaluation.csv`` inside a run, written anew.
        overwrite: replace ``out`` if it exists.
        options: the task's options; a run has its own.
        skip: steps at the start of every episode that speeds and headways leave out.

    Raises:
        ValueError: neither a run nor a task, no such controller or option, or a damaged run.
        FileExistsError: ``out`` exists.
        FileNotFoundError: the folder of ``out`` does not exist.
    """
    run = Path(target)
    if out is not None:
        check_file(out, overwrite)
    if (run / CONFIG).is_file():
        if controller is not None:
            raise ValueError(f"{run} is a run; give a task, for example catchup, to evaluate controller {controller!r}")
        if options or skip:
            raise ValueError(f"{run} is a run, evaluated as it was trained; leave out options and skip")
        agents, config = load_agents(run)
        task, out = config.task, out or default_out(run)
        policies = {"sampled": agents.policy(), "greedy": agents.policy(greedy=True)}
        results = {name: evaluate_policy(task, p, config.preset.environment) for name, p in policies.items()}
    elif (task := str(target)) in CONTROLLERS or is_own(task):
        task, source = named_task(task)
        chosen, options = chosen_controllers(task, controller), {**source, **(options or {})}
        results = {name: evaluate_controller(task, known, options, skip=skip) for name, known in chosen.items()}
    elif run.is_dir():
        raise FileNotFoundError(f"{run} is no run directory: it has no {CONFIG}")
    else:
        raise unknown_name("task (and no run directory)", task, [*CONTROLLERS, "MODULE:FACTORY"])
    if out is not None:
        write_episodes(out, results)
    return results


def reference_levels(task: str, options: Mapping[str, Any]) -> dict[str, float]:
    """The mean metric of the task's reference controllers on the evaluation draws, by label.

    None where they are not stored for these options and would take long to measure.
    """
    metrics = measured(task, options)
    if metrics is None and measured(task, {}) is None:
        known = controllers_of(task)
        metrics = {name: evaluate_controller(task, of, material(task, options)).mean for name, of in known.items()}
    return {controllers_of(task)[name].label: metric for name, metric in (metrics or {}).items()}


def chosen_controllers(task: str, name: str | None = None) -> Mapping[str, Controller]:
    """The task's reference controller of that name, the one in that file, or all of them."""
    known = controllers_of(task)
    if name is None:
        return known
    if name in known:
        return {name: known[name]}
    if Path(name).is_file():
        return {name: from_search(Path(name), task)}
    raise unknown_name(f"controller of {task} (and no file)", name, known)


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse to write a file that exists, unless told to, or whose folder does not."""
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists; give another file, or overwrite it if it is one")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder to write {path.name} in; create it first")


def write_episodes(path: Path, results: Mapping[str, Episodes]) -> None:
    """A line for each policy and draw: metric, collision, measures and outcomes."""
    with whole(path) as file:
        writer = csv.writer(file)
        first = next(iter(results.values()))
        writer.writerow(["policy", "draw", "metric", "collided", *first.measures, *first.outcomes])
        for name, result in results.items():
            columns = (result.metric, result.collided.astype(int), *result.measures.values(), *result.outcomes.values())
            writer.writerows(
                (name, draw, *(x.item() for x in row)) for draw, row in enumerate(zip(*columns, strict=True))
            )
