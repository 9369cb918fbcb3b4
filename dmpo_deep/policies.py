"""Section IV-B: the local policies pi_i(a_i | s_{N_i^kappa}), categorical or Gaussian.

A policy is a network, :class:`~dmpo_deep.nets.LocalNets`, and a head that reads its outputs as a distribution of
actions. Heads keep the networks out of what follows: an update asks for log-probabilities and entropies only.

Continuous actions are bounded, and the bounds belong to the policy. An agent draws from a normal distribution and
plays the nearest admissible action, so that the distribution of what it plays has a density inside the range and an
atom at each bound. Updates use exactly that likelihood of the played action, the clipped-action policy gradient of
Fujita and Maeda (2018): unbiased, unlike the density of an action that was never played.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from dmpo_deep.envs import NetworkedEnv, action_counts
from dmpo_deep.nets import NEVER, LocalNets, beyond, drawn, tensor
from dmpo_theory.graph import AgentGraph

FAR = 1e3
"""Deviations beyond which a bound is out of reach; keeps gradients finite."""
UNBOUNDED = 1e6
"""Stands for an infinite bound."""


class Categorical(nn.Module):
    """``actions[i]`` discrete actions of agent ``i``; outputs are logits, with room for the largest number, ``A``."""

    missing: Tensor

    def __init__(self, actions: Sequence[int]) -> None:
        super().__init__()
        self.outputs, self._alike = max(actions), len(set(actions)) == 1
        self.register_buffer("missing", beyond(actions), persistent=False)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """``log pi_i(.)``, ``[n, N, A]``; ``NEVER`` where there is no such action."""
        logits = outputs.mT  # samples last, as in nets
        return torch.log_softmax(logits if self._alike else logits.masked_fill(self.missing.mT, NEVER), dim=1).mT

    def evaluate(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of actions ``[n, N]`` and entropies in nats, ``[n, N]`` each, at outputs ``[n, N, A]``."""
        logs = self.log_probabilities(outputs)
        return logs.gather(-1, action[..., None])[..., 0], -(logs.exp() * logs).sum(dim=-1)

    def sample(self, outputs: Tensor, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Actions ``[N, n]`` and their log-probabilities, drawn at outputs ``[n, N, A]``."""
        logs = self._logs(outputs)
        return _chosen(logs, drawn(np.exp(logs.astype(np.float64)), rng))

    def mode(self, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The most probable actions ``[N, n]`` and their log-probabilities."""
        logs = self._logs(outputs)
        return _chosen(logs, logs.argmax(axis=-1))

    def _logs(self, outputs: Tensor) -> np.ndarray:
        return self.log_probabilities(outputs).detach().transpose(0, 1).cpu().numpy()


class Gaussian(nn.Module):
    """``k`` numbers within a box; outputs are means, in units of half the range from its centre.

    The standard deviation is a parameter of each agent and number, not a function of the observation.

    Args:
        n: number of agents.
        space: of one agent, shape ``(k,)``.
        sd: standard deviation at the start in units of half the range; in the action's own where it is unbounded.
    """

    low: Tensor
    high: Tensor
    center: Tensor
    unit: Tensor

    def __init__(self, n: int, space: Box, sd: float) -> None:
        super().__init__()
        if len(space.shape) != 1:
            raise ValueError(f"actions of shape {space.shape}; policies are learned for shape (k,), so flatten them")
        self.outputs = int(space.shape[0])
        low, high = _inward(space.low, np.inf), _inward(space.high, -np.inf)
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            center = np.where(bounded, (low + high) / 2, np.clip(0, low, high))
            unit = np.where(bounded, (high - low) / 2, 1)
        low, high = (np.nan_to_num(bound, posinf=UNBOUNDED, neginf=-UNBOUNDED) for bound in (low, high))
        for name, value in (("low", low), ("high", high), ("center", center), ("unit", unit)):
            self.register_buffer(name, tensor(value.astype(np.float32)), persistent=False)
        self.log_sd = nn.Parameter(torch.full((n, 1, self.outputs), math.log(sd)))

    def _distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before the bounds, in units of the action."""
        return self.center + self.unit * outputs, self.unit * self.log_sd.exp()

    def evaluate(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihoods of played actions ``[n, N, k]`` and entropies in nats, ``[n, N]`` each.

        Both with respect to length inside the range and to counting at its bounds. With ``a`` and ``b`` the bounds in
        standard deviations from the mean and ``Z = Phi(b) - Phi(a)``, the entropy of a number is
        ``Z log(sd sqrt(2 pi)) + (Z + a phi(a) - b phi(b))/2 - P log P - Q log Q``, ``P`` and ``Q`` being the atoms.
        """
        mean, sd = self._distribution(outputs)
        a, b = (((bound - mean) / sd).clamp(-FAR, FAR) for bound in (self.low, self.high))
        log_p, log_q = torch.special.log_ndtr(a), torch.special.log_ndtr(-b)
        spread = sd.log() + math.log(2 * math.pi) / 2
        inside = -(((action - mean) / sd) ** 2) / 2 - spread
        log_prob = torch.where(action <= self.low, log_p, torch.where(action >= self.high, log_q, inside))
        p, q = log_p.exp(), log_q.exp()
        between = 1 - p - q
        entropy = between * spread + (between + a * _density(a) - b * _density(b)) / 2 - p * log_p - q * log_q
        return log_prob.sum(dim=-1), entropy.sum(dim=-1)

    def sample(self, outputs: Tensor, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Actions ``[N, n, k]`` within the bounds, float32, and their log-likelihoods ``[N, n]``."""
        mean, sd = self._distribution(outputs)
        shape = (mean.shape[1], mean.shape[0], mean.shape[2])
        noise = tensor(rng.standard_normal(shape, dtype=np.float32)).transpose(0, 1)
        return self._played(outputs, mean + sd * noise)

    def mode(self, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The means, within the bounds, and their log-likelihoods."""
        return self._played(outputs, self._distribution(outputs)[0])

    def _played(self, outputs: Tensor, wanted: Tensor) -> tuple[np.ndarray, np.ndarray]:
        action = torch.minimum(torch.maximum(wanted, self.low), self.high)
        log_prob, _ = self.evaluate(outputs, action)
        return action.detach().transpose(0, 1).cpu().numpy(), log_prob.detach().T.cpu().numpy()


Head = Categorical | Gaussian


def local_head(env: NetworkedEnv, sd: float) -> Head:
    """The head for the environment's actions; ``sd`` as in :class:`Gaussian`.

    Raises:
        ValueError: continuous actions of an agent that are no vector.
    """
    if isinstance(env.action_space, Box):
        return Gaussian(env.graph.n, env.action_space, sd)
    return Categorical(action_counts(env))


class Actor(nn.Module):
    """The policies ``pi_i(a_i | s_{N_i^kappa})`` of all agents, at the start nearly the same whatever they hear.

    Calling it acts: observations ``[B, n, d]`` and a generator to actions ``[B, n, ...]`` and their log-probabilities.
    """

    def __init__(
        self,
        graph: AgentGraph,
        kappa: float,
        features: int,
        head: Head,
        hidden: Sequence[int],
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.net = LocalNets(graph, kappa, features, head.outputs, hidden, rng, gain=0.01)
        self.head = head

    def log_probabilities(self, inputs: Tensor) -> Tensor:
        """``log pi_i(. | s_{N_i})`` of discrete actions, ``[n, N, A]``, at gathered inputs ``[n, N, F]``."""
        return cast(Categorical, self.head).log_probabilities(self.net(inputs))

    def evaluate(self, inputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of actions ``[n, N, ...]`` and entropies, ``[n, N]`` each, at inputs ``[n, N, F]``."""
        return self.head.evaluate(self.net(inputs), action)

    @torch.no_grad()
    def forward(self, obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sample an action for every agent."""
        return self.head.sample(self._outputs(obs), rng)

    @torch.no_grad()
    def greedy(self, obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The most probable action of every agent; ``rng`` is not used."""
        return self.head.mode(self._outputs(obs))

    def _outputs(self, obs: np.ndarray) -> Tensor:
        outputs: Tensor = self.net(self.net.gather(tensor(obs)))
        return outputs


def _chosen(logs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return action, np.take_along_axis(logs, action[..., None], axis=-1)[..., 0]


def _density(z: Tensor) -> Tensor:
    return (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)


def _inward(bound: np.ndarray, towards: float) -> np.ndarray:
    """The nearest single-precision numbers that do not lie beyond the bounds."""
    single = bound.astype(np.float32)
    beyond_bound = single < bound if towards > 0 else single > bound
    return np.where(beyond_bound, np.nextafter(single, np.float32(towards)), single)
