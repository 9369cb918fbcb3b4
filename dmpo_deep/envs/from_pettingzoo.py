"""A PettingZoo ``ParallelEnv`` as a task of one's own: the way back from ``pettingzoo.py``, agents by number again.

What PettingZoo leaves open is decided here. Agents are numbered in the order of ``possible_agents``. An observation
is flattened, a ``Discrete`` one to its one-hot code, and padded with zeros to the longest. All agents must act in
spaces of one kind. An episode is over when the last agent has left: *terminated* if every agent's last word was
terminated, else *truncated*; steps beyond ``horizon`` are truncated. Each copy is seeded anew at every reset, from the
generator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from dmpo_deep.envs.own import Environment
from dmpo_deep.envs.validate import require_choices, require_copies, require_running
from dmpo_theory.graph import AgentGraph

LEAVING = ("refuse", "absent", "end")
BYTES = 2**20
"""A guess at the memory of one copy, of which nothing is known."""

Termination = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Parallel(Environment):
    """``batch`` copies of a ``ParallelEnv``, played one after the other; see :class:`dmpo_deep.envs.NetworkedEnv`.

    The metric is the mean over agents of the rewards, whose sum over an episode is the mean return. A saved state is
    the seeds and actions of the running episodes, which are played again when it is loaded: the environment must be
    determined by them.

    Args:
        batch: number of copies.
        make: makes one copy, a ``ParallelEnv``.
        graph: a networkx graph whose nodes are the agents' names, or its edges, pairs of names; every agent of
            ``possible_agents`` is in it, linked or not.
        horizon: steps of the longest episode.
        leaving: what happens when an agent leaves before the others: ``"refuse"`` raises; ``"absent"`` goes on
            without it: after its last observation it sees zeros, earns nothing and its actions count for nothing, and a
            last feature says of everybody whether it is there; ``"end"`` ends the episode for all.
        metric: an entry of the agents' ``infos`` whose mean is the metric instead.
        measures: further entries whose means evaluations report.
        termination: the rule by which rollouts in a learned model end, as in the contract; they never do by default.
        draws: in [0, 1), one per copy; each stands for a seed.

    Raises:
        ValueError: a graph without an agent of the environment or with others, or spaces that have no common form.
    """

    def __init__(
        self,
        batch: int,
        make: Callable[[], Any],
        graph: nx.Graph | Iterable[tuple[Hashable, Hashable]],  # type: ignore[type-arg]
        *,
        horizon: int,
        leaving: str = "refuse",
        metric: str | None = None,
        measures: Sequence[str] = (),
        termination: Termination | None = None,
        draws: Sequence[float] | None = None,
    ) -> None:
        require_choices(leaving=(leaving, LEAVING))
        if not (isinstance(horizon, int) and horizon >= 1):
            raise ValueError(f"horizon = {horizon!r}; give the steps of the longest episode, at least 1")
        self._draws = require_copies("a PettingZoo environment", batch, draws, BYTES)
        self.copies = [make() for _ in range(batch)]
        self.graph = _graph(graph, self.copies[0].possible_agents)
        self.names: Sequence[Any] = self.graph.nodes
        self.batch, self.horizon, self.measures = batch, horizon, tuple(measures)
        self._leaving, self._metric, self._rule = leaving, metric, termination
        self._seen = [self.copies[0].observation_space(name) for name in self.names]
        self._acts = [self.copies[0].action_space(name) for name in self.names]
        self.action_space = _common_actions(dict(zip(self.names, self._acts, strict=True)))
        low, high = _common_bounds(dict(zip(self.names, self._seen, strict=True)), leaving == "absent")
        self.observation_space = Box(low, high, dtype=np.float32)
        n, shape = self.graph.n, self.action_space.shape if isinstance(self.action_space, Box) else ()
        self._obs = np.zeros((batch, n, len(low)), dtype=np.float32)
        self._here = np.zeros((batch, n), dtype=bool)
        self._terminated = np.zeros((batch, n), dtype=bool)
        self._time, self._over = np.zeros(batch, dtype=int), np.ones(batch, dtype=bool)
        self._seed = np.zeros(batch, dtype=np.int64)
        self._past = np.zeros((batch, horizon, n, *shape), dtype=self.action_space.dtype)

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where`` (all by default), each with a seed of its own; ``[B, n, d]``."""
        marked = np.flatnonzero(np.ones(self.batch, dtype=bool) if where is None else where)
        seeds = rng.integers(2**31, size=len(marked))
        if self._draws is not None:
            seeds = (self._draws[marked] * 2**31).astype(np.int64)
        for copy, seed in zip(marked.tolist(), seeds.tolist(), strict=True):
            self._begin(copy, seed)
        return self.observe()

    def _begin(self, copy: int, seed: int) -> None:
        observations, _ = self.copies[copy].reset(seed=seed)
        self._seed[copy], self._time[copy], self._over[copy] = seed, 0, False
        self._terminated[copy] = False
        self._look(copy, observations)
        if self._leaving != "absent" and not self._here[copy].all():
            raise ValueError(f"{self._first_gone(copy)} is not there after a reset; give leaving='absent'")

    def _look(self, copy: int, observations: Mapping[Any, Any]) -> None:
        """Keep what the agents of a copy see, and who is there."""
        self._here[copy] = [name in self.copies[copy].agents for name in self.names]
        if strange := [name for name in self.copies[copy].agents if name not in self.names]:
            raise ValueError(
                f"agent {strange[0]!r} is not among possible_agents; name all agents there and in the graph"
            )
        self._obs[copy] = 0
        for i, (name, space) in enumerate(zip(self.names, self._seen, strict=True)):
            if name in observations:
                flat = _flat(space, observations[name])
                self._obs[copy, i, : len(flat)] = flat
        if self._leaving == "absent":
            self._obs[copy, :, -1] = [name in observations for name in self.names]

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""
        return self._obs.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One step of every copy; see the contract. ``info`` has also ``raw_reward [B, n]`` and the measures."""
        require_running(self._over)
        if not isinstance(action, np.ndarray) or action.shape != self._past[:, 0].shape:
            raise ValueError(f"actions have shape {np.shape(action)}; they need shape {self._past[:, 0].shape}")
        reward, measured = np.zeros((self.batch, self.graph.n)), np.zeros((1 + len(self.measures), self.batch))
        acts = [self._named(copy, action[copy]) for copy in range(self.batch)]  # refused before anything moves
        for copy in range(self.batch):
            self._past[copy, self._time[copy]] = action[copy]
            measured[:, copy] = self._advance(copy, acts[copy], reward[copy])
        step, self._time = self._time, self._time + 1
        over = ~self._here.any(axis=1) if self._leaving != "end" else ~self._here.all(axis=1)
        terminated = over & (self._terminated | self._here).all(axis=1)
        truncated = (over | (self._time >= self.horizon)) & ~terminated
        self._over = terminated | truncated
        info = {"raw_reward": reward, "metric": measured[0], "step": step, "collided": np.zeros(self.batch, dtype=bool)}
        info |= dict(zip(self.measures, measured[1:], strict=True))
        return self.observe(), reward.copy(), np.asarray(terminated), np.asarray(truncated), info

    def _named(self, copy: int, action: np.ndarray) -> dict[Any, Any]:
        """The actions ``[n, ...]`` of the agents that are there, by name; an error if one is not in its space."""
        acts = {}
        for i, (name, space) in enumerate(zip(self.names, self._acts, strict=True)):
            if self._here[copy, i]:
                acts[name] = _action(space, action[i])
                if not space.contains(acts[name]):
                    raise ValueError(f"action {action[i]} of agent {name!r} in copy {copy} is not in {space}")
        return acts

    def _advance(self, copy: int, acts: Mapping[Any, Any], reward: np.ndarray) -> list[float]:
        """One step of a copy; fills in ``reward [n]`` and returns metric and measures."""
        env, before = self.copies[copy], self._here[copy].copy()
        observations, rewards, terminations, truncations, infos = env.step(acts)
        reward[:] = [rewards.get(name, 0.0) for name in self.names]
        self._look(copy, observations)
        for i, name in enumerate(self.names):
            if before[i] and (terminations.get(name, False) or truncations.get(name, False)):
                self._here[copy, i] = False
                self._terminated[copy, i] = terminations.get(name, False)
        gone = before & ~self._here[copy]
        if self._leaving == "refuse" and gone.any() and self._here[copy].any():
            raise ValueError(
                f"{self._first_gone(copy)} leaves in step {self._time[copy]} while others stay; give leaving='absent' "
                "to go on without it, or leaving='end' to end the episode for all"
            )
        told = [[infos[name][entry] for name in acts if entry in infos.get(name, {})] for entry in self._entries]
        if empty := [entry for entry, found in zip(self._entries, told, strict=True) if not found]:
            raise ValueError(f"no agent's infos have {empty[0]!r}; choose metric and measures that they have")
        means = [float(np.mean(found)) for found in told]
        return means if self._metric is not None else [float(reward.mean()), *means]

    @property
    def _entries(self) -> list[str]:
        return [*([] if self._metric is None else [self._metric]), *self.measures]

    def _first_gone(self, copy: int) -> str:
        return f"agent {self.names[int(np.flatnonzero(~self._here[copy])[0])]!r} of copy {copy}"

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rule that was given, and else never."""
        return super().termination(next_obs, step) if self._rule is None else self._rule(next_obs, step)

    def state_dict(self) -> dict[str, Any]:
        """Seeds and actions of the running episodes."""
        return {name: getattr(self, f"_{name}").copy() for name in ("seed", "time", "past", "over")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, by playing the running episodes again."""
        for copy, (seed, time) in enumerate(zip(state["seed"].tolist(), state["time"].tolist(), strict=True)):
            self._begin(copy, seed)
            for t in range(time):
                action = self._past[copy, t] = state["past"][copy, t]
                self._advance(copy, self._named(copy, action), np.zeros(self.graph.n))
                self._time[copy] = t + 1
        self._over = np.array(state["over"])

    def close(self) -> None:
        """Close every copy."""
        for env in self.copies:
            env.close()


def _graph(given: Any, agents: Sequence[Any]) -> AgentGraph:
    graph: nx.Graph = nx.Graph()  # type: ignore[type-arg]
    graph.add_nodes_from(agents)
    graph.add_edges_from(given.edges if isinstance(given, nx.Graph) else given)
    if strange := [name for name in graph if name not in agents]:
        raise ValueError(f"the graph links {strange[0]!r}, which is no agent; agents are {', '.join(map(str, agents))}")
    numbered = AgentGraph.from_edges(
        len(agents), [(list(agents).index(a), list(agents).index(b)) for a, b in graph.edges]
    )
    return AgentGraph(tuple(agents), numbered.edges)


def _common_actions(spaces: Mapping[Any, Space[Any]]) -> Discrete | MultiDiscrete | Box:
    if all(isinstance(space, Discrete) for space in spaces.values()):
        counts = [int(space.n) for space in spaces.values()]  # type: ignore[attr-defined]
        return Discrete(counts[0]) if len(set(counts)) == 1 else MultiDiscrete(np.array(counts))
    first = next(iter(spaces.values()))
    for name, space in spaces.items():
        if not isinstance(space, Box) or space.dtype.kind != "f" or space != first:
            raise ValueError(
                f"agent {name!r} acts in {space}, the first one in {first}; all must act in Discrete spaces, or in one "
                "Box of floating-point numbers: wrap the environment so that they do"
            )
    assert isinstance(first, Box)
    return Box(first.low.ravel(), first.high.ravel(), dtype=first.low.dtype.type)


def _common_bounds(spaces: Mapping[Any, Space[Any]], presence: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of everybody's padded observations, ``[d]`` each, with a feature for ``presence`` if asked for."""
    bounds = []
    for name, space in spaces.items():
        if isinstance(space, Discrete):
            bounds.append((np.zeros(int(space.n)), np.ones(int(space.n))))
        elif isinstance(space, Box) and space.low.size:
            bounds.append((space.low.ravel().astype(float), space.high.ravel().astype(float)))
        else:
            raise ValueError(f"agent {name!r} observes {space}; wrap the environment so that it is a Box or Discrete")
    width = max(len(low) for low, _ in bounds)
    padded = len({len(low) for low, _ in bounds}) > 1 or presence
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for least, most in bounds:
        low[: len(least)] = np.minimum(low[: len(least)], least)
        high[: len(most)] = np.maximum(high[: len(most)], most)
    if padded:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if presence:
        low, high = np.append(low, 0), np.append(high, 1)
    return low.astype(np.float32), high.astype(np.float32)


def _flat(space: Space[Any], seen: Any) -> np.ndarray:
    if isinstance(space, Discrete):
        code: np.ndarray = np.eye(int(space.n), dtype=np.float32)[int(seen) - int(space.start)]
        return code
    return np.asarray(seen, dtype=np.float32).ravel()


def _action(space: Space[Any], action: np.ndarray) -> Any:
    if isinstance(space, Discrete):
        return int(action) + int(space.start)
    return action.reshape(space.shape or ()).astype(space.dtype)
