"""Section VI's curves from results alone: learning, steps to thresholds, and the error of models.

Curves are interquartile means over seeds with bootstrap 95 % intervals where there are at least three seeds; with
fewer, every run is a thin line of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dmpo_deep.drawing import (
    LABEL,
    TICK,
    Chart,
    Look,
    NothingToDraw,
    column_figure,
    count_steps,
    draw_band,
    legend_above,
    legend_outside,
    log_scale,
    looks,
    name_axes,
    wrapped,
)
from dmpo_deep.groups import SCORES, Group, by_task
from dmpo_deep.intervals import interquartile_mean, lower_median
from dmpo_deep.summary import LEVELS, first_reached

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (10, 2)))
FIRST = (0, (3, 2))
"""Dashes of errors at the first evaluation."""
FAR = {"model_error_at_quarter": 0.25, "model_error_at_half": 0.5, "model_error_at_horizon": 1.0}
"""Column -> after which part of the model's horizon it is the error."""


def learning(groups: Sequence[Group], levels: Mapping[str, Mapping[str, float]]) -> Chart:
    """The metric against environment steps, a panel a task; ``levels``: task -> its reference controllers' metric."""
    tasks, look = by_task(groups), looks(group.label for group in groups)
    figure = column_figure(1.9 * len(tasks))
    for axes, (task, members) in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks.items(), strict=True):
        draw_learning(axes, members, levels.get(task, {}), look)
    return Chart(figure, curve_rows(groups, SCORES))


