"""A frozen policy on an MDP with exact answers: the data that training would see, and the laws they follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dmpo_deep.check.statistics import FEW, LEVEL
from dmpo_deep.check.tables import LocalTables, logits_of, widened
from dmpo_deep.envs.tabular import Tabular
from dmpo_deep.hyperparameters import ActorCritic, ModelPreset, Preset
from dmpo_deep.ppo import Agents, LocalAgents
from dmpo_deep.rollout import Trajectory, rollout
from dmpo_theory.bootstrap import rollout_target
from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.errors import require_memory
from dmpo_theory.exact import local_values
from dmpo_theory.extended import JointLaw, extended_value
from dmpo_theory.laws import occupancy
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP

FORGOTTEN = 1e-6
"""Weight of the start in the law of the states when sampling begins."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What all checks share.

    Attributes:
        mdp: the networked MDP.
        policy: the policy of all agents, which stays as it is.
        copies: independent copies of the environment; tests take them as their sample.
        steps: steps of each copy after the start is forgotten.
        seed: of everything random.
        level: of each check.
        make_agents: called with environment, preset and generator; what is to be checked in the place of
            :class:`~dmpo_deep.ppo.Agents`.
        base: hyper-parameters of the algorithm that is checked; the checks set those on which equations depend.
    """

    mdp: NetworkedMDP
    policy: LocalPolicy
    copies: int = 3000
    steps: int = 20
    seed: int = 0
    level: float = LEVEL
    make_agents: Callable[..., LocalAgents] = Agents
    base: ActorCritic = field(default_factory=ModelPreset)

    def __post_init__(self) -> None:
        if self.copies < 2 or self.steps < 1 or self.copies * self.steps < FEW:
            raise ValueError(
                f"{self.copies} copies of {self.steps} steps are too few data to judge anything; give at least 2 "
                f"copies and {FEW} steps in all"
            )
        if not 0 < self.level < 1:
            raise ValueError(f"level = {self.level} is no probability between 0 and 1; give for example 1e-4")

    @property
    def cut(self) -> float:
        """Probability that a step is an episode's last."""
        return 1 - self.mdp.gamma

    def preset(self, kappa: float, lam: float = 0.0) -> ActorCritic:
        """Hyper-parameters under which the code's numbers are those of the equations: no scale, no normalisation.

        Critics and models have radius ``kappa``, advantages the weight ``lam``, and an update is a single step.
        """
        known = {f.name for f in fields(self.base)}
        plain = {"reward_scale": 1.0, "normalize_advantage": False, "entropy": 0.0, "gamma": self.mdp.gamma, "lam": lam}
        radii = {"kappa_policy": self.policy.radius, "kappa_critic": kappa, "kappa_model": kappa}
        single = dict.fromkeys(("updates", "minibatches", "critic_steps"), 1)
        given: dict[str, Any] = {**plain, **radii, **single}
        return replace(self.base, **{name: value for name, value in given.items() if name in known})

    @property
    def has_models(self) -> bool:
        """Whether the algorithm has local models."""
        return isinstance(self.base, ModelPreset)

    @property
    def sums(self) -> bool:
        """Whether advantages are Eq. 9's sums over neighbours, as those of PPO are, and not the own ones alone."""
        return isinstance(self.base, Preset)

    def agents(self, kappa: float, lam: float = 0.0) -> LocalAgents:
        """Agents with the frozen policy in tables, and tables of zeros for what their critics hear."""
        agents = self.make_agents(self.env(1), self.preset(kappa, lam), torch.Generator().manual_seed(self.seed))
        actor, critic = (LocalTables(nets, self.mdp.n_states) for nets in (agents.actor.net, agents.critic))
        actor.put(logits_of(widened(self.mdp, self.policy, actor.members)))
        with torch.no_grad():
            critic.table.zero_()
        agents.actor.net, agents.critic = actor, critic  # type: ignore[assignment]
        return agents

    def require_memory(self) -> None:
        """Refuse what does not fit: some joint matrices, and the data.

        Raises:
            ProblemTooLarge: naming the GiB needed.
        """
        size, (copies, steps, n) = self.mdp.n_joint_states, (self.copies, self.steps, self.mdp.n)
        require_memory(8.0 * 8 * size**2, f"the chain on {size} joint states", "check an MDP with fewer agents")
        row = 4 * (2 * max(self.mdp.n_states) + 16 * n)
        require_memory(
            2.0 * copies * steps * n * row, f"{copies} copies of {steps} steps", "give fewer copies or steps"
        )

    def env(self, copies: int) -> Tabular:
        """The MDP as an environment, with restarts."""
        return Tabular(copies, mdp=self.mdp)

    def sample(self, part: int) -> Trajectory:
        """A rollout of every copy whose states follow the occupancy at each step; each ``part`` is drawn anew."""
        env, actor = self.env(self.copies), self.agents(0).actor
        rng = np.random.default_rng([self.seed, part])
        obs = env.reset(rng)
        for _ in range(math.ceil(math.log(FORGOTTEN) / math.log(max(self.mdp.gamma, FORGOTTEN)))):
            obs, _, _, ended, _ = env.step(actor(obs, rng)[0])
            obs = env.reset(rng, ended)
        return rollout(env, actor, self.steps, rng)

    @cached_property
    def chain(self) -> ClosedLoop:
        """The joint chain under the frozen policy."""
        return closed_loop(self.mdp, self.policy)

    @cached_property
    def law(self) -> Array:
        """The normalised occupancy from a uniform start, ``[X]``."""
        return occupancy(self.mdp, self.policy).law

    @property
    def reference(self) -> JointLaw:
        """The law of what is not seen, given what is, in the data."""
        return JointLaw(self.law)

    @cached_property
    def values(self) -> Array:
        """Exact ``V_i``, ``[n, X]``."""
        return local_values(self.mdp, self.policy).values

    def hops(self, kappa: float) -> int:
        """A radius that may be infinite in whole hops: beyond the diameter there is no more of a graph."""
        return int(min(kappa, self.mdp.graph.diameter))

    def balls(self, kappa: float) -> list[tuple[int, ...]]:
        """``N_i^kappa`` of every agent."""
        return [self.mdp.graph.neighbors(i, kappa) for i in range(self.mdp.n)]

    def extended(self, kappa: float) -> Array:
        """``E[V_i | s_{N_i^kappa}]`` under the data's law, as functions of the joint state: ``[n, X]``."""
        pairs = zip(self.values, self.balls(kappa), strict=True)
        return np.stack([extended_value(self.mdp, value, ball, self.reference) for value, ball in pairs])

    @property
    def size(self) -> float:
        """The largest value, to compare rounding with."""
        return float(np.abs(self.values).max())

    @cached_property
    def target(self) -> tuple[Array, Array]:
        """The expected value target of a sample, ``gain [n, X]`` and ``far [X, X]``."""
        return rollout_target(self.chain, self.mdp.gamma, self.steps, self.cut)


def by_copy(values: np.ndarray, where: np.ndarray, size: int) -> Array:
    """Means over time of ``values [T, B, n]`` at the states numbered ``where [T, B, n]``: ``[B, n, size]``."""
    steps, copies, n = values.shape
    cell = (np.arange(copies)[:, None] * n + np.arange(n)) * size + where
    sums = np.bincount(cell.reshape(-1), weights=values.reshape(-1).astype(np.float64), minlength=copies * n * size)
    return np.asarray(sums.reshape(copies, n, size) / steps, dtype=np.float64)


def states_heard(tables: LocalTables, data: Trajectory) -> np.ndarray:
    """Which entry each agent's table is asked for, at every step of ``data``: ``[T, B, n]``."""
    steps, copies, n, _ = data.obs.shape
    heard = tables.gather(torch.from_numpy(data.obs))[..., 0].reshape(n, steps, copies)
    return np.asarray(heard.permute(1, 2, 0).numpy())
