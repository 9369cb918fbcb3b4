"""Simulators that die or hang in mid-episode, workers that share nothing, and what is left of a run that is stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.drills.harness import DMPO, Drill, Finding, difference, dmpo, shown, started, wait_for
from dmpo_deep import log
from dmpo_deep.envs import make_env

SMALL = ("copies=2", "rollout_steps=100", "hidden=8", "updates=2")
TASKS = {"eight": ("environment.right_of_way=inside",), "atsc": ("environment.num_seconds=600",)}
FEW = """
from dmpo_deep.envs import ENVIRONMENTS
ENVIRONMENTS |= {name: task._replace(draws=(0.25, 0.75), at_once=2) for name, task in ENVIRONMENTS.items()}
"""
"""Evaluations are of two episodes: they are not what is drilled here."""
TORCH = "torchinductor_"
"""Of a folder that torch keeps for its compiler, one for each user."""
REPORT_IN = 60.0
"""Seconds after which the run must have said what happened."""


def _arguments(task: str, steps: int, out: Path, every: int | None = None) -> list[str]:
    given = ["train", task, "--algo", "dppo", "--seed", "3", "--steps", str(steps), "--eval-every", str(every or steps)]
    return [*given, "--set", *SMALL, *TASKS[task], "--out", str(out)]


def _workers(pid: int) -> list[psutil.Process]:
    """The processes below a run in which simulations run; the server that makes them and its like have no library."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.num_threads() and "forkserver" in " ".join(process.cmdline()) and process.ppid() != pid:
                found.append(process)
    return found


def _harmed(drill: Drill, task: str, number: int, said: str) -> Finding:
    """Signal the workers of a real training run in mid-episode, one after another; the run must end as if alone."""
    folder, whole = drill.room(task), drill.folder / "work" / f"whole-{task}"
    steps = 1000
    if not (whole / log.CHECKPOINT).exists():
        dmpo(*_arguments(task, steps, whole), code=FEW + DMPO)
    cut, words = folder / "cut", folder / "stderr.txt"
    reports: list[float] = []
    with words.open("w") as stderr:
        process = started(*_arguments(task, steps, cut), code=FEW + DMPO, stderr=stderr)
        rng, hits = np.random.default_rng(7), 0
        for aim in (200, 600):
            if not wait_for(lambda aim=aim: log.standing(cut) >= aim or process.poll() is not None, 300):
                break
            time.sleep(float(rng.random()) * 0.3)
            workers = _workers(process.pid) if process.poll() is None else []
            if not workers:
                break
            before = words.read_text().count(said)
            os.kill(workers[int(rng.integers(len(workers)))].pid, number)
            start, hits = time.monotonic(), hits + 1
            if wait_for(lambda before=before: words.read_text().count(said) > before, REPORT_IN + 20):
                reports.append(time.monotonic() - start)
        status = process.wait(900)
    wrong = shown(words.read_text()) if status else difference(whole, cut)
    if len(reports) < hits or hits < 2 or max(reports) > REPORT_IN:
        wrong = wrong or f"{hits} signals, reports after {reports} s: {shown(words.read_text())}"
    times = ", ".join(f"{seconds:.1f}" for seconds in reports)
    return Finding(task, not wrong, {"signals": hits, "reports": len(reports)}, wrong or f"reported after {times} s")


def dies(drill: Drill) -> Iterator[Finding]:
    """SIGKILL of SUMO's process in mid-episode of a training run: reported, played again, the same weights."""
    for task in drill.missing(list(TASKS)):
        yield _harmed(drill, task, signal.SIGKILL, "its episode is played again in a new worker")


def hangs(drill: Drill) -> Iterator[Finding]:
    """SIGSTOP, which is a hang: reported within a minute, killed, played again, the same weights."""
    for task in drill.missing(list(TASKS)):
        yield _harmed(drill, task, signal.SIGSTOP, "does not answer; its episode is played again")


