"""What a run's models imagine, beside what the simulator does: the same policy, branched from the same states.

python benchmarks/imagination.py RUN [--branches 4000] [--bins 6]

The run's policy plays one episode in 32 copies on training draws. Branches of the preset's length then start from
states of that play, by the run's models and by a simulator put into the same states. For each part of the episode: how
many branches end in a collision, and what an agent earns in training units, its critic's value of the last state
included. Models that miss collisions, or promise more than there is, are what a policy learns to exploit.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np

from dmpo_deep import checkpoint, log
from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.config import read_config
from dmpo_deep.dmpo import DMPO
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.model import ModelEnv
from dmpo_deep.nets import one_thread, tensor
from dmpo_deep.rollout import Trajectory, rollout
from dmpo_deep.true_model import Remembering, Simulator

COPIES = 32


def loaded(run: Path) -> DMPO:
    """The learner as it was at the run's last checkpoint."""
    config = read_config(run)
    if not isinstance(config.preset, ModelPreset):
        raise SystemExit(f"{run} is a run of {config.algo}, which has no models; give one of dmpo")
    learner = DMPO(make_env(config.task, config.preset.copies, **_options(config.preset)), config.preset, config.seed)
    learner.load_state_dict(checkpoint.load(run / log.CHECKPOINT, config.identity)["learner"])
    return learner


def _options(preset: ModelPreset) -> dict[str, object]:
    return {"gamma": preset.gamma, **preset.environment}


def fate(learner: DMPO, branches: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Whether each branch ``[B]`` collides before anything else ends it, and what an agent earns in it, ``[B]``."""
    preset, ended = learner.preset, branches.ended
    going = np.cumprod(np.vstack([np.ones_like(ended[:1]), ~ended[:-1]]), axis=0).astype(bool)
    collided = (branches.terminated & going).any(axis=0)
    discount = preset.gamma ** np.arange(len(ended))[:, None]
    earned = (branches.reward.mean(axis=2) * discount * going).sum(axis=0)
    alive = going[-1] & ~branches.terminated[-1]
    value = learner.agents.values(tensor(branches.next_obs[-1:])).numpy()[0].mean(axis=1) / preset.reward_scale
    return collided, earned + alive * preset.gamma ** len(ended) * value


@one_thread()
def main() -> None:
    """One line for each part of the episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--branches", type=int, default=4000)
    parser.add_argument("--bins", type=int, default=6)
    options = parser.parse_args()
    learner = loaded(options.run)
    config, rng = read_config(options.run), np.random.default_rng(0)
    real = Remembering(make_env(config.task, COPIES, **_options(learner.preset)), COPIES * 10**4)
    real.reset(rng)
    actor, horizon = learner.agents.policy(), learner.preset.model_horizon
    twin = make_env(config.task, options.branches, **_options(learner.preset))
    play = rollout(real, actor, twin.horizon, rng)
    seen = TransitionBuffer(play.step.size)
    seen.add(play)
    found = []
    for world in (Simulator(twin, real), ModelEnv(learner.model, twin, seen, options.branches, play.step.size)):
        world.reset(rng)
        branches = rollout(world, actor, horizon, rng)
        found.append((branches.step[0], *fate(learner, branches)))
    sys.stdout.write(f"{int(play.terminated.sum())} collisions in {play.ended.sum()} episodes of play\n")
    edges = np.linspace(0, twin.horizon, options.bins + 1)
    for low, high in itertools.pairwise(edges):
        parts = [(step >= low) & (step < high) for step, *_ in found]
        if not all(part.any() for part in parts):
            sys.stdout.write(f"steps {low:5.0f} to {high:5.0f}: nobody gets there\n")
            continue
        shares = [100 * collided[part].mean() for part, (_, collided, _) in zip(parts, found, strict=True)]
        worths = [worth[part].mean() for part, (*_, worth) in zip(parts, found, strict=True)]
        sys.stdout.write(
            f"steps {low:5.0f} to {high:5.0f}: simulator {shares[0]:5.1f} % collide, worth {worths[0]:8.2f}; models "
            f"{shares[1]:5.1f} %, {worths[1]:8.2f} ({parts[0].sum()} and {parts[1].sum()} branches)\n"
        )


if __name__ == "__main__":
    main()
