"""Section VI: learning curves and final levels over seeds, from run directories and folders of results alone.

Curves and final levels are interquartile means over seeds with bootstrap 95 % intervals where there are at least
three seeds; with fewer, every run is a thin line of its own and levels are plain means without an interval.
"""

from __future__ import annotations

import csv
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmpo_deep import log, summary
from dmpo_deep.config import CONFIG
from dmpo_deep.controllers import controllers_of, measured
from dmpo_deep.envs import brought
from dmpo_deep.evaluate import evaluate_controller
from dmpo_deep.intervals import SEEDS_FOR_INTERVAL, interquartile_mean
from dmpo_deep.results import RUNS, Result, gather

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
STYLES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (10, 2)))
COLUMN_WIDTH = 3.4
"""Inches: one column of a two-column page."""
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


def collect(results: Sequence[Result]) -> list[Group]:
    """Group runs by task, algorithm and hyper-parameters; labels leave out overrides that all runs of a task share.

    Raises:
        ValueError: the same run twice, or runs of a group with no evaluation step in common.
    """
    members: dict[tuple[str, str], list[Result]] = {}
    for task in sorted({result.task for result in results}):
        runs = [result for result in results if result.task == task]
        alike = len({run.label for run in runs}) == 1
        shared = set() if alike else set.intersection(*(set(run.overrides) for run in runs))
        for run in runs:
            members.setdefault((task, run.called(shared)), []).append(run)
    return [_group(task, label, runs) for (task, label), runs in sorted(members.items())]


def _group(task: str, label: str, runs: Sequence[Result]) -> Group:
    seeds = [run.seed for run in runs]
    if twice := {seed for seed in seeds if seeds.count(seed) > 1}:
        raise ValueError(f"seed {min(twice)} of {label} on {task} is given twice; leave one out")
    evaluated = [{int(row["env_steps"] or 0): row for row in run.rows} for run in runs]
    steps = sorted(set.intersection(*map(set, evaluated)))
    left_out = len(set.union(*map(set, evaluated))) - len(steps)
    if not steps:
        raise ValueError(f"the runs of {label} on {task} have no evaluation step in common; train them alike")
    scores = {name: np.array([[rows[t][name] for t in steps] for rows in evaluated], dtype=float) for name in SCORES}
    return Group(task, label, tuple(runs), np.array(steps), scores, left_out)


def plot(runs: Sequence[str | Path], out: str | Path, overwrite: bool = False) -> Path:
    """Write ``learning.png`` and ``.pdf``, the numbers behind them (``learning.csv``), ``table.csv`` and the summary.

    The dashed lines are the task's reference controllers on the same evaluation draws.

    Args:
        runs: run directories, and folders of results.
        out: folder for the results, new or empty unless ``overwrite``, and never a run directory.
        overwrite: replace earlier results in ``out``.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` is a run, a file, or a folder with something in it.
        FileNotFoundError, ValueError: as :func:`collect` and :func:`dmpo_deep.results.gather`.
    """
    folder = Path(out)
    if any((folder / name).exists() for name in (CONFIG, log.PROGRESS, log.CHECKPOINT, RUNS)):
        raise FileExistsError(f"{folder} is a run directory or a folder of results; give another --out")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not overwrite)):
        raise FileExistsError(f"{folder} exists; give another --out, or --overwrite to replace the figures in a folder")
    groups = collect(gather([Path(run) for run in runs]))
    levels = {task: reference_levels(task, groups) for task in sorted({group.task for group in groups})}
    folder.mkdir(parents=True, exist_ok=True)
    _write_curves(folder / "learning.csv", groups)
    _write_table(folder / "table.csv", groups, levels)
    summary.write(groups, folder)
    save(learning_figure(groups, levels), folder / "learning")
    return folder


