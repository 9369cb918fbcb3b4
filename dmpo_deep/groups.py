"""Section VI's runs, taken together: those that differ in their seed only are one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmpo_deep.results import Result

SCORES = ("eval_sampled", "eval_greedy")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    task: str
    label: str
    runs: tuple[Result, ...]
    steps: np.ndarray
    """Steps at which every run was evaluated, ``[E]``."""
    scores: Mapping[str, np.ndarray]
    """Mean metric on the evaluation draws, sampled and greedy policies, ``[seeds, E]`` each."""
    left_out: int
    """Evaluation steps that some run of the group has and another has not."""

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """Of every run, in plain JSON."""
        return self.runs[0].hyperparameters

    def values(self, column: str) -> np.ndarray:
        """Any column of the results at :attr:`steps`, ``[seeds, E]``; NaN where a run has no such number."""
        return _at(self.runs, self.steps, column)


def collect(results: Sequence[Result]) -> list[Group]:
    """Group runs by task, algorithm and hyper-parameters; labels leave out overrides that all runs of a task share.

    Raises:
        ValueError: the same run twice, runs of a group with no evaluation step in common, or runs of one name with
            different hyper-parameters.
    """
    members: dict[tuple[str, str], list[Result]] = {}
    for task in sorted({result.task for result in results}):
        runs = [result for result in results if result.task == task]
        alike = len({run.label for run in runs}) == 1
        shared = set() if alike else set.intersection(*(set(run.overrides) for run in runs))
        for run in runs:
            members.setdefault((task, run.called(shared)), []).append(run)
    return [_group(task, label, runs) for (task, label), runs in sorted(members.items())]


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Task -> its groups, in their order."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.task, []).append(group)
    return found


def _group(task: str, label: str, runs: Sequence[Result]) -> Group:
    first = runs[0].hyperparameters
    for run in runs:
        for name in sorted(first.keys() | run.hyperparameters.keys()):
            if (one := first.get(name)) != (other := run.hyperparameters.get(name)):
                raise ValueError(
                    f"runs of {label} on {task} differ in more than their seed: {name} = {one} and {other}; "
                    "plot them apart"
                )
    seeds = [run.seed for run in runs]
    if twice := {seed for seed in seeds if seeds.count(seed) > 1}:
        raise ValueError(f"seed {min(twice)} of {label} on {task} is given twice; leave one out")
    evaluated = [{int(row["env_steps"] or 0) for row in run.rows} for run in runs]
    steps = np.array(sorted(set.intersection(*evaluated)), dtype=int)
    if not len(steps):
        raise ValueError(f"the runs of {label} on {task} have no evaluation step in common; train them alike")
    left_out = len(set.union(*evaluated)) - len(steps)
    return Group(task, label, tuple(runs), steps, {name: _at(runs, steps, name) for name in SCORES}, left_out)


def _at(runs: Sequence[Result], steps: np.ndarray, column: str) -> np.ndarray:
    evaluated = [{int(row["env_steps"] or 0): row.get(column) for row in run.rows} for run in runs]
    return np.array([[values[step] for step in steps.tolist()] for values in evaluated], dtype=float)
