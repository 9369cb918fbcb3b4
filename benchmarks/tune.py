r"""A search of equal budget for every algorithm: as many candidates, environment steps and training seeds for each.

python benchmarks/tune.py catchup --out tuning.json
python benchmarks/tune.py slowdown --seeds 3 --out scale.json \
    --tried environment.collision_scale=1 "lr_half=8000 entropy=0.01"
python benchmarks/tune.py eight --episodes 20 --set copies=1 environment.isolated=false --out eight.json

Every candidate is the preset ``tuned`` with the listed overrides; with ``--tried`` the preset itself is the first. It
is trained on training seeds, which start at 100, and its sampled policy then plays 64 episodes of training draws, or
``--episodes``: at the end, and before it at the four marks that divide the last two fifths of the steps. Its level is
the mean of these, for what is learnt comes and goes. Evaluation draws are never seen. Candidates are listed below: what
matters most for each algorithm, step sizes and how often it learns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.envs import make_env
from dmpo_deep.episodes import play
from dmpo_deep.evaluate import load_agents
from dmpo_deep.nets import one_thread
from dmpo_deep.train import train

CANDIDATES: Mapping[str, Sequence[Sequence[str]]] = {
    "ia2c": (
        ("lr_actor=1e-2", "lr_critic=1e-3", "copies=16"),
        ("lr_actor=1e-3", "lr_critic=1e-3", "copies=16"),
        ("lr_actor=3e-3", "lr_critic=1e-3", "copies=16"),
        ("lr_actor=3e-3", "lr_critic=3e-3", "copies=8"),
    ),
    "ic3net": (
        ("lr=3e-3", "updates=1", "minibatches=1"),
        ("lr=1e-3", "updates=1", "minibatches=1"),
        ("lr=1e-3", "updates=5", "minibatches=4"),
        ("lr=3e-3", "updates=5", "minibatches=4"),
    ),
    **dict.fromkeys(
        ("dppo", "cppo"),
        (
            ("lr_actor=2e-3", "lr_critic=1e-3", "rollout_steps=150", "minibatches=4"),
            ("lr_actor=1e-3", "lr_critic=1e-3", "rollout_steps=150", "minibatches=4"),
            ("lr_actor=3e-3", "lr_critic=3e-3", "rollout_steps=150", "minibatches=4"),
            ("lr_actor=2e-3", "lr_critic=1e-3", "rollout_steps=75", "minibatches=2"),
        ),
    ),
    "dmpo": (
        ("lr_actor=1e-3", "rollout_steps=75", "warmup_steps=150", "model_rounds=3"),
        ("lr_actor=1e-3", "rollout_steps=150", "warmup_steps=300", "model_rounds=3"),
        ("lr_actor=1e-3", "rollout_steps=75", "warmup_steps=150", "model_rounds=2"),
        ("lr_actor=2e-3", "rollout_steps=75", "warmup_steps=150", "model_rounds=3"),
    ),
}
MARKS = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of the steps after which a candidate plays."""


@one_thread()
def level(run: Path, episodes: int) -> float:
    """Mean metric of the run's sampled policy on training draws: side by side, or one by one in this process.

    Episodes start as evaluations do, whatever starts the training explores.
    """
    agents, config = load_agents(run)
    rounds = 1 if config.preset.environment.get("isolated", True) else episodes
    draws = np.random.default_rng(54321).random(episodes)
    with closing(make_env(config.task, episodes // rounds, draws=draws, **config.preset.environment)) as env:
        starts, acts = np.random.default_rng(54321), np.random.default_rng(0)
        return play(env, agents.policy(), starts, acts, rounds=rounds).mean


def candidate(task: str, algo: str, seed: int, steps: int, overrides: Sequence[str], episodes: int) -> list[float]:
    """Levels of one run at all marks."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for mark in MARKS:
            options: dict[str, Any] = {"eval_every": 10 * steps, "progress": False, "resume": bool(found)}
            run = train(task, algo, seed, round(mark * steps), Path(folder) / "run", overrides=overrides, **options)
            found.append(level(run, episodes))
    return found


def main() -> None:
    """Write all candidates with their levels, as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--algorithms", nargs="+", default=list(CANDIDATES), choices=list(ALGORITHMS))
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--set", nargs="+", default=[], help="overrides of every candidate")
    parser.add_argument(
        "--tried", nargs="+", help="candidates of every algorithm instead of the list, each overrides between blanks"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if unlisted := [algo for algo in options.algorithms if algo not in CANDIDATES and not options.tried]:
        parser.error(f"there is no list of candidates for {unlisted[0]}; give --tried")
    found = []
    for algo in options.algorithms:
        for chosen in [(), *map(str.split, options.tried)] if options.tried else CANDIDATES[algo]:
            start, seeds, overrides = time.process_time(), range(100, 100 + options.seeds), [*options.set, *chosen]
            levels = [candidate(options.task, algo, seed, options.steps, overrides, options.episodes) for seed in seeds]
            row = {"algo": algo, "overrides": overrides, "levels": levels, "cpu": time.process_time() - start}
            found.append(row)
            sys.stdout.write(f"{algo:7s} {' '.join(overrides):45s} {np.mean(levels):9.1f}  {row['cpu']:.0f} CPU-s\n")
            sys.stdout.flush()
            record = {"task": options.task, "steps": options.steps, "seeds": options.seeds, "found": found}
            options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
