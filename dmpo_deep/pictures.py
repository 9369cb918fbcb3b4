"""Section VI's execution profiles: what a recorded episode looks like, in one column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmpo_deep.drawing import COLORS, LABEL, LEGEND, TICK, Chart, column_figure, name_axes
from dmpo_deep.envs.traffic import Road
from dmpo_deep.recording import Drive, Junctions, Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure


MOST_PIECES = 600
"""Of a car's line in a time-space diagram: pieces smaller than a pixel make dots of it."""


def check_picture(path: Path) -> None:
    """``ValueError`` for a suffix that is no picture's."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:] not in (known := FigureCanvasBase.get_supported_filetypes()):
        raise ValueError(f"{path} has no suffix of a picture; give one of {', '.join(sorted(known))}")


def profile(recording: Recording) -> Chart:
    """Cars: a time-space diagram, speeds and headways. Signals: who waits where, queues, and arrivals and backlog."""
    figure = _profile_of_cars(recording) if isinstance(recording, Drive) else _profile_of_signals(recording)
    return Chart(figure, recording.rows())


def _profile_of_cars(drive: Drive) -> Figure:
    figure = column_figure(4.6)
    space, speeds, gaps = figure.subplots(3, sharex=True, height_ratios=(1.6, 1, 1))
    figure.colorbar(draw_time_space(space, drive), ax=space, pad=0.02).set_label("speed (m/s)", fontsize=LABEL)
    figure.axes[-1].tick_params(labelsize=TICK)
    draw_cars(speeds, drive, drive.cars.speed, "speed (m/s)", everybody=True)
    draw_cars(gaps, drive, drive.cars.headway, "headway (m)", everybody=True)
    for axes in (space, speeds):
        axes.set_xlabel("")
    speeds.legend(fontsize=LEGEND, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 0.97))
    return figure


def draw_time_space(axes: Axes, drive: Drive) -> LineCollection:
    """Position against time, a line a car, coloured by speed; lines break where a lap ends."""
    from matplotlib.collections import LineCollection

    every = math.ceil(len(drive.seconds) / MOST_PIECES)
    time, speeds = drive.seconds[::every], drive.cars.speed[::every]
    place = unbroken(drive.cars.position[::every], drive.road)
    points = np.stack([np.broadcast_to(time[:, None], place.shape), place], axis=-1)
    pieces = np.stack([points[:-1], points[1:]], axis=2).reshape(-1, 2, 2)
    lines = LineCollection(
        list(pieces), array=speeds[1:].ravel(), cmap="viridis", linewidths=0.8, rasterized=True, snap=False
    )
    axes.add_collection(lines)
    axes.set_xlim(0, time[-1])
    if drive.road is None:
        axes.set_ylim(float(place.min()) - 5, 0)
    else:
        axes.set_ylim(0, drive.road.lap)
    name_axes(axes, "time (s)", "behind the lead car (m)" if drive.road is None else "place on the lap (m)")
    return lines


def unbroken(place: np.ndarray, road: Road | None) -> np.ndarray:
    """Positions ``[frames, cars]``, NaN in the frame in which a car begins a new lap of a loop."""
    if road is None:
        return place
    jumps = np.abs(np.diff(place, axis=0, prepend=place[:1])) > road.lap / 2
    return np.where(jumps, np.nan, place)


def draw_cars(axes: Axes, drive: Drive, values: np.ndarray, name: str, everybody: bool = False) -> None:
    """``values [frames, cars]`` of the cars to follow against time; ``everybody`` else in grey behind them."""
    if everybody:
        axes.plot(drive.seconds, values, color="0.6", linewidth=0.3, rasterized=True)
    for color, car in zip(COLORS, drive.shown, strict=False):
        axes.plot(drive.seconds, values[:, car], color=color, linewidth=0.9, label=f"car {car + 1}")
    axes.set_xlim(0, drive.seconds[-1])
    name_axes(axes, "time (s)", name)


def _profile_of_signals(junctions: Junctions) -> Figure:
    figure = column_figure(4.9)
    place, queues, flows = figure.subplots(3, sharex=True, height_ratios=(1.4, 1, 1))
    minutes, n = junctions.seconds / 60, junctions.waiting.shape[1]
    image = place.imshow(
        junctions.waiting.T, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis",
        extent=(0, minutes[-1], 0.5, n + 0.5),
    )  # fmt: skip
    figure.colorbar(image, ax=place, pad=0.02).set_label("vehicles waiting", fontsize=LABEL)
    figure.axes[-1].tick_params(labelsize=TICK)
    departed, arrived, backlog, running, halting = (
        junctions.system[f"system_total_{name}"] for name in ("departed", "arrived", "backlogged", "running", "stopped")
    )
    _draw_counts(queues, minutes, {"on the road": running, "in queues": halting, "backlog": backlog})
    _draw_counts(flows, minutes, {"due": departed + backlog, "departed": departed, "arrived": arrived})
    name_axes(place, "", "signal")
    name_axes(queues, "", "vehicles")
    name_axes(flows, "time (min)", "vehicles so far")
    return figure


def _draw_counts(axes: Axes, minutes: np.ndarray, counts: Mapping[str, np.ndarray]) -> None:
    for color, (name, count) in zip(COLORS, counts.items(), strict=False):
        axes.plot(minutes, count, color=color, linewidth=0.9, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=LEGEND, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.97))