def curve_rows(groups: Sequence[Group], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The numbers behind curves of some columns."""
    rows = []
    for group, column in itertools.product(groups, columns):
        values = group.values(column)
        for step, *numbers, by_seed in zip(group.steps, *interquartile_mean(values), values.T, strict=True):
            told = {"task": group.task, "label": group.label, "score": column, "env_steps": step}
            told |= dict(zip(("iqm", "low", "high"), numbers, strict=True)) | {"seeds": len(by_seed)}
            rows.append(told | {"scores_by_seed": ";".join(f"{score:.6g}" for score in by_seed)})
    return rows


def draw_learning(
    axes: Axes, groups: Sequence[Group], levels: Mapping[str, float], look: Mapping[str, Look], columns: int = 2
) -> None:
    """The sampled policies' metric against environment steps, and the levels of reference controllers."""
    for group in groups:
        draw_band(axes, group.steps, group.scores["eval_sampled"], look[group.label], group.label, seeds=True)
    for dashes, (name, level) in zip(itertools.cycle(REFERENCE_DASHES), levels.items(), strict=False):
        axes.axhline(level, color="0.35", linewidth=0.8, linestyle=dashes, label=name)
    name_axes(axes, "environment steps", f"{groups[0].task}: return")
    count_steps(axes)
    log_scale(axes, linear_below=10)
    legend_above(axes, columns)


class Lane(NamedTuple):
    """A line of dots: when the runs of a group first reached a level."""

    level: float
    group: Group
    steps: tuple[float, ...]
    """Of each run, inf for never."""


def thresholds(groups: Sequence[Group]) -> Chart:
    """Environment steps to normalised scores, a panel a task, a dot a run; an arrow where a run ended before.

    Bars are medians, where at least half of the runs got there. Beside each line stands how many did.

    Raises:
        NothingToDraw: no run has a normalised score.
    """
    scored = [group for group in groups if not np.isnan(group.values("eval_score")).all()]
    if not scored:
        raise NothingToDraw("no run has a normalised score: their tasks have no scale under these options")
    lanes = [
        Lane(level, group, tuple(first_reached(run, level) for run in group.runs))
        for level in LEVELS
        for group in scored
    ]
    panels = {task: _stacked([lane for lane in lanes if lane.group.task == task]) for task in by_task(scored)}
    heights = [max(panel) + 1.5 for panel in panels.values()]
    look = looks(group.label for group in groups)
    figure = column_figure(sum(0.5 + 0.15 * height for height in heights))
    places = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (task, panel) in zip(places, panels.items(), strict=True):
        _draw_lanes(axes, panel, look)
        name_axes(axes, f"{task}: environment steps", "normalised score")
    places[-1].plot([], [], ">", label="ended before", **_mark("0.35", "none"))
    places[-1].plot([], [], "|", color="0.35", markersize=5, markeredgewidth=1.5, label="median")
    legend_outside(figure, 4)
    return Chart(figure, [row for lane in lanes for row in _reached(lane)])


def _stacked(lanes: Sequence[Lane]) -> dict[float, list[Lane]]:
    """Height from above -> what is drawn there: a lane, or all those of a level that nobody reached."""
    placed: dict[float, list[Lane]] = {}
    height = 0.0
    for level in LEVELS:
        alike = [lane for lane in lanes if lane.level == level]
        reached = any(math.isfinite(steps) for lane in alike for steps in lane.steps)
        for together in [[lane] for lane in alike] if reached else [alike]:
            placed[height] = together
            height += 1.0
        height += 0.7
    return placed


def _draw_lanes(axes: Axes, panel: Mapping[float, Sequence[Lane]], look: Mapping[str, Look]) -> None:
    ticks: dict[float, list[float]] = {}
    last = max(run.steps for lanes in panel.values() for lane in lanes for run in lane.group.runs)
    small: dict[str, Any] = {"fontsize": TICK - 1, "va": "center"}
    for height, lanes in panel.items():
        ticks.setdefault(lanes[0].level, []).append(height)
        axes.axhline(height, color="0.9", linewidth=0.5, zorder=0)
        steps = [x for lane in lanes for x in lane.steps]
        count = f"{sum(map(math.isfinite, steps))}/{len(steps)}"
        axes.text(1.02, height, count, transform=axes.get_yaxis_transform(), **small)
        if len(lanes) > 1:
            axes.text(
                last / 2, height, "reached by no run", ha="center", color="0.35", backgroundcolor="white", **small
            )
        else:
            _draw_lane(axes, height, lanes[0], look[lanes[0].group.label]["color"])
    axes.set_xlim(0, 1.04 * last)
    axes.set_ylim(max(panel) + 0.8, -0.8)
    axes.set_yticks([float(np.mean(heights)) for heights in ticks.values()], [f"{level:g}" for level in ticks])
    count_steps(axes)


def _draw_lane(axes: Axes, height: float, lane: Lane, color: str) -> None:
    spread = height + np.linspace(-0.3, 0.3, len(lane.steps)) * (len(lane.steps) > 1)
    for steps, run, y in zip(lane.steps, lane.group.runs, spread, strict=True):
        if math.isfinite(steps):
            axes.plot([steps], [y], "o", zorder=3, **_mark(color, color))
        else:
            axes.plot([run.steps], [y], ">", zorder=3, **_mark(color, "none"))
    axes.plot([], [], "o", color=color, markersize=3, label=wrapped(lane.group.label))
    if math.isfinite(middle := float(lower_median(np.array([lane.steps]))[0])):
        axes.vlines(middle, height - 0.45, height + 0.45, color=color, linewidth=1.5)


def _mark(edge: str, inside: str) -> dict[str, Any]:
    return {"markersize": 2.5, "color": edge, "markerfacecolor": inside, "markeredgewidth": 0.6}


def _reached(lane: Lane) -> list[dict[str, Any]]:
    about = {"task": lane.group.task, "label": lane.group.label, "score": lane.level}
    return [
        {**about, "seed": run.seed, "env_steps": steps, "trained_for": run.steps}
        for run, steps in zip(lane.group.runs, lane.steps, strict=True)
    ]


def model_errors(groups: Sequence[Group]) -> Chart:
    """The error of learned models on new data, a row a task: against environment steps, and against steps in the model.

    Left, after one step, in units of what predicting the mean change would make; right, the root mean squared error of
    observations after a quarter, a half and all of the model's horizon, at the last evaluation and, dashed, the first.

    Raises:
        NothingToDraw: no run has measured the error of a model.
    """
    modelled = [group for group in groups if not np.isnan(group.values("model_error")).all()]
    if not modelled:
        raise NothingToDraw("no run has learned a model whose error was measured")
    tasks, look = by_task(modelled), looks(group.label for group in groups)
    figure = column_figure(1.6 * len(tasks))
    for (steps, horizon), (task, members) in zip(
        figure.subplots(len(tasks), 2, squeeze=False), tasks.items(), strict=True
    ):
        draw_model_error(steps, members, look)
        steps.set_ylabel(f"{task}: model error", fontsize=LABEL)
        _draw_by_horizon(horizon, members, look)
    legend_outside(figure, 3)
    return Chart(figure, [row for group in modelled for row in _errors(group)])


def _draw_by_horizon(axes: Axes, groups: Sequence[Group], look: Mapping[str, Look]) -> None:
    measured = {group.label: _by_horizon(group) for group in groups if not np.isnan(_by_horizon(group)[1]).all()}
    if not measured:  # models of finitely many states
        axes.set_axis_off()
        return
    for label, (far, errors) in measured.items():
        draw_band(axes, far, errors[:, :, -1], look[label], label)
        if errors.shape[-1] > 1:
            axes.plot(far, interquartile_mean(errors[:, :, 0])[0], linewidth=0.7, **{**look[label], "linestyle": FIRST})
    axes.plot([], [], linewidth=0.7, color="0.35", linestyle=FIRST, label="at the first evaluation")
    axes.set_xticks(sorted({steps for far, _ in measured.values() for steps in far.tolist()}))
    name_axes(axes, "steps in the model", "rms error")
    log_scale(axes)


def draw_model_error(axes: Axes, groups: Sequence[Group], look: Mapping[str, Look]) -> None:
    """The error of models after one step against environment steps."""
    for group in groups:
        if not np.isnan(errors := group.values("model_error")).all():
            draw_band(axes, group.steps, errors, look[group.label], group.label)
    name_axes(axes, "environment steps", "model error")
    log_scale(axes)
    count_steps(axes)


def _by_horizon(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """After how many steps in the model ``[3]``, and the errors then ``[seeds, 3, E]``."""
    horizon = int(group.hyperparameters["model_horizon"])
    far = np.array([max(int(horizon * part), 1) for part in FAR.values()])
    return far, np.stack([group.values(column) for column in FAR], axis=1)


def _errors(group: Group) -> list[dict[str, Any]]:
    far, errors = _by_horizon(group)
    rows = []
    measured = {("one step", 1): group.values("model_error")}
    measured |= {("open loop", int(steps)): errors[:, k] for k, steps in enumerate(far)}
    for (kind, steps), values in measured.items():
        for step, *numbers in zip(group.steps, *interquartile_mean(values), strict=True):
            about = {"task": group.task, "label": group.label, "error": kind, "model_steps": steps, "env_steps": step}
            rows.append(about | dict(zip(("iqm", "low", "high"), numbers, strict=True)) | {"seeds": len(values)})
    return rows
