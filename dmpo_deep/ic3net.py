"""Section VI-A: IC3Net, agents that learn what to say and when (Singh, Jain and Sukhbaatar 2018), on the graph.

Each agent has a recurrent network of its own. In every step it encodes its observation, adds what it heard, and updates
its memory ``(h, s)`` by a long short-term memory (LSTM); its action, its gate and its value are read off ``h``:

    c_i^t = C_i mean_{j in N_i, j != i} g_j^{t-1} h_j^{t-1}
    h_i^t, s_i^t = LSTM_i(e_i(o_i^t) + c_i^t, h_i^{t-1}, s_i^{t-1})
    a_i^t ~ pi_i(h_i^t),   g_i^t ~ Bernoulli(p_i(h_i^t)),   V_i(h_i^t)

The gate ``g`` decides whether neighbours hear ``h`` in the next step. It is an action like any other, learned from the
agent's own advantage; what is said is learned through the listener's loss, whose gradient flows back along messages.
News so travels one hop a step. Unlike in the original, neighbours are the graph's and no weights are shared. Rewards
are the agents' own, as in the original; the loss is clipped as PPO's, which is the original's policy gradient for one
pass over one minibatch. Memories start empty with every episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dmpo_deep.communication import others
from dmpo_deep.envs import NetworkedEnv
from dmpo_deep.hyperparameters import RecurrentPreset
from dmpo_deep.learner import ModelFree
from dmpo_deep.nets import descend, require_finite, set_step_size, stacked, tensor
from dmpo_deep.policies import Categorical, Head, local_head
from dmpo_deep.ppo import agents_first, clipped_loss, divergence, lambda_return, minibatches, normalized
from dmpo_deep.rollout import Trajectory
from dmpo_theory.graph import AgentGraph


class Memory(NamedTuple):
    """What an agent carries from step to step, agents first."""

    hidden: Tensor
    """``h``, ``[n, B, H]``."""
    cell: Tensor
    """``s``, ``[n, B, H]``."""
    gate: Tensor
    """``g``, ``[n, B]``: whether neighbours hear ``h``."""

    def forget(self, where: Tensor) -> Memory:
        """Empty in the copies ``where [B]``."""
        return Memory(*(part.masked_fill(where.view(1, -1, *[1] * (part.ndim - 2)), 0.0) for part in self))

    def of(self, copies: Tensor | slice) -> Memory:
        """Of some copies."""
        return Memory(*(part[:, copies] for part in self))


class Said(NamedTuple):
    """What the networks say in one step, or in many stacked along the samples."""

    outputs: Tensor
    """Outputs of the policy, ``[n, B, O]``."""
    gate: Tensor
    """Logits of silence and of talking, ``[n, B, 2]``."""
    value: Tensor
    """``[n, B]``."""


class Talkers(nn.Module):
    """The networks of all agents, held as stacked weights.

    Args:
        graph: the agents' graph, ``n`` agents.
        features: observation features ``d`` of one agent.
        head: reads outputs as a distribution of actions.
        width: size ``H`` of memories and messages.
        rng: source of the initial weights.
    """

    index: Tensor
    weights: Tensor

    def __init__(self, graph: AgentGraph, features: int, head: Head, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.head, self.gates, self.width = head, Categorical((2,) * graph.n), width
        index, real = graph.padded_neighbors(1)
        heard = real & (index != np.arange(graph.n)[:, None])
        share = heard / np.maximum(heard.sum(axis=1, keepdims=True), 1)
        self.register_buffer("index", tensor(index), persistent=False)
        self.register_buffer("weights", tensor(share.astype(np.float32)), persistent=False)
        self.encoder, self.encoder_bias = _layer(graph.n, features, width, 2**0.5, rng)
        self.message, self.message_bias = _layer(graph.n, width, width, 1.0, rng)
        self.input, self.input_bias = _layer(graph.n, width, 4 * width, 1.0, rng)
        self.recurrent, _ = _layer(graph.n, width, 4 * width, 1.0, rng)
        self.policy, self.policy_bias = _layer(graph.n, width, head.outputs, 0.01, rng)
        self.gate, self.gate_bias = _layer(graph.n, width, 2, 0.01, rng)
        self.critic, self.critic_bias = _layer(graph.n, width, 1, 1.0, rng)

    def nothing(self, batch: int) -> Memory:
        """Empty memories of ``batch`` copies."""
        empty = self.encoder.new_zeros(len(self.index), batch, self.width)
        return Memory(empty, empty, empty[..., 0])

    def heard(self, memory: Memory) -> Tensor:
        """The mean of what neighbours let out, ``[n, B, H]``."""
        said = memory.hidden * memory.gate[..., None]
        return torch.einsum("nk,nkbh->nbh", self.weights, said[self.index])

    def forward(self, obs: Tensor, memory: Memory) -> tuple[Said, Memory]:
        """One step: observations ``[B, n, d]`` and memories to what is said and new memories, gates as before."""
        seen = torch.baddbmm(self.encoder_bias, obs.transpose(0, 1), self.encoder)
        inputs = seen + torch.baddbmm(self.message_bias, self.heard(memory), self.message)
        parts = torch.baddbmm(self.input_bias, inputs, self.input) + memory.hidden @ self.recurrent
        keep, write, show, new = parts.chunk(4, dim=-1)
        cell = keep.sigmoid() * memory.cell + write.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        said = Said(
            torch.baddbmm(self.policy_bias, hidden, self.policy),
            torch.baddbmm(self.gate_bias, hidden, self.gate),
            torch.baddbmm(self.critic_bias, hidden, self.critic)[..., 0],
        )
        return said, Memory(hidden, cell, memory.gate)

    def unroll(self, obs: Tensor, gates: Tensor, ended: Tensor, memory: Memory) -> tuple[Said, Memory]:
        """``T`` steps with the gates as they were drawn; memories are emptied where an episode ended.

        Args:
            obs: ``[T, B, n, d]``.
            gates: drawn in each step, ``[T, n, B]``.
            ended: ``[T, B]``.
            memory: before the first step.

        Returns:
            What is said and the memories after each step, before they are emptied, ``[n, T B, ...]``, times outer.
        """
        steps, memories = [], []
        for now, gate, over in zip(obs, gates, ended, strict=True):
            said, memory = self(now, memory)
            memory = memory._replace(gate=gate)
            steps.append(said)
            memories.append(memory)
            if over.any():
                memory = memory.forget(over)
        return (
            Said(*(torch.cat(column, dim=1) for column in zip(*steps, strict=True))),
            Memory(*(torch.cat(column, dim=1) for column in zip(*memories, strict=True))),
        )

    def evaluate(self, said: Said, action: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of action ``[n, N, ...]`` and gate ``[n, N]`` together, ``[n, N]`` each."""
        acted, gated = self.head.evaluate(said.outputs, action), self.gates.evaluate(said.gate, gate.long())
        return acted[0] + gated[0], acted[1] + gated[1]


