"""Worst errors of truncation of every agent of a large ring, enclosed from both sides.

Each agent's tables differ. For kappa = 0 .. 4 the span, the largest difference of V_i between joint states that agree
on N_i^kappa, lies between two numbers that hold whatever the rest of the ring does. Run it on an idle machine:

    python benchmarks/spans.py [--agents 10000] [--radius 6] [--sample 1000]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from tqdm import tqdm

from dmpo_theory.envelope import each_envelope
from dmpo_theory.graph import ring
from dmpo_theory.instances import random_mdp, random_policy

KAPPAS = 5


def main() -> None:
    """Print, for each kappa, the spans and the widths of their enclosures over all agents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=10_000, help="length of the ring, two states and actions each")
    parser.add_argument("--radius", type=int, default=6, help="hops of the neighbourhoods that are solved")
    parser.add_argument("--sample", type=int, help="so many agents drawn at random; all by default")
    parser.add_argument("--gamma", type=float, default=0.9)
    options = parser.parse_args()
    mdp = random_mdp(ring(options.agents), gamma=options.gamma, rng=0)
    policy = random_policy(mdp, rng=1)
    chosen = range(options.agents)
    if options.sample:
        chosen = sorted(np.random.default_rng(2).choice(options.agents, options.sample, replace=False).tolist())
    start, cpu = time.perf_counter(), time.process_time()
    found = []
    for one in tqdm(each_envelope(mdp, policy, options.radius, chosen), total=len(chosen), unit="agent"):
        found.append((one.least_errors()[:KAPPAS], one.errors()[:KAPPAS]))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    least, most = np.array(found).transpose(1, 2, 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(chosen)} of {options.agents} agents, radius {options.radius}, gamma {options.gamma:g}:", end=" ")
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GiB")
    print("| kappa | span, median | largest | width, median | largest | largest width / span |")
    print("|---|---|---|---|---|---|")
    for kappa in range(KAPPAS):
        width = most[kappa] - least[kappa]
        relative = float((width / most[kappa]).max())
        figures = (np.median(most[kappa]), most[kappa].max(), np.median(width), width.max(), relative)
        print(f"| {kappa} | " + " | ".join(f"{number:.3g}" for number in figures) + " |")


if __name__ == "__main__":
    main()
