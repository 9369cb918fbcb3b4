"""Section VI: scores on the published evaluation draws, of trained policies and of reference controllers."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmpo_deep import log
from dmpo_deep.checkpoint import load, restoring
from dmpo_deep.config import CONFIG, RunConfig, read_config
from dmpo_deep.envs import CONTROLLERS, Policy, evaluation_env
from dmpo_deep.nets import Actor, one_thread
from dmpo_theory.errors import unknown_name


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One episode on each of the ``B`` evaluation draws."""

    metric: np.ndarray
    """The paper's metric of each episode, ``[B]``."""
    collided: np.ndarray
    """Whether there was a collision, ``[B]``."""
    measures: Mapping[str, np.ndarray]
    """Means over the steps of each episode, ``[B]``: on catch-up ``speed`` (m/s) and ``headway`` (m)."""

    @property
    def mean(self) -> float:
        """Mean metric."""
        return float(self.metric.mean())

    @property
    def sd(self) -> float:
        """Standard deviation of the metric over draws."""
        return float(self.metric.std(ddof=1))

    @property
    def collisions(self) -> int:
        """Number of episodes with a collision."""
        return int(self.collided.sum())

    def __str__(self) -> str:
        measured = ", ".join(f"mean {name} {value.mean():.2f}" for name, value in self.measures.items())
        count = f"{self.collisions} of {len(self.metric)} collided"
        return f"{self.mean:.2f} (sd {self.sd:.2f}; {count}; {measured})"


def evaluate_policy(task: str, policy: Policy, options: Mapping[str, Any] | None = None, seed: int = 0) -> Evaluation:
    """Run ``policy`` once on every evaluation draw.

    Args:
        task: the task's id.
        policy: observations and a generator to actions and log-probabilities.
        options: the task's options.
        seed: of the policy's own randomness.
    """
    env = evaluation_env(task, **(options or {}))
    rng = np.random.default_rng(seed)
    obs = env.reset(rng)
    metric, steps = np.zeros(env.batch), np.zeros(env.batch)
    measures = {name: np.zeros(env.batch) for name in env.measures}
    running, collided = np.ones(env.batch, dtype=bool), np.zeros(env.batch, dtype=bool)
    while running.any():
        obs, _, terminated, truncated, info = env.step(policy(obs, rng)[0])
        metric[running] += info["metric"][running]
        steps += running
        for name, total in measures.items():
            total[running] += info[name][running]
        collided |= running & info["collided"]
        running &= ~(terminated | truncated)
    return Evaluation(metric, collided, {name: total / steps for name, total in measures.items()})


def load_actor(run: Path) -> tuple[Actor, RunConfig]:
    """The trained policies of a run and its ``config.json``."""
    config = read_config(run)
    env = evaluation_env(config.task, **config.preset.environment)
    radius, d = config.preset.kappa_policy, env.observation_dim
    actor = Actor(env.graph, radius, d, env.n_actions, config.preset.hidden, torch.Generator())
    path = run / log.CHECKPOINT
    state = load(path, config.identity)
    with restoring(path):
        actor.load_state_dict(state["learner"]["agents"]["actor"])
    return actor, config


def default_out(target: str | Path) -> Path | None:
    """Where the results of a run go by default; None for a task."""
    return Path(target) / "evaluation.csv" if (Path(target) / CONFIG).is_file() else None


@one_thread()
def evaluate(
    target: str | Path, controller: str | None = None, out: Path | None = None, overwrite: bool = False
) -> dict[str, Evaluation]:
    """Evaluate a run's policies, sampled and greedy, or a task's reference controllers.

    Args:
        target: a run directory or a task's id.
        controller: one of the task's reference controllers; all of them by default.
        out: CSV file with one row per policy and draw; by default ``evaluation.csv`` inside a run, written anew.
        overwrite: replace ``out`` if it exists.

    Raises:
        ValueError: neither a run nor a task, no such controller, or a damaged run.
        FileExistsError: ``out`` exists.
        FileNotFoundError: the folder of ``out`` does not exist.
    """
    run = Path(target)
    if out is not None:
        if out.is_dir() or (out.exists() and not overwrite):
            raise FileExistsError(f"{out} exists; give another file, or overwrite it if it is one")
        if not out.parent.is_dir():
            raise FileNotFoundError(f"{out.parent} is no folder to write {out.name} in; create it first")
    if (run / CONFIG).is_file():
        if controller is not None:
            raise ValueError(f"{run} is a run; give a task, for example catchup, to evaluate controller {controller!r}")
        actor, config = load_actor(run)
        options = config.preset.environment
        policies: dict[str, Policy] = {"sampled": actor, "greedy": actor.greedy}
        task, out = config.task, out or default_out(run)
    elif (task := str(target)) in CONTROLLERS:
        known = CONTROLLERS[task]
        if controller is not None and controller not in known:
            raise unknown_name(f"controller of {task}", controller, known)
        policies = {name: known[name].policy for name in known if controller in (None, name)}
        options = {}
    elif run.is_dir():
        raise FileNotFoundError(f"{run} is no run directory: it has no {CONFIG}")
    else:
        raise unknown_name("task (and no run directory)", task, CONTROLLERS)
    results = {name: evaluate_policy(task, policy, options) for name, policy in policies.items()}
    if out is not None:
        _write(out, results)
    return results


def _write(path: Path, results: Mapping[str, Evaluation]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "draw", "metric", "collided", *next(iter(results.values())).measures])
        for name, result in results.items():
            columns = (result.metric, result.collided.astype(int), *result.measures.values())
            writer.writerows(
                (name, draw, *(x.item() for x in row)) for draw, row in enumerate(zip(*columns, strict=True))
            )
