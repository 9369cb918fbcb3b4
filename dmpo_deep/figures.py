"""The paper's figures, made again from results: Fig. 4, learning; Fig. 5, radii; Fig. 6, signals.

Each has a plan of runs in ``plans/``. Everything is interquartile means over seeds with bootstrap 95 % intervals, on
evaluations of the sampled policy, every environment step counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.report import COLORS, COLUMN_WIDTH, collect, draw_curves, reference_levels, save
from dmpo_deep.results import Result
from dmpo_deep.summary import value_at

PLANS = Path(__file__).parent / "plans"


class PaperFigure(NamedTuple):
    """A figure of the paper."""

    title: str
    draw: Callable[[Sequence[Result], Path], None]
    """From results to files at a path without suffix."""


def learning(results: Sequence[Result], path: Path) -> None:
    """Fig. 4: the metric against environment steps, a panel a task."""
    from matplotlib.figure import Figure

    groups = collect(results)
    tasks = sorted({group.task for group in groups})
    figure = Figure(figsize=(COLUMN_WIDTH, 0.5 + 2.1 * len(tasks)), layout="constrained", dpi=300)
    for axes, task in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks, strict=True):
        levels = list(reference_levels(task).items())
        best = max(levels, key=lambda level: level[1])
        draw_curves(axes, [group for group in groups if group.task == task], dict([*levels[:2], best]))
    axes.legend(fontsize=6, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    save(figure, path)


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
    draw_curves(above, groups, dict(list(reference_levels(groups[0].task).items())[:4]))
    above.legend(fontsize=6, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for color, group in zip(COLORS, groups, strict=False):
        runs = [result for result in results if result.label == group.label]
        errors = np.array([[value_at(run, int(step), "model_error") for step in group.steps] for run in runs])
        if not np.isnan(errors).all():
            center, low, high = interquartile_mean(errors)
            below.plot(group.steps, center, color=color, linewidth=1.2, label=group.label)
            below.fill_between(group.steps, low, high, color=color, alpha=0.2, linewidth=0)
    below.set_xlabel("environment steps", fontsize=8)
    below.set_ylabel("model error", fontsize=8)
    below.set_yscale("log")
    below.tick_params(labelsize=7)
    save(figure, path)


FIGURES: Mapping[str, PaperFigure] = {
    "fig4": PaperFigure("learning curves on the vehicle tasks", learning),
    "fig5": PaperFigure("radii of critics and models on catch-up and the ring", radii),
    "fig6": PaperFigure("signals: learning curves and model error", signals),
}
"""Those that can be made, by name; ``plans/NAME.toml`` says what is trained for each."""
