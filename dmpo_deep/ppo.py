"""Eqs. 7-10: value targets, neighbourhood advantage, clipped policy loss; DPPO is this file and a real rollout.

Three places where the printed equations cannot be meant as they stand:

- Eq. 7 adds the last value undiscounted, and Eq. 6 sums rewards undiscounted. Iterating the printed target diverges.
  Here the bootstrap carries ``gamma^(T - t)``, and it is detached.
- The advantage after Eq. 9 sets agent i's own reward (weight 1) against its neighbours' values (weight 1/n each).
  That is no TD residual of anything, and it can flip the gradient's sign. Here every neighbour brings its own residual:
  ``A_i = (1/n) sum_{j in N_i^kappa} A_j``.
- Eq. 10 adds the entropy to a loss that is minimised, which would punish it. Here it is a bonus.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmpo_deep import communication
from dmpo_deep.envs import NetworkedEnv, Policy
from dmpo_deep.hyperparameters import ActorCritic, Preset
from dmpo_deep.learner import ModelFree
from dmpo_deep.nets import LocalNets, agents_of, descend, require_finite, set_step_size, tensor
from dmpo_deep.policies import Actor, local_head
from dmpo_deep.rollout import Trajectory


def lambda_return(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, lam: float
) -> Tensor:
    """``R_t = r_t + gamma ((1 - lam) V(s_{t+1}) + lam R_{t+1})``, ``[T, B, n]``.

    After termination nothing follows; at the time limit and at the end of the data ``V(s_{t+1})`` stands for all that
    follows. ``lam = 1`` is Eq. 7 with its discount; ``R - V`` is the generalised advantage estimate, and with
    ``lam = 0`` the paper's TD residual.

    Args:
        reward: ``[T, B, n]``.
        next_value: ``V_i(s_{N_i, t+1})``, detached, ``[T, B, n]``.
        terminated: ``[T, B]``.
        truncated: ``[T, B]``.
        gamma: discount.
        lam: weight of the longer returns, in [0, 1].
    """
    result = torch.empty_like(reward)
    following = next_value[-1]
    for t in reversed(range(len(reward))):
        mixed = (1 - lam) * next_value[t] + lam * torch.where(truncated[t, :, None], next_value[t], following)
        result[t] = following = reward[t] + gamma * torch.where(terminated[t, :, None], 0.0, mixed)
    return result


def neighborhood_advantage(advantage: Tensor, mask: Tensor) -> Tensor:
    """``(1/n) sum_{j in N_i^kappa} A_j``: ``[..., n]`` with ``mask [n, n]`` to ``[..., n]``."""
    return advantage @ mask.to(advantage.dtype).T / len(mask)


def normalized(advantage: Tensor) -> Tensor:
    """Zero mean and unit deviation over samples, agent by agent: ``[n, N]`` to ``[n, N]``."""
    spread, mean = torch.std_mean(advantage, dim=1, keepdim=True, correction=0)
    return (advantage - mean) / (spread + 1e-8)


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Eq. 8 for every agent: ``[n, N]`` to ``[n]``."""
    return ((value - target) ** 2).mean(dim=1)


def clipped_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Eq. 10 with the clipped ratio of PPO, without entropy: ``[n, N]`` to ``[n]``."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean(dim=1)


