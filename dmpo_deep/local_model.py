"""Eq. 11: what all local models share: networks, normalisation, and how they are fitted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.nets import LocalNets, descend, require_finite, tensor
from dmpo_deep.rollout import Trajectory
from dmpo_theory.graph import AgentGraph

SMALLEST_SCALE = 1e-3
"""A feature that hardly varies in the data is not blown up beyond this."""
LOOKS, PATIENCE = 10, 3
"""Times that the held-out error is looked at in a fit, and looks without a fall that end it."""


class Fit(NamedTuple):
    """What fitting came to."""

    loss: float
    """Mean error over the steps, rewards included."""
    holdout: float | None
    """The same on what was held out, at the end; None if nothing was."""
    steps: int
    """Gradient steps until the last model stopped."""


class LocalModel(nn.Module, ABC):
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
        ensemble: networks of each model.
        neighbor_actions: whether a model knows the actions of those it hears.
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
        ensemble: int = 1,
        neighbor_actions: bool = False,
    ) -> None:
        super().__init__()
        known = actions * (graph.padded_neighbors(kappa)[0].shape[1] if neighbor_actions else 1)
        self.net = LocalNets(graph, kappa, features, outputs + 1, hidden, rng, own=known, members=ensemble)
        self.actions, self.continuous = actions, continuous
        self.ensemble, self.neighbor_actions = ensemble, neighbor_actions
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

    @abstractmethod
    def predict(self, obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Next observations ``[N, n, d]`` and rewards ``[N, n]`` after ``obs [N, n, d]`` and ``action [N, n, ...]``."""

    @abstractmethod
    def error(self, obs: np.ndarray, action: np.ndarray, next_obs: np.ndarray) -> float:
        """Mean error of the next observation on transitions ``[N, n, ...]``, the ensemble taken together."""

    def one_step_error(self, new: Trajectory) -> float:
        """:meth:`error` on a rollout."""
        return self.error(*(x.reshape(-1, *x.shape[2:]) for x in (new.obs, new.action, new.next_obs)))

    @abstractmethod
    def open_loop_errors(self, new: Trajectory, horizon: int) -> np.ndarray | None:
        """Errors ``[horizon]`` after 1, 2 .. steps under the recorded actions; None where they say nothing."""

    @abstractmethod
    def _normalize(self, obs: Tensor, next_obs: Tensor, reward: Tensor, alive: Tensor) -> None:
        """Set normalisation of outputs from data ``[N, n, ...]``."""

    @abstractmethod
    def _targets(self, obs: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """The target of every output, ``[n, N, ...]``."""

    @abstractmethod
    def _error(self, outputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        """Error of each output, ``[n, N, ...]``, that of the reward only where the task goes on.

        ``n`` counts all members of an ensemble if ``alive`` is ``[ensemble, N]``.
        """

    def _inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Observations ``[N, n, d]`` and own actions ``[N, n, ...]`` to network inputs ``[n, N, F]``."""
        heard = (self.net.gather(obs) - self.heard_mean) / self.heard_scale
        if self.continuous:
            code = (action - self.action_mean[:, 0]) / self.action_scale[:, 0]
        else:
            code = nn.functional.one_hot(action, self.actions).to(heard.dtype)
        known = self.net.gather(code) if self.neighbor_actions else code.transpose(0, 1)
        return torch.cat([heard, known], dim=-1)

    def _outputs(self, obs: np.ndarray, action: np.ndarray) -> Tensor:
        """Of all members, ``[ensemble, n, N, O]``."""
        inputs = self._inputs(tensor(obs), tensor(action))
        outputs: Tensor = self.net(inputs.repeat(self.ensemble, 1, 1) if self.ensemble > 1 else inputs)
        return outputs.view(self.ensemble, -1, *outputs.shape[1:])

    def fit(self, data: TransitionBuffer, steps: int, batch: int, rng: np.random.Generator) -> Fit:
        """Line 5: ``steps`` Adam steps on minibatches of D^E, each member of an ensemble on its own ones.

        The reward of a terminal step is a charge and no sample of r_i: it is left out. Normalisation and range are
        set from the data first. If a part of the data is held out, every agent looks at its error there ten times,
        and its model stops when that has not fallen for three looks.

        Raises:
            ValueError: every transition is terminal, so that there is no reward to learn.
            FloatingPointError: a loss or weight is not finite any more.
        """
        inputs, target, alive, held = self._prepared(data)
        losses, looks, look = [], list[Tensor](), max(steps // LOOKS, 1)
        going = torch.ones(len(self.net.index), dtype=torch.bool)
        for step in range(1, steps + 1):
            size = batch if self.ensemble == 1 else (self.ensemble, batch)
            chosen = tensor(rng.integers(len(alive), size=size))
            error = self._error(self.net(self._parts(inputs, chosen)), self._parts(target, chosen), alive[chosen])
            loss = error.mean(dim=(1, 2)).sum()
            descend("model", self.optimizer, [loss], going.repeat(self.ensemble), len(going))
            losses.append(float(error.detach().mean()))
            if held is not None and (step % look == 0 or step == steps):
                looks.append(self._losses(*held))
                if len(looks) > PATIENCE:
                    late, early = torch.stack(looks[-PATIENCE:]), torch.stack(looks[:-PATIENCE])
                    going &= late.amin(dim=0) < early.amin(dim=0)
                if not going.any():
                    break
        require_finite("model", self.net, len(self.net.index))
        return Fit(float(np.mean(losses)), float(looks[-1].mean()) if looks else None, len(losses))

    def _prepared(self, data: TransitionBuffer) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        """Inputs, targets and which go on, of what trains and of what is held out; normalisation from the former."""
        held = data["held"]
        columns = ("obs", "action", "next_obs", "reward", "terminated")
        obs, action, next_obs, reward, over = (tensor(_rows(data[name], ~held)) for name in columns)
        alive = ~over
        if not alive.any():
            raise ValueError(
                f"all {len(alive)} real transitions end the task, so that there is no reward to learn; "
                "raise warmup_steps or buffer"
            )
        self.heard_mean, self.heard_scale = moments(self.net.gather(obs))
        if self.continuous:
            self.action_mean, self.action_scale = moments(action.transpose(0, 1))
        self._normalize(obs, next_obs, reward, alive)
        target, inputs = self._targets(obs, next_obs, reward), self._inputs(obs, action)
        if not held.any():
            return inputs, target, alive, None
        obs, action, next_obs, reward, over = (tensor(data[name][held]) for name in columns)
        return inputs, target, alive, (self._inputs(obs, action), self._targets(obs, next_obs, reward), ~over)

    def _parts(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Minibatches of ``[n, N, ...]``, ``chosen [batch]`` for one network or ``[ensemble, batch]``."""
        return x[:, chosen] if self.ensemble == 1 else x[:, chosen].transpose(0, 1).flatten(end_dim=1)

    @torch.no_grad()
    def _losses(self, inputs: Tensor, target: Tensor, alive: Tensor) -> Tensor:
        """Mean error over members of each agent's models on data ``[n, N, ...]``: ``[n]``."""
        members = self.net(inputs.repeat(self.ensemble, 1, 1)).chunk(self.ensemble)
        return torch.stack([self._error(member, target, alive) for member in members]).mean(dim=(0, 2, 3))

    def state(self) -> dict[str, Any]:
        """Weights, normalisation and optimiser."""
        return {"model": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and clamped standard deviation over samples, ``[n, N, F]`` to ``[n, 1, F]``."""
    spread, mean = torch.std_mean(x, dim=1, keepdim=True, correction=0)
    return mean, spread.clamp(min=SMALLEST_SCALE)


def _rows(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    return x if where.all() else x[where]
