"""Disks that are full and folders that cannot be written: a clear line, and nothing that was there is lost."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.drills.harness import ROOT, SMALL, Drill, Finding, difference, dmpo, forked, shown
from dmpo_deep import checkpoint, log

EXAMPLE = ROOT / "examples" / "01_path3.instance.json"
TRAIN = ("train", "catchup", "--algo", "dmpo", "--seed", "3", "--eval-every", "400", "--set", *SMALL["dmpo"])
AUDIT = ("audit", "--n", "3", "--instances", "1", "--graphs", "path")
FILLING = "filling"


def mount(folder: Path, kib: int) -> None:
    """A disk of that size, in memory; needs the rights of root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)


@contextlib.contextmanager
def disk(folder: Path, kib: int) -> Iterator[Path]:
    """A small disk at ``folder``, gone afterwards."""
    mount(folder, kib)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leaving: int) -> None:
    """Take all but so many KiB of the disk."""
    free = shutil.disk_usage(folder).free // 1024
    with (folder / FILLING).open("wb") as file:
        file.write(b"x" * max(0, free - leaving) * 1024)


def files(folder: Path) -> dict[str, bytes]:
    """All files below, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _clear(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """What is wrong with an error, empty if it is one clear line with all the words; a progress bar may come before."""
    lines = [line for line in done.stderr.splitlines() if "dmpo: " in line]
    said = lines[-1] if lines else ""
    if done.returncode not in (1, 2) or not said or "Traceback" in done.stderr:
        return f"status {done.returncode}: {shown(done.stderr)}"
    missing = [word for word in words if word not in done.stderr]
    return f"{missing} not in {shown(said)}" if missing else ""


def full(drill: Drill) -> Iterator[Finding]:
    """Disks that fill up while runs, sweeps and audits go on, and before results are written."""
    for leaving in drill.missing([0, 40, 90, 150, 260, 400, 600, 800]):
        yield _full_training(drill, int(leaving))
    for case in drill.missing(["sweep"]):
        with disk(drill.room(case) / "disk", 40_000) as small:
            sweep = ("sweep", "--tasks", "catchup", "--algos", "dppo", "--seeds", "3", "4", "--eval-every", "400")
            sweep += ("--workers", "2", "--set", *SMALL["dppo"], "--out", small / "runs", "--steps")
            dmpo(*sweep, "800")
            fill(small, 4)
            said = dmpo(*sweep, "2400")
            words = (
                "No space left",
                "2 of 2 failed",
                "keeps its checkpoint at 800",
            )  # and tracebacks, as of any failure
            wrong = "" if said.returncode == 1 and all(word in said.stderr for word in words) else shown(said.stderr)
            (small / FILLING).unlink()
            dmpo(*sweep, "2400")
            whole = small.parent / "whole"
            dmpo(*(x if x != small / "runs" else whole for x in sweep), "2400")
            wrong = wrong or next(
                filter(None, (difference(run, small / "runs" / run.name) for run in whole.iterdir())), ""
            )
        yield Finding(case, not wrong, {"sweeps": 1}, wrong)
    for case in drill.missing(["audit"]):
        with disk(drill.room(case) / "disk", 20_000) as small:
            fill(small, 4)
            wrong = _clear(forked(*AUDIT, "--out", small / "audit"), "No space left", "free some space", "are kept")
            (small / FILLING).unlink()
            done = forked(*AUDIT, "--out", small / "audit", "--resume")
            wrong = wrong or ("" if done.returncode == 0 and (small / "audit" / "audit.html").exists() else done.stderr)
        yield Finding(case, not wrong, {"audits": 1}, wrong)
    for case in drill.missing(list(WRITERS)):
        folder = drill.room(case)
        runs = _runs(folder)
        with disk(folder / "disk", 20_000) as small:
            wrong = _kept(small, WRITERS[case](runs, small), lambda small=small: fill(small, 0), "No space left")
        yield Finding(case, not wrong, {"commands": 1}, wrong)


def _full_training(drill: Drill, leaving: int) -> Finding:
    folder = drill.room(str(leaving))
    whole = folder / "whole"
    forked(*TRAIN, "--steps", 3200, "--out", whole)
    with disk(folder / "disk", 40_000) as small:
        run = small / "run"
        forked(*TRAIN, "--steps", 800, "--out", run)
        fill(small, leaving)
        done = forked(*TRAIN, "--steps", 3200, "--out", run, "--resume")
        wrong = _clear(done, "No space left", "keeps its checkpoint at", "--resume", "free some space")
        stood = int(checkpoint.load(run / log.CHECKPOINT)["learner"]["collector"]["env_steps"])
        if f"keeps its checkpoint at {stood} steps" not in done.stderr:
            wrong = wrong or f"the checkpoint stands at {stood}: {shown(done.stderr)}"
        evaluated = forked("evaluate", run, "--out", folder / "evaluation.csv").returncode
        (small / FILLING).unlink()
        forked(*TRAIN, "--steps", 3200, "--out", run, "--resume")
        wrong = wrong or difference(whole, run) or ("the checkpoint does not evaluate" if evaluated else "")
    return Finding(str(leaving), not wrong, {"runs": 1}, wrong or f"full at {stood} steps with {leaving} KiB left")


def _runs(folder: Path) -> list[Path]:
    runs = [folder / f"run-{seed}" for seed in (1, 2)]
    for seed, run in enumerate(runs, start=1):
        forked("train", "catchup", "--algo", "dppo", "--seed", seed, "--eval-every", "400", "--steps", 800,
             "--set", *SMALL["dppo"], "--out", run)  # fmt: skip
    return runs


WRITERS: dict[str, Callable[[list[Path], Path], list[tuple[object, ...]]]] = {
    "collect": lambda runs, out: [
        ("collect", runs[0], "--into", out / "results"),
        ("collect", *runs, "--into", out / "results"),
    ],
    "plot": lambda runs, out: [
        ("plot", runs[0], "--out", out / "plot"),
        ("plot", *runs, "--out", out / "plot", "--overwrite"),
    ],
    "solve": lambda runs, out: [("solve", EXAMPLE, "--out", out / "a.json", *more) for more in ((), ("--overwrite",))],
    "solve-npz": lambda runs, out: [
        ("solve", EXAMPLE, "--npz", "--out", out / "a.npz", *more) for more in ((), ("--overwrite",))
    ],
    "evaluate": lambda runs, out: [
        ("evaluate", runs[0], "--out", out / "e.csv", *more) for more in ((), ("--overwrite",))
    ],
    "kappa": lambda runs, out: [
        ("kappa", EXAMPLE, "--tolerance", "1", "--out", out / "k.csv", *more) for more in ((), ("--overwrite",))
    ],
}
"""Case -> a command that writes something, and one that would replace it."""


def _kept(folder: Path, commands: list[tuple[object, ...]], spoil: Callable[[], object], why: str) -> str:
    """What is wrong if the second command, on a spoilt disk, is unclear or harms what the first one wrote."""
    first, second = commands
    done = forked(*first)
    if done.returncode:
        return f"{first[0]}: {shown(done.stderr)}"
    before = files(folder)
    spoil()
    wrong = _clear(forked(*second), "dmpo: error: ", why)
    (folder / FILLING).unlink(missing_ok=True)
    after = files(folder)
    harmed = sorted(name for name in before if before[name] != after.get(name))
    left = sorted(after.keys() - before.keys())
    return wrong or (f"harmed {harmed}, left {left}" if harmed or left else "")


@contextlib.contextmanager
def read_only_again(folder: Path) -> Iterator[None]:
    """The disk at ``folder``, without the right to write."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def read_only(drill: Drill) -> Iterator[Finding]:
    """Run directories and folders on a disk that is mounted read-only, as after an error of the disk."""
    for case in drill.missing(["train anew", "train on", "in mid-run", "sweep", "audit"]):
        folder = drill.room(case)
        with disk(folder / "disk", 40_000) as small:
            yield Finding(case, not (wrong := _READ_ONLY[case](small)), {"commands": 1}, wrong)
    for case in drill.missing(list(WRITERS)):
        folder = drill.room(case)
        runs = _runs(folder)
        with disk(folder / "disk", 20_000) as small, contextlib.ExitStack() as stack:
            commands = WRITERS[case](runs, small)
            done = forked(*commands[0])
            before = files(small)
            stack.enter_context(read_only_again(small))
            wrong = shown(done.stderr) if done.returncode else _clear(forked(*commands[1]), "Read-only", str(small))
            wrong = wrong or ("" if files(small) == before else "something changed")
        yield Finding(case, not wrong, {"commands": 1}, wrong)


