"""What the training loop needs of an algorithm, and the epoch that all model-free ones share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from dmpo_deep.envs import NetworkedEnv, Policy
from dmpo_deep.phases import Stopwatch
from dmpo_deep.rollout import Collector


class Population(Protocol):
    """The learning agents of one environment."""

    gradient_steps: int

    def policy(self, greedy: bool = False) -> Policy:
        """A policy for new episodes, sampled or most probable; one that remembers starts with nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Learner(Protocol):
    """An algorithm at work."""

    @property
    def agents(self) -> Population:
        """The agents."""

    collector: Collector

    def epoch(self) -> dict[str, float | None]:
        """Collect, learn, and return what is worth logging."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Algorithm(Protocol):
    """Makes a learner."""

    @property
    def population(self) -> Callable[..., Population]:
        """Makes the agents alone, from an environment, a preset and a generator of weights."""

    def __call__(self, env: NetworkedEnv, preset: Any, seed: int) -> Learner:
        """All of it; everything random comes from ``seed``."""


class ModelFree:
    """Each epoch is a real rollout and an update on it; what learns is the subclass's ``population``."""

    population: ClassVar[Callable[..., Any]]

    def __init__(self, env: NetworkedEnv, preset: Any, seed: int) -> None:
        self.preset, self.rng, self.watch = preset, np.random.default_rng(seed), Stopwatch()
        self.agents = self.population(env, preset, torch.Generator().manual_seed(seed))
        self.collector = Collector(env, self.rng, preset.stagger)

    def epoch(self) -> dict[str, float | None]:
        """One rollout of every copy, one update; what is worth logging."""
        with self.watch("collect"):
            real = self.collect()
        with self.watch("update"):
            learned = self.agents.update(real, self.rng)
        return {**learned, **self.agents.floats(), **self.watch.take()}

    def collect(self) -> Any:
        """The real rollout, as ``update`` wants it."""
        return self.collector.collect(self.agents.policy(), self.preset.rollout_steps)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {"agents": self.agents.state_dict(), "collector": self.collector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.agents.load_state_dict(state["agents"])
        self.collector.load_state_dict(state["collector"])
