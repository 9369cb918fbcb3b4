"""Section III-A: any networked MDP as an environment, so that whatever learns here has an exact answer.

Agent ``i`` is in one of ``S_i`` states and observes its one-hot code, padded with zeros to the largest ``S_i``. The
first layer of a network on one-hot codes is an embedding of them, learned like any other weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.envs.validate import require_copies, require_discrete, require_running
from dmpo_theory.graph import FAMILIES, named_graph
from dmpo_theory.instance_file import Instance, load_instance
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import NetworkedMDP

NEVER_LONGER = 64.0
"""Episodes of random length are shorter than this many mean lengths, but for a probability below ``e^-64``."""


class Tabular:
    """``batch`` copies of a networked MDP; see :class:`dmpo_deep.envs.NetworkedEnv` for the contract.

    All states are equally likely at the start. By default each step is the episode's last one with probability
    ``1 - gamma``, flagged as truncated: then the states of a long rollout follow the normalised discounted occupancy
    of that start, and the expected sum of rewards of an episode is the discounted value. With ``horizon`` episodes
    are cut there instead; ``inf`` never cuts, and the states tend to the stationary law.

    The local reward is ``r_i(s_i, a_i)``; the metric is the sum over an episode of the mean over agents.

    Args:
        batch: number of copies.
        mdp: an instance file, or the name of a graph family for a random MDP; or, in Python, a
            :class:`~dmpo_theory.mdp.NetworkedMDP`.
        n: agents of a random MDP.
        states: ``S_i`` of a random MDP.
        actions: ``A_i`` of a random MDP.
        coupling: weight of the neighbours in a random MDP, in [0, 1].
        concentration: of a random MDP's rows; small values give nearly deterministic ones.
        instance: seed of a random MDP, its graph and its policy.
        horizon: steps after which every episode is cut; None for the random length.
        gamma: discount; it must be the file's own.
        draws: in [0, 1), one per copy; each stands for a start state.
    """

    task = "tabular"
    warmup_steps = 0
    measures: Sequence[str] = ()
    period: np.ndarray | None = None
    outcomes: Sequence[str] = ()

    def __init__(
        self,
        batch: int,
        *,
        mdp: Any = "ring",
        n: int = 6,
        states: int = 2,
        actions: int = 2,
        coupling: float = 1.0,
        concentration: float = 1.0,
        instance: int = 0,
        horizon: float | None = None,
        gamma: float | None = None,
        draws: Sequence[float] | None = None,
    ) -> None:
        if isinstance(mdp, NetworkedMDP):
            found = Instance("given", mdp, random_policy(mdp, rng=instance))
        elif mdp in FAMILIES:
            rng = np.random.default_rng(instance)
            drawn = random_mdp(
                named_graph(mdp, n, rng),
                n_states=states,
                n_actions=actions,
                gamma=0.9 if gamma is None else gamma,
                coupling=coupling,
                concentration=concentration,
                rng=rng,
            )
            found = Instance(mdp, drawn, random_policy(drawn, coupling=coupling, rng=rng))
        elif Path(mdp).is_file():
            found = load_instance(mdp)
        else:
            raise FileNotFoundError(f"mdp = {mdp!r} is no instance file, nor a graph family ({', '.join(FAMILIES)})")
        self.name, self.mdp, self.policy = found
        """The MDP and the policy that came with it; for a random MDP a random one."""
        if gamma not in (None, self.mdp.gamma):
            raise ValueError(
                f"gamma = {gamma}, but {mdp} discounts by {self.mdp.gamma:g}; train with gamma={self.mdp.gamma:g}"
            )
        if horizon is not None and not (horizon >= 1 and (horizon == math.inf or horizon % 1 == 0)):
            raise ValueError(f"horizon = {horizon}; give at least 1 step, inf, or nothing for a random length")
        self.graph, self.batch = self.mdp.graph, batch
        self.n_states: tuple[int, ...] | None = self.mdp.n_states
        width = max(self.mdp.n_states)
        self._draws = require_copies(self.task, batch, draws, 8 * self.graph.n * (width + 8))
        counts = self.mdp.n_actions
        same = len(set(counts)) == 1
        self.action_space: Discrete | MultiDiscrete | Box = (
            Discrete(counts[0]) if same else MultiDiscrete(np.array(counts))
        )
        self.observation_space: Box = Box(0, 1, (width,), np.float32)
        self._restart = 1 - self.mdp.gamma if horizon is None else 0.0
        longest = NEVER_LONGER / (1 - self.mdp.gamma) if horizon is None else horizon
        self.horizon: int = longest if longest == math.inf else math.ceil(longest)  # type: ignore[assignment]
        self._chain, self._reward = _Rows.transitions(self.mdp), _Rows.rewards(self.mdp)
        self._code = np.eye(width, dtype=np.float32)
        self._rng = np.random.default_rng(0)
        self._state = np.zeros((batch, self.graph.n), dtype=np.int64)
        self._time = np.zeros(batch, dtype=np.int64)
        self._ended = np.ones(batch, dtype=bool)  # nothing runs before the first reset

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where`` (all by default); observations ``[B, n, d]``.

        Chance comes from a generator that the reset of all copies seeds from ``rng``.
        """
        if where is None:
            self._rng, where = np.random.default_rng(rng.integers(2**63)), np.ones(self.batch, dtype=bool)
        uniform = self._rng.random((int(where.sum()), self.graph.n))
        if self._draws is not None:
            uniform = np.stack([np.random.default_rng(int(d * 2**53)).random(self.graph.n) for d in self._draws[where]])
        self._state[where] = (uniform * self.mdp.n_states).astype(np.int64)
        self._time[where] = 0
        self._ended[where] = False
        return self.observe()

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""
        return self._code[self._state]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One transition of every agent; see the contract. ``info`` has also ``state [B, n]``, where it began."""
        require_running(self._ended)
        require_discrete(action, (self.batch, self.graph.n), np.array(self.mdp.n_actions))
        before = self._state
        reward = self._reward.at(before, action)[..., 0]
        below = self._chain.at(before, action)  # cumulative probabilities of all but the last state
        self._state = (self._rng.random((*before.shape, 1)) >= below).sum(axis=-1)
        step, self._time = self._time, self._time + 1
        truncated = self._time >= self.horizon
        if self._restart:
            truncated |= self._rng.random(self.batch) < self._restart
        self._ended = truncated.copy()
        nothing = np.zeros(self.batch, dtype=bool)
        info = {"raw_reward": reward, "metric": reward.mean(axis=1), "step": step, "collided": nothing, "state": before}
        return self.observe(), reward, nothing, truncated, info

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """No state ends the task: False and 0 for every copy ``[B]``."""
        return np.zeros(len(next_obs), dtype=bool), np.zeros(len(next_obs))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        arrays = {"state": self._state, "time": self._time, "ended": self._ended}
        return {name: value.copy() for name, value in arrays.items()} | {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._state, self._time, self._ended = (np.array(state[name]) for name in ("state", "time", "ended"))
        self._rng.bit_generator.state = state["rng"]

    def close(self) -> None:
        """Nothing runs outside of this object."""


class _Rows:
    """Tables of all agents stacked row by row, so that one look-up serves every agent of every copy."""

    def __init__(
        self, read: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]], rows: Sequence[np.ndarray]
    ) -> None:
        """``rows[i]`` is ``[prod sizes[i], W]``, over the states of ``read[i]`` and then the own action."""
        n, most = len(rows), max(map(len, read))
        self._read, self._stride = np.zeros((n, most), dtype=np.int64), np.zeros((n, most), dtype=np.int64)
        for i, (members, size) in enumerate(zip(read, sizes, strict=True)):
            strides = [math.prod(size[k + 1 :]) for k in range(len(members))]
            self._read[i, : len(members)], self._stride[i, : len(members)] = members, strides
        self._start = np.cumsum([0, *(len(table) for table in rows[:-1])])
        self._rows = np.concatenate(rows)

    @classmethod
    def transitions(cls, mdp: NetworkedMDP) -> _Rows:
        """Cumulative probabilities of the next state, all but the last one; 2 beyond ``S_i``, never reached."""
        width, rows = max(mdp.n_states), []
        for table in mdp.transition:
            below = np.full((table[..., 0].size, width - 1), 2.0)
            states = table.shape[-1]
            below[:, : states - 1] = table.reshape(-1, states).cumsum(axis=1)[:, :-1]
            rows.append(below)
        return cls(mdp.transition_parents, [table.shape[:-1] for table in mdp.transition], rows)

    @classmethod
    def rewards(cls, mdp: NetworkedMDP) -> _Rows:
        """``r_i(s_i, a_i)``."""
        return cls([(i,) for i in range(mdp.n)], [r.shape for r in mdp.reward], [r.reshape(-1, 1) for r in mdp.reward])

    def at(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Rows at joint states and actions ``[B, n]``: ``[B, n, W]``."""
        found: np.ndarray = self._rows[self._start + (state[:, self._read] * self._stride).sum(axis=-1) + action]
        return found
