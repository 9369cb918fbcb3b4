"""Section VI's profiles: what one episode of a vehicle task looks like under a controller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep.envs import evaluation_env
from dmpo_deep.envs.traffic import DT, Traffic
from dmpo_deep.evaluate import EVALUATION_RANDOMNESS, chosen_controllers


def record(task: str, controller: str, options: Mapping[str, Any]) -> Traffic:
    """The states before each step of the first evaluation episode, ``[steps, cars]`` each, to its end."""
    env: Any = evaluation_env(task, **options)
    [chosen] = chosen_controllers(task, controller).values()
    policy, acts, starts = chosen.make(env), np.random.default_rng(0), np.random.default_rng(EVALUATION_RANDOMNESS)
    obs, frames, ended = env.reset(starts), [], False
    while not ended:
        frames.append(env.traffic())
        obs, _, terminated, truncated, _ = env.step(policy(obs, acts)[0])
        ended = (terminated | truncated)[0]
        env.reset(starts, terminated | truncated)
    return Traffic(*(np.array([vars(frame)[name][0] for frame in frames]) for name in vars(frames[0])))


def draw(task: str, controller: str, options: Mapping[str, Any], path: Path) -> None:
    """Write a time-space diagram, coloured by speed, beside the headways of all cars.

    Args:
        task: the task's id.
        controller: one of its reference controllers, or a file of a search.
        options: the task's options.
        path: file to write; its suffix chooses the format.
    """
    from matplotlib.figure import Figure

    cars = record(task, controller, options)
    steps, n = cars.speed.shape
    time = np.arange(steps) * DT
    figure = Figure(figsize=(7.0, 2.8), layout="constrained", dpi=200)
    space, gaps = figure.subplots(1, 2, width_ratios=(1.4, 1))
    dots = space.scatter(
        np.repeat(time, n), cars.position.ravel(), c=cars.speed.ravel(), s=0.4, linewidths=0, cmap="viridis",
        rasterized=True,
    )  # fmt: skip
    figure.colorbar(dots, ax=space, label="speed (m/s)")
    space.set_ylabel("position (m)")
    gaps.plot(time, cars.headway, color="0.6", linewidth=0.4)
    for car, color in ((0, "#0072B2"), (n // 2, "#D55E00"), (n - 1, "#009E73")):
        gaps.plot(time, cars.headway[:, car], color=color, linewidth=0.9, label=f"car {car}")
    gaps.set_ylabel("headway (m)")
    gaps.legend(fontsize=7, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axes in (space, gaps):
        axes.set_xlabel("time (s)")
    figure.savefig(path)
