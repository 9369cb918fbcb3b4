"""Algorithm 1 with the simulator in the model's place: what DMPO would do if its models were perfect.

The paper's upper reference. Branches start from the simulator's own recent states, not only from what agents saw of
them, and follow its dynamics, its noise included. Its steps are imagined ones: they are not counted as environment
steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dmpo_deep import communication
from dmpo_deep.envs import NetworkedEnv, Step, make_env
from dmpo_deep.hyperparameters import TrueModelPreset
from dmpo_deep.phases import Stopwatch
from dmpo_deep.ppo import Agents
from dmpo_deep.rollout import Collector, rollout


class Remembering:
    """An environment that keeps the last ``recent`` states it acted in, one row for each copy.

    Raises:
        ValueError: the environment's state cannot be kept.
    """

    def __init__(self, env: NetworkedEnv, recent: int) -> None:
        self._env, self.batch, self.horizon, self.warmup_steps = env, env.batch, env.horizon, env.warmup_steps
        try:
            env.state_dict()
        except RuntimeError as error:
            raise ValueError(f"{env.task} cannot be branched ({error}); train dmpo, which learns a model") from error
        self.states: deque[dict[str, np.ndarray]] = deque(maxlen=-(-recent // env.batch))

    def observe(self) -> np.ndarray:
        """As the environment."""
        return self._env.observe()

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """As the environment."""
        return self._env.reset(rng, where)

    def step(self, action: np.ndarray) -> Step:
        """As the environment; the state before is kept."""
        self.states.append(_arrays(self._env))
        return self._env.step(action)

    def state_dict(self) -> dict[str, Any]:
        """The environment's, and the states that are kept."""
        names = self.states[0] if self.states else ()
        return {"env": self._env.state_dict(), "states": {k: np.stack([row[k] for row in self.states]) for k in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._env.load_state_dict(state["env"])
        columns = state["states"]
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        self.states = deque(rows, self.states.maxlen)


class Simulator:
    """As :class:`dmpo_deep.model.ModelEnv`, with a second copy of the real environment in the place of models."""

    def __init__(self, twin: NetworkedEnv, real: Remembering) -> None:
        self._twin, self._real = twin, real

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``."""
        return self._twin.observe()

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Line 9: branch the marked copies (all by default) from recent states; noise is the twin's own."""
        if where is None:
            where = np.ones(self._twin.batch, dtype=bool)
            self._twin.reset(rng)
        states = self._real.states
        chosen = rng.integers(len(states) * self._real.batch, size=int(where.sum()))
        time, copy = np.divmod(chosen, self._real.batch)
        branch = self._twin.state_dict()
        for name in states[0]:
            branch[name][where] = [states[t][name][b] for t, b in zip(time, copy, strict=True)]
        self._twin.load_state_dict(branch)
        return self._twin.observe()

    def step(self, action: np.ndarray) -> Step:
        """One step of the simulator."""
        return self._twin.step(action)


class TrueModelDMPO:
    """DMPO on branched rollouts of the simulator itself."""

    population = Agents

    def __init__(self, env: NetworkedEnv, preset: TrueModelPreset, seed: int) -> None:
        self.preset, self.rng, self.watch = preset, np.random.default_rng(seed), Stopwatch()
        self.agents = Agents(env, preset, torch.Generator().manual_seed(seed))
        self._real = Remembering(env, preset.recent)
        self.collector = Collector(self._real, self.rng, preset.stagger)
        twin = make_env(env.task, preset.branches, gamma=preset.gamma, **preset.environment)
        self._simulator = Simulator(twin, self._real)

    def epoch(self) -> dict[str, float | None]:
        """Lines 4 and 6-13, once; what is worth logging."""
        preset, policy = self.preset, self.agents.policy()
        with self.watch("collect"):
            self.collector.collect(policy, preset.rollout_steps)
        rounds = []
        for _ in range(preset.model_rounds):
            with self.watch("imagine"):
                self._simulator.reset(self.rng)
                imagined = rollout(self._simulator, policy, preset.model_horizon, self.rng)
            with self.watch("update"):
                rounds.append(self.agents.update(imagined, self.rng))
        return {
            **{name: float(np.mean([r[name] for r in rounds])) for name in rounds[0]},
            **self._floats(),
            **self.watch.take(),
        }

    def _floats(self) -> dict[str, float]:
        preset, graph, d = self.preset, self.agents.graph, self.agents.features
        hears = preset.kappa_policy
        imagined = preset.model_rounds * preset.branches * preset.model_horizon / (preset.copies * preset.rollout_steps)
        return {
            "floats_policy": communication.acting(graph, d, hears),
            "floats_model": communication.modelling(graph, d, 0, hears, imagined),
            "floats_critic": imagined * communication.judging(graph, d, preset.kappa_critic, heard=hears),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit; every branching starts from kept states and the generator."""
        return {"agents": self.agents.state_dict(), "collector": self.collector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.agents.load_state_dict(state["agents"])
        self.collector.load_state_dict(state["collector"])


def _arrays(env: NetworkedEnv) -> dict[str, np.ndarray]:
    """The part of an environment's state that belongs to single copies: arrays ``[B, ...]``, not its generators."""
    return {name: value for name, value in env.state_dict().items() if isinstance(value, np.ndarray)}
