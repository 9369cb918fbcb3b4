"""Eqs. 5 and 11: the local models p_i(s_i', r_i | s_{N_i^kappa}, a_i), and the environment they make.

Each agent's network hears its neighbours' observations and knows its own action only (their actions, too, if told to,
and there may be several networks). Where agents have finitely many
states it gives their probabilities and predictions are sampled; elsewhere it predicts the change of the own
observation, deterministically. The own reward is predicted by its mean. All are fitted by maximum likelihood, line 5 of
Algorithm 1: cross-entropy, and least squares on normalised targets, which stands for a Gaussian of fixed width. Eq. 5's
D is the theory's penalty and no term of this loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.envs import NetworkedEnv, Step, action_counts
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.local_model import LocalModel, moments
from dmpo_deep.nets import NEVER, beyond, drawn, tensor
from dmpo_deep.rollout import Trajectory
from dmpo_theory.graph import AgentGraph


def local_model(env: NetworkedEnv, preset: ModelPreset, rng: torch.Generator) -> LocalModel:
    """The models of ``env``'s agents: categorical for finitely many states, else Gaussian."""
    continuous = isinstance(env.action_space, Box)
    actions = env.action_space.shape[0] if isinstance(env.action_space, Box) else max(action_counts(env))
    shape = env.graph, preset.kappa_model, env.observation_space.shape[0], actions
    options: dict[str, Any] = {"ensemble": preset.ensemble, "neighbor_actions": preset.neighbor_actions}
    if env.n_states is not None:
        return CategoricalModel(*shape, preset.hidden_model, preset.lr_model, rng, env.n_states, **options)
    return GaussianModel(*shape, preset.hidden_model, preset.lr_model, rng, continuous, env.period, **options)


