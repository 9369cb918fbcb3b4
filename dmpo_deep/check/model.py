"""Eq. 11: the fitted local model against the transition probabilities, or the best that its radius allows.

Where a model does not hear all that a transition reads, the data determine the conditional law of the next state given
what it hears and the own action, under the occupancy and the policy: the best model of that radius.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.check.setting import Setting, by_copy, states_heard
from dmpo_deep.check.statistics import FEW, Finding, mean_is_zero, no_deviation, within
from dmpo_deep.check.tables import LocalTables, heard_by, local_observations
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.local_model import SMALLEST_SCALE
from dmpo_deep.model import CategoricalModel, local_model
from dmpo_deep.rollout import Trajectory
from dmpo_theory.bootstrap import states_of
from dmpo_theory.mdp import Array, NetworkedMDP, on_joint_states

FIRST_RATE, LAST_RATE, RATES = 1e-2, 12.0, 5
"""Step sizes of Adam fall from the first to ``LAST_RATE`` over the number of samples: what remains of its noise is then
a fraction of the sampling error, however many there are."""
STEPS, BATCH = 300, 1024
REWARD_TOLERANCE = 0.02
"""Largest error of the mean reward, in units of the agent's range of rewards."""
IMPOSSIBLE = 0.05
"""Largest probability that a fitted network may give to what never happens."""


def check_model(setting: Setting, kappa: float, data: Trajectory) -> list[Finding]:
    """Frequencies of next states, the model fitted to them, and its rewards, against exact ones.

    Rewards and impossible transitions are held to a tolerance: there is no chance in them.
    """
    mdp = setting.mdp
    model = fitted_model(setting, kappa, data)
    tables = LocalTables(model.net, mdp.n_states)
    where = states_heard(tables, data) * max(mdp.n_actions) + data.action
    size = tables.table.shape[1] * max(mdp.n_actions)
    following = data.next_obs.argmax(axis=-1)
    scores, errors, masses, names = [], [], [], []
    off, impossible = list[tuple[float, float, str]](), list[tuple[float, float, str]]()
    for i, members in enumerate(heard_by(model.net)):
        exact, mass, reward = best_model(setting, i, members)
        said, paid = _said(model, setting, i, members)
        span = max(float(np.ptp(mdp.reward[i])), SMALLEST_SCALE, 1e-3 * float(np.abs(mdp.reward[i]).max()))
        judged = mass * data.step.size >= FEW
        off.append((float(np.abs(paid - reward)[judged].max(initial=0)), REWARD_TOLERANCE * span, f"agent {i}"))
        cells = _own(where[..., i], mdp, i) * mdp.n_states[i] + following[..., i]
        share = np.bincount(cells.reshape(-1), minlength=exact.size) / cells.size
        never = (exact == 0) & judged[..., None]
        impossible.append((float(share.reshape(exact.shape)[never].max(initial=0)), 0.0, f"transitions of agent {i}"))
        impossible.append((float(said[never].max(initial=0)), IMPOSSIBLE, f"model of agent {i}"))
        for s in range(mdp.n_states[i] - 1 or 1):  # probabilities sum to 1
            surprise = (following[..., i] == s) - exact.reshape(-1, mdp.n_states[i])[_own(where[..., i], mdp, i), s]
            by = by_copy(surprise[..., None], where[..., [i]], size)[:, 0].reshape(len(surprise[0]), -1)
            chance = exact[..., s] * (1 - exact[..., s])
            for u, a in np.argwhere(mass * chance * surprise.size >= FEW):
                scores.append(by[:, u * max(mdp.n_actions) + a])
                errors.append(said[u, a, s] - exact[u, a, s])
                masses.append(mass[u, a])
                names.append(f"agent {i}, state {u} of what it hears, action {a}, next state {s}")
    samples, about = np.stack(scores, axis=1) if scores else np.zeros((len(data.obs[0]), 0)), f"kappa {kappa:g}"
    spread = samples.std(axis=0, ddof=1) / np.sqrt(len(samples)) / np.array(masses)
    beyond = np.maximum(np.abs(errors) - spread, 0)
    return [
        mean_is_zero("transition frequencies", about, samples, names, setting.level, 1.0),
        no_deviation("network model", about, beyond, spread, len(samples) - 1, names, setting.level, 1.0),
        within("impossible transitions", about, impossible, setting.level, 0.0),
        within("reward model", about, off, setting.level, 0.0),
    ]


def fitted_model(setting: Setting, kappa: float, data: Trajectory) -> CategoricalModel:
    """Training's model and fit, on one buffer, at a step size that falls."""
    preset: ModelPreset = replace(setting.preset(kappa), hidden_model=(64,))  # type: ignore[assignment,call-arg]
    model = local_model(setting.env(1), preset, torch.Generator().manual_seed(setting.seed))
    buffer, rng = TransitionBuffer(data.reward[..., 0].size), np.random.default_rng([setting.seed, 77])
    buffer.add(data)
    for rate in np.geomspace(FIRST_RATE, min(LAST_RATE / len(buffer), 0.1 * FIRST_RATE), RATES):
        for group in model.optimizer.param_groups:
            group["lr"] = float(rate)
        model.fit(buffer, STEPS, BATCH, rng)
    return model  # type: ignore[return-value]


def best_model(setting: Setting, i: int, members: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """What data determine of agent i given the states of ``members`` and the own action.

    Returns:
        ``Pr(s_i' | u, a_i)`` as ``[L, A_i, S_i]``, the mass of ``(u, a_i)`` and the mean reward, ``[L, A_i]``.
    """
    mdp, policy = setting.mdp, setting.policy
    acts = on_joint_states(policy.table[i], policy.parents[i], mdp.n_states)
    joint = setting.law[:, None] * acts
    truth = on_joint_states(mdp.transition[i], mdp.transition_parents[i], mdp.n_states)
    reward = on_joint_states(mdp.reward[i], (i,), mdp.n_states)
    codes = states_of(mdp, members)
    heard = (codes == np.arange(codes.max() + 1)[:, None]).astype(float)  # [L, X]
    mass = heard @ joint
    known = np.where(mass > 0, mass, 1.0)
    law = np.einsum("lx,xa,xas->las", heard, joint, truth, optimize=True) / known[..., None]
    return law, mass, heard @ (joint * reward) / known


def _said(model: CategoricalModel, setting: Setting, i: int, members: tuple[int, ...]) -> tuple[Array, Array]:
    """The model's probabilities ``[L, A_i, S_i]`` and rewards ``[L, A_i]`` for agent i."""
    mdp = setting.mdp
    obs = local_observations(mdp, members)
    laws, rewards = [], []
    for a in range(mdp.n_actions[i]):
        probability, reward = model.outcome(obs, np.full(obs.shape[:2], a) * (np.arange(mdp.n) == i))
        laws.append(probability[:, i, : mdp.n_states[i]])
        rewards.append(reward[:, i])
    return np.stack(laws, axis=1).astype(float), np.stack(rewards, axis=1).astype(float)


def _own(cell: np.ndarray, mdp: NetworkedMDP, i: int) -> np.ndarray:
    """From cells with room for the most actions to those of agent i's own number of actions."""
    most, own = max(mdp.n_actions), mdp.n_actions[i]
    result: np.ndarray = cell // most * own + cell % most
    return result
