"""Section VI's ablation of radii: score and the model's error against kappa, of critics, models and policies.

A run counts for a radius if its other radii are those that were not varied, so that a run that varies none counts for
all; and for several radii together if these are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from dmpo_deep.drawing import Chart, Look, NothingToDraw, column_figure, legend_outside, log_scale, looks, name_axes
from dmpo_deep.hyperparameters import RADII
from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.results import Result
from dmpo_deep.summary import value_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Mapping[float, Sequence[Result]]]
"""Which radii were varied -> kappa -> runs."""


def ablation(results: Sequence[Result]) -> Chart:
    """A row of panels a task, at the last step that all runs in it reached.

    Raises:
        NothingToDraw: no two runs differ in their radii alone.
    """
    tasks = sorted({result.task for result in results})
    series = {task: by_radius([result for result in results if result.task == task]) for task in tasks}
    rows = [row for task, found in series.items() for row in _measured(task, found)]
    if not rows:
        raise NothingToDraw(f"no two runs differ in {', '.join(RADII[:-1])} or {RADII[-1]} alone")
    tasks, look = list(dict.fromkeys(row["task"] for row in rows)), looks(row["varied"] for row in rows)
    panels = {task: list(dict.fromkeys(row["measure"] for row in rows if row["task"] == task)) for task in tasks}
    figure = column_figure(1.6 * len(tasks))
    grid = figure.subplots(len(tasks), max(map(len, panels.values())), squeeze=False)
    for places, (task, measures) in zip(grid, panels.items(), strict=True):
        for axes in places[len(measures) :]:
            axes.set_axis_off()
        for axes, measure in zip(places, measures, strict=False):
            _draw(axes, [row for row in rows if (row["task"], row["measure"]) == (task, measure)], look)
            name_axes(axes, r"$\kappa$", f"{task}: {measure}")
    legend_outside(figure, 3)
    return Chart(figure, rows)


def by_radius(runs: Sequence[Result]) -> Series:
    """The series in runs of one task, each of at least two kappas.

    Algorithms, and other overrides than radii, make series of their own, named so if there are several.
    """
    kin: dict[str, list[Result]] = {}
    for run in runs:
        kin.setdefault(run.called([pair for pair in run.overrides if _key(pair) in RADII]), []).append(run)
    series: dict[str, Mapping[float, Sequence[Result]]] = {}
    for label, members in kin.items():
        known = [name for name in RADII if name in members[0].hyperparameters]
        unvaried = {name: _unvaried(members, name) for name in known}
        for size in range(1, len(known) + 1):
            for varied in combinations(known, size):
                if len(found := _together(members, varied, unvaried)) > 1:
                    name = " and ".join(radius.removeprefix("kappa_") for radius in varied)
                    series[f"{label}: {name}" if len(kin) > 1 else name] = found
    return series


def _key(pair: str) -> str:
    return pair.partition("=")[0]


def _unvaried(runs: Sequence[Result], radius: str) -> float | None:
    """What a radius is in runs that do not override it, or in all; None if that is not one value."""
    kept = [run for run in runs if radius not in map(_key, run.overrides)]
    values = {float(run.hyperparameters[radius]) for run in kept or runs}
    return values.pop() if len(values) == 1 else None


def _together(
    runs: Sequence[Result], varied: Sequence[str], unvaried: Mapping[str, float | None]
) -> Mapping[float, Sequence[Result]]:
    """Of each kappa the runs in which all ``varied`` radii are it, the others unvaried; empty if no run changes all."""
    found: dict[float, list[Result]] = {}
    changed = False
    for run in runs:
        radii = {name: float(run.hyperparameters[name]) for name in unvaried}
        values = {radii[name] for name in varied}
        if len(values) == 1 and all(radii[name] == unvaried[name] for name in radii.keys() - set(varied)):
            found.setdefault(values.pop(), []).append(run)
            changed |= all(radii[name] != unvaried[name] for name in varied)
    return dict(sorted(found.items())) if changed else {}


def _measured(task: str, series: Series) -> list[dict[str, Any]]:
    """A row for each series, kappa and measure; the return stands in where there is no score."""
    runs = [run for found in series.values() for members in found.values() for run in members]
    last = min((run.steps for run in runs), default=0)
    scored = any(not math.isnan(value_at(run, last, "eval_score")) for run in runs)
    measures = {"score": "eval_score"} if scored else {"return": "eval_sampled"}
    rows = []
    for measure, column in (measures | {"model error": "model_error"}).items():
        for name, found in series.items():
            for kappa, members in found.items():
                values = np.array([[value_at(run, last, column)] for run in members])
                if not np.isnan(values).any():
                    center, low, high = (float(x[0]) for x in interquartile_mean(values))
                    about = {"task": task, "varied": name, "kappa": str(kappa), "measure": measure, "env_steps": last}
                    rows.append(about | {"iqm": center, "low": low, "high": high, "seeds": len(members)})
    return rows


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], look: Mapping[str, Look]) -> None:
    finite = [float(row["kappa"]) for row in rows if math.isfinite(float(row["kappa"]))]
    beyond = max(finite, default=0.0) + 1
    for name in dict.fromkeys(row["varied"] for row in rows):
        own = [row for row in rows if row["varied"] == name]
        places = [min(float(row["kappa"]), beyond) for row in own]
        center, low, high = ([row[part] for row in own] for part in ("iqm", "low", "high"))
        axes.plot(places, center, marker="o", markersize=2.5, linewidth=1, label=name, **look[name])
        axes.fill_between(places, low, high, color=look[name]["color"], alpha=0.2, linewidth=0)
    ticks = sorted({min(float(row["kappa"]), beyond) for row in rows})
    axes.set_xticks(ticks, [r"$\infty$" if len(finite) < len(rows) and x == beyond else f"{x:g}" for x in ticks])
    if rows[0]["measure"] == "model error":
        log_scale(axes)
