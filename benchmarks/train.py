"""Speed of training: environment steps and row-updates per second of processor time, by phase.

python benchmarks/train.py [--device cuda] [--only acting rows epochs agents]

- acting: real steps with policy inference and storage, catch-up, at batch 1 and 16.
- rows: joint samples (of all 8 agents) through one actor and one critic step at the original's networks, [64, 64] on
  one hop, and batch, 51,200; beside it the share of the machine's own rate of matrix products that this amounts to, and
  the same steps by separate networks of each agent in a loop, as the original has them. The original's code as a whole
  was seen to make 65,000 on such a machine.
- epochs: whole epochs of the presets ``tuned`` on catch-up without evaluation, by phase.
- agents: acting and updating on platoon graphs of 8 to 512 agents, kappa 2, per agent.

Networks use one thread. Processor time, not the clock: on a shared machine it is what a core can do; the best of
several repetitions, with the load beside it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import Preset
from dmpo_deep.nets import keep_freed_memory, on_device, one_thread
from dmpo_deep.ppo import Agents, clipped_loss, value_loss
from dmpo_deep.presets import get_preset
from dmpo_deep.rollout import Trajectory, rollout
from dmpo_theory import graph

ROWS = 51_200
FORWARD_AND_BACKWARD = 3


def say(line: str) -> None:
    """One line of results, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def in_turns(functions: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, np.ndarray]:
    """Processor seconds of each call, the functions in turn: what the machine does meets all alike."""
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions + 1):
        for name, function in functions.items():
            spent[name].append(function())
    return {name: np.array(seconds[1:]) for name, seconds in spent.items()}


