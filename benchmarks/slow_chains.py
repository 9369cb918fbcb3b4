"""Sweeps alone against sweeps extrapolated and Krylov methods, on chains that mix well, badly and not at all.

One agent's value on one thread, certified to the same tolerance both ways; "sweeps" counts applications of the kernel.
The chains: random rows of concentration alpha (small: nearly deterministic), and a shift register round a ring, whose
influences never fade. Run it on an idle machine:

    python benchmarks/slow_chains.py [--n 14]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np

from dmpo_theory import series
from dmpo_theory.exact import LocalValue, each_value
from dmpo_theory.graph import named_graph, ring
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP


def chains(n: int) -> Iterator[tuple[str, NetworkedMDP, LocalPolicy]]:
    """Named instances, from quickly to never mixing."""
    for gamma, alpha in ((0.9, 1.0), (0.99, 1.0), (0.9, 0.1), (0.99, 0.1), (0.999, 0.1), (0.99, 0.02), (0.999, 0.02)):
        for family in ("ring", "erdos-renyi"):
            mdp = random_mdp(named_graph(family, n, 0), gamma=gamma, concentration=alpha, rng=0)
            yield f"{family}, alpha {alpha:g}, gamma {gamma:g}", mdp, random_policy(mdp, concentration=alpha, rng=1)
    copy = np.eye(2)[:, None]
    for gamma in (0.9, 0.99, 0.999):
        reward = tuple(np.array([[0.0], [float(i == 0)]]) for i in range(n))
        mdp = NetworkedMDP(ring(n), gamma, (copy,) * n, reward, tuple(((i + 1) % n,) for i in range(n)))
        reads = tuple((i,) for i in range(n))
        yield f"shift register, gamma {gamma:g}", mdp, LocalPolicy(mdp, (np.ones((2, 1)),) * n, reads)


def timed(mdp: NetworkedMDP, policy: LocalPolicy, tolerance: float) -> tuple[float, LocalValue]:
    """Seconds, the best of three, and the value of agent 0."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        (value,) = each_value(mdp, policy, [0], method="compiled", tolerance=tolerance, threads=1)
        seconds.append(time.perf_counter() - start)
    return min(seconds), value


def main() -> None:
    """Print one row a chain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=14, help="agents, two states each")
    n, ours = parser.parse_args().n, (series.PATIENCE, series.HISTORY)
    print("| chain | tolerance | sweeps alone | ms | with both | ms | times faster |")
    print("|---|---|---|---|---|---|---|")
    for name, mdp, policy in chains(n):
        tolerance = 1e-12 / (1 - mdp.gamma) ** 2
        series.PATIENCE, series.HISTORY = 10**9, 1
        alone, slow = timed(mdp, policy, tolerance)
        series.PATIENCE, series.HISTORY = ours
        helped, quick = timed(mdp, policy, tolerance)
        agree = np.abs(slow.values - quick.values).max() <= slow.error_bound + quick.error_bound
        figures = f"{slow.sweeps} | {alone * 1e3:.1f} | {quick.sweeps} | {helped * 1e3:.1f} | {alone / helped:.1f}"
        print(f"| {name} | {tolerance:.0e} | {figures}{'' if agree else ' (they disagree)'} |", flush=True)


if __name__ == "__main__":
    main()
