"""Section VI-A: the environments, the contract they share, and their registry.

Arrays are batch first: ``B`` independent copies, ``n`` agents, ``d`` observation features. Rewards are local, one per
agent, in *training units*. Every random number comes from the generator passed to :meth:`NetworkedEnv.reset`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from dmpo_deep.envs.cacc import EVALUATION_DRAWS, Platoon, always, catchup_start, uniform
from dmpo_theory.errors import unknown_name
from dmpo_theory.graph import AgentGraph

Policy = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Observations ``[B, n, d]`` and a generator to actions ``[B, n]`` and their log-probabilities ``[B, n]``."""

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]


class RolloutEnv(Protocol):
    """What a rollout needs, of the real environment and of the learned one alike."""

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where [B]`` (all by default) anew; return the observations ``[B, n, d]``."""

    def step(self, action: np.ndarray) -> Step:
        """Apply ``action [B, n]``; a copy that ends must be reset before its next step.

        Returns:
            next observations ``[B, n, d]`` (of the state reached, before any reset), rewards ``[B, n]``,
            ``terminated [B]`` (the task's own end: worth nothing beyond its last reward), ``truncated [B]`` (the time
            limit: values bootstrap through it) and ``info``. ``info["step"] [B]`` is the 0-based index of the step
            just made and ``info["metric"] [B]`` its share of the paper's metric, such that the sum over an episode
            is the episode's score. Real environments add ``info["raw_reward"] [B, n]``, ``info["collided"] [B]`` and
            what else they measure.
        """


class NetworkedEnv(RolloutEnv, Protocol):
    """A networked control task, ``batch`` copies at a time."""

    task: str
    graph: AgentGraph
    batch: int
    n_actions: int
    observation_dim: int
    horizon: int
    measures: Sequence[str]
    """Names of further ``info`` entries ``[B]`` that evaluations average."""

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether steps ``step [B]`` that lead to ``next_obs [B, n, d]`` end the task, and at what price.

        A pure function, so that rollouts in a learned model end by the same rule as real ones.

        Returns:
            ``terminated [B]`` and the reward ``[B]`` that every agent then receives instead of the step's own.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


ENVIRONMENTS: Mapping[str, Callable[..., NetworkedEnv]] = {
    "catchup": partial(Platoon, "catchup", catchup_start),
}
"""Task id -> factory, called with ``batch`` and the task's options, ``gamma`` and ``draws`` always among them."""


class Controller(NamedTuple):
    """A reference controller: what to call it in tables and how it acts."""

    label: str
    policy: Policy


CONTROLLERS: Mapping[str, Mapping[str, Controller]] = {
    "catchup": {
        "always": Controller("always (0.5, 0.5)", always(0.5, 0.5)),
        "random": Controller("uniform random", uniform),
    },
}
"""Task id -> reference controllers by name."""


_SIMPLE: Mapping[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def make_env(task: str, batch: int, **options: Any) -> NetworkedEnv:
    """``batch`` copies of a task.

    Raises:
        ValueError: a task or an option that does not exist, naming the nearest one, or a value of the wrong type.

    Example:
        >>> make_env("catchup", 4, collision="freeze").graph.n
        8
    """
    if task not in ENVIRONMENTS:
        raise unknown_name("task", task, ENVIRONMENTS)
    factory = ENVIRONMENTS[task]
    kinds = {name: p.annotation for name, p in inspect.signature(factory, eval_str=True).parameters.items()}
    del kinds["batch"]
    for name, value in options.items():
        if name not in kinds:
            raise unknown_name(f"option of {task}", name, kinds)
        if (kind := kinds[name]) in _SIMPLE and type(value) not in _SIMPLE[kind]:
            raise ValueError(f"{name} = {value!r}; this option of {task} must be of type {kind.__name__}")
    return factory(batch, **options)


def evaluation_env(task: str, **options: Any) -> NetworkedEnv:
    """The task on its published evaluation draws, one copy for each."""
    return make_env(task, len(EVALUATION_DRAWS), draws=EVALUATION_DRAWS, **options)
