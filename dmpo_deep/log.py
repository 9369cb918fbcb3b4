"""The run directory: ``config.json``, ``progress.csv``, TensorBoard events and ``checkpoint.safetensors``."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

CONFIG, PROGRESS, CHECKPOINT = "config.json", "progress.csv", "checkpoint.safetensors"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the source's commit where there is one."""
    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "dmpo": metadata.version("dmpo"),
    }
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json``, whole or not at all."""
    part = run / (CONFIG + ".part")
    part.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(part, run / CONFIG)


def read_config(run: Path) -> dict[str, Any]:
    """The run's ``config.json``; ``FileNotFoundError`` if ``run`` is no run directory."""
    path = run / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run directory: it has no {CONFIG}")
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def read_progress(run: Path) -> list[dict[str, float | None]]:
    """The rows of ``progress.csv``; blank cells are None."""
    path = run / PROGRESS
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no {PROGRESS}; the run has not finished an epoch")
    with path.open(newline="") as file:
        return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]


class RunLog:
    """One CSV row and one set of TensorBoard scalars per epoch.

    Args:
        run: the run directory.
        columns: CSV columns; the first is the step axis of both records.
        after: continue an existing record after the row with this value of the step axis, dropping what follows it;
            None starts a new record.
    """

    def __init__(self, run: Path, columns: Sequence[str], after: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, so that evaluations and reports do without

        self._columns = list(columns)
        path = run / PROGRESS
        if after is None:
            path.write_text(",".join(columns) + "\n")
        else:
            header, *rows = path.read_text().splitlines()
            last = [row.split(",")[0] for row in rows].index(str(after))
            path.write_text("\n".join([header, *rows[: last + 1]]) + "\n")
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self._columns)
        self._events = SummaryWriter(str(run), purge_step=None if after is None else after + 1)

    def write(self, row: Mapping[str, float | None]) -> None:
        """Append one epoch; None becomes a blank cell and no event."""
        step = row[self._columns[0]]
        self._writer.writerow({name: row.get(name) for name in self._columns})
        self._file.flush()
        for name in self._columns[1:]:
            if row.get(name) is not None:
                self._events.add_scalar(name, row[name], step)

    def close(self) -> None:
        """Flush and close both records."""
        self._file.close()
        self._events.close()
