"""What an advantage rests on: algorithms that differ in one thing, side by side, a dot a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dmpo_deep.drawing import COLORS, LABEL, TICK, Chart, NothingToDraw, column_figure, count_steps, wrapped
from dmpo_deep.groups import Group, by_task, collect
from dmpo_deep.intervals import interquartile_mean, lower_median
from dmpo_deep.results import Result
from dmpo_deep.summary import first_reached

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LANE = 0.24
"""Inches for a variant."""


def compared(results: Sequence[Result]) -> Chart:
    """Of each variant the normalised score at its last common evaluation, and the environment steps to a score of 0.

    A panel a task. Bars are interquartile means with 95 % bootstrap intervals, and medians of steps where at least half
    of the runs got there; an arrow is a run that ended before.

    Raises:
        NothingToDraw: a run has no normalised score.
    """
    groups = collect(results)
    if any(np.isnan(group.values("eval_score")).any() for group in groups):
        raise NothingToDraw("a run has no normalised score: its task has no scale under these options")
    tasks = by_task(groups)
    counts = [len(members) for members in tasks.values()]
    figure = column_figure(sum(LANE * count + 0.6 for count in counts))
    panels = figure.subplots(len(tasks), 2, squeeze=False, sharey="row", height_ratios=counts)
    for (scores, steps), (task, members) in zip(panels, tasks.items(), strict=True):
        for lane, group in enumerate(members):
            _draw_scores(scores, lane, group.values("eval_score")[:, -1])
            _draw_steps(steps, lane, group)
        names = [wrapped(group.label, 24) for group in members]
        scores.set_yticks(range(len(members)), names, fontsize=TICK - 1)
        scores.set_ylim(len(members) - 0.5, -0.5)
        scores.set_xscale("symlog", linthresh=1)
        ticks = [tick for tick in (-1000, -100, -10, 0, 1) if tick >= scores.get_xlim()[0]]
        scores.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        scores.axvline(0, color="0.7", linewidth=0.6, zorder=0)
        scores.set_xlabel(f"{task}: score at {min(int(g.steps[-1]) for g in members):,}", fontsize=LABEL - 1)
        steps.set_xlim(left=0)
        count_steps(steps)
        steps.set_xlabel("steps to score 0", fontsize=LABEL - 1)
        for axes in (scores, steps):
            axes.tick_params(axis="x", labelsize=TICK - 1)
    return Chart(figure, [_row(run, group) for group in groups for run in group.runs])


def _draw_scores(axes: Axes, lane: int, scores: np.ndarray) -> None:
    center, low, high = (float(part[0]) for part in interquartile_mean(scores[:, None]))
    axes.plot(scores, _spread(lane, len(scores)), "o", color=COLORS[0], markersize=2, markeredgewidth=0)
    if not math.isnan(low):
        axes.plot([low, high], [lane, lane], color=COLORS[1], linewidth=1)
        axes.vlines(center, lane - 0.35, lane + 0.35, color=COLORS[1], linewidth=1.5)


def _draw_steps(axes: Axes, lane: int, group: Group) -> None:
    reached = np.array([first_reached(run, 0.0) for run in group.runs])
    for run, steps, height in zip(group.runs, reached, _spread(lane, len(reached)), strict=True):
        mark: Mapping[str, Any] = {"markersize": 2, "color": COLORS[0], "markeredgewidth": 0.4}
        if math.isfinite(steps):
            axes.plot([steps], [height], "o", **mark)
        else:
            axes.plot([run.steps], [height], ">", markerfacecolor="none", **mark)
    if math.isfinite(middle := float(lower_median(reached[None])[0])):
        axes.vlines(middle, lane - 0.35, lane + 0.35, color=COLORS[1], linewidth=1.5)


def _spread(lane: int, count: int) -> np.ndarray:
    """Heights of a lane's dots."""
    return lane + np.linspace(-0.25, 0.25, count) * (count > 1)


def _row(run: Result, group: Group) -> dict[str, Any]:
    about = {"task": group.task, "variant": group.label, "seed": run.seed, "env_steps": int(group.steps[-1])}
    score = group.values("eval_score")[group.runs.index(run), -1]
    return {**about, "score": float(score), "steps_to_0": first_reached(run, 0.0), "trained_for": run.steps}