class Conversation:
    """A policy with a memory of its own, and of the gates that it drew."""

    def __init__(self, talkers: Talkers, greedy: bool) -> None:
        self._talkers, self._greedy = talkers, greedy
        self.memory: Memory | None = None
        self.gates: list[np.ndarray] = []

    @torch.no_grad()
    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Observations ``[B, n, d]`` to actions ``[B, n, ...]`` and log-probabilities, the gates' included."""
        net = self._talkers
        said, memory = net(tensor(obs), net.nothing(len(obs)) if self.memory is None else self.memory)
        if self._greedy:
            (action, acted), (gate, gated) = net.head.mode(said.outputs), net.gates.mode(said.gate)
        else:
            (action, acted), (gate, gated) = net.head.sample(said.outputs, rng), net.gates.sample(said.gate, rng)
        self.memory = memory._replace(gate=tensor(gate.T).to(memory.hidden.dtype))
        self.gates.append(gate)
        return action, acted + gated

    def forget(self, where: np.ndarray) -> None:
        """Empty the memory in the copies ``where [B]``, whose episode ended."""
        if self.memory is not None:
            self.memory = self.memory.forget(tensor(where))


@dataclass(frozen=True, eq=False)
class Talk:
    """A rollout, with what it needs to be lived through again."""

    data: Trajectory
    gates: np.ndarray
    """Drawn in each step, ``[T, B, n]``."""
    start: Memory
    """Before the first step."""


