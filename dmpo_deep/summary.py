"""Section VI in a table: what algorithms reach after so many environment steps, how soon, and at what cost.

Scores are normalised: 0 is the task's trivial controller and 1 the best one known (``docs/environments/levels.md``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmpo_deep.intervals import interquartile_mean, lower_median, ratio_of_medians
from dmpo_deep.results import FLOATS, Result
from dmpo_deep.tables import markdown, write_csv
from dmpo_theory.files import write_text

if TYPE_CHECKING:
    from dmpo_deep.groups import Group

MARKS = (10_000, 30_000, 100_000)
"""Environment steps, warm-up included, at which algorithms are compared."""
ON_THE_WAY = (3_000, 6_000, 12_000, 20_000)
"""Environment steps at which every run is shown by itself."""
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


def worst_since(result: Result, steps: float) -> float:
    """The lowest mean metric of the sampled policy at all evaluations from ``steps`` on."""
    return min(row["eval_sampled"] or 0.0 for row in result.rows if (row["env_steps"] or 0) >= steps)


def cpu_seconds(result: Result, steps: int) -> float:
    """Processor time until then, without evaluations."""
    parts = [value_at(result, steps, f"seconds_cpu_{phase}") for phase in ("collect", "model", "imagine", "update")]
    return float(np.nansum(parts))


def rows(groups: Iterable[Group]) -> list[dict[str, str]]:
    """A line for every task and algorithm, with what it was compared on; ``-`` where no run got there.

    Behind the median of the steps to a level stands its ratio to that of the task's quickest algorithm, with a 95 %
    bootstrap interval over seeds.
    """
    by_task: dict[str, list[Group]] = {}
    for group in groups:
        by_task.setdefault(group.task, []).append(group)
    return [_row(group, rivals) for rivals in by_task.values() for group in rivals]


def _row(group: Group, rivals: Sequence[Group]) -> dict[str, str]:
    runs = group.runs
    line = {"task": group.task, "algorithm": group.label, "seeds": str(len(runs))}
    for kind, column in (("", "eval_score"), (", greedy", "eval_score_greedy")):
        for mark in MARKS:
            line[f"score at {mark:,}{kind}"] = _with_interval([value_at(run, mark, column) for run in runs])
    for level in LEVELS:
        reached = [[first_reached(run, level) for run in rival.runs] for rival in rivals]
        quickest = min(reached, key=lambda steps: lower_median(np.array([steps]))[0])
        line[f"steps to {level:g}"] = _soon(reached[rivals.index(group)], quickest)
    last = min(run.steps for run in runs)
    line["steps"] = f"{last:,}"
    line["gradient steps"] = f"{np.mean([value_at(run, last, 'gradient_steps') for run in runs]):,.0f}"
    line["CPU-s per 10,000 steps"] = f"{np.mean([cpu_seconds(run, last) for run in runs]) / last * 1e4:,.0f}"
    heard = [np.nansum([value_at(run, last, name) for name in FLOATS]) for run in runs]
    line["floats per agent and step"] = f"{np.mean(heard):,.0f}"
    return line


def _soon(steps: Sequence[float], quickest: Sequence[float]) -> str:
    """``MEDIAN (REACHED/ALL)``, and what multiple of the quickest's."""
    middle, count = float(lower_median(np.array([steps]))[0]), sum(x < math.inf for x in steps)
    if middle == math.inf:
        return f"- ({count}/{len(steps)})"
    said = f"{middle:,.0f} ({count}/{len(steps)})"
    if steps is quickest:
        return said
    return said + ", {:.1f} [{:.1f}, {:.1f}] times".format(*ratio_of_medians(steps, quickest))


def each_run(groups: Iterable[Group]) -> list[dict[str, str]]:
    """A line for every run: the sampled policy's metric on its way, the greedy one's at the end, and the costs."""
    return [_run(group, run) for group in groups for run in sorted(group.runs, key=lambda run: run.seed)]


def _run(group: Group, run: Result) -> dict[str, str]:
    line = {"task": group.task, "algorithm": group.label, "seed": str(run.seed)}
    for mark in ON_THE_WAY:
        line[f"{mark:,}"] = _number(value_at(run, mark, "eval_sampled"))
    last, collided = run.steps, ("eval_collisions", "eval_collisions_greedy")
    line["steps"] = f"{last:,}"
    line["sampled"], line["greedy"] = (_number(value_at(run, last, name)) for name in ("eval_sampled", "eval_greedy"))
    line["worst, second half"] = _number(worst_since(run, last / 2))
    line["collided"] = " / ".join(_number(value_at(run, last, name)) for name in collided)
    for kind, column in (("", "eval_score"), (", greedy", "eval_score_greedy")):
        soon = first_reached(run, 0.0, column)
        line[f"score 0 after{kind}"] = _number(soon)
        if not kind:
            line["CPU-s until then"] = "-" if soon == math.inf else _number(cpu_seconds(run, int(soon)))
    line["gradient steps"] = _number(value_at(run, last, "gradient_steps"))
    line["CPU-s"] = _number(cpu_seconds(run, last))
    return line


def traffic(groups: Iterable[Group]) -> list[dict[str, object]]:
    """A line for every run, policy and measure: the mean of the last evaluation."""
    return [
        {"task": g.task, "algorithm": g.label, "seed": run.seed, "policy": policy, "measure": measure, "mean": mean}
        for g in groups
        for run in sorted(g.runs, key=lambda run: run.seed)
        for (policy, measure), mean in run.traffic.items()
    ]


def traffic_tables(groups: Iterable[Group]) -> dict[str, list[dict[str, str]]]:
    """Task -> a line for every algorithm and policy: means over runs, and in brackets their standard deviation."""
    tables: dict[str, list[dict[str, str]]] = {}
    for group in groups:
        for policy in dict.fromkeys(policy for run in group.runs for policy, _ in run.traffic):
            of = [{m: mean for (p, m), mean in run.traffic.items() if p == policy} for run in group.runs if run.traffic]
            line = {"task": group.task, "algorithm": group.label, "policy": policy, "runs": str(len(of))}
            for measure in of[0]:
                means = np.array([measured[measure] for measured in of])
                line[measure] = f"{means.mean():,.2f}" + (f" ({means.std(ddof=1):,.2f})" if len(means) > 1 else "")
            tables.setdefault(group.task, []).append(line)
    return tables


def _number(x: float) -> str:
    return f"{x:,.0f}" if math.isfinite(x) else "-"


def _with_interval(scores: Sequence[float]) -> str:
    known = np.array([score for score in scores if not math.isnan(score)])
    if not len(known):
        return "-"
    center, low, high = (float(x[0]) for x in interquartile_mean(known[:, None]))
    missing = "" if len(known) == len(scores) else f" ({len(known)} of {len(scores)} seeds)"
    return f"{center:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]") + missing


def write(groups: Sequence[Group], folder: Path) -> list[str]:
    """``summary``, ``each-run`` and ``traffic``, as ``.csv`` and as ``.md``, in a folder; the names of the files."""
    tables: list[tuple[str, Sequence[Mapping[str, object]], str]] = [
        (name, lines, markdown(lines)) for name, lines in (("summary", rows(groups)), ("each-run", each_run(groups)))
    ]
    if measured := traffic(groups):
        tables.append(("traffic", measured, "\n".join(map(markdown, traffic_tables(groups).values()))))
    for name, lines, text in tables:
        write_csv(folder / f"{name}.csv", lines)
        write_text(folder / f"{name}.md", text)
    return [f"{name}.{suffix}" for name, *_ in tables for suffix in ("csv", "md")]
