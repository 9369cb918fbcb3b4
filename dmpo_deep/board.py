"""The live table of a sweep: what runs, what is done, what failed, and how long it will take."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dmpo_deep.sweep import Job, Outcome


class Board:
    """Follows a sweep; rich draws it anew whenever it is asked to.

    Args:
        jobs: all jobs.
        out: the folder of their folders.
        workers: jobs at a time.
    """

    def __init__(self, jobs: Sequence[Job], out: Path, workers: int) -> None:
        self._jobs, self._out, self._workers = {job.name: job for job in jobs}, out, workers
        self._before = {job.name: job.share(out / job.name) for job in jobs}
        self._since: dict[str, float] = {}
        self._took: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._ended: dict[str, Outcome] = {}

    def started(self, job: Job) -> None:
        """A job's turn has come, for the first time or again."""
        self._since[job.name] = time.monotonic()
        self._before[job.name] = job.share(self._out / job.name)

    def ended(self, outcome: Outcome) -> None:
        """A job has come to its end."""
        job = self._jobs[outcome.name]
        if not outcome.error:
            self._took[job.kind].append((1 - self._before[job.name], self._seconds(job.name)))
        self._ended[outcome.name] = outcome

    @property
    def failed(self) -> list[Outcome]:
        """The failures so far."""
        return [outcome for outcome in self._ended.values() if outcome.error]

    def summary(self) -> str:
        """One line: how many are done, failed, running and waiting, and the time left."""
        running, failed = self._running(), len(self.failed)
        waiting = len(self._jobs) - len(self._ended) - len(running)
        counts = f"{len(self._ended) - failed} done, {failed} failed, {len(running)} running, {waiting} waiting"
        left = self.seconds_left() if running or waiting else 0.0
        return counts + (f"; about {timedelta(seconds=round(left))} left" if 0 < left < math.inf else "")

    def seconds_left(self) -> float:
        """Of the whole sweep, from what shares of jobs of the same kind, or of any, have taken; inf before that."""
        spent = {kind: list(parts) for kind, parts in self._took.items()}
        for name, share in (running := self._running()).items():
            new = share - self._before[name], self._seconds(name)
            spent.setdefault(self._jobs[name].kind, []).append(new)
        known = {kind: _pace(parts) for kind, parts in spent.items()}
        fair = [pace for pace in known.values() if pace < math.inf]
        if not fair:
            return math.inf
        usual = sum(fair) / len(fair)
        left = 0.0
        for name, job in self._jobs.items():
            if name not in self._ended:
                pace = known.get(job.kind, math.inf)
                left += (1 - running.get(name, self._before[name])) * (pace if pace < math.inf else usual)
        return left / min(self._workers, len(self._jobs) - len(self._ended) or 1)

    def __rich__(self) -> Group:
        """The running jobs with their bars, the failed ones, and the summary."""
        table = Table(box=None, padding=(0, 1))
        for title in ("running", "", "", "for"):
            table.add_column(title, no_wrap=True)
        for name, share in self._running().items():
            bar = ProgressBar(total=1.0, completed=share, width=20)
            table.add_row(name, bar, f"{share:4.0%}", str(timedelta(seconds=round(self._seconds(name)))))
        lines = [Text(f"failed: {outcome.name}: {_last(outcome.error)}", style="red") for outcome in self.failed]
        return Group(table, *lines, Text(self.summary()))

    def _running(self) -> dict[str, float]:
        names = [name for name in self._since if name not in self._ended]
        return {name: self._jobs[name].share(self._out / name) for name in names}

    def _seconds(self, name: str) -> float:
        return time.monotonic() - self._since[name]


def _pace(parts: Sequence[tuple[float, float]]) -> float:
    """Seconds of a whole job, from shares and their seconds."""
    share = sum(part for part, _ in parts)
    return sum(seconds for _, seconds in parts) / share if share > 1e-3 else math.inf


def _last(error: str) -> str:
    return error.strip().splitlines()[-1]