def timed(function: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    function()
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() - start


def best(function: Callable[[], object], repetitions: int) -> float:
    """Least processor seconds of a call."""
    return min(timed(function) for _ in range(repetitions))


class Vehicles:
    """The spaces and the graph of a platoon of any length; nothing moves."""

    def __init__(self, n: int) -> None:
        self.graph = graph.path(n)
        self.action_space, self.observation_space = Discrete(4), Box(-np.inf, np.inf, (5,), np.float32)


def samples(n: int, steps: int, copies: int, rng: np.random.Generator) -> Trajectory:
    """Noise in the shape of a rollout."""
    obs = rng.standard_normal((steps + 1, copies, n, 5), dtype=np.float32)
    action = rng.integers(4, size=(steps, copies, n))
    reward = rng.standard_normal((steps, copies, n), dtype=np.float32)
    never, index = np.zeros((steps, copies), dtype=bool), np.zeros((steps, copies))
    old = np.full_like(reward, np.log(0.25))
    return Trajectory(obs[:-1], action, old, reward, obs[1:], never, never, index, index)


def acting(repetitions: int) -> None:
    """Real rollouts with inference and storage."""
    for copies in (1, 16):
        env, rng = make_env("catchup", copies), np.random.default_rng(0)
        agents = Agents(env, get_preset("catchup", "dppo"), torch.Generator().manual_seed(0))
        env.reset(rng)
        seconds = best(partial(rollout, env, agents.actor, 500, rng), repetitions)
        say(f"acting and storing, batch {copies:2d}: {500 * copies / seconds:9,.0f} steps per CPU-second")


def rows(repetitions: int) -> None:
    """Gradient steps at the original's sizes."""
    preset = Preset(kappa_critic=1, updates=1, minibatches=1, copies=ROWS // 25, rollout_steps=25)
    agents = Agents(Vehicles(8), preset, torch.Generator().manual_seed(0))
    data, rng = samples(8, 25, ROWS // 25, np.random.default_rng(0)), np.random.default_rng(0)
    square = torch.randn(1024, 1024)

    def update(passes: int) -> float:
        agents.preset = replace(preset, updates=passes)
        return timed(partial(agents.update, data, rng))

    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as own:
        found = in_turns(
            {
                "once": partial(update, 1),
                "five": partial(update, 5),
                "loop": lambda: own.submit(separate_networks, 4).result(),
                "square": lambda: min(timed(lambda: square @ square) for _ in range(20)),
            },
            3 * repetitions,
        )
    ours, loop = ROWS * 4 / (found["five"] - found["once"]), ROWS * 4 / found["loop"]
    weights = sum(weight.numel() for net in (agents.actor.net, agents.critic) for weight in net.weight)
    product = 2 * 1024**3 / found["square"]
    share = 2 * FORWARD_AND_BACKWARD * weights * ours / product
    low, middle, high = np.quantile(ours, (0.25, 0.5, 0.75))
    say(f"row-updates at batch {ROWS:,}: {middle:9,.0f} joint rows per CPU-second (the original: about 65,000)")
    say(f"  quartiles {low:,.0f} and {high:,.0f}")
    say(f"  and {np.median(ours / loop):.2f} times the {np.median(loop):,.0f} of separate networks in a loop, in turns")
    say(f"  {np.median(share):.0%} of this machine's {np.median(product) / 1e9:.0f} GFLOP/s in 1024 x 1024 matrices")


def separate_networks(steps: int) -> float:
    """Processor seconds of actor and critic steps of 8 agents whose networks are separate modules, full batch.

    In a process of its own: what :func:`keep_freed_memory` does to this one is ours.
    """

    def mlp(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(15, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))

    actors, critics = ([mlp(outputs) for _ in range(8)] for outputs in (4, 1))
    optimizers = [
        torch.optim.Adam([weight for net in nets for weight in net.parameters()]) for nets in (actors, critics)
    ]
    inputs, action = torch.randn(8, ROWS, 15), torch.randint(4, (8, ROWS, 1))
    advantage, target, old = torch.randn(8, ROWS), torch.randn(8, ROWS), torch.full((8, ROWS), -1.386)

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        for i in range(8):
            log_prob = torch.log_softmax(actors[i](inputs[i]), dim=-1).gather(-1, action[i])[:, 0]
            clipped_loss(log_prob[None], old[i][None], advantage[i][None], 0.2).sum().backward()
            value_loss(critics[i](inputs[i]).T, target[i][None]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    step()
    return timed(lambda: [step() for _ in range(steps)])


def epochs(repetitions: int) -> None:
    """Whole epochs of every algorithm, after one that warms up."""
    for algo in ALGORITHMS:
        preset = get_preset("catchup", algo)
        env = make_env("catchup", preset.copies, gamma=preset.gamma, **preset.environment)
        learner = ALGORITHMS[algo](env, preset, 0)
        learner.epoch()
        before = learner.collector.env_steps
        logged = [learner.epoch() for _ in range(repetitions)]
        steps = (learner.collector.env_steps - before) / repetitions
        phases = [name for name in logged[0] if name.startswith("seconds_cpu_")]
        least = {name.removeprefix("seconds_cpu_"): min(float(row[name] or 0) for row in logged) for name in phases}
        parts = ", ".join(f"{name} {1e6 * seconds / steps:,.0f}" for name, seconds in least.items())
        total = steps / sum(least.values())
        say(f"{algo:15s} {total:8,.0f} environment steps per CPU-second; microseconds of a step: {parts}")


def agents(repetitions: int) -> None:
    """Cost of one agent as there are more, on few and on many samples."""
    for copies, n in itertools.product((4, 32), (8, 32, 128, 512)):
        preset = Preset(kappa_critic=2, updates=1, minibatches=4)
        learning = Agents(Vehicles(n), preset, torch.Generator().manual_seed(0))
        data, rng = samples(n, 150, copies, np.random.default_rng(0)), np.random.default_rng(0)
        update = best(partial(learning.update, data, rng), repetitions)
        act = best(partial(_act, learning, data, rng), repetitions)
        each = 1e6 / (150 * copies * n)
        say(
            f"{150 * copies:5d} samples, {n:4d} agents: update {each * update:6.2f}, acting at batch {copies} "
            f"{each * act:6.2f} CPU-microseconds per agent and sample"
        )


def _act(learning: Agents, data: Trajectory, rng: np.random.Generator) -> None:
    for obs in data.obs:
        learning.actor(obs, rng)


PARTS: dict[str, Callable[[int], None]] = {"acting": acting, "rows": rows, "epochs": epochs, "agents": agents}


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    say(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, torch {torch.__version__}, {options.device}")
    keep_freed_memory()
    with one_thread(), on_device(options.device):
        for name in options.only:
            PARTS[name](options.repetitions)
    say(f"load {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
