"""Results that accumulate: what runs came to, in CSV files that can be committed, each with its config and commit.

A folder of results holds ``runs.csv``, a line a run with all that made it, for every task ``TASK.csv``, a line an
evaluation, and ``traffic.csv``, what last evaluations measured beside the metric. Runs are added from their
directories, on any day and any machine; a run that is there already is replaced by one that went further or is newer
code's.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep import DEFAULT_PRESET, log
from dmpo_deep.algorithms import TITLES
from dmpo_deep.config import CONFIG, RunConfig, read_config, to_config
from dmpo_deep.evaluate import EVALUATION
from dmpo_deep.golden import digest, outdated
from dmpo_deep.presets import get_preset, key_values, override
from dmpo_deep.schedule import Schedule, schedule
from dmpo_deep.sweep import plain
from dmpo_theory.files import whole

RUNS, TRAFFIC = "runs.csv", "traffic.csv"
TRAFFIC_COLUMNS = ("task", "run", "policy", "measure", "mean")
RUN_COLUMNS = ("run", "task", "algo", "preset", "overrides", "seed", "steps", "eval_every", "trace")
VERSIONS = ("commit", "dmpo", "torch", "numpy", "python", "device")
SCORES = ("eval_sampled", "eval_greedy", "eval_score", "eval_score_greedy", "eval_collisions", "eval_collisions_greedy")
MEANS = ("model_error", "model_error_at_quarter", "model_error_at_half", "model_error_at_horizon", "model_loss_holdout")
"""Averaged over the epochs since the evaluation before."""
FLOATS = ("floats_policy", "floats_critic", "floats_model", "floats_gates")
SUMS = (
    "gradient_steps",
    "model_gradient_steps",
    *(f"seconds_cpu_{p}" for p in ("collect", "model", "imagine", "update")),
)
"""Totals since the start, warm-up included."""
COLUMNS = ("run", "env_steps", *SCORES, *MEANS, *FLOATS, *SUMS)

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class Result:
    """One run."""

    task: str
    algo: str
    preset: str
    overrides: tuple[str, ...]
    seed: int
    eval_every: Schedule
    trace: str
    """Of the golden traces of all its starts, the one they share; ``mixed`` if none."""
    versions: Mapping[str, str]
    """``VERSIONS`` of its first start, ``commit`` of all."""
    hyperparameters: Mapping[str, Any]
    """Every field of its preset, in plain JSON."""
    rows: tuple[Row, ...]
    """Its evaluations."""
    traffic: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Policy and measure -> mean over the draws of the last evaluation; empty if that was not kept."""

    @property
    def id(self) -> str:
        """Short, and the same for the same settings."""
        return run_id(self.task, self.algo, self.seed, self.eval_every, self.hyperparameters)

    @property
    def label(self) -> str:
        """The algorithm, and what is changed from its preset ``tuned``."""
        return self.called()

    def called(self, known: Collection[str] = ()) -> str:
        """:attr:`label` without overrides that need no saying."""
        named = () if self.preset == DEFAULT_PRESET else (self.preset,)
        return " ".join([TITLES[self.algo], *named, *(pair for pair in self.overrides if pair not in known)])

    @property
    def steps(self) -> int:
        """Environment steps at the last evaluation."""
        return int(self.rows[-1]["env_steps"] or 0)

    def until(self, steps: int) -> Result:
        """What it would be had it been trained for ``steps`` environment steps; itself if it was for no more."""
        rows = tuple(itertools.takewhile(lambda row: (row["env_steps"] or 0) < steps, self.rows))
        if len(rows) + 1 >= len(self.rows):
            return self
        return replace(self, rows=self.rows[: len(rows) + 1], traffic={})

    @property
    def stale(self) -> bool:
        """Whether the same command would come to something else now: another golden trace, or another preset."""
        try:
            preset = override(get_preset(self.task, self.algo, self.preset), key_values(self.overrides))
        except ValueError:
            return True
        return outdated(self.trace, self.task, self.algo) or to_config(preset) != self.hyperparameters


