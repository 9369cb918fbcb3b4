"""What drills share: commands in processes of their own, findings that are kept, and runs compared to the last bit."""

from __future__ import annotations

import contextlib
import csv
import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch

from dmpo_deep import checkpoint, log

ROOT = Path(__file__).parents[2]
DMPO = "import sys; from dmpo_deep import cli; sys.exit(cli.main())"
SMALL: Mapping[str, tuple[str, ...]] = {
    "dmpo": ("rollout_steps=50", "warmup_steps=50", "branches=16", "model_horizon=5", "model_steps=5", "hidden=8"),
    "dmpo-true-model": ("rollout_steps=50", "branches=16", "model_horizon=5", "hidden=8", "updates=2"),
    "dppo": ("rollout_steps=50", "hidden=8", "updates=2"),
    "cppo": ("rollout_steps=50", "hidden=8", "updates=2"),
    "ic3net": ("copies=4", "rollout_steps=50", "width=8"),
    "ia2c": ("copies=4", "rollout_steps=50", "hidden=8"),
}
"""What makes a run small: 200 environment steps an epoch."""
K = TypeVar("K")


@dataclass(frozen=True)
class Finding:
    """What one case of a drill came to."""

    case: str
    passed: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was done and seen, how often; summed over cases in the report."""
    note: str = ""


@dataclass(frozen=True)
class Drill:
    """Where a drill works, and which of its cases are done."""

    name: str
    folder: Path

    @property
    def record(self) -> Path:
        """One line a finding."""
        return self.folder / f"{self.name}.jsonl"

    @property
    def findings(self) -> list[Finding]:
        """Those that are kept."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [Finding(**json.loads(line)) for line in lines if line.endswith("}")]

    def missing(self, cases: Iterable[K]) -> Iterator[K]:
        """The cases without a finding."""
        done = {finding.case for finding in self.findings}
        yield from (case for case in cases if str(case) not in done)

    def keep(self, finding: Finding) -> None:
        """Write it down at once."""
        with self.record.open("a") as file:
            file.write(json.dumps(asdict(finding)) + "\n")

    def room(self, case: str) -> Path:
        """A folder for a case, new."""
        import shutil

        folder = self.folder / "work" / f"{self.name}-{case}".replace(" ", "-").replace("/", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def environment(**more: str) -> dict[str, str]:
    """Of a child: this checkout first, and no threads that only get in each other's way."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def command(*arguments: object, code: str = DMPO) -> list[str]:
    """``dmpo`` with these arguments, or other ``code``."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def dmpo(*arguments: object, code: str = DMPO, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end in an interpreter of its own; what it said, as text."""
    return subprocess.run(
        command(*arguments, code=code),
        capture_output=True, text=True, timeout=1800, env=environment(**variables), cwd=ROOT, check=False,
        errors="replace",
    )  # fmt: skip


def fork(*arguments: object, code: str = DMPO, out: IO[bytes] | None = None, err: IO[bytes] | None = None) -> int:
    """Start it in a fork of this process, which has imported everything: most of a short command is that. Its id."""
    import torch.utils.tensorboard  # noqa: F401

    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 70
    try:
        os.setsid()
        with open(os.devnull, "wb") as nowhere:
            for number, file in ((1, out or nowhere), (2, err or nowhere)):
                os.dup2(file.fileno(), number)
        os.chdir(ROOT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["dmpo", *map(str, arguments)]
        sys.modules["__main__"] = types.ModuleType("__main__")  # its children are to import no drills
        exec(code, {"__name__": "drill"})
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]
        os._exit(status)


def forked(*arguments: object, code: str = DMPO) -> subprocess.CompletedProcess[str]:
    """As :func:`dmpo`, by :func:`fork`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = os.waitstatus_to_exitcode(os.waitpid(fork(*arguments, code=code, out=out, err=err), 0)[1])
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return subprocess.CompletedProcess(list(map(str, arguments)), status, *said)


def ended(pid: int) -> int | None:
    """The status of a fork that has ended; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def started(*arguments: object, code: str = DMPO, stderr: Any = subprocess.DEVNULL, **variables: str) -> Any:
    """Start it in a process group of its own, where Ctrl-C counts."""
    return subprocess.Popen(
        command(*arguments, code=code),
        stdout=subprocess.DEVNULL, stderr=stderr, env=environment(**variables), cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def shown(text: str, most: int = 300) -> str:
    """The end of ``text`` on one line."""
    line = " | ".join(text.strip().splitlines()[-6:])
    return line if len(line) <= most else f"... {line[-most:]}"


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.01) -> bool:
    """Whether it came true in time."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(every)
    return True


def difference(a: Path, b: Path) -> str:
    """Where two runs first differ, wall times aside; empty if they are the same to the last bit."""
    rows = [list(csv.DictReader((run / log.PROGRESS).open())) for run in (a, b)]
    for one, other in zip(*rows, strict=False):
        for name in one.keys() | other.keys():
            if not name.startswith("seconds") and one.get(name) != other.get(name):
                return f"{name} at {one['env_steps']} steps: {one.get(name)} and {other.get(name)}"
    if len(rows[0]) != len(rows[1]):
        return f"{len(rows[0])} and {len(rows[1])} rows"
    return _differ(*(checkpoint.load(run / log.CHECKPOINT) for run in (a, b)), "checkpoint")


def _differ(a: Any, b: Any, where: str) -> str:
    if type(a) is not type(b):
        return f"{where} of other types"
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        if a.keys() != b.keys():
            return f"{where}: other keys"
        return next(filter(None, (_differ(a[key], b[key], f"{where}.{key}") for key in keys)), "")
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{where} of other lengths"
        return next(
            filter(None, (_differ(x, y, f"{where}[{k}]") for k, (x, y) in enumerate(zip(a, b, strict=True)))), ""
        )
    if isinstance(a, torch.Tensor | np.ndarray):
        one, other = np.asarray(a), np.asarray(b)
        return "" if one.dtype == other.dtype and one.tobytes() == other.tobytes() else where
    return "" if a == b else where


def numbers(state: Any) -> int:
    """How many numbers in arrays a state holds."""
    if isinstance(state, torch.Tensor | np.ndarray):
        return int(np.asarray(state).size)
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(numbers, children))
