"""Exact local values of networked MDPs: `dmpo_theory.exact.local_values` beside every other way to compute them.

All n values V_i of random binary networked MDPs, to a tolerance, on five families of graphs: time, peak memory and
agreement of ours with dense LU and dense and sparse power iteration (numpy, scipy), QuantEcon, pymdptoolbox, MDPSolver
and Storm; and ours alone on ever larger graphs until time or memory runs out. Every measurement is a process of its
own, and every peer gets its best case (benchmarks/measure.py says what is counted). Results are appended to results.csv
as they come; started again with the same folder, it goes on where it was stopped. Peers are optional:

    pip install -e '.[plot,bench]'
    python benchmarks/exact.py --quick                    # two minutes: is everything there?
    python benchmarks/exact.py --out runs/benchmark       # half an hour on two idle cores
    python benchmarks/exact.py --out runs/benchmark --report-only

A folder then holds results.csv, machine.json, table.md, and scaling.png and .pdf. What a solver does not get to, and
why, is in the table: too much memory, too much time (foretold from the size before), not installed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
from measure import OURS, Measured, Row, Task, graph
from peers import PEERS
from report import write_report

from dmpo_theory import routes
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.errors import GIB
from dmpo_theory.graph import FAMILIES
from dmpo_theory.parallel import available_threads

ALL_SIZES = ("ring", "erdos-renyi")
"""Families on which peers do all sizes; on others a few, for their kernels are as dense as these."""
FEW_SIZES = (8, 12)
SMALL_FAMILY = "path"
SMALL_SOLVERS = (OURS, "dense LU", "dense MacQueen")
_SAME_ON_EVERY_GRAPH = 20.0
"""Seconds above which a peer whose time does not depend on the graph is run on the first family only."""


NAMES = ["solver", "family", "n", "status", *(f.name for f in fields(Measured)), "load", "rounds", "reason"]
ROUNDS, _QUICK, _TIMES = 3, 1.0, ("seconds", "cpu_seconds", "built_seconds", "block_seconds")
"""How often what takes less than so many seconds is measured, and what of it then counts."""


class Results:
    """The rows of results.csv: read at the start, appended to as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, int], Row] = {}
        if path.exists():
            with path.open(newline="") as file:
                lines = csv.DictReader(file)
                if lines.fieldnames != NAMES:
                    sys.exit(f"{path} was written by another version of this file; give another --out")
                for line in lines:
                    row = Row(**{name: _parsed(name, text) for name, text in line.items()})
                    self.rows[row.solver, row.family, row.n] = row
        else:
            with path.open("w", newline="") as file:
                csv.writer(file).writerow(NAMES)

    def add(self, row: Row) -> None:
        """Append a row, unless the last one for its task says the same."""
        key = (row.solver, row.family, row.n)
        if self.rows.get(key) == row:
            return
        self.rows[key] = row
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, NAMES).writerow(asdict(row))

    def done(self, solver: str, family: str, n: int) -> Row | None:
        """The row of a task that was measured, if it was."""
        row = self.rows.get((solver, family, n))
        return row if row and row.status in ("ok", "stopped") else None

    def largest(self, solver: str, family: str, below: int) -> Row | None:
        """The largest measured instance of a solver and family with fewer than ``below`` agents."""
        rows = [r for r in self.rows.values() if (r.solver, r.family) == (solver, family) and r.n < below]
        return max((r for r in rows if r.status in ("ok", "stopped")), key=lambda r: r.n, default=None)


def _parsed(name: str, text: str) -> Any:
    if name in ("solver", "family", "status", "reason", "route"):
        return text
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    return int(text) if text.isdigit() else float(text)


def sizes(family: str, options: argparse.Namespace) -> list[int]:
    """The numbers of agents at which all solvers are compared on a family."""
    few = [n for n in options.n if n in FEW_SIZES]
    return options.n if options.thorough or family in ALL_SIZES or not few else few