class TalkingAgents:
    """The networks of all agents, and their update."""

    def __init__(self, env: NetworkedEnv, preset: RecurrentPreset, rng: torch.Generator) -> None:
        self.preset, self.graph = preset, env.graph
        head = local_head(env, preset.action_sd)
        self.net = Talkers(env.graph, env.observation_space.shape[0], head, preset.width, rng)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=preset.lr)
        self.gradient_steps, self._talked = 0, 1.0

    def policy(self, greedy: bool = False) -> Conversation:
        """A policy for new episodes, its memory empty."""
        return Conversation(self.net, greedy)

    @torch.no_grad()
    def estimates(self, talk: Talk) -> tuple[Tensor, Tensor]:
        """Value targets and every agent's own advantage, ``[T, B, n]`` each, detached."""
        data, preset = talk.data, self.preset
        said, after = self._relive(talk)
        # What follows the last step, and what the limit cut off, is valued by one more step of the same memory.
        following, _ = self.net(tensor(data.next_obs).flatten(end_dim=1), after)
        shape = data.reward.shape
        value, next_value = (x.value.T.reshape(shape) for x in (said, following))
        reward = tensor(data.reward) * preset.reward_scale
        ends = tensor(data.terminated), tensor(data.truncated)
        target = lambda_return(reward, next_value, *ends, preset.gamma, lam=1.0)
        return target, lambda_return(reward, next_value, *ends, preset.gamma, preset.lam) - value

    def update(self, talk: Talk, rng: np.random.Generator) -> dict[str, float]:
        """Passes over one rollout, each through its whole length; what is worth logging.

        Raises:
            FloatingPointError: a weight is not finite any more.
        """
        preset, data = self.preset, talk.data
        set_step_size(self.optimizer, preset.lr, self.gradient_steps, preset.lr_half)
        target, advantage = map(agents_first, self.estimates(talk))
        if preset.normalize_advantage:
            advantage = normalized(advantage)
        old, action = agents_first(tensor(data.log_prob)), agents_first(tensor(data.action))
        gate = agents_first(tensor(talk.gates))
        samples = torch.arange(target.shape[1]).view(data.ended.shape)
        rows = []
        for _ in range(preset.updates):
            for copies in minibatches(preset.copies, preset.minibatches, rng):
                part = samples[:, copies].flatten()
                said, _ = self._relive(talk, copies)
                log_prob, entropy = self.net.evaluate(said, action[:, part], gate[:, part])
                surrogate = clipped_loss(log_prob, old[:, part], advantage[:, part], preset.clip)
                squared, spread = ((said.value - target[:, part]) ** 2).mean(dim=1), entropy.mean(dim=1)
                loss = surrogate + preset.value_weight * squared - preset.entropy * spread
                descend("agents", self.optimizer, [loss.sum()])
                with torch.no_grad():
                    kl = divergence(log_prob, old[:, part]).mean()
                    clipped = (((log_prob - old[:, part]).exp() - 1).abs() > preset.clip).float().mean()
                    rows.append(torch.stack([surrogate.mean(), squared.mean(), spread.mean(), clipped, kl]))
            self.gradient_steps += preset.minibatches
        require_finite("agents", self.net)
        self._talked = float(talk.gates.mean())
        names = ("policy_loss", "value_loss", "entropy", "clip_fraction", "kl")
        logged = dict(zip(names, torch.stack(rows).mean(dim=0).tolist(), strict=True))
        return logged | {"gates_open": self._talked}

    def _relive(self, talk: Talk, copies: Tensor | slice | None = None) -> tuple[Said, Memory]:
        copies = torch.arange(talk.gates.shape[1]) if copies is None else copies
        obs, ended = tensor(talk.data.obs)[:, copies], tensor(talk.data.ended)[:, copies]
        gates = tensor(talk.gates).to(talk.start.hidden.dtype)[:, copies].transpose(1, 2)
        return self.net.unroll(obs, gates, ended, talk.start.of(copies))

    def floats(self) -> dict[str, float]:
        """Numbers that an agent receives per environment step through open gates.

        Each message counts once for acting, once for every pass over it, and once for the gradient that returns.
        """
        messages = self._talked * others(self.graph, 1) * self.preset.width
        return {"floats_gates": messages * (2 + 2 * self.preset.updates)}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and counts."""
        parts = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**parts, "gradient_steps": self.gradient_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.gradient_steps = state["gradient_steps"]


class IC3Net(ModelFree):
    """Individualised controlled continuous communication, among graph neighbours."""

    population = TalkingAgents

    def __init__(self, env: NetworkedEnv, preset: RecurrentPreset, seed: int) -> None:
        super().__init__(env, preset, seed)
        self._conversation = self.agents.policy()
        self._conversation.memory = self.agents.net.nothing(env.batch)

    def collect(self) -> Talk:
        """The real rollout; the conversation goes on where it stopped."""
        talking = self._conversation
        talking.gates, start = [], talking.memory
        data = self.collector.collect(talking, self.preset.rollout_steps, talking.forget)
        return Talk(data, np.stack(talking.gates), start)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {**super().state_dict(), "memory": tuple(self._conversation.memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._conversation.memory = Memory(*(part.to(self.agents.net.weights.device) for part in state["memory"]))


def _layer(n: int, before: int, after: int, gain: float, rng: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights and biases of one layer of every agent."""
    return nn.Parameter(stacked(n, before, after, gain, rng)), nn.Parameter(torch.zeros(n, 1, after))
