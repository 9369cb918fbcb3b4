"""kill -9 at seeded moments all over training runs, sweeps and audits; what goes on must end as if nothing had been.

Of 20 moments two lie in the start of the process, eleven anywhere in training, two within an evaluation, and five
within the writing of a checkpoint: before its first byte, half-way, before and after it takes the old one's place, and
between it and the next epoch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.drills.harness import (
    SMALL,
    Drill,
    Finding,
    difference,
    dmpo,
    ended,
    fork,
    forked,
    numbers,
    shown,
    started,
)
from dmpo_deep import checkpoint, log
from dmpo_deep.algorithms import ALGORITHMS

WRITING = ("before the first byte", "half-way", "before the exchange", "after the exchange", "before the next epoch")
START, EVALUATION, ANYWHERE = "in the start", "in an evaluation", "in training"

SUICIDE = """
import os, signal, sys, threading
from dmpo_deep import checkpoint, cli, train

where, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
del sys.argv[1:4]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def at(count, module, name, act, after=False):
    original, calls = getattr(module, name), []
    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == count and not after:
            act(*args)
        result = original(*args, **kwargs)
        if len(calls) == count and after:
            act(*args)
        return result
    setattr(module, name, wrapped)

def halve(fd):
    if checkpoint_open:
        os.ftruncate(fd, os.fstat(fd).st_size // 2)
        die()

checkpoint_open = []
if where == "in an evaluation":
    at(count, train, "evaluate_policy", lambda *_: threading.Timer(seconds, die).start())
elif where == "before the next epoch":
    at(count, checkpoint, "save", die, after=True)
else:
    def arm(*_):
        checkpoint_open.append(1)
        if where == "before the first byte":
            at(1, os, "fsync", lambda fd: (os.ftruncate(fd, 0), die()))
        if where == "half-way":
            at(1, os, "fsync", halve)
        if where == "before the exchange":
            at(1, os, "replace", die)
        if where == "after the exchange":
            at(1, os, "replace", die, after=True)
    at(count, checkpoint, "save", arm)
sys.exit(cli.main())
"""
"""A run that kills itself by SIGKILL at a place of the code, for moments that no outsider can hit."""


def moments(rng: np.random.Generator, kills: int) -> list[str]:
    """Where each kill is to come; 20 as above, fewer in proportion."""
    kinds = [START] * 2 + [EVALUATION] * 2 + list(WRITING)
    chosen = kinds if kills >= 2 * len(kinds) else [kinds[k] for k in rng.permutation(len(kinds))[: kills // 2]]
    order = chosen + [ANYWHERE] * (kills - len(chosen))
    return [order[k] for k in rng.permutation(kills)]


def killed_again_and_again(arguments: list[str], run: Path, steps: int, kills: int, seed: int) -> Counter[str]:
    """Train, kill, resume, until the kills are spent; then to the end. How often which kill was survived.

    Moments anywhere are spread over the steps of the run: the k-th comes soon after a share of k / kills of them.
    """
    rng, seen = np.random.default_rng(seed), Counter[str]()
    for k, where in enumerate(moments(rng, kills)):
        begun = (run / log.CHECKPOINT).is_file()
        if run.exists() and not begun:
            subprocess.run(["rm", "-r", str(run)], check=True)  # as the error of --resume says
            seen["begun anew, no checkpoint yet"] += 1
        given = [*arguments, "--out", str(run), *(["--resume"] if begun else [])]
        status = None
        if where in (START, ANYWHERE):
            pid = fork(*given)
            aim = 0 if where == START else int(steps * (k + rng.random()) / kills)
            while (status := ended(pid)) is None and log.standing(run) < aim:
                time.sleep(0.002)
            limit = time.monotonic() + rng.random() * 0.5
            while status is None and time.monotonic() < limit:
                time.sleep(0.002)
                status = ended(pid)
            if status is None:
                os.kill(pid, signal.SIGKILL)
        else:
            count = 2 if where == EVALUATION else 1
            pid = fork(where, count, rng.random() * 0.1, *given, code=SUICIDE)
        if status is None:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seen[f"killed {where}" if status == -signal.SIGKILL else f"over before the kill {where}"] += 1
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{given} ended with {status} when it was to be killed {where}")
    begun = (run / log.CHECKPOINT).is_file()
    done = forked(*arguments, "--out", run, *(["--resume"] if begun else []))
    if done.returncode:
        raise RuntimeError(shown(done.stderr))
    return seen


IN_SUMO = ("copies=2", "rollout_steps=100", "hidden=8", "updates=2")
RUNS = {
    **{f"catchup {algo}": ("catchup", algo, 8000, 400, SMALL[algo]) for algo in ALGORITHMS},
    "catchup dmpo, tuned": ("catchup", "dmpo", 2400, 300, ()),
    "eight dppo": ("eight", "dppo", 2400, 1200, (*IN_SUMO, "environment.right_of_way=inside")),
    "atsc dppo": ("atsc", "dppo", 2400, 600, (*IN_SUMO, "environment.num_seconds=300")),
}
"""Case -> task, algorithm, steps, steps between evaluations, and what makes it small."""


def train(drill: Drill, kills: int = 20) -> Iterator[Finding]:
    """Training runs of every algorithm, one at the tuned preset, and two in SUMO."""
    for number, (case, (task, algo, steps, every, options)) in enumerate(RUNS.items()):
        if not list(drill.missing([case])):
            continue
        folder = drill.room(case)
        chosen = ["--set", *options] if options else []
        arguments = [
            "train",
            task,
            "--algo",
            algo,
            "--seed",
            "3",
            "--steps",
            str(steps),
            "--eval-every",
            str(every),
            *chosen,
        ]
        whole, cut = folder / "whole", folder / "cut"
        done = forked(*arguments, "--out", whole)
        if done.returncode:
            yield Finding(case, False, {}, shown(done.stderr))
            continue
        seen = killed_again_and_again(arguments, cut, steps, kills, seed=number)
        found = difference(whole, cut)
        kept = numbers(checkpoint.load(cut / log.CHECKPOINT))
        rows = len(log.read_rows(cut))
        said = found or f"{kept} numbers in the checkpoint and {rows} rows are the same"
        yield Finding(case, not found, {"runs": 1, **seen}, said)


SWEEP = ["sweep", "--tasks", "catchup", "--algos", "dppo", "ia2c", "--seeds", "3", "4", "--steps", "4000"]
SWEEP += ["--eval-every", "400", "--workers", "2", "--set", "rollout_steps=50", "hidden=8"]
AUDIT = ["audit", "--n", "4", "--instances", "1", "--graphs", "path,star"]


def _group(arguments: list[str], rng: np.random.Generator, longest: float) -> int:
    process = started(*arguments)
    limit = time.monotonic() + rng.random() * longest
    while process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    if process.poll() is not None:
        return int(process.returncode)
    if rng.random() < 0.5:  # all at once, or the first alone: its workers have to end by themselves
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)
    return int(process.wait())


def sweep(drill: Drill, kills: int = 20) -> Iterator[Finding]:
    """A sweep of four runs, two at a time: process group or parent alone killed, the same command again."""
    for case in drill.missing(["sweep of four runs"]):
        folder, rng, seen = drill.room(case), np.random.default_rng(20), Counter[str]()
        done = dmpo(*SWEEP, "--out", folder / "whole")
        if done.returncode:
            yield Finding(case, False, {}, shown(done.stderr))
            continue
        for k in range(kills):
            status = _group([*SWEEP, "--out", str(folder / "cut")], rng, 4.0 + 0.6 * k)
            seen["killed" if status == -signal.SIGKILL else "over before the kill"] += 1
        done = dmpo(*SWEEP, "--out", folder / "cut")
        runs = sorted(run.name for run in (folder / "whole").iterdir())
        found = [difference(folder / "whole" / name, folder / "cut" / name) for name in runs]
        fine = not any(found) and done.returncode == 0 and len(runs) == 4
        said = "; ".join(filter(None, found)) or shown(done.stderr, 100)
        yield Finding(case, fine, {"runs": len(runs), **seen}, said)


def audit(drill: Drill, kills: int = 20) -> Iterator[Finding]:
    """An audit of all claims on small graphs: killed, and --resume."""
    for case in drill.missing(["audit"]):
        folder, rng, seen = drill.room(case), np.random.default_rng(21), Counter[str]()
        start = time.monotonic()
        dmpo(*AUDIT, "--out", folder / "whole")
        longest = 2 + 3 * (time.monotonic() - start) / kills
        cut = folder / "cut"
        record = cut / "progress.jsonl"
        for _ in range(kills):
            status = _group([*AUDIT, "--out", str(cut), *(["--resume"] if record.exists() else [])], rng, 2 * longest)
            seen["killed" if status == -signal.SIGKILL else "over before the kill"] += 1
        done = dmpo(*AUDIT, "--out", cut, *(["--resume"] if record.exists() else []))
        rows = [json.loads((out / "audit.json").read_text())["rows"] for out in (folder / "whole", cut)]
        for row in (*rows[0], *rows[1]):
            del row["seconds"]
        said = f"{len(rows[0])} verdicts are the same" if rows[0] == rows[1] else "verdicts differ"
        yield Finding(case, rows[0] == rows[1] and done.returncode in (0, 1), {"audits": 1, **seen}, said)
