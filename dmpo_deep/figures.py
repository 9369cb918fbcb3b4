"""The paper's figures, made again from results: Fig. 4, learning; 5, radii; 6, signals; 7, what trained policies do.

And two that the paper has not: what DMPO's advantage rests on, and scores against what agents receive.

Each has a plan of runs in ``plans/``. Everything is interquartile means over seeds with bootstrap 95 % intervals, on
evaluations of the sampled policy, every environment step counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dmpo_deep import curves
from dmpo_deep.drawing import Chart, NothingToDraw, column_figure, legend_above, looks, save
from dmpo_deep.evaluate import reference_levels
from dmpo_deep.frontier import communicated
from dmpo_deep.groups import SCORES, by_task, collect
from dmpo_deep.pictures import draw_cars, unbroken
from dmpo_deep.radii import ablation
from dmpo_deep.recording import Drive, played
from dmpo_deep.results import Result
from dmpo_deep.variants import compared

PLANS = Path(__file__).parent / "plans"


class PlannedFigure(NamedTuple):
    """A figure with a plan."""

    title: str
    draw: Callable[[Sequence[Any], Path], None]
    """From results, or run directories, to files at a path without suffix."""
    plays: bool = False
    """Whether it plays the trained policies, and so is drawn from run directories."""


def learning(results: Sequence[Result], path: Path) -> None:
    """Fig. 4: the metric against environment steps, a panel a task; two simple controllers, and the best one known."""
    groups, levels = collect(results), {}
    for task in by_task(groups):
        known = list(reference_levels(task, {}).items())
        levels[task] = dict([*known[:2], max(known, key=lambda level: level[1])])
    save(curves.learning(groups, levels), path)


def radii(results: Sequence[Result], path: Path) -> None:
    """Fig. 5: score and the model's error against kappa, the radii of critics and models varied apart and together."""
    save(ablation(results), path)


def signals(results: Sequence[Result], path: Path) -> None:
    """Fig. 6: the metric on the grid of signals, and the error of DMPO's models on new data."""
    groups = collect(results)
    look = looks(group.label for group in groups)
    levels = dict(list(reference_levels(groups[0].task, {}).items())[:4])
    above, below = (figure := column_figure(3.5)).subplots(2)
    curves.draw_learning(above, groups, levels, look)
    curves.draw_model_error(below, groups, look)
    save(Chart(figure, curves.curve_rows(groups, (*SCORES, "model_error"))), path)


def profiles(runs: Sequence[Path], path: Path) -> None:
    """Fig. 7: the sampled policies of runs in their first evaluation episode, a row a run.

    Headways and speeds of the first, a middle and the last car of a platoon; places and speeds of four cars in a row on
    a loop.
    """
    figure, rows = column_figure(0.3 + 1.6 * len(runs)), []
    for (left, right), run in zip(figure.subplots(len(runs), 2, squeeze=False), runs, strict=True):
        drive = played(run)
        if not isinstance(drive, Drive):
            raise NothingToDraw(f"{run} has no cars")
        if drive.road is None:
            draw_cars(left, drive, drive.cars.headway, f"{drive.task}: headway (m)")
        else:
            draw_cars(left, drive, unbroken(drive.cars.position, drive.road), f"{drive.task}: place (m)")
        draw_cars(right, drive, drive.cars.speed, "speed (m/s)")
        legend_above(left, 2)
        rows += drive.rows()
    save(Chart(figure, rows), path)


def ablations(results: Sequence[Result], path: Path) -> None:
    """Scores and steps to a score of 0 of variants that differ from DMPO in one thing."""
    save(compared(results), path)


def floats(results: Sequence[Result], path: Path) -> None:
    """Scores against floats received per agent and step."""
    save(communicated(results), path)


FIGURES: Mapping[str, PlannedFigure] = {
    "fig4": PlannedFigure("learning curves on the vehicle tasks", learning),
    "fig5": PlannedFigure("radii of critics and models on catch-up and the ring", radii),
    "fig6": PlannedFigure("signals: learning curves and model error", signals),
    "fig7": PlannedFigure("what trained policies do: platoon and figure eight", profiles, plays=True),
    "ablations": PlannedFigure("what DMPO's advantage on catch-up rests on", ablations),
    "floats": PlannedFigure("scores on catch-up against the numbers that agents receive", floats),
}
"""Those that can be made, by name; ``plans/NAME.toml`` says what is trained for each."""
