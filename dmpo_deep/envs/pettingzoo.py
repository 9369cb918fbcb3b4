"""Any task as a PettingZoo ``ParallelEnv``: one copy, agents by name, dictionaries for arrays."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

from dmpo_deep.envs import NetworkedEnv, make_env


class ParallelTask(ParallelEnv):  # type: ignore[misc]
    """One copy of a task for code that speaks PettingZoo; agents are ``agent_0`` .. in the order of the graph.

    Rewards are the local ones in training units. ``infos`` hold, for every agent, the step's share of the paper's
    ``metric`` and what else the task measures; the agents that a task's graph links are in ``graph``.

    Args:
        task: the task's id.
        options: the task's options.

    Example:
        >>> env = ParallelTask("catchup")
        >>> observations, infos = env.reset(seed=0)
        >>> observations["agent_7"].shape, env.action_space("agent_7")
        ((5,), Discrete(4))
    """

    def __init__(self, task: str, **options: Any) -> None:
        self.env = make_env(task, 1, **options)
        self.graph = self.env.graph
        self.metadata = {"name": task, "is_parallelizable": True, "render_modes": []}
        self.render_mode = None
        self.possible_agents = [f"agent_{i}" for i in range(self.graph.n)]
        self.agents: list[str] = []
        self.action_spaces = dict(zip(self.possible_agents, _each_agents(self.env), strict=True))
        self.observation_spaces = {agent: copy.deepcopy(self.env.observation_space) for agent in self.possible_agents}
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> Box:
        """Of an agent; the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete | Box:
        """Of an agent; the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start an episode; ``seed`` starts the environment's randomness anew, without it the last one continues.

        ``options`` is PettingZoo's and not used: a task has its options from the start.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        obs = self.env.reset(self._rng)[0]
        self.agents = list(self.possible_agents)
        return dict(zip(self.agents, obs, strict=True)), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One step of all agents.

        Raises:
            ValueError: an agent without an action or an action without an agent, or an action that is refused.
            RuntimeError: no episode runs.
        """
        if not self.agents:
            raise RuntimeError("no episode is running; call reset() before the next step")
        if odd := sorted(actions.keys() ^ set(self.agents)):
            raise ValueError(f"actions are missing or unknown for {', '.join(odd)}; give one for each of env.agents")
        joint = np.stack([np.asarray(actions[agent]) for agent in self.agents])[None]
        obs, reward, terminated, truncated, info = self.env.step(joint)
        names = self.agents
        measured = {name: float(info[name][0]) for name in ("metric", *self.env.measures)}
        if terminated[0] or truncated[0]:
            self.agents = []
        return (
            dict(zip(names, obs[0], strict=True)),
            dict(zip(names, reward[0].tolist(), strict=True)),
            dict.fromkeys(names, bool(terminated[0])),
            dict.fromkeys(names, bool(truncated[0])),
            {agent: dict(measured) for agent in names},
        )

    def render(self) -> None:
        """There is nothing to render; ``dmpo evaluate TASK --controller NAME --picture FILE`` draws an episode."""

    def close(self) -> None:
        """End the simulator of a task that has one; a reset starts it anew."""
        self.env.close()
        self.agents = []


def _each_agents(env: NetworkedEnv) -> list[Discrete | Box]:
    """The action space of each agent, every one an object of its own."""
    if isinstance(env.action_space, MultiDiscrete):
        return [Discrete(count) for count in env.action_space.nvec.tolist()]
    return [copy.deepcopy(env.action_space) for _ in range(env.graph.n)]
