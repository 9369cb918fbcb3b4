"""One measurement of one solver on one instance: time, memory and agreement.

It is a process of its own: `python benchmarks/measure.py '{"solver": "storm", "family": "ring", "n": 8}'`.
What is counted: from the factors of the chain, policy averaged, to the values of all agents. Not counted: imports, and
compiling, which a first solve on six agents has done by then. Repeats start from a fresh instance, so that nothing is
found in a cache but a graph's order of elimination; every other one gives the BLAS a single thread, which small
matrices are better off with. Memory is the highest resident set less the one after the imports, before any instance is
there; what compiling leaves behind counts, what it needed for a moment does not where a peak can be forgotten (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from peers import PEERS
from threadpoolctl import threadpool_limits

from dmpo_theory import routes
from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.exact import local_values, mean_value
from dmpo_theory.extended import uniform_law
from dmpo_theory.gradient import policy_gradient, truncated_gradient
from dmpo_theory.graph import AgentGraph, erdos_renyi, named_graph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP

OURS = "dmpo"
MIB = 2.0**20
_LONG_ENOUGH = 0.5
_FEW, _MANY = 5, 200


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        solver: "dmpo" or a name of `peers.PEERS`.
        family: of graphs.
        n: agents, two states and two actions each.
        gamma: discount factor.
        tolerance: largest error in value.
        threads: for ours; others take theirs from the environment.
        patience: seconds after which agents not yet solved are left out, and time is scaled to all.
        seed: of graph, tables and policy.
        gradients: ours only: time gradients too.
    """

    solver: str
    family: str
    n: int
    gamma: float = 0.9
    tolerance: float = 1e-10
    threads: int = 1
    patience: float = 3.0
    seed: int = 0
    gradients: bool = False

    def instance(self) -> tuple[NetworkedMDP, LocalPolicy]:
        """A random instance, made anew on every call."""
        mdp = random_mdp(graph(self.family, self.n, self.seed), gamma=self.gamma, rng=self.seed + 1)
        return mdp, random_policy(mdp, rng=self.seed + 2)


@dataclass
class Measured:
    """What one measurement found; empty where it does not apply.

    Attributes:
        seconds: wall time for all agents, the shortest of ``repeats``; scaled from ``solved`` agents if ``scaled``.
        cpu_seconds: processor time of the same run, all threads.
        peak_mib: highest memory above the imports' own.
        difference: largest difference from ours, over agents solved and joint states.
        error_bound: ours only: what the result's own enclosure says.
        built_seconds: until what all agents share was built: the kernel and the solver's format of it.
        block_seconds: one agent's solve, or all of them where they are solved together.
        solved: agents solved.
        scaled: whether ``seconds`` and ``cpu_seconds`` are scaled to all agents.
        repeats: runs.
        baseline_mib: memory after the imports.
        compiled_mib: what the first solve on six agents left behind: compiled code, thread pools. Part of ``peak_mib``.
        route: ours only: the route that was chosen.
        sweeps: ours only: applications of the kernel, all agents together.
        apply_seconds: ours only: one application, one thread.
        multiplications: ours only: fused multiply-adds of one application.
        gradient_seconds: ours only: all ``g_i``, given the values and the occupancy.
        whole_gradient_seconds: ours only: all ``g_i`` and the two solves they need: the mean value and the occupancy.
        truncated_seconds: ours only: all ``g_i`` truncated at every kappa, one reading, given the same.
    """

    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mib: float | None = None
    difference: float | None = None
    error_bound: float | None = None
    built_seconds: float | None = None
    block_seconds: float | None = None
    solved: int | None = None
    scaled: bool = False
    repeats: int = 0
    baseline_mib: float | None = None
    compiled_mib: float | None = None
    route: str = ""
    sweeps: int | None = None
    apply_seconds: float | None = None
    multiplications: float | None = None
    gradient_seconds: float | None = None
    whole_gradient_seconds: float | None = None
    truncated_seconds: float | None = None


@dataclass
class Row(Measured):
    """A line of results.csv.

    Attributes:
        solver: "dmpo", or a peer's name.
        family: of graphs.
        n: agents.
        status: "ok", "skipped", "stopped" at the time limit, or "failed".
        reason: why not ok.
        load: the system's load average over the minute before.
        rounds: how often it was measured, in turn with others; the shortest times count.
    """

    solver: str = ""
    family: str = ""
    n: int = 0
    status: str = "ok"
    reason: str = ""
    load: float | None = None
    rounds: int = 1


def graph(family: str, n: int, seed: int) -> AgentGraph:
    """A graph of the family; Erdos-Renyi graphs have mean degree 3."""
    if family == "erdos-renyi" and n > 1:
        return erdos_renyi(n, min(1.0, 3 / (n - 1)), np.random.default_rng(seed))
    return named_graph(family, n, seed)


