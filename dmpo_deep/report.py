"""Section VI's report: every figure that given runs have the data for, and one table of what they came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep import curves, log, summary
from dmpo_deep.config import CONFIG
from dmpo_deep.controllers import material
from dmpo_deep.drawing import Chart, NothingToDraw, save
from dmpo_deep.evaluate import reference_levels
from dmpo_deep.frontier import communicated
from dmpo_deep.groups import Group, by_task, collect
from dmpo_deep.intervals import interquartile_mean, lower_median
from dmpo_deep.pictures import profile
from dmpo_deep.radii import ablation
from dmpo_deep.recording import played
from dmpo_deep.results import RUNS, from_run, gather
from dmpo_deep.summary import LEVELS, first_reached
from dmpo_deep.sweep import plain
from dmpo_deep.tables import latex, markdown, write_csv
from dmpo_theory.files import write_text

PROFILE = "profile-"
"""How the names of execution profiles begin."""
Levels = Mapping[str, Mapping[str, float]]
"""Task -> reference controller -> mean metric."""


@dataclass(frozen=True)
class Report:
    """What was written in a folder, and what was not."""

    folder: Path
    written: tuple[str, ...]
    """Names of files."""
    left_out: Mapping[str, str]
    """Kind of figure -> why there is none."""


def plot(
    runs: Sequence[str | Path],
    out: str | Path,
    overwrite: bool = False,
    profiles: bool = False,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> Report:
    """Draw what there is, and write the tables.

    Figures are ``learning``, ``thresholds``, ``model-error``, ``kappa``, ``floats`` and ``profile-...``, PNG and PDF,
    with the numbers behind them as CSV. ``table`` is CSV, Markdown and LaTeX.

    Args:
        runs: run directories, and folders of results.
        out: folder for the results, new or empty unless ``overwrite``, and never a run directory.
        overwrite: replace earlier results in ``out``; figures of theirs that these runs do not have are removed.
        profiles: also play, of every task and algorithm, the run with the median final return.
        progress: goes through the run directories that are played, and tells somebody.

    Raises:
        FileExistsError: ``out`` is a run, a file, or a folder with something in it.
        FileNotFoundError, ValueError: as :func:`~dmpo_deep.groups.collect` and :func:`dmpo_deep.results.gather`.
    """
    folder = Path(out)
    if any((folder / name).exists() for name in (CONFIG, log.PROGRESS, log.CHECKPOINT, RUNS)):
        raise FileExistsError(f"{folder} is a run directory or a folder of results; give another --out")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not overwrite)):
        raise FileExistsError(f"{folder} exists; give another --out, or --overwrite to replace the figures in a folder")
    groups = collect(gather([Path(run) for run in runs]))
    levels = {task: _levels(task, members) for task, members in by_task(groups).items()}
    runs_of = [run for group in groups for run in group.runs]
    charts: Mapping[str, Callable[[], Chart]] = {
        "learning": partial(curves.learning, groups, levels),
        "thresholds": partial(curves.thresholds, groups),
        "model-error": partial(curves.model_errors, groups),
        "kappa": partial(ablation, runs_of),
        "floats": partial(communicated, runs_of),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.suffix in (".png", ".pdf", ".csv") and (old.stem in charts or old.stem.startswith(PROFILE)):
            old.unlink()
    written, left_out = [], {}
    for name, draw in charts.items():
        try:
            written += save(draw(), folder / name)
        except NothingToDraw as reason:
            left_out[name] = str(reason)
    rows = final_levels(groups, levels)
    write_csv(folder / "table.csv", rows)
    write_text(folder / "table.md", markdown([_printed(row) for row in rows]))
    write_text(folder / "table.tex", latex([_printed(row) for row in rows], by="task"))
    written += ["table.csv", "table.md", "table.tex", *summary.write(groups, folder)]
    if not profiles:
        left_out["profiles"] = "playing takes time; --profiles plays the median run of each algorithm"
        return Report(folder, tuple(written), left_out)
    typical = _typical(groups, [Path(run) for run in runs])
    if not typical:
        left_out["profiles"] = "folders of results have no policies to play; give run directories"
    for run in progress(typical):
        name = f"{PROFILE}{plain('-'.join((typical[run].task, typical[run].label)))}"
        try:
            written += save(profile(played(run)), folder / name)
        except NothingToDraw as reason:
            left_out[name] = str(reason)
    return Report(folder, tuple(written), left_out)


def _typical(groups: Sequence[Group], sources: Sequence[Path]) -> dict[Path, Group]:
    """The run directory with the median final return of each group's; the lower of two middle ones."""
    folders = {from_run(source).id: source for source in sources if not (source / RUNS).is_file()}
    found = {}
    for group in groups:
        final = {run.id: score for run, score in zip(group.runs, group.scores["eval_sampled"][:, -1], strict=True)}
        if here := sorted(final.keys() & folders.keys(), key=lambda key: (final[key], key)):
            found[folders[here[(len(here) - 1) // 2]]] = group
    return found


def _levels(task: str, groups: Sequence[Group]) -> dict[str, float]:
    """Of the environment that the task's runs share, as far as controllers can tell; none if they share none."""
    environments = [material(task, group.hyperparameters["environment"]) for group in groups]
    alike = all(environment == environments[0] for environment in environments)
    return reference_levels(task, environments[0]) if alike else {}


def final_levels(groups: Sequence[Group], levels: Levels) -> list[dict[str, Any]]:
    """A row for every group, at its last common evaluation, and one for every reference controller."""
    rows = [_final(group) for group in groups]
    blank = dict.fromkeys(rows[0])
    for task, controllers in levels.items():
        rows += [blank | {"task": task, "label": label, "sampled": level} for label, level in controllers.items()]
    return sorted(rows, key=lambda row: row["task"])


def _final(group: Group) -> dict[str, Any]:
    row: dict[str, Any] = {"task": group.task, "label": group.label, "seeds": len(group.runs)}
    row |= {"env_steps": int(group.steps[-1]), "left_out": group.left_out}
    for name, column in (("sampled", "eval_sampled"), ("greedy", "eval_greedy"), ("score", "eval_score")):
        center, low, high = (float(part[0]) for part in interquartile_mean(group.values(column)[:, -1:]))
        row |= {name: center, f"{name}_low": low, f"{name}_high": high}
    for level in LEVELS:
        steps = [first_reached(run, level) for run in group.runs]
        row[f"steps_to_{level:g}"] = float(lower_median(np.array([steps]))[0])
        row[f"reached_{level:g}"] = sum(map(math.isfinite, steps))
    return row


def _printed(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table for people: means with their intervals, and medians with how many runs got there."""
    cells = {"task": row["task"], "": row["label"], "seeds": str(row["seeds"] or "")}
    cells["steps"] = f"{row['env_steps']:,}" if row["env_steps"] else ""
    for title, name, places in (("return, sampled", "sampled", 1), ("greedy", "greedy", 1), ("score", "score", 2)):
        center, low, high = (_number(row[part], places) for part in (name, f"{name}_low", f"{name}_high"))
        cells[title] = f"{center} [{low}, {high}]" if low else center
    for level in LEVELS:
        steps, reached = _number(row[f"steps_to_{level:g}"], 0), row[f"reached_{level:g}"]
        cells[f"steps to {level:g}"] = f"{steps or '-'} ({reached}/{row['seeds']})" if row["seeds"] else ""
    return cells


def _number(x: float | None, places: int) -> str:
    return f"{x:,.{places}f}" if x is not None and math.isfinite(x) else ""
