"""Section VI's motive: scores against the numbers that agents receive, for every algorithm and radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dmpo_deep.drawing import (
    COLUMN_WIDTH,
    TICK,
    Chart,
    Look,
    NothingToDraw,
    column_figure,
    legend_outside,
    log_scale,
    looks,
    name_axes,
)
from dmpo_deep.groups import Group, by_task, collect
from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.radii import by_radius
from dmpo_deep.results import FLOATS, Result
from dmpo_deep.summary import value_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def communicated(results: Sequence[Result]) -> Chart:
    """The score at the last step that all reached against floats received per agent and step, a panel a task.

    A point a group of runs; those that differ in one radius are joined, with kappa beside them. Floats are what
    policies and critics hear, what models broadcast, and messages (:mod:`dmpo_deep.communication`).

    Raises:
        NothingToDraw: no task has two groups with scores and with other numbers received.
    """
    tasks = {task: _points(groups) for task, groups in by_task(collect(results)).items()}
    tasks = {task: points for task, points in tasks.items() if len({point["floats"] for point in points}) > 1}
    if not tasks:
        raise NothingToDraw("no two algorithms or radii of a task that has scores differ in what agents receive")
    figure = column_figure(0.8 * COLUMN_WIDTH * len(tasks))
    rows = [row for points in tasks.values() for row in points]
    look = looks(row["series"] for row in rows)
    for axes, (task, points) in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks.items(), strict=True):
        for series in dict.fromkeys(row["series"] for row in points):
            _draw(axes, [row for row in points if row["series"] == series], look[series])
        _count_floats(axes)
        log_scale(axes, linear_below=1)
        name_axes(axes, "floats received per agent and step", f"{task}: score")
    legend_outside(figure, 3)
    return Chart(figure, rows)


def _points(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row for each group with a score, under every series that it belongs to."""
    last = min(run.steps for group in groups for run in group.runs)
    of = {run.id: group for group in groups for run in group.runs}
    lines = by_radius([run for group in groups for run in group.runs])
    joined = {run.id for line in lines.values() for members in line.values() for run in members}
    series: list[tuple[str, str, Group]] = []
    for varied, line in lines.items():
        series += [(f"kappa of {varied}", f"{kappa:g}", of[members[0].id]) for kappa, members in line.items()]
    series += [(group.label, "", group) for group in groups if group.runs[0].id not in joined]
    rows = []
    for name, kappa, group in series:
        scores = np.array([[value_at(run, last, "eval_score")] for run in group.runs])
        heard = np.array([np.nansum([value_at(run, last, column) for column in FLOATS]) for run in group.runs])
        if not np.isnan(scores).any():
            center, low, high = (float(part[0]) for part in interquartile_mean(scores))
            about = {"task": group.task, "series": name, "kappa": kappa, "algorithm": group.label}
            measured = {"floats": float(heard.mean()), "score": center, "low": low, "high": high}
            rows.append({**about, **measured, "seeds": len(group.runs), "env_steps": last})
    return rows


def _count_floats(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], look: Look) -> None:
    floats, scores = ([row[name] for row in rows] for name in ("floats", "score"))
    name = rows[0]["series"].replace("kappa", r"$\kappa$")
    mark = "o" if look["linestyle"] == "-" else "s"  # colours that come again have other dashes, which points lack
    axes.plot(floats, scores, marker=mark, markersize=3, linewidth=0.8, label=name, **look)
    for row in rows:
        if row["low"] == row["low"]:
            axes.vlines(row["floats"], row["low"], row["high"], color=look["color"], linewidth=0.8)
        place, style = (row["floats"], row["score"]), {"fontsize": TICK - 1, "color": look["color"]}
        axes.annotate(row["kappa"], place, (2, 2), textcoords="offset points", **style)