def divergence(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """KL(old, new) of every agent's policy, estimated on the old one's samples: ``[n, N]`` to ``[n]``.

    The mean of ``r - 1 - log r`` with the probability ratio ``r``: unbiased, and no sample of it is negative.
    """
    change = log_prob - old_log_prob
    return (change.exp() - 1 - change).mean(dim=1)


Samples = Tensor | slice
"""Indices, or a stretch, which needs no copy."""


def minibatches(size: int, count: int, rng: np.random.Generator) -> Iterator[Samples]:
    """A random partition of ``range(size)`` into ``count`` nearly equal parts; a single part is in order."""
    if count == 1:
        yield slice(0, size)
    else:
        yield from tensor(rng.permutation(size)).tensor_split(count)


def cut(samples: Samples, size: int) -> list[Samples]:
    """Consecutive pieces of at most ``size`` samples."""
    if isinstance(samples, slice):
        return [slice(k, min(k + size, samples.stop)) for k in range(samples.start, samples.stop, size)]
    return list(torch.split(samples, size))


def length(samples: Samples) -> int:
    """How many there are."""
    return samples.stop - samples.start if isinstance(samples, slice) else len(samples)


IN_CACHE, FEWEST = 2**19, 2**8
"""Numbers in a hidden layer that are computed at once, 2 MB; samples of an agent at least, where there are as many."""


class Crew(NamedTuple):
    """Some of the agents, and their part of the networks."""

    agents: slice
    actor: Actor
    critic: LocalNets


class LocalAgents(ABC):
    """The actors and critics of all agents, what they hear, and their estimates of targets and advantages."""

    preset: ActorCritic

    def __init__(self, env: NetworkedEnv, preset: ActorCritic, rng: torch.Generator) -> None:
        graph, d = env.graph, env.observation_space.shape[0]
        self.preset, self.graph, self.features = preset, graph, d
        self.mask = tensor(graph.mask(preset.kappa_critic))
        head = local_head(env, preset.action_sd)
        self.actor = Actor(graph, preset.kappa_policy, d, head, preset.hidden, rng)
        self.critic = LocalNets(graph, preset.kappa_critic, d, 1, preset.hidden, rng)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=preset.lr_actor)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=preset.lr_critic)
        self.gradient_steps = 0

    def set_step_sizes(self) -> None:
        """Those for the gradient steps taken so far; to be called before each update."""
        preset, steps = self.preset, self.gradient_steps
        set_step_size(self.actor_optimizer, preset.lr_actor, steps, preset.lr_half)
        set_step_size(self.critic_optimizer, preset.lr_critic, steps, preset.lr_half)

    @abstractmethod
    def policy_loss(self, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
        """What the policies descend, without entropy: ``[n, N]`` to ``[n]``."""

    @abstractmethod
    def update(self, data: Trajectory, rng: np.random.Generator) -> dict[str, float]:
        """Learn from one batch of the current policy's data; what is worth logging."""

    def policy(self, greedy: bool = False) -> Policy:
        """A policy for new episodes: actions are sampled, or the most probable ones."""
        return self.actor.greedy if greedy else self.actor

    def values(self, obs: Tensor) -> Tensor:
        """``V_i(s_{N_i^kappa})`` for observations ``[T, B, n, d]``: ``[T, B, n]``, detached."""
        crews = self.crews()
        parts = [obs] if len(crews) == 1 else torch.split(obs, max(1, FEWEST // obs.shape[1]))
        with torch.no_grad():
            value = torch.cat([torch.cat([c.critic(c.critic.gather(part)) for part in parts], dim=1) for c in crews])
        return value.view(obs.shape[2], *obs.shape[:2]).permute(1, 2, 0)

    def crews(self) -> list[Crew]:
        """All agents, or so many together that the hidden layers of a crew on a few samples stay in the cache."""
        n, size = len(self.mask), max(1, IN_CACHE // (FEWEST * max(self.preset.hidden)))
        if n <= size:
            return [Crew(slice(0, n), self.actor, self.critic)]
        members = [slice(first, min(first + size, n)) for first in range(0, n, size)]
        return [Crew(agents, agents_of(self.actor, agents), agents_of(self.critic, agents)) for agents in members]

    def credit(self, residual: Tensor) -> Tensor:
        """Eq. 9: what policies are told of everybody's residuals ``[..., n]``."""
        return neighborhood_advantage(residual, self.mask)

    def estimates(self, data: Trajectory) -> tuple[Tensor, Tensor]:
        """Eqs. 7 and 9: value targets and advantages of every sample, ``[T, B, n]`` each, detached."""
        preset = self.preset
        ends = tensor(data.terminated), tensor(data.truncated)
        reward = tensor(data.reward) * preset.reward_scale
        value, next_value = self.values(tensor(data.obs)), self.values(tensor(data.next_obs))
        target = lambda_return(reward, next_value, *ends, preset.gamma, lam=1.0)
        residual = lambda_return(reward, next_value, *ends, preset.gamma, preset.lam) - value
        return target, self.credit(residual)

    def floats(self) -> dict[str, float]:
        """Numbers that an agent receives per environment step."""
        hears, judges = self.preset.kappa_policy, self.preset.kappa_critic
        return {
            "floats_policy": communication.acting(self.graph, self.features, hears),
            "floats_critic": communication.judging(self.graph, self.features, judges, heard=hears),
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and the count of gradient steps."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, "gradient_steps": self.gradient_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.gradient_steps = state["gradient_steps"]


class Batch(NamedTuple):
    """What an update learns from, agents and samples first, ``[n, N, ...]``."""

    heard: Tensor
    """Inputs of the actors."""
    judged: Tensor
    """Inputs of the critics."""
    action: Tensor
    old: Tensor
    """Log-probabilities of the actions under the policies that chose them."""
    advantage: Tensor
    target: Tensor


class Piece(NamedTuple):
    """Part of a batch: some samples of a crew."""

    crew: Crew
    samples: Samples
    share: float
    """Of an agent's samples in the minibatch."""

    def of(self, values: Tensor) -> Tensor:
        """The piece of ``[n, N, ...]``."""
        of_crew = values[self.crew.agents]
        if isinstance(self.samples, slice):
            return of_crew[:, self.samples]
        return of_crew.index_select(1, self.samples)  # copies whole rows, several times as fast as an index


class Agents(LocalAgents):
    """:class:`LocalAgents` that learn by PPO."""

    preset: Preset

    def policy_loss(self, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
        """:func:`clipped_loss`."""
        return clipped_loss(log_prob, old_log_prob, advantage, self.preset.clip)

    def update(self, data: Trajectory, rng: np.random.Generator) -> dict[str, float]:
        """Lines 12-13: gradient steps on one batch of the current policy's data; what is worth logging.

        An agent whose policy, after a pass, has diverged from the one that made the batch by more than ``kl_stop``
        takes no further actor step; critics and all other actors go on. So nobody's update depends on the divergence
        of an agent it does not hear.

        Returns:
            Means over agents of losses, entropy and share of clipped ratios just before each gradient step, averaged
            over them; of the divergence after the last; and the share of actor steps that ``kl_stop`` left out.

        Raises:
            FloatingPointError: a loss or weight is not finite any more.
        """
        self.set_step_sizes()
        preset, batch = self.preset, self._batch(data)
        rows, left_out, crews = [], [], self.crews()
        going = torch.ones(len(batch.target), dtype=torch.bool)
        for count in range(1, preset.updates + 1):
            left_out.append(float((~going).float().mean()))
            for part in minibatches(batch.target.shape[1], preset.minibatches, rng):
                actor, critic = torch.zeros(3), torch.zeros(1)
                descend(
                    "actor", self.actor_optimizer, self._actor_losses(batch, self._pieces(part, crews), actor), going
                )
                descend("critic", self.critic_optimizer, self._critic_losses(batch, self._pieces(part, crews), critic))
                rows.append(torch.cat([actor, critic]))
            self.gradient_steps += preset.minibatches
            if count == preset.updates or preset.kl_stop < math.inf:
                kl = self._divergence(batch, self._pieces(slice(0, batch.target.shape[1]), crews))
                going &= kl <= preset.kl_stop
        require_finite("actor", self.actor)
        require_finite("critic", self.critic)
        names = ("policy_loss", "entropy", "clip_fraction", "value_loss")
        means = dict(zip(names, torch.stack(rows).mean(dim=0).tolist(), strict=True))
        return means | {"kl": float(kl.mean()), "kl_stopped": float(np.mean(left_out))}

    def _batch(self, data: Trajectory) -> Batch:
        target, advantage = map(agents_first, self.estimates(data))
        if self.preset.normalize_advantage:
            advantage = normalized(advantage)
        obs, old, action = tensor(data.obs), tensor(data.log_prob), tensor(data.action)
        heard = self.actor.net.gather(obs), self.critic.gather(obs)
        return Batch(*heard, agents_first(action), agents_first(old), advantage, target)

    def _pieces(self, part: Samples, crews: Sequence[Crew]) -> Iterator[Piece]:
        """The samples ``part`` of every crew, cut into pieces whose hidden layers stay in the cache."""
        for crew in crews:
            size = max(1, IN_CACHE // ((crew.agents.stop - crew.agents.start) * max(self.preset.hidden)))
            yield from (Piece(crew, samples, length(samples) / length(part)) for samples in cut(part, size))

    def _actor_losses(self, batch: Batch, pieces: Iterable[Piece], means: Tensor) -> Iterator[Tensor]:
        """Eq. 10 piece by piece; adds surrogate, entropy and share of clipped ratios to ``means``."""
        preset = self.preset
        for piece in pieces:
            log_prob, entropy = piece.crew.actor.evaluate(piece.of(batch.heard), piece.of(batch.action))
            old = piece.of(batch.old)
            surrogate = self.policy_loss(log_prob, old, piece.of(batch.advantage))
            spread = entropy.mean(dim=1)
            yield (surrogate - preset.entropy * spread).sum() * piece.share
            with torch.no_grad():
                clipped = (((log_prob - old).exp() - 1).abs() > preset.clip).float().mean(dim=1)
                means += piece.share / len(batch.target) * torch.stack([surrogate, spread, clipped]).sum(dim=1)

    def _critic_losses(self, batch: Batch, pieces: Iterable[Piece], means: Tensor) -> Iterator[Tensor]:
        """Eq. 8 piece by piece; adds it to ``means``."""
        for piece in pieces:
            squared = value_loss(piece.crew.critic(piece.of(batch.judged))[..., 0], piece.of(batch.target))
            yield squared.sum() * piece.share
            means += piece.share / len(batch.target) * squared.detach().sum()

    @torch.no_grad()
    def _divergence(self, batch: Batch, pieces: Iterable[Piece]) -> Tensor:
        """Of every agent's policy from the one that made the batch, ``[n]``."""
        total = torch.zeros(len(batch.target))
        for piece in pieces:
            log_prob, _ = piece.crew.actor.evaluate(piece.of(batch.heard), piece.of(batch.action))
            total[piece.crew.agents] += piece.share * divergence(log_prob, piece.of(batch.old))
        return total


_PARTS = ("actor", "critic", "actor_optimizer", "critic_optimizer")


def agents_first(x: Tensor) -> Tensor:
    """``[T, B, n, ...]`` to ``[n, T B, ...]``."""
    return x.flatten(end_dim=1).transpose(0, 1).contiguous()


class DPPO(ModelFree):
    """Decentralised PPO: local actors, local critics, advantages of the neighbourhood."""

    population = Agents