def plan(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """The tasks that every solver is offered, (solver, family, n); small ones first, families in turn."""
    seen = set()
    for family in options.families:
        for n, solver in itertools.product(sizes(family, options), [OURS, *options.solvers]):
            seen.add((solver, family, n))
            yield solver, family, n
    for n, solver in itertools.product(range(1, options.small + 1), SMALL_SOLVERS):
        if (solver, SMALL_FAMILY, n) not in seen and (solver == OURS or solver in options.solvers):
            yield solver, SMALL_FAMILY, n


def obstacle(solver: str, family: str, n: int, results: Results, options: argparse.Namespace) -> str:
    """Why a solver cannot be run on an instance; empty if it can."""
    try:
        graph(family, n, options.seed)
    except ValueError as error:
        return str(error)
    if solver == OURS:
        needed, seconds = _foretold(family, n, results, options)
        limit = options.seconds
    else:
        peer, states = PEERS[solver], 2.0**n
        if not peer.installed:
            return f"not installed: pip install {peer.package}"
        needed, seconds, limit = peer.bytes_per_entry * states**2, 0.0, options.time_limit
        before = results.largest(solver, family, n)
        if before and before.status == "stopped":
            return f"stopped at n = {before.n} already"
        if before and before.built_seconds is not None and before.block_seconds is not None:
            growth = 2.0 ** (n - before.n)
            seconds = growth**2 * before.built_seconds + growth**peer.power * before.block_seconds
            first = results.done(solver, options.families[0], n)
            elsewhere = first is not None and first.status == "ok" and family != first.family
            if elsewhere and peer.power > 2 and seconds > _SAME_ON_EVERY_GRAPH:
                return f"takes the same time on every graph: {first.seconds:.3g} s on {first.family}"
    memory = min(options.memory_gib, 0.9 * psutil.virtual_memory().available / GIB)
    if needed > memory * GIB:
        return f"memory: about {needed / GIB:.3g} GiB, the limit is {memory:.3g}"
    if seconds > limit:
        return f"time: about {seconds:.3g} s foretold from n = {results.largest(solver, family, n).n}, limit {limit:g}"
    return ""


def _foretold(family: str, n: int, results: Results, options: argparse.Namespace) -> tuple[float, float]:
    """Bytes and seconds of ours, from the largest instance done and the ratio of the planned operations."""
    chain = closed_loop(*Task(OURS, family, n, seed=options.seed).instance())
    needed = routes.memory_needed(chain, "compiled", n, options.threads)
    before = results.largest(OURS, family, n)
    if before is None or before.seconds is None or n <= max(options.n):
        return needed, 0.0
    smaller = closed_loop(*Task(OURS, family, before.n, seed=options.seed).instance())
    plans = [routes.predicted_seconds(c, "compiled", c.n) for c in (chain, smaller)]
    return needed, before.seconds * plans[0] / plans[1]


def run(solver: str, family: str, n: int, limit: float, options: argparse.Namespace, gradients: bool = True) -> Row:
    """Measure in a process of its own, stopped after the limit and what starting and comparing may take."""
    settings = (options.gamma, options.tolerance, options.threads, options.patience, options.seed)
    task = Task(solver, family, n, *settings, gradients=gradients and solver == OURS and n in options.gradients)
    row = Row(solver=solver, family=family, n=n, load=round(os.getloadavg()[0], 2))
    try:
        text = _child(json.dumps(asdict(task)), options.threads, 30 + 2 * limit)
    except subprocess.TimeoutExpired:
        row.status, row.reason = "stopped", f"time: stopped after {30 + 2 * limit:g} s"
        return row
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        row.status = "failed"
        row.reason = lines[-1][:300] if lines else f"ended by signal {-error.returncode}"
        return row
    for name, value in json.loads(text).items():
        setattr(row, name, value)
    return row


def _child(argument: str, threads: int, limit: float | None = None) -> str:
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM", "BLIS")
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in names}
    command = [sys.executable, str(Path(__file__).with_name("measure.py")), argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=limit)
    return done.stdout.splitlines()[-1]


def compare(results: Results, options: argparse.Namespace) -> None:
    """Every solver on every instance of the plan that it can do and has not done."""
    tasks = list(plan(options))
    for position, (solver, family, n) in enumerate(tasks, 1):
        if results.done(solver, family, n):
            continue
        reason = obstacle(solver, family, n, results, options)
        limit = options.seconds if solver == OURS else options.time_limit
        row = Row(solver=solver, family=family, n=n, status="skipped", reason=reason)
        row = row if reason else run(solver, family, n, limit, options)
        results.add(row)
        _say(f"[{position}/{len(tasks)}] {_told(row)}")
    for family, n in dict.fromkeys((family, n) for _, family, n in tasks):
        rival(family, n, results, options)


def rival(family: str, n: int, results: Results, options: argparse.Namespace) -> None:
    """Ours and the two fastest peers again, in turn: from one to the other the machine's own pace changes."""
    rows = [row for solver in PEERS if (row := results.done(solver, family, n)) and row.seconds is not None]
    ours, peers = results.done(OURS, family, n), sorted(rows, key=lambda row: row.seconds or 0.0)[:2]
    if ours is None or not peers:
        return
    for rounds, before in itertools.product(range(2, ROUNDS + 1), [ours, *peers]):
        best = results.rows[before.solver, family, n]
        if best.rounds >= rounds or best.seconds is None or best.seconds > _QUICK:
            continue
        again = run(before.solver, family, n, _QUICK, options, gradients=False)
        shorter = again.seconds is not None and again.seconds < best.seconds
        times = {name: getattr(again, name) for name in _TIMES} if shorter else {}
        results.add(replace(best, rounds=rounds, **times))
        _say(f"[round {rounds}] {_told(again)}")


