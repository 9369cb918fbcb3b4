"""Algorithm 1, lines 8-12: T-step targets from model rollouts, against exact ones and against the bound on them.

The model's error is controlled: every transition law is mixed with a uniform one. What is checked is training's own
machinery: branches from real states, rollouts in which every agent's prediction is broadcast, and targets on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dmpo_deep import model
from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.check.critic import settled_on_joint
from dmpo_deep.check.gradient import put
from dmpo_deep.check.setting import Setting
from dmpo_deep.check.statistics import FEW, Finding, no_deviation, within
from dmpo_deep.model import ModelEnv
from dmpo_deep.rollout import Trajectory, rollout
from dmpo_theory.bootstrap import step_targets
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.mdp import Array, NetworkedMDP

HORIZONS = (1, 2, 5, 10)
ERRORS = (0.0, 0.05, 0.2)
"""Weights of the uniform law in the model."""


@dataclass(frozen=True, eq=False)
class TabularModel:
    """Predictions from the tables of an MDP, in the place of a learned model."""

    mdp: NetworkedMDP

    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`dmpo_deep.local_model.LocalModel.predict`."""
        state = obs.argmax(axis=-1)
        probability = np.zeros(obs.shape)
        reward = np.zeros(state.shape, dtype=np.float32)
        for i, (table, read) in enumerate(zip(self.mdp.transition, self.mdp.transition_parents, strict=True)):
            probability[:, i, : table.shape[-1]] = table[(*(state[:, j] for j in read), action[:, i])]
            reward[:, i] = self.mdp.reward[i][state[:, i], action[:, i]]
        return model.sampled_codes(probability, rng), reward


@dataclass(frozen=True)
class RolloutError:
    """T-step targets of a wrong model against exact values, the largest error over states and agents."""

    weight: float
    """Of the uniform law in the model."""
    horizon: int
    error: float
    """Of the expected target, exact."""
    bound: float


def wrong_model(mdp: NetworkedMDP, weight: float) -> tuple[NetworkedMDP, Array]:
    """The MDP with every transition law mixed with a uniform one, and the total variation that this makes, ``[n]``."""
    tables = [(1 - weight) * table + weight / table.shape[-1] for table in mdp.transition]
    errors = [np.abs(wrong - table).sum(axis=-1).max() / 2 for wrong, table in zip(tables, mdp.transition, strict=True)]
    return NetworkedMDP(mdp.graph, mdp.gamma, tuple(tables), mdp.reward, mdp.transition_parents), np.array(errors)


def check_rollouts(
    setting: Setting,
    kappa: float,
    data: Trajectory,
    branches: int = 20_000,
    horizons: Sequence[int] = HORIZONS,
    errors: Sequence[float] = ERRORS,
) -> tuple[list[Finding], list[RolloutError]]:
    """Mean targets of model rollouts by what agents hear, and the bound on them, for each model error and T."""
    mdp, gamma = setting.mdp, setting.mdp.gamma
    critics = settled_on_joint(setting, kappa)
    agents = setting.agents(kappa)
    put(agents, setting, critics)
    buffer = TransitionBuffer(data.reward[..., 0].size)
    buffer.add(data)
    far_off = np.abs(critics - setting.values).max(axis=1)
    matters = np.stack([[np.ptp(v.reshape(mdp.n_states), axis=k).max() for k in range(mdp.n)] for v in setting.values])
    findings, measured = [], []
    for weight in errors:
        wrong, off = wrong_model(mdp, weight)
        exact = list(step_targets(closed_loop(wrong, setting.policy), gamma, max(horizons)))
        env = ModelEnv(TabularModel(wrong), setting.env(1), buffer, branches, len(buffer))  # type: ignore[arg-type]
        pairs = []
        for steps in horizons:
            gain, far = exact[steps - 1]
            mean = gain + critics @ far.T
            bounds = gamma**steps * far_off + gamma * (1 - gamma**steps) / (1 - gamma) * matters @ off
            wrong_by = np.abs(mean - setting.values).max(axis=1)
            about = f"model error {weight:g}, T = {steps}"
            pairs += [
                (float(e), float(b), f"T = {steps}, agent {j}")
                for j, (e, b) in enumerate(zip(wrong_by, bounds, strict=True))
            ]
            rng = np.random.default_rng([setting.seed, 55, steps])
            env.reset(rng)
            imagined = rollout(env, agents.actor, steps, rng)
            target = agents.estimates(imagined)[0][0].double().numpy()  # at the branch: [branches, n]
            state = np.ravel_multi_index(tuple(imagined.obs[0].argmax(axis=-1).T), mdp.n_states)
            heard = agents.actor.net.gather(torch.from_numpy(imagined.obs[0][None]))[..., 0].numpy()
            found = _deviations(heard, target.T - mean[:, state])
            findings.append(no_deviation("model rollouts", about, *found, setting.level, setting.size))
            measured.append(RolloutError(weight, steps, float(wrong_by.max()), float(bounds.max())))
        findings.append(
            within("bound on T-step targets", f"model error {weight:g}", pairs, setting.level, setting.size)
        )
    return findings, measured


def _deviations(heard: np.ndarray, off: Array) -> tuple[Array, Array, int, list[str]]:
    """Means of ``off [n, N]`` by what each agent hears at the branch, ``heard [n, N]``.

    Returns:
        Errors, standard errors, the least degrees of freedom among them, and names.

    By joint state there would be too few branches for a normal law.
    """
    errors, spreads, names, least = [], [], [], heard.shape[1]
    for i, (cells, row) in enumerate(zip(heard, off, strict=True)):
        for u, count in zip(*np.unique(cells, return_counts=True), strict=True):
            if count >= FEW:
                least = min(least, int(count))
                part = row[cells == u]
                errors.append(part.mean())
                spreads.append(part.std(ddof=1) / np.sqrt(count))
                names.append(f"agent {i}, state {u} of what it hears")
    return np.array(errors), np.array(spreads), least - 1, names