def _played(env: Any, seed: int, turns: int) -> Iterator[np.ndarray]:
    """Observations of a copy under actions from a generator; one at each turn."""
    rng = np.random.default_rng(seed)
    yield env.reset(rng)
    for _ in range(turns):
        space, shape = env.action_space, (env.batch, env.graph.n)
        if hasattr(space, "low"):
            action = rng.uniform(-0.5, 0.5, (*shape, space.shape[0]))
        else:
            counts = np.broadcast_to(getattr(space, "nvec", getattr(space, "n", None)), shape)
            action = rng.integers(counts)
        obs, _, terminated, truncated, _ = env.step(action)
        yield obs
        if (ended := terminated | truncated).any():
            env.reset(rng, ended)


def apart(drill: Drill) -> Iterator[Finding]:
    """Four workers with other seeds, turn by turn: frames as if each had been alone."""
    for task in drill.missing(list(TASKS)):
        turns = 200
        options = dict(pair.removeprefix("environment.").split("=") for pair in TASKS[task])
        options = {key: int(value) if value.isdigit() else value for key, value in options.items()}
        alone = []
        for seed in range(4):
            with contextlib.closing(make_env(task, 1, **options)) as env:
                alone.append(np.array(list(_played(env, seed, turns))))
        with contextlib.ExitStack() as stack:
            envs = [stack.enter_context(contextlib.closing(make_env(task, 1, **options))) for _ in range(4)]
            rounds = list(zip(*(_played(env, seed, turns) for seed, env in enumerate(envs)), strict=True))
        together = [np.array(column) for column in zip(*rounds, strict=True)]
        same = all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
        differ = len({a.tobytes() for a in alone}) == 4
        note = f"{sum(a.size for a in alone)} numbers the same" if same else "frames differ"
        yield Finding(task, same and differ, {"workers": 4, "frames": 4 * (turns + 1)}, note)


SIGNALS = {
    "SIGINT to the group": (signal.SIGINT, True),
    "SIGINT twice": (signal.SIGINT, True),
    "SIGTERM": (signal.SIGTERM, False),
    "SIGKILL": (signal.SIGKILL, False),
}


def stops(drill: Drill) -> Iterator[Finding]:
    """Ctrl-C, SIGTERM and SIGKILL of runs in SUMO at seeded moments: no process and no file may be left."""
    rng = np.random.default_rng(11)
    for task in TASKS:
        for case in drill.missing([f"{task}, {name}" for name in SIGNALS]):
            name = case.split(", ")[1]
            seen, wrong = 0, ""
            for _ in range(3):
                wrong = wrong or _stopped(drill, task, name, float(rng.random()))
                seen += 1
            yield Finding(case, not wrong, {"runs stopped": seen}, wrong)


def _stopped(drill: Drill, task: str, name: str, share: float) -> str:
    """What is left after a run is stopped; empty for nothing."""
    number, group = SIGNALS[name]
    folder = drill.room(f"{task}-{name}")
    with tempfile.TemporaryDirectory(prefix="dmpo-drill-", dir="/tmp") as temporary:
        with (folder / "stderr.txt").open("w") as stderr:
            out = folder / "run"
            process = started(*_arguments(task, 10**6, out), stderr=stderr, TMPDIR=temporary)
            wait_for(lambda: log.standing(out) >= 400 or process.poll() is not None, 300)
            time.sleep(share)
            workers = psutil.Process(process.pid).children(recursive=True)
            for _ in range(2 if name.endswith("twice") else 1):
                os.killpg(process.pid, number) if group else os.kill(process.pid, number)
                time.sleep(0.3)
            status = process.wait(120)
        _, alive = psutil.wait_procs(workers, timeout=30)
        left = sorted(path.name for path in Path(temporary).iterdir() if not path.name.startswith(TORCH))
    said = (folder / "stderr.txt").read_text()
    if len(workers) < 2:
        return f"{len(workers)} processes were seen"
    if alive or left:
        return f"left: {alive} {left}"
    wanted = (130, -number) if number == signal.SIGINT else (-number,)  # a shell says 130 of both
    words = said.partition("Exception ignored in atexit callback")[0]  # torch's, when the second one meets its end
    if status not in wanted or "Traceback" in words:
        return f"status {status}: {shown(said)}"
    if number == signal.SIGINT and not re.search(r"--resume|no checkpoint yet", said):
        return f"nothing on how to go on: {shown(said)}"
    return ""
