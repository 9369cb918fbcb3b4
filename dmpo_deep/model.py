"""Eqs. 5 and 11: the local models p_i(s_i', r_i | s_{N_i^kappa}, a_i), and the environment they make.

Each agent's network hears its neighbours' observations and knows its own action only. Where agents have finitely many
states it gives their probabilities and predictions are sampled; elsewhere it predicts the change of the own
observation, deterministically. The own reward is predicted by its mean. All are fitted by maximum likelihood, line 5 of
Algorithm 1: cross-entropy, and least squares on normalised targets, which stands for a Gaussian of fixed width. Eq. 5's
D is the theory's penalty and no term of this loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.envs import NetworkedEnv, Step, action_counts
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.nets import NEVER, LocalNets, beyond, require_finite
from dmpo_deep.rollout import Trajectory
from dmpo_theory.graph import AgentGraph

SMALLEST_SCALE = 1e-3
"""A feature that hardly varies in the data is not blown up beyond this."""


def local_model(env: NetworkedEnv, preset: ModelPreset, rng: torch.Generator) -> LocalModel:
    """The models of ``env``'s agents: categorical for finitely many states, else Gaussian."""
    continuous = isinstance(env.action_space, Box)
    actions = env.action_space.shape[0] if isinstance(env.action_space, Box) else max(action_counts(env))
    shape = env.graph, preset.kappa_model, env.observation_space.shape[0], actions
    if env.n_states is not None:
        return CategoricalModel(*shape, preset.hidden_model, preset.lr_model, rng, env.n_states)
    return GaussianModel(*shape, preset.hidden_model, preset.lr_model, rng, continuous)


