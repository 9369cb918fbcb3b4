"""What `dmpo kappa` takes on a large network: time, peak memory and the kappa it certifies.

python benchmarks/kappa.py --n 10000 --coupling 0.2 --tolerance 0.5
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from dmpo_theory.certify import certify
from dmpo_theory.graph import random_regular
from dmpo_theory.instances import random_mdp, random_policy


def main() -> None:
    """Certify kappa on a random regular graph with weakly coupled random tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="agents")
    parser.add_argument("--degree", type=int, default=3, help="neighbours of each")
    parser.add_argument("--coupling", type=float, default=0.2, help="weight of the neighbours, in [0, 1]")
    parser.add_argument("--gamma", type=float, default=0.9, help="discount factor")
    parser.add_argument("--tolerance", type=float, default=0.5, help="largest error wanted")
    parser.add_argument("--quantity", choices=("value", "gradient"), default="value")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    graph = random_regular(options.degree, options.n, np.random.default_rng(options.seed))
    mdp = random_mdp(graph, gamma=options.gamma, coupling=options.coupling, rng=options.seed)
    policy = random_policy(mdp, coupling=options.coupling, rng=options.seed + 1)
    built = time.perf_counter() - started
    found = certify(mdp, policy, options.tolerance, options.quantity)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    lines = [f"n = {options.n}: instance {built:.1f} s, certificate {found.seconds:.1f} s, peak memory {peak:.2f} GiB"]
    for row in found.rows:
        errors = ", ".join(f"{key} {error:.4g}" for key, error in row.errors.items())
        lines.append(f"kappa {row.kappa}, |N| <= {row.seen}: {errors}; certified {row.error:.4g} by {row.bound}")
    lines += [f"note: {note}" for note in found.notes]
    lines.append(f"smallest certified kappa for a {options.quantity} error of {options.tolerance:g}: {found.kappa}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