def measure(task: Task) -> Measured:
    """Solve the task's instance as often as it takes to time it; call it once in a process."""
    ours = ("dmpo_theory.compiled",) if routes.has_numba() else ()
    for module in ours if task.solver == OURS else PEERS[task.solver].modules:
        importlib.import_module(module)
    found = Measured(baseline_mib=_resident())
    _once(Task(task.solver, task.family, 6), Measured())  # compiles
    if task.solver == OURS and routes.has_numba():
        mdp, policy = Task(OURS, task.family, 6).instance()
        local_values(mdp, policy, method="compiled", threads=task.threads)
    gc.collect()
    found.compiled_mib = _resident() - found.baseline_mib
    _forget_peak()
    started, best = time.perf_counter(), np.inf
    while True:
        with threadpool_limits(1 if found.repeats % 2 else task.threads, user_api="blas"):
            values = _once(task, found)
        found.repeats += 1
        assert found.seconds is not None
        if found.seconds < best:
            best, kept = found.seconds, asdict(found)
        spent = time.perf_counter() - started
        enough = spent > _LONG_ENOUGH and (found.repeats >= _FEW or spent > 6 * _LONG_ENOUGH)
        if enough or found.scaled or found.repeats >= _MANY:
            break
    found = Measured(**kept | {"repeats": found.repeats, "peak_mib": _peak() - found.baseline_mib})
    if task.solver == OURS:
        _time_one_application(task, found)
        if task.gradients:
            _time_gradients(task, found)
    else:
        mdp, policy = task.instance()
        reference = local_values(mdp, policy, tolerance=task.tolerance, threads=task.threads).values
        found.difference = float(np.abs(values - reference[: len(values)]).max())
    return found


def _once(task: Task, found: Measured) -> Array:
    """Solve a fresh instance, write the times to ``found``, and return the values of the agents solved."""
    mdp, policy = task.instance()
    chain = closed_loop(mdp, policy)  # averages the policy; ours finds this one
    gc.collect()
    rows, blocks = [], 0
    cpu, started = time.process_time(), time.perf_counter()
    if task.solver == OURS:
        steps = _ours(mdp, policy, task, found)
    else:
        steps = PEERS[task.solver].solve(chain, task.gamma, task.tolerance)
    next(steps)
    built, built_cpu = time.perf_counter() - started, time.process_time() - cpu
    for block in steps:
        rows.append(block)
        blocks += 1
        if time.perf_counter() - started > task.patience:
            break
    solving, solving_cpu = time.perf_counter() - started - built, time.process_time() - cpu - built_cpu
    values = np.concatenate(rows) if len(rows) > 1 else rows[0]
    found.solved = len(values)
    share = task.n / found.solved
    found.scaled = share > 1
    found.built_seconds, found.block_seconds = built, solving / blocks
    found.seconds, found.cpu_seconds = built + share * solving, built_cpu + share * solving_cpu
    return values


def _ours(mdp: NetworkedMDP, policy: LocalPolicy, task: Task, found: Measured) -> Iterator[Array]:
    yield np.empty((0, mdp.n_joint_states))
    result = local_values(mdp, policy, tolerance=task.tolerance, threads=task.threads)
    found.route, found.sweeps, found.error_bound = result.method, result.sweeps, result.error_bound
    yield result.values


def _time_one_application(task: Task, found: Measured) -> None:
    """One thread's rate of multiply-adds; the dense route has none of its own."""
    if found.route == "dense":
        return
    chain: ClosedLoop = closed_loop(*task.instance())
    kernel = routes.operator(chain, found.route)
    function = np.linspace(0, 1, chain.size)
    found.apply_seconds = _shortest(lambda: kernel.apply(function))
    found.multiplications = kernel.multiplications


def _time_gradients(task: Task, found: Measured) -> None:
    """All agents' gradients, exact and truncated, from values and occupancy that are there already."""
    mdp, policy = task.instance()
    values = local_values(mdp, policy, tolerance=task.tolerance, threads=task.threads).values
    law, mean, reference = occupancy(mdp, policy).law, values.mean(axis=0), uniform_law(mdp)
    found.gradient_seconds = _shortest(lambda: policy_gradient(mdp, policy, mean, law))

    def whole(mdp: NetworkedMDP, policy: LocalPolicy) -> None:
        mean = mean_value(mdp, policy, tolerance=task.tolerance).values
        policy_gradient(mdp, policy, mean, occupancy(mdp, policy, tolerance=task.tolerance).law)

    found.whole_gradient_seconds = _shortest(whole, task.instance)

    def truncated() -> None:
        for kappa in range(mdp.graph.diameter + 1):
            truncated_gradient(mdp, policy, values, law, kappa, reference=reference)

    found.truncated_seconds = _shortest(truncated)


def multiply_rate(size: int = 2048) -> float:
    """Fused multiply-adds per second of numpy's matrix product, with as many threads as the environment allows."""
    rng = np.random.default_rng(0)
    a, b = rng.random((size, size)), rng.random((size, size))
    result = a @ b
    return size**3 / _shortest(lambda: np.matmul(a, b, out=result))


def _shortest(work: Callable[..., object], prepare: Callable[[], tuple[Any, ...]] = tuple) -> float:
    """Wall time of the fastest of at least five calls that take half a second together; preparing is not counted."""
    times: list[float] = []
    while len(times) < _FEW or (sum(times) < _LONG_ENOUGH and len(times) < _MANY):
        arguments = prepare()
        started = time.perf_counter()
        work(*arguments)
        times.append(time.perf_counter() - started)
    return min(times)


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / MIB


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """Highest resident set in MiB since the last :func:`_forget_peak`, or since the start where peaks stay."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def main() -> None:
    """Measure what the JSON argument says, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help='such as {"solver": "dense LU", "family": "ring", "n": 8}, or "multiply"')
    task = parser.parse_args().task
    found = multiply_rate() if task == "multiply" else asdict(measure(Task(**json.loads(task))))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
