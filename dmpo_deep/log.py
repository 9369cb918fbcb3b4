"""What a run records: ``progress.csv``, the same as TensorBoard events, and the versions its numbers depend on."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from dmpo_theory.files import whole

PROGRESS, CHECKPOINT, WARNINGS = "progress.csv", "checkpoint.safetensors", "warnings.txt"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, the device, and the source's commit where a repository tracks it."""
    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "dmpo": metadata.version("dmpo"),
        "device": str(torch.get_default_device()),
    }
    here = Path(__file__)
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        found["commit"] = _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def read_rows(run: Path) -> list[dict[str, str]]:
    """The rows of ``progress.csv`` as text; a last line that a crash cut short is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line with too many or too few cells, or a cell that is no number.
    """
    path = run / PROGRESS
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no {PROGRESS}; restore it from a copy, or train again")
    whole = [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
    header, *rows = list(csv.reader(whole)) or [[]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {number}: {len(row)} cells for {len(header)} columns; restore the file from a copy"
            )
        for name, cell in zip(header, row, strict=True):
            try:
                float(cell or 0)
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: {name} = {cell!r} is no number; restore the file from a copy"
                ) from None
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_progress(run: Path) -> list[dict[str, float | None]]:
    """The rows of ``progress.csv`` as numbers; blank cells are None. Errors as :func:`read_rows`."""
    return [{name: float(cell) if cell else None for name, cell in row.items()} for row in read_rows(run)]


def standing(run: Path) -> int:
    """The environment steps of the last row of ``progress.csv``; 0 while there is none. Reads the file's end only."""
    try:
        with (run / PROGRESS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            whole = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        return int(whole[-1].split(b",")[0])
    except (OSError, ValueError, IndexError):
        return 0


def rows_until(run: Path, columns: Sequence[str], step: int) -> list[dict[str, str]]:
    """The rows up to the one whose first column is ``step``, where the run's checkpoint stands; the rest goes.

    Raises:
        FileNotFoundError: no record.
        ValueError: a damaged record, one with other columns, or one without that step.
    """
    rows, path = read_rows(run), run / PROGRESS
    if rows and list(rows[0]) != list(columns):
        raise ValueError(f"{path} has other columns than this version writes; resume with the version that wrote it")
    steps = [row[columns[0]] for row in rows]
    if str(step) not in steps:
        raise ValueError(
            f"{path} ends at {columns[0]} = {steps[-1] if steps else 0} and has no row of {step}, where the checkpoint "
            "stands; restore both from one copy of the run, or train again"
        )
    return rows[: steps.index(str(step)) + 1]


class RunLog:
    """One CSV row and one set of TensorBoard scalars per epoch.

    Args:
        run: the run directory.
        columns: CSV columns; the first is the step axis of both records.
        rows: what the record starts with; it replaces what is there, whole or not at all.
    """

    def __init__(self, run: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, so that evaluations and reports do without

        self._run, self._columns, path = run, list(columns), run / PROGRESS
        with whole(path) as file:
            writer = self._csv(file)
            writer.writeheader()
            writer.writerows(rows)
        self._file = path.open("a", newline="")
        self._writer = self._csv(self._file)
        self._events = SummaryWriter(str(run), purge_step=int(rows[-1][columns[0]]) + 1 if rows else None)

    def _csv(self, file: IO[Any]) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, lineterminator="\n")

    def write(self, row: Mapping[str, float | None]) -> None:
        """Append one epoch; None becomes a blank cell and no event."""
        step = row[self._columns[0]]
        self._writer.writerow({name: row.get(name) for name in self._columns})
        self._file.flush()
        for name in self._columns[1:]:
            if row.get(name) is not None:
                self._events.add_scalar(name, row[name], step)

    def warn(self, message: str) -> None:
        """Say it on stderr, and keep it in ``warnings.txt``."""
        tqdm.write(f"Warning: {message}", sys.stderr)
        with (self._run / WARNINGS).open("a") as file:
            file.write(message + "\n")

    def sync(self) -> None:
        """Wait until the rows are on disk, so that no checkpoint is ahead of them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close both records."""
        self._file.close()
        self._events.close()
