"""Section VI in a table: what algorithms reach after so many environment steps, how soon, and at what cost.

Scores are normalised: 0 is the task's trivial controller and 1 the best one known (``docs/environments/levels.md``).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dmpo_deep.intervals import interquartile_mean, lower_median
from dmpo_deep.results import FLOATS, Result

MARKS = (10_000, 30_000, 100_000)
"""Environment steps, warm-up included, at which algorithms are compared."""
LEVELS = (0.0, 0.5, 0.9)
"""Normalised scores whose first reaching is counted."""


def first_reached(result: Result, level: float, column: str = "eval_score") -> float:
    """Environment steps at the first evaluation at ``level`` or above; inf if there is none."""
    for row in result.rows:
        if (score := row[column]) is not None and score >= level:
            return float(row["env_steps"] or 0)
    return math.inf


def value_at(result: Result, steps: int, column: str) -> float:
    """A column at the first evaluation from ``steps`` on; NaN if the run did not get there or has no such number."""
    for row in result.rows:
        if (row["env_steps"] or 0) >= steps:
            value = row[column]
            return math.nan if value is None else value
    return math.nan


def cpu_seconds(result: Result, steps: int) -> float:
    """Processor time until then, without evaluations."""
    parts = [value_at(result, steps, f"seconds_cpu_{phase}") for phase in ("collect", "model", "imagine", "update")]
    return float(np.nansum(parts))


def rows(results: Iterable[Result]) -> list[dict[str, str]]:
    """A line for every task and algorithm, with what it was compared on; ``-`` where no run got there."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.label), []).append(result)
    return [_row(task, label, runs) for (task, label), runs in sorted(groups.items())]


def _row(task: str, label: str, runs: Sequence[Result]) -> dict[str, str]:
    line = {"task": task, "algorithm": label, "seeds": str(len(runs))}
    for kind, column in (("", "eval_score"), (", greedy", "eval_score_greedy")):
        for mark in MARKS:
            line[f"score at {mark:,}{kind}"] = _with_interval([value_at(run, mark, column) for run in runs])
    for level in LEVELS:
        reached = sorted(first_reached(run, level) for run in runs)
        count = sum(steps < math.inf for steps in reached)
        middle = float(lower_median(np.array([reached]))[0])
        said = f"{middle:,.0f}" if middle < math.inf else "-"
        line[f"steps to {level:g}"] = f"{said} ({count}/{len(runs)})"
    last = min(run.steps for run in runs)
    line["steps"] = f"{last:,}"
    line["gradient steps"] = f"{np.mean([value_at(run, last, 'gradient_steps') for run in runs]):,.0f}"
    line["CPU-s per 10,000 steps"] = f"{np.mean([cpu_seconds(run, last) for run in runs]) / last * 1e4:,.0f}"
    heard = [np.nansum([value_at(run, last, name) for name in FLOATS]) for run in runs]
    line["floats per agent and step"] = f"{np.mean(heard):,.0f}"
    return line


def _with_interval(scores: Sequence[float]) -> str:
    known = np.array([score for score in scores if not math.isnan(score)])
    if not len(known):
        return "-"
    center, low, high = (float(x[0]) for x in interquartile_mean(known[:, None]))
    missing = "" if len(known) == len(scores) else f" ({len(known)} seeds)"
    return f"{center:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]") + missing


def write(lines: Sequence[Mapping[str, str]], folder: Path) -> None:
    """``summary.csv`` and ``summary.md`` in a folder."""
    header = list(lines[0])
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    cells = [header, ["---"] * len(header), *([line[name] for name in header] for line in lines)]
    (folder / "summary.md").write_text("".join(f"| {' | '.join(row)} |\n" for row in cells))