def run_id(task: str, algo: str, seed: int, eval_every: Schedule, hyperparameters: Mapping[str, Any]) -> str:
    """Short, and the same for the same settings; ``hyperparameters`` in plain JSON."""
    identity = json.dumps([task, algo, seed, eval_every, hyperparameters], sort_keys=True)
    return f"{algo}-s{seed}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def from_run(run: Path) -> Result:
    """What a run directory holds.

    Raises:
        FileNotFoundError: not a run directory.
        ValueError: a damaged file, or no evaluation yet.
    """
    config = read_config(run)
    starts = _starts(config)
    versions = {name: str(config.versions.get(name, "")) for name in VERSIONS}
    versions["commit"] = " ".join(dict.fromkeys(start.get("commit", "unknown") for start in starts))
    rows = tuple(_evaluations(log.read_progress(run)))
    if not rows:
        raise ValueError(f"{run} has no evaluation yet; train it further, or leave it out")
    return Result(
        config.task,
        config.algo,
        config.preset_name,
        tuple(config.overrides),
        config.seed,
        config.eval_every,
        _trace(config),
        versions,
        config.identity["preset"],
        rows,
        _traffic(run, rows[-1]),
    )


def _traffic(run: Path, last: Row) -> dict[tuple[str, str], float]:
    """What ``evaluation.csv`` has beside the metric, by policy, if it is of the ``last`` evaluation."""
    path = run / EVALUATION
    if not path.is_file():
        return {}
    draws: dict[str, list[dict[str, float]]] = {}
    try:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                draws.setdefault(line.pop("policy"), []).append({name: float(cell) for name, cell in line.items()})
        means = {
            (policy, name): float(np.mean([d[name] for d in of])) for policy, of in draws.items() for name in of[0]
        }
        metrics = {policy: means[policy, "metric"] for policy in ("sampled", "greedy")}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); dmpo evaluate {run} writes it anew") from error
    if any(not math.isclose(mean, last[f"eval_{policy}"] or 0.0) for policy, mean in metrics.items()):
        return {}
    return {key: mean for key, mean in means.items() if key[1] not in ("draw", "metric", "collided")}


def _starts(config: RunConfig) -> list[Mapping[str, str]]:
    """The versions of a run's start and of its continuations."""
    return [config.versions, *(start["versions"] for start in config.resumed)]


def _trace(config: RunConfig) -> str:
    traces = {start.get("trace", "") for start in _starts(config)}
    return traces.pop() if len(traces) == 1 else "mixed"


def set_aside(run: Path, wanted: RunConfig) -> Path | None:
    """Rename a run directory that is not of the ``wanted`` settings and the present golden trace, to ``NAME.old-K``.

    Returns:
        Its new name; None if there is no such run, or if it can go on.

    Raises:
        ValueError: its ``config.json`` is damaged.
    """
    if not (run / CONFIG).is_file():
        return None
    found = read_config(run)
    if found.identity == wanted.identity and not outdated(_trace(found), found.task, found.algo):
        return None
    names = (run.with_name(f"{run.name}.old-{k}") for k in itertools.count(1))
    return run.rename(next(name for name in names if not name.exists()))


def _evaluations(progress: Sequence[Row]) -> Iterable[Row]:
    """The rows with an evaluation: means since the one before, totals since the start."""
    since: list[Row] = []
    totals = dict.fromkeys(SUMS, 0.0)
    for row in progress:
        since.append(row)
        for name in SUMS:
            if name.startswith("seconds") or name == "model_gradient_steps":
                totals[name] += row.get(name) or 0.0
            else:
                totals[name] = row.get(name) or totals[name]
        if row.get("eval_sampled") is None:
            continue
        means: dict[str, float | None] = {}
        for name in MEANS:
            measured = [value for earlier in since if (value := earlier.get(name)) is not None]
            means[name] = sum(measured) / len(measured) if measured else None
        yield {
            "env_steps": row["env_steps"],
            **{name: row.get(name) for name in (*SCORES, *FLOATS)},
            **means,
            **{name: value or None for name, value in totals.items()},
        }
        since = []


