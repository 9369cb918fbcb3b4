"""Section VI's profiles: what one episode of a task looks like under a controller or a trained policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep.envs import Policy, evaluation_env, find_task
from dmpo_deep.envs.traffic import DT, Traffic
from dmpo_deep.evaluate import EVALUATION_RANDOMNESS
from dmpo_deep.learner import Population
from dmpo_theory.files import save_figure

Driver = Callable[[Any], Policy]
"""Makes the policy of an episode from its environment."""


def sampled(agents: Population) -> Driver:
    """Trained agents at the wheel, their actions sampled."""
    return lambda env: agents.policy()


def _episode(task: str, driver: Driver, options: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The environment before each step of the first evaluation episode, and what that step measures, to its end."""
    env: Any = evaluation_env(task, **options)
    policy, acts, starts = driver(env), np.random.default_rng(0), np.random.default_rng(EVALUATION_RANDOMNESS)
    with closing(env):
        obs, ended = env.reset(starts), False
        while not ended:
            measured: dict[str, Any] = {}
            yield env, measured
            obs, _, terminated, truncated, info = env.step(policy(obs, acts)[0])
            measured.update(info)
            ended = (terminated | truncated)[0]
            if not ended:
                env.reset(starts, terminated | truncated)


def record(task: str, driver: Driver, options: Mapping[str, Any]) -> Traffic:
    """The states of cars before each step of the first evaluation episode, ``[steps, cars]`` each, to its end."""
    frames = [env.traffic() for env, _ in _episode(task, driver, options)]
    return Traffic(*(np.array([vars(frame)[name][0] for frame in frames]) for name in vars(frames[0])))


def draw(task: str, driver: Driver, options: Mapping[str, Any], path: Path) -> None:
    """Draw the first evaluation episode of a task.

    Cars: a time-space diagram, coloured by speed, beside the headways of all cars. Signals: the vehicles that each one
    keeps waiting, beside all vehicles on the road, waiting to depart and arrived.

    Args:
        task: the task's id.
        driver: makes the policy, such as that of a reference controller.
        options: the task's options.
        path: file to write; its suffix chooses the format.

    Raises:
        ValueError: there is nothing to draw of this task.
    """
    kind: Any = inspect.unwrap(find_task(task).make)
    kind = getattr(kind, "func", kind)
    drawn = next((draws for method, draws in _DRAWN.items() if hasattr(kind, method)), None)
    if drawn is None:
        raise ValueError(f"there is no picture of {task}: it has neither cars nor signals; leave out --picture")
    drawn(task, driver, options, path)


def _draw_signals(task: str, driver: Driver, options: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    waiting, steps = [], []
    for env, measured in _episode(task, driver, options):
        state, (index, real) = env.signals(), env.incoming
        waiting.append((state.halting[0][index] * real).sum(axis=-1) + state.backlog[0])
        steps.append(measured)
    hours = np.arange(1, len(steps) + 1) * env.timing.delta_time / 60
    figure = Figure(figsize=(7.0, 2.8), layout="constrained", dpi=200)
    place, total = figure.subplots(1, 2, width_ratios=(1.4, 1))
    image = place.imshow(
        np.array(waiting).T, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis",
        extent=(0, hours[-1], 0.5, len(waiting[0]) + 0.5),
    )  # fmt: skip
    figure.colorbar(image, ax=place, label="vehicles kept waiting")
    place.set_ylabel("signal")
    for name, label, color in (
        ("system_total_arrived", "arrived", "#009E73"),
        ("system_total_running", "on the road", "#0072B2"),
        ("system_total_backlogged", "not departed", "#D55E00"),
    ):
        total.plot(hours, [measured[name][0] for measured in steps], color=color, linewidth=0.9, label=label)
    total.set_ylabel("vehicles")
    total.legend(fontsize=7, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axes in (place, total):
        axes.set_xlabel("time (min)")
    save_figure(figure, path)


def _draw_cars(task: str, driver: Driver, options: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    cars = record(task, driver, options)
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
    save_figure(figure, path)


_DRAWN: Mapping[str, Callable[..., None]] = {"signals": _draw_signals, "traffic": _draw_cars}
"""What an environment can tell -> how it is drawn."""