def grow(results: Results, options: argparse.Namespace) -> None:
    """Ours alone, more and more agents, until the next would take too long or too much memory."""
    for family in options.families:
        step = 2 if family == "random-regular" else 1  # an odd number of agents cannot all have three neighbours
        n = max(sizes(family, options))
        while True:
            for further in (n + 2, n + 1)[: 3 - step]:
                reason = obstacle(OURS, family, further, results, options)
                if further > options.largest:
                    reason = f"time: --largest {options.largest}"
                if not reason:
                    break
            row = results.done(OURS, family, further)
            if row is None:
                row = Row(solver=OURS, family=family, n=further, status="skipped", reason=reason)
                row = row if reason else run(OURS, family, further, options.seconds, options)
                results.add(row)
                _say(f"[alone] {_told(row)}")
            if row.status != "ok":
                break
            n = further


def _told(row: Row) -> str:
    task = f"{row.family} n = {row.n}, {row.solver}"
    if row.status != "ok":
        return f"{task}: {row.status}, {row.reason}"
    scaled = f" (scaled from {row.solved} agents)" if row.scaled else ""
    return f"{task}: {row.seconds:.3g} s{scaled}, {row.peak_mib:.0f} MiB"


def _say(text: str) -> None:
    sys.stdout.write(time.strftime("%H:%M:%S ") + text + "\n")
    sys.stdout.flush()


@lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
        if (path.exists())
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What must stay the same for results to stand in one table."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "python": platform.python_version(),
        "threads": options.threads,
        "gamma": options.gamma,
        "tolerance": options.tolerance,
        "seed": options.seed,
    }


def versions() -> dict[str, str]:
    """Of everything that is timed."""
    found = {}
    for package in (
        OURS,
        "numpy",
        "scipy",
        "numba",
        "threadpoolctl",
        *(peer.package for peer in PEERS.values() if peer.package),
    ):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What results were measured with, kept beside them; the matrix-multiply rate is measured anew, the best counts.

    Raises:
        SystemExit: the folder holds results of another machine or setting.
    """
    now = setting(options)
    before = json.loads(path.read_text()) if path.exists() else {}
    changed = [f"{key} {before[key]!r} -> {value!r}" for key, value in now.items() if before.get(key, value) != value]
    if changed:
        sys.exit(f"{path.parent} holds results of another setting ({'; '.join(changed)}); give another --out")
    if options.report_only:
        return before or sys.exit(f"{path.parent} holds no results yet; run without --report-only")
    rates = before.get("multiply_adds_per_second", {})
    for threads in sorted({1, options.threads}):
        rate = float(_child("multiply", threads))
        rates[str(threads)] = max(rate, rates.get(str(threads), 0.0))
    limits = {name: getattr(options, name) for name in ("seconds", "time_limit", "patience", "memory_gib")}
    found = now | {"multiply_adds_per_second": rates, "versions": versions(), "limits": limits}
    path.write_text(json.dumps(found, indent=2) + "\n")
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-exact"), help="folder (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="ring and erdos-renyi, n = 4 and 8, ours up to 14")
    parser.add_argument("--thorough", action="store_true", help="peers do all sizes on all families")
    parser.add_argument("--report-only", action="store_true", help="table and figure from the results there are")
    families = ["ring", "path", "tree", "random-regular", "erdos-renyi"]
    parser.add_argument(
        "--families", nargs="+", default=families, choices=list(FAMILIES), metavar="NAME", help=" ".join(families)
    )
    parser.add_argument("--n", nargs="+", type=int, default=[4, 6, 8, 10, 12, 14], help="agents (4 6 8 10 12 14)")
    known = list(PEERS)
    parser.add_argument("--solvers", nargs="*", default=known, choices=known, metavar="PEER", help=", ".join(known))
    parser.add_argument("--small", type=int, default=8, help="also dmpo and dense peers on paths up to this n")
    parser.add_argument(
        "--gradients", nargs="*", type=int, default=[12, 14, 16], help="agents, for gradients too (12 14 16)"
    )
    parser.add_argument("--largest", type=int, default=40, help="agents at most, for ours alone (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="wall time limit for ours alone (%(default)s)")
    parser.add_argument("--time-limit", type=float, default=120, help="seconds for a peer's first agent (%(default)s)")
    parser.add_argument(
        "--patience", type=float, default=3, help="seconds after which times are scaled from agents done"
    )
    parser.add_argument("--memory-gib", type=float, default=16, help="memory limit for everybody (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_threads(), help="for everybody (%(default)s)")
    parser.add_argument("--gamma", type=float, default=0.9, help="discount factor (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-10, help="largest error in value (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of graphs and tables (%(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(families=["ring", "erdos-renyi"], n=[4, 8], largest=14, patience=0.5)
        options = parser.parse_args(arguments)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, grow, report."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine(options.out / "machine.json", options)
    results = Results(options.out / "results.csv")
    if not options.report_only:
        _say(f"{about['processor']}, {options.threads} threads, load {os.getloadavg()[0]:.2f}")
        compare(results, options)
        grow(results, options)
    for path in write_report(list(results.rows.values()), about, options.out):
        _say(f"wrote {path}")


if __name__ == "__main__":
    main()