def learning_figure(groups: Sequence[Group], levels: Mapping[str, Mapping[str, float]]) -> Figure:
    """A panel for each task of ``levels``: curves, and levels of reference controllers; a color for each algorithm."""
    from matplotlib.figure import Figure

    colors = colors_of(groups)
    figure = Figure(figsize=(COLUMN_WIDTH, 2.5 * len(levels)), layout="constrained", dpi=300)
    for axes, (task, known) in zip(figure.subplots(len(levels), squeeze=False)[:, 0], levels.items(), strict=True):
        draw_curves(axes, [group for group in groups if group.task == task], known, colors)
        axes.legend(fontsize=6, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def colors_of(groups: Sequence[Group]) -> dict[str, str]:
    """One for each label."""
    return dict(zip(sorted({group.label for group in groups}), itertools.cycle(COLORS), strict=False))


def reference_levels(task: str, groups: Sequence[Group] = ()) -> dict[str, float]:
    """The mean metric of the task's reference controllers on the evaluation draws, by label.

    Of what users bring, an MDP or a task of their own, in the options that all runs of ``groups`` have; there are none
    where those differ.
    """
    options: Mapping[str, Any] = {}
    if brought(task):
        given = [run.hyperparameters["environment"] for group in groups for run in group.runs if run.task == task]
        if any(one != given[0] for one in given):
            return {}
        options = given[0] if given else {}
    known = controllers_of(task)
    metrics = measured(task) or {name: evaluate_controller(task, of, options).mean for name, of in known.items()}
    return {known[name].label: metric for name, metric in metrics.items()}


def draw_curves(axes: Axes, groups: Sequence[Group], levels: Mapping[str, float], colors: Mapping[str, str]) -> None:
    """The sampled policies' metric against environment steps, and the levels of reference controllers."""
    axes.set_yscale("symlog", linthresh=10, subs=range(2, 10))
    for group in groups:
        color = colors[group.label]
        label = textwrap.fill(group.label, 40, break_long_words=False)
        scores, name = group.scores["eval_sampled"], f"{label} ({len(group.runs)} seeds)"
        if len(scores) < SEEDS_FOR_INTERVAL:
            for k, line in enumerate(scores):
                axes.plot(group.steps, line, color=color, linewidth=0.7, label=None if k else label)
            continue
        center, low, high = interquartile_mean(scores)
        axes.plot(group.steps, center, color=color, linewidth=1.2, label=name)
        axes.fill_between(group.steps, low, high, color=color, alpha=0.2, linewidth=0)
    for style, (name, level) in zip(itertools.cycle(STYLES), levels.items(), strict=False):
        axes.axhline(level, color="0.35", linewidth=0.8, linestyle=style, label=name)
    axes.set_xlabel("environment steps", fontsize=8)
    axes.set_ylabel(f"{groups[0].task}: return", fontsize=8)
    axes.tick_params(labelsize=7)


def save(figure: Figure, path: Path) -> None:
    """As PNG and as PDF."""
    for suffix in ("png", "pdf"):
        figure.savefig(path.with_suffix(f".{suffix}"))


def _write_curves(path: Path, groups: Sequence[Group]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "label", "score", "env_steps", "iqm", "low", "high", "seeds", "scores_by_seed"])
        for group in groups:
            for name, scores in group.scores.items():
                for step, *numbers, by_seed in zip(group.steps, *interquartile_mean(scores), scores.T, strict=True):
                    each = ";".join(f"{score:.6g}" for score in by_seed)
                    writer.writerow([group.task, group.label, name, step, *map(_cell, numbers), len(by_seed), each])


def _write_table(path: Path, groups: Sequence[Group], levels: Mapping[str, Mapping[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{score.removeprefix('eval_')}{part}" for score in SCORES for part in ("", "_low", "_high")]
        writer.writerow(["task", "label", "seeds", "env_steps", "left_out", *columns])
        for group in groups:
            finals = [interquartile_mean(group.scores[score][:, -1:]) for score in SCORES]
            cells = [_cell(number[0]) for final in finals for number in final]
            writer.writerow([group.task, group.label, len(group.runs), group.steps[-1], group.left_out, *cells])
        for task, controllers in levels.items():
            blank = [""] * (len(columns) - 1)
            writer.writerows([task, label, "", "", "", _cell(level), *blank] for label, level in controllers.items())


def _cell(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.6g}"