def _anew(small: Path) -> str:
    with read_only_again(small):
        return _clear(
            forked(*TRAIN, "--steps", 400, "--out", small / "run"), "Read-only", "make it writable", str(small)
        )


def _on(small: Path) -> str:
    forked(*TRAIN, "--steps", 400, "--out", small / "run")
    before = files(small)
    with read_only_again(small):
        done = forked(*TRAIN, "--steps", 800, "--out", small / "run", "--resume")
    wrong = _clear(done, "Read-only", "make it writable", str(small))
    return wrong or ("" if files(small) == before else "something changed")


def _mid_run(small: Path) -> str:
    """Files that may not grow any more while a run writes to them, as under a quota."""
    code = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); from dmpo_deep import cli; sys.exit(cli.main())"
    forked(*TRAIN, "--steps", 800, "--out", small / "run")
    done = dmpo(*TRAIN, "--steps", 8000, "--out", small / "run", "--resume", code=code)
    wrong = _clear(done, "File too large", "keeps its checkpoint at 800 steps")
    forked(*TRAIN, "--steps", 1600, "--out", small / "run", "--resume")
    forked(*TRAIN, "--steps", 1600, "--out", small / "whole")
    return wrong or difference(small / "whole", small / "run")


def _sweep(small: Path) -> str:
    with read_only_again(small):
        done = dmpo("sweep", "--tasks", "catchup", "--algos", "dppo", "--seeds", "3", "--steps", "400",
                    "--out", small / "runs")  # fmt: skip
    return _clear(done, "Read-only", str(small), "make it writable")


def _audit(small: Path) -> str:
    with read_only_again(small):
        return _clear(forked(*AUDIT, "--out", small / "audit"), "Read-only", str(small), "make it writable")


_READ_ONLY: dict[str, Callable[[Path], str]] = {
    **{"train anew": _anew, "train on": _on, "in mid-run": _mid_run, "sweep": _sweep, "audit": _audit},
}