def read(folder: Path) -> list[Result]:
    """The results in a folder; none if there is no such folder.

    Raises:
        ValueError: a damaged file; the message names it.
    """
    if not (folder / RUNS).is_file():
        return []
    found, traffic = [], _read_traffic(folder / TRAFFIC)
    evaluations: dict[str, dict[str, list[Row]]] = {}
    with (folder / RUNS).open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                task = line["task"]
                if task not in evaluations:
                    evaluations[task] = _read_rows(_file_of(folder, task))
                result = Result(
                    task,
                    line["algo"],
                    line["preset"],
                    tuple(json.loads(line["overrides"])),
                    int(line["seed"]),
                    schedule(json.loads(line["eval_every"])),
                    line["trace"],
                    {name: line[name] for name in VERSIONS},
                    json.loads(line["config"]),
                    tuple(evaluations[task][line["run"]]),
                    traffic.get((task, line["run"]), {}),
                )
                if result.id != line["run"]:
                    raise ValueError(f"{line['run']} does not fit its config, which makes {result.id}")
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{folder / RUNS}, line {number}: {error}; restore it from version control") from error
            found.append(result)
    return found


def _read_traffic(path: Path) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    if path.is_file():
        with path.open(newline="") as file:
            for number, line in enumerate(csv.DictReader(file), start=2):
                try:
                    measured = found.setdefault((line["task"], line["run"]), {})
                    measured[line["policy"], line["measure"]] = float(line["mean"])
                except (KeyError, ValueError, TypeError) as error:
                    raise ValueError(f"{path}, line {number}: {error}; restore it from version control") from error
    return found


def _read_rows(path: Path) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            numbers = {name: float(cell) if (cell := line[name]) else None for name in COLUMNS[1:]}
            rows.setdefault(line["run"], []).append(numbers)
    return rows


def add(new: Iterable[Result], folder: Path) -> list[Result]:
    """Put runs into a folder of results; what the folder holds then.

    Of two runs with the same settings the one of the present code stays, and else the longer one.
    """
    known = {(result.task, result.id): result for result in read(folder)}
    for result in new:
        key = result.task, result.id
        if key not in known or (not result.stale, result.steps) >= (not known[key].stale, known[key].steps):
            known[key] = result
    results = sorted(known.values(), key=lambda r: (r.task, r.label, r.seed, r.id))
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted({_file_of(folder, result.task) for result in results}):
        with whole(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for r in results:
                if _file_of(folder, r.task) == path:
                    writer.writerows([r.id, *(_cell(row[name]) for name in COLUMNS[1:])] for row in r.rows)
    with whole(folder / TRAFFIC) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRAFFIC_COLUMNS)
        writer.writerows((r.task, r.id, *key, _cell(mean)) for r in results for key, mean in r.traffic.items())
    with whole(folder / RUNS) as file:  # last: whenever this stops, every run that is listed has its rows
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*RUN_COLUMNS, *VERSIONS, "config"])
        for r in results:
            overrides, when = json.dumps(r.overrides), json.dumps(r.eval_every)
            told = (r.id, r.task, r.algo, r.preset, overrides, r.seed, r.steps, when, r.trace)
            config = json.dumps(r.hyperparameters, sort_keys=True)
            writer.writerow([*told, *(r.versions[name] for name in VERSIONS), config])
    return results


def gather(sources: Sequence[Path]) -> list[Result]:
    """The runs in run directories, and those in folders of results that are not stale.

    Raises:
        FileNotFoundError: a source is neither.
        ValueError: no source, a damaged file, a run without an evaluation, or a folder with stale results only.
    """
    if not sources:
        raise ValueError("no runs given; name at least one run directory, or a folder of results")
    found: list[Result] = []
    for source in sources:
        if not (source / RUNS).is_file():
            found.append(from_run(source))
            continue
        fresh = [result for result in read(source) if not result.stale]
        if not fresh:
            raise ValueError(f"all results in {source} are stale; train them again, see dmpo reproduce")
        found += fresh
    return found


def stale(results: Iterable[Result]) -> Iterator[str]:
    """A sentence for each task and algorithm with results that the present code would not repeat."""
    count = Counter((result.task, result.algo) for result in results if result.stale)
    for (task, algo), runs in sorted(count.items()):
        yield (
            f"Stale: {runs} runs of {algo} on {task}, made by code with another golden trace (or, of your own task, "
            f"source) than the present one's, {digest(task, algo) or 'none'}, or with values that the preset no longer "
            "has; train them again"
        )


def _file_of(folder: Path, task: str) -> Path:
    return folder / f"{plain(task)}.csv"


def _cell(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