class LocalModel(nn.Module):
    """``n`` local models, each with its own weights and normalisation, all taken from its own data.

    Args:
        graph: the agents' graph.
        kappa: radius of the observations that each model hears.
        features: observation features ``d``.
        actions: largest number of actions, or numbers in a continuous one.
        hidden: widths of the hidden layers.
        lr: step size of Adam.
        rng: source of the initial weights.
        outputs: what the network says of the next observation, beside the reward.
        continuous: whether actions are.
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
        outputs: int,
        continuous: bool = False,
    ) -> None:
        super().__init__()
        self.net = LocalNets(graph, kappa, features, outputs + 1, hidden, rng, own=actions)
        self.actions, self.continuous = actions, continuous
        if continuous:
            self._numbers("action_mean", actions, 0.0)
            self._numbers("action_scale", actions, 1.0)
        heard = self.net.index.shape[1] * features
        self._numbers("heard_mean", heard, 0.0)
        self._numbers("heard_scale", heard, 1.0)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)

    def _numbers(self, name: str, width: int, value: float) -> None:
        """Room for ``width`` numbers of every agent that are set from its data."""
        self.register_buffer(name, torch.full((len(self.net.index), 1, width), value))

    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Next observations ``[N, n, d]`` and rewards ``[N, n]`` after ``obs [N, n, d]`` and ``action [N, n, ...]``."""
        raise NotImplementedError

    def one_step_error(self, new: Trajectory) -> float:
        """Mean error of the next observation on steps the model has not been fitted to."""
        raise NotImplementedError

    def open_loop_error(self, new: Trajectory, horizon: int) -> float | None:
        """Error of observations after ``horizon`` steps under the recorded actions; None where it says nothing."""
        raise NotImplementedError

    def _prepare(self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor) -> Tensor:
        """Set normalisation from data ``[N, n, ...]``; the target of every output, ``[n, N, ...]``."""
        raise NotImplementedError

    def _error(self, outputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        """Error of each output, ``[n, N, ...]``, that of the reward only where the task goes on."""
        raise NotImplementedError

    def _inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Observations ``[N, n, d]`` and own actions ``[N, n, ...]`` to network inputs ``[n, N, F]``."""
        heard = (self.net.gather(obs) - self.heard_mean) / self.heard_scale
        own = action.transpose(0, 1)
        if self.continuous:
            own = (own - self.action_mean) / self.action_scale
        else:
            own = nn.functional.one_hot(own, self.actions).to(heard.dtype)
        return torch.cat([heard, own], dim=-1)

    def fit(self, data: TransitionBuffer, steps: int, batch: int, rng: np.random.Generator) -> float:
        """Line 5: ``steps`` Adam steps on minibatches of all of D^E; the mean error while fitting.

        The reward of a terminal step is a charge and no sample of r_i: it is left out. Normalisation and range are
        set from the data first.

        Raises:
            ValueError: every transition is terminal, so that there is no reward to learn.
            FloatingPointError: a weight is not finite any more.
        """
        obs, next_obs = torch.from_numpy(data["obs"]), torch.from_numpy(data["next_obs"])
        reward = torch.from_numpy(data["reward"])
        alive = torch.from_numpy(~data["terminated"])
        if not alive.any():
            raise ValueError(
                f"all {len(alive)} real transitions end the task, so that there is no reward to learn; "
                "raise warmup_steps or buffer"
            )
        self.heard_mean, self.heard_scale = _moments(self.net.gather(obs))
        action = torch.from_numpy(data["action"])
        if self.continuous:
            self.action_mean, self.action_scale = _moments(action.transpose(0, 1))
        target = self._prepare(obs, next_obs, reward, alive)
        inputs = self._inputs(obs, action)
        losses = []
        for _ in range(steps):
            chosen = torch.from_numpy(rng.integers(len(alive), size=batch))
            error = self._error(self.net(inputs[:, chosen]), target[:, chosen], alive[chosen])
            self.optimizer.zero_grad()
            error.mean(dim=(1, 2)).sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(float(error.detach().mean()))
        require_finite("model", self.net)
        return float(np.mean(losses))

    def state(self) -> dict[str, Any]:
        """Weights, normalisation and optimiser."""
        return {"model": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class GaussianModel(LocalModel):
    """The next observation and the reward by their means, within the range of the data; see :class:`LocalModel`."""

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
    ) -> None:
        super().__init__(graph, kappa, features, actions, hidden, lr, rng, features, continuous)
        for name, value in (("target_mean", 0.0), ("target_scale", 1.0), ("low", -torch.inf), ("high", torch.inf)):
            self._numbers(name, features + 1, value)

    @torch.no_grad()
    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`LocalModel.predict`; nothing is drawn from ``rng``."""
        now = torch.from_numpy(obs)
        outcome = self.net(self._inputs(now, torch.from_numpy(action))) * self.target_scale + self.target_mean
        outcome[..., :-1] += now.transpose(0, 1)
        outcome = torch.clamp(outcome, self.low, self.high).transpose(0, 1).numpy()
        return outcome[..., :-1], outcome[..., -1]

    def _prepare(self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor) -> Tensor:
        target = torch.cat([next_obs - obs, reward[..., None]], dim=-1).transpose(0, 1).contiguous()
        delta_mean, delta_scale = _moments(target[..., :-1])
        reward_mean, reward_scale = _moments(target[:, alive, -1:])
        self.target_mean = torch.cat([delta_mean, reward_mean], dim=-1)
        self.target_scale = torch.cat([delta_scale, reward_scale], dim=-1)
        # Branches start at obs, so both ends of every transition belong to the range.
        low = torch.minimum(obs.amin(dim=0), next_obs.amin(dim=0))
        high = torch.maximum(obs.amax(dim=0), next_obs.amax(dim=0))
        self.low = torch.cat([low, reward[alive].amin(dim=0)[:, None]], dim=-1)[:, None]
        self.high = torch.cat([high, reward[alive].amax(dim=0)[:, None]], dim=-1)[:, None]
        return (target - self.target_mean) / self.target_scale

    def _error(self, outputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        weight = torch.ones(len(alive), target.shape[-1])
        weight[:, -1] = alive
        return (outputs - target) ** 2 * weight

    def one_step_error(self, new: Trajectory) -> float:
        """Normalised mean squared error of the next observation."""
        obs, action, next_obs = (x.reshape(-1, *x.shape[2:]) for x in (new.obs, new.action, new.next_obs))
        error = (self.predict(obs, action, _UNUSED)[0] - next_obs) / self.target_scale[..., :-1].numpy()[:, 0]
        return float((error**2).mean())

    def open_loop_error(self, new: Trajectory, horizon: int) -> float | None:
        """Root mean squared error of observations after ``horizon`` steps under the recorded actions.

        The rollout is cut into windows of that length; those in which an episode ends are left out. None if nothing
        remains.
        """
        starts = np.arange(0, len(new.obs) - horizon + 1, horizon)
        windows = [(t, b) for t in starts for b in np.flatnonzero(~new.ended[t : t + horizon - 1].any(axis=0))]
        if not windows:
            return None
        t, b = np.array(windows).T
        obs = new.obs[t, b]
        for step in range(horizon):
            obs, _ = self.predict(obs, new.action[t + step, b], _UNUSED)
        return float(np.sqrt(((obs - new.next_obs[t + horizon - 1, b]) ** 2).mean()))


class CategoricalModel(LocalModel):
    """Probabilities of the next state, ``n_states[i]`` of agent ``i``, and the mean reward; see :class:`LocalModel`."""

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
    ) -> None:
        super().__init__(graph, kappa, features, actions, hidden, lr, rng, outputs=features)
        self.register_buffer("missing", beyond(n_states), persistent=False)
        self._numbers("reward_mean", 1, 0.0)
        self._numbers("reward_scale", 1, 1.0)

    def _log_probabilities(self, outputs: Tensor) -> Tensor:
        return torch.log_softmax(outputs[..., :-1].masked_fill(self.missing, NEVER), dim=-1)

    @torch.no_grad()
    def outcome(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the next state ``[N, n, d]`` and mean rewards ``[N, n]``."""
        outputs = self.net(self._inputs(torch.from_numpy(obs), torch.from_numpy(action)))
        reward = outputs[..., -1:] * self.reward_scale + self.reward_mean
        return self._log_probabilities(outputs).exp().transpose(0, 1).numpy(), reward[..., 0].T.numpy()

    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`LocalModel.predict`; next states are drawn."""
        probability, reward = self.outcome(obs, action)
        return sampled_codes(probability, rng), reward

    def _prepare(self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor) -> Tensor:
        self.reward_mean, self.reward_scale = _moments(reward[alive].T[..., None])
        normalized = (reward.T[..., None] - self.reward_mean) / self.reward_scale
        return torch.cat([next_obs.transpose(0, 1), normalized], dim=-1)

    def _error(self, outputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        surprise = -(target[..., :-1] * self._log_probabilities(outputs)).sum(dim=-1)
        return torch.stack([surprise, (outputs[..., -1] - target[..., -1]) ** 2 * alive], dim=-1)

    def one_step_error(self, new: Trajectory) -> float:
        """Mean surprise, in nats, at the next state."""
        obs, action, next_obs = (x.reshape(-1, *x.shape[2:]) for x in (new.obs, new.action, new.next_obs))
        probability = (self.outcome(obs, action)[0] * next_obs).sum(axis=-1)
        return float(-np.log(np.maximum(probability, np.finfo(np.float32).tiny)).mean())

    def open_loop_error(self, new: Trajectory, horizon: int) -> None:
        """None: one sampled future says nothing of another."""


_UNUSED = np.random.default_rng(0)


def sampled_codes(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One-hot codes ``[..., d]``, float32, of states drawn with probabilities ``[..., d]``."""
    below = probability.astype(np.float64).cumsum(axis=-1)
    drawn = (rng.random((*below.shape[:-1], 1)) * below[..., -1:] >= below[..., :-1]).sum(axis=-1)
    codes: np.ndarray = np.eye(below.shape[-1], dtype=np.float32)[drawn]
    return codes


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and clamped standard deviation over samples, ``[n, N, F]`` to ``[n, 1, F]``."""
    spread, mean = torch.std_mean(x, dim=1, keepdim=True, correction=0)
    return mean, spread.clamp(min=SMALLEST_SCALE)


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
