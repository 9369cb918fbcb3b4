"""The paper's figures, made again from results: Fig. 4, learning; 5, radii; 6, signals; 7, what trained policies do.

Each has a plan of runs in ``plans/``. Everything is interquartile means over seeds with bootstrap 95 % intervals, on
evaluations of the sampled policy, every environment step counted.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmpo_deep.envs import make_env
from dmpo_deep.envs.traffic import DT
from dmpo_deep.evaluate import load_agents
from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.pictures import record, sampled
from dmpo_deep.report import (
    COLORS,
    COLUMN_WIDTH,
    collect,
    colors_of,
    draw_curves,
    learning_figure,
    reference_levels,
    save,
)
from dmpo_deep.results import Result
from dmpo_deep.summary import value_at
from dmpo_theory.files import whole

PLANS = Path(__file__).parent / "plans"
FAR = 20.0
"""Metres that no car goes in a step."""


class PaperFigure(NamedTuple):
    """A figure of the paper."""

    title: str
    draw: Callable[[Sequence[Any], Path], None]
    """From results, or run directories, to files at a path without suffix."""
    plays: bool = False
    """Whether it plays the trained policies, and so is drawn from run directories."""


def learning(results: Sequence[Result], path: Path) -> None:
    """Fig. 4: the metric against environment steps, a panel a task; two simple controllers, and the best one known."""
    groups, levels = collect(results), {}
    for task in sorted({group.task for group in groups}):
        known = list(reference_levels(task, groups).items())
        levels[task] = dict([*known[:2], max(known, key=lambda level: level[1])])
    save(learning_figure(groups, levels), path)


def radii(results: Sequence[Result], path: Path) -> None:
    """Fig. 5: score and the model's error against kappa, the radii of critics and models varied apart and together."""
    from matplotlib.figure import Figure

    tasks = sorted({result.task for result in results})
    figure = Figure(figsize=(COLUMN_WIDTH, 0.4 + 1.7 * len(tasks)), layout="constrained", dpi=300)
    for row, task in zip(figure.subplots(len(tasks), 2, squeeze=False), tasks, strict=True):
        runs = [result for result in results if result.task == task]
        last = min(run.steps for run in runs)
        for axes, column, title in zip(row, ("eval_score", "model_error"), ("score", "model error"), strict=True):
            for color, (name, series) in zip(COLORS, _by_radius(runs).items(), strict=False):
                kappas = sorted(series)
                found = [
                    interquartile_mean(np.array([[value_at(run, last, column)] for run in series[kappa]]))
                    for kappa in kappas
                ]
                center, low, high = (np.array([part[k][0] for part in found]) for k in range(3))
                axes.plot(kappas, center, color=color, marker="o", markersize=2.5, linewidth=1, label=name)
                axes.fill_between(kappas, low, high, color=color, alpha=0.2, linewidth=0)
            axes.set_xlabel(r"$\kappa$", fontsize=8)
            axes.set_ylabel(f"{task}: {title}", fontsize=8)
            axes.tick_params(labelsize=7)
        row[1].set_yscale("log")
    figure.legend(*row[0].get_legend_handles_labels(), fontsize=6, frameon=False, ncols=3, loc="outside upper center")
    save(figure, path)


def _by_radius(runs: Sequence[Result]) -> Mapping[str, Mapping[float, Sequence[Result]]]:
    """Which radii were varied -> kappa -> runs; overrides other than the radii are the same for all."""
    names = {("kappa_critic",): "critic", ("kappa_model",): "model", ("kappa_critic", "kappa_model"): "both"}
    series: dict[str, dict[float, list[Result]]] = {name: {} for name in names.values()}
    for run in runs:
        changed = {key: text for key, _, text in (pair.partition("=") for pair in run.overrides)}
        varied = tuple(sorted(key for key in changed if key in ("kappa_critic", "kappa_model")))
        if varied:
            series[names[varied]].setdefault(float(changed[varied[0]]), []).append(run)
    return {name: found for name, found in series.items() if found}


def signals(results: Sequence[Result], path: Path) -> None:
    """Fig. 6: the metric on the grid of signals, and the error of DMPO's models on new data."""
    from matplotlib.figure import Figure

    groups = collect(results)
    figure = Figure(figsize=(COLUMN_WIDTH, 4.2), layout="constrained", dpi=300)
    above, below = figure.subplots(2)
    colors = colors_of(groups)
    draw_curves(above, groups, dict(list(reference_levels(groups[0].task, groups).items())[:4]), colors)
    above.legend(fontsize=6, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for group in groups:
        color = colors[group.label]
        errors = np.array([[value_at(run, int(step), "model_error") for step in group.steps] for run in group.runs])
        if not np.isnan(errors).all():
            center, low, high = interquartile_mean(errors)
            below.plot(group.steps, center, color=color, linewidth=1.2, label=group.label)
            below.fill_between(group.steps, low, high, color=color, alpha=0.2, linewidth=0)
    below.set_xlabel("environment steps", fontsize=8)
    below.set_ylabel("model error", fontsize=8)
    below.set_yscale("log")
    below.tick_params(labelsize=7)
    save(figure, path)


def profiles(runs: Sequence[Path], path: Path) -> None:
    """Fig. 7: the sampled policies of runs in their first evaluation episode, a row a run.

    Headways and speeds of the first, a middle and the last car of a platoon; places and speeds of four cars in a row on
    a loop. The numbers are written to a CSV file beside.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_WIDTH, 0.3 + 1.5 * len(runs)), layout="constrained", dpi=300)
    with whole(path.with_suffix(".csv")) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "car", "seconds", "position", "speed", "headway"])
        for row, run in zip(figure.subplots(len(runs), 2, squeeze=False), runs, strict=True):
            agents, config = load_agents(run)
            options = config.preset.environment
            cars = record(config.task, sampled(agents), options)
            steps, n = cars.speed.shape
            loop = make_env(config.task, 1, **options).period is not None
            shown = range(4) if loop else (0, n // 2, n - 1)
            seconds = np.arange(steps) * DT
            for color, car in zip(COLORS, shown, strict=False):
                place = cars.position[:, car]
                unbroken = np.where(np.abs(np.diff(place, prepend=place[0])) > FAR, np.nan, place)  # not across the end
                row[0].plot(seconds, unbroken if loop else cars.headway[:, car], color=color, linewidth=0.8)
                row[1].plot(seconds, cars.speed[:, car], color=color, linewidth=0.8, label=f"car {car + 1}")
                for t in range(steps):
                    told = (cars.position[t, car], cars.speed[t, car], cars.headway[t, car])
                    writer.writerow([config.task, car + 1, f"{seconds[t]:.1f}", *(f"{x:.4g}" for x in told)])
            row[0].set_ylabel(f"{config.task}: {'place' if loop else 'headway'} (m)", fontsize=7)
            row[1].set_ylabel("speed (m/s)", fontsize=7)
            row[1].legend(fontsize=5, frameon=False, ncols=2)
            for axes in row:
                axes.set_xlabel("time (s)", fontsize=7)
                axes.tick_params(labelsize=6)
    save(figure, path)


FIGURES: Mapping[str, PaperFigure] = {
    "fig4": PaperFigure("learning curves on the vehicle tasks", learning),
    "fig5": PaperFigure("radii of critics and models on catch-up and the ring", radii),
    "fig6": PaperFigure("signals: learning curves and model error", signals),
    "fig7": PaperFigure("what trained policies do: platoon and figure eight", profiles, plays=True),
}
"""Those that can be made, by name; ``plans/NAME.toml`` says what is trained for each."""