class GaussianModel(LocalModel):
    """The next observation and the reward by their means, within the range of the data.

    See :class:`~dmpo_deep.local_model.LocalModel`. A feature with a ``period``, ``[d]``, comes round: its change is the
    shortest, and its range the whole period.
    """

    def __init__(
        self,
        graph: AgentGraph,
        kappa: float,
        features: int,
        actions: int,
        hidden: Sequence[int],
        lr: float,
        rng: torch.Generator,
        continuous: bool = False,
        period: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        super().__init__(graph, kappa, features, actions, hidden, lr, rng, features, continuous, **options)
        self._period = None if period is None else tensor(period.astype(np.float32))
        for name, value in (("target_mean", 0.0), ("target_scale", 1.0), ("low", -torch.inf), ("high", torch.inf)):
            self._numbers(name, features + 1, value)

    @torch.no_grad()
    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`.LocalModel.predict`; ``rng`` chooses the member of each agent and transition."""
        outcome = self._outcome(obs, action)
        if self.ensemble == 1:
            return _split(outcome[0])
        member = tensor(rng.integers(self.ensemble, size=(1, *outcome.shape[1:3], 1)))
        return _split(outcome.gather(0, member.expand(-1, -1, -1, outcome.shape[-1]))[0])

    def _outcome(self, obs: np.ndarray, action: np.ndarray) -> Tensor:
        """Next observations and rewards by every member within the data's range, ``[ensemble, n, N, d + 1]``."""
        outcome = self._outputs(obs, action) * self.target_scale + self.target_mean
        outcome[..., :-1] += tensor(obs).transpose(0, 1)
        if self._period is not None:
            turns = torch.floor(outcome[..., :-1] / self._period)
            outcome[..., :-1] -= torch.where(turns == 0, 0.0, turns * self._period)  # 0 times inf is none of either
        return torch.clamp(outcome, self.low, self.high)

    def _change(self, before: Tensor, after: Tensor) -> Tensor:
        """From one observation to another, ``[..., d]``; the short way round."""
        change = after - before
        if self._period is None:
            return change
        turns = torch.round(change / self._period)
        return change - torch.where(turns == 0, 0.0, turns * self._period)

    def _normalize(self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor) -> None:
        target = torch.cat([self._change(obs, next_obs), reward[..., None]], dim=-1).transpose(0, 1)
        delta_mean, delta_scale = moments(target[..., :-1])
        reward_mean, reward_scale = moments(target[:, alive, -1:])
        self.target_mean = torch.cat([delta_mean, reward_mean], dim=-1)
        self.target_scale = torch.cat([delta_scale, reward_scale], dim=-1)
        # Branches start at obs, so both ends of every transition belong to the range.
        low = torch.minimum(obs.amin(dim=0), next_obs.amin(dim=0))
        high = torch.maximum(obs.amax(dim=0), next_obs.amax(dim=0))
        if self._period is not None:
            low = torch.where(self._period < torch.inf, 0.0, low)
            high = torch.where(self._period < torch.inf, self._period, high)
        self.low = torch.cat([low, reward[alive].amin(dim=0)[:, None]], dim=-1)[:, None]
        self.high = torch.cat([high, reward[alive].amax(dim=0)[:, None]], dim=-1)[:, None]

    def _targets(self, obs: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        target = torch.cat([self._change(obs, next_obs), reward[..., None]], dim=-1).transpose(0, 1).contiguous()
        return (target - self.target_mean) / self.target_scale

    def _error(self, outputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        weight = torch.ones(*alive.shape, target.shape[-1])
        weight[..., -1] = alive
        return (outputs - target) ** 2 * (weight if alive.ndim == 1 else _by_agent(weight, outputs))

    @torch.no_grad()
    def error(self, obs: np.ndarray, action: np.ndarray, next_obs: np.ndarray) -> float:
        """Mean squared error of the next observation, in units of the variance of its changes."""
        wrong = self._change(tensor(next_obs), tensor(self._mean(obs, action))).cpu().numpy()
        return float(((wrong / self.target_scale[:, 0, :-1].cpu().numpy()) ** 2).mean())

    def _mean(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The next observations ``[N, n, d]`` that the members predict together, the short way round."""
        members = self._outcome(obs, action)[..., :-1]
        together = members[0] + self._change(members[0], members).mean(dim=0) if self.ensemble > 1 else members[0]
        return together.transpose(0, 1).cpu().numpy()

    @torch.no_grad()
    def open_loop_errors(self, new: Trajectory, horizon: int) -> np.ndarray | None:
        """Root mean squared errors ``[horizon]`` of observations after 1, 2 .. steps under the recorded actions.

        The rollout is cut into windows of that length; those in which an episode ends are left out. None if nothing
        remains.
        """
        starts = np.arange(0, len(new.obs) - horizon + 1, horizon)
        windows = [(t, b) for t in starts for b in np.flatnonzero(~new.ended[t : t + horizon - 1].any(axis=0))]
        if not windows:
            return None
        t, b = np.array(windows).T
        obs, errors = new.obs[t, b], np.empty(horizon)
        for step in range(horizon):
            obs = self._mean(obs, new.action[t + step, b])
            wrong = self._change(tensor(new.next_obs[t + step, b]), tensor(obs)).cpu().numpy()
            errors[step] = np.sqrt((wrong**2).mean())
        return errors


class CategoricalModel(LocalModel):
    """Probabilities of the next state, ``n_states[i]`` of agent ``i``, and the mean reward.

    See :class:`~dmpo_deep.local_model.LocalModel`.
    """

    missing: Tensor

    def __init__(
        self,
        graph: AgentGraph,
        kappa: float,
        features: int,
        actions: int,
        hidden: Sequence[int],
        lr: float,
        rng: torch.Generator,
        n_states: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__(graph, kappa, features, actions, hidden, lr, rng, features, **options)
        self.register_buffer("missing", beyond(n_states), persistent=False)
        self._numbers("reward_mean", 1, 0.0)
        self._numbers("reward_scale", 1, 1.0)

    def _log_probabilities(self, outputs: Tensor, missing: Tensor | None = None) -> Tensor:
        missing = self.missing if missing is None else missing
        return torch.log_softmax(outputs[..., :-1].masked_fill(missing, NEVER), dim=-1)

    @torch.no_grad()
    def outcome(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the next state ``[N, n, d]`` and mean rewards ``[N, n]``, the means of an ensemble's."""
        outputs = self._outputs(obs, action)
        reward = (outputs[..., -1:] * self.reward_scale + self.reward_mean).mean(dim=0)
        probability = self._log_probabilities(outputs).exp().mean(dim=0)
        return probability.transpose(0, 1).cpu().numpy(), reward[..., 0].T.cpu().numpy()

    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`~dmpo_deep.local_model.LocalModel.predict`; next states are drawn."""
        probability, reward = self.outcome(obs, action)
        return sampled_codes(probability, rng), reward

    def _normalize(self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor) -> None:
        self.reward_mean, self.reward_scale = moments(reward[alive].T[..., None])

    def _targets(self, obs: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        normalized = (reward.T[..., None] - self.reward_mean) / self.reward_scale
        return torch.cat([next_obs.transpose(0, 1), normalized], dim=-1)

    def _error(self, outputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        missing = self.missing.repeat(len(outputs) // len(self.missing), 1, 1)
        surprise = -(target[..., :-1] * self._log_probabilities(outputs, missing)).sum(dim=-1)
        weight = alive if alive.ndim == 1 else _by_agent(alive, outputs)
        return torch.stack([surprise, (outputs[..., -1] - target[..., -1]) ** 2 * weight], dim=-1)

    def error(self, obs: np.ndarray, action: np.ndarray, next_obs: np.ndarray) -> float:
        """Mean surprise, in nats, at the next state."""
        probability = (self.outcome(obs, action)[0] * next_obs).sum(axis=-1)
        return float(-np.log(np.maximum(probability, np.finfo(np.float32).tiny)).mean())

    def open_loop_errors(self, new: Trajectory, horizon: int) -> None:
        """None: one sampled future says nothing of another."""


def _split(outcome: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Next observations ``[N, n, d]`` and rewards ``[N, n]`` of outcomes ``[n, N, d + 1]``."""
    rows = outcome.transpose(0, 1).cpu().numpy()
    return rows[..., :-1], rows[..., -1]


def _by_agent(weight: Tensor, outputs: Tensor) -> Tensor:
    """Weights of each member's samples ``[ensemble, N, ...]`` for the outputs ``[ensemble n, N, ...]``."""
    return weight.repeat_interleave(len(outputs) // len(weight), dim=0)


def sampled_codes(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One-hot codes ``[..., d]``, float32, of states drawn with probabilities ``[..., d]``."""
    codes: np.ndarray = np.eye(probability.shape[-1], dtype=np.float32)[drawn(probability, rng)]
    return codes


class ModelEnv:
    """The learned environment: branches from D^E, steps by the local models, ends by the task's own rule.

    Every agent's prediction is broadcast to its neighbours, whose policies and models hear it in the next step; no
    agent predicts for another. Time limits hold as in the real task.
    """

    def __init__(self, model: LocalModel, env: NetworkedEnv, data: TransitionBuffer, batch: int, recent: int) -> None:
        self._model, self._env, self._data = model, env, data
        self._batch, self._recent = batch, recent

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``."""
        return self._obs

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Line 9: branch the marked copies (all by default) from recent real states; ``rng`` serves the steps, too."""
        self._rng = rng
        if where is None:
            self._obs, self._step = self._data.branch(self._batch, self._recent, rng)
        else:
            obs, step = self._data.branch(int(where.sum()), self._recent, rng)
            self._obs, self._step = self._obs.copy(), self._step.copy()
            self._obs[where], self._step[where] = obs, step
        return self._obs

    def step(self, action: np.ndarray) -> Step:
        """One predicted step; the contract of :class:`dmpo_deep.envs.RolloutEnv`, the metric being zero."""
        self._obs, reward = self._model.predict(self._obs, action, self._rng)
        step, self._step = self._step, self._step + 1
        terminated, charge = self._env.termination(self._obs, step)
        reward = np.where(terminated[:, None], charge[:, None], reward)
        truncated = (self._step >= self._env.horizon) & ~terminated
        return self._obs, reward, terminated, truncated, {"step": step, "metric": np.zeros(len(step))}
