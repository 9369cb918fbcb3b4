"""Tables in the place of networks: what a policy, critic or model says in each state of those it hears."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dmpo_deep.nets import NEVER, LocalNets
from dmpo_deep.policies import Actor
from dmpo_theory.bootstrap import states_of
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP


class LocalTables(nn.Module):
    """One table per agent over the states of those that its network hears; takes the place of ``LocalNets``.

    ``table [n, L, O]`` is in C order of the states heard, the lowest agent's slowest; ``L`` is the largest count.

    Args:
        nets: the networks, which decide who is heard.
        n_states: ``S_i``, ``[n]``.
    """

    index: Tensor
    real: Tensor
    stride: Tensor

    def __init__(self, nets: LocalNets, n_states: Sequence[int]) -> None:
        super().__init__()
        self.members = heard_by(nets)
        index, real = nets.index.numpy(), nets.real.numpy()
        sizes = np.where(real, np.array(n_states)[index], 1)
        behind = np.cumprod(np.concatenate([sizes[:, 1:], np.ones((len(sizes), 1), int)], axis=1)[:, ::-1], axis=1)
        self.register_buffer("index", torch.from_numpy(index), persistent=False)
        self.register_buffer("real", nets.real, persistent=False)
        self.register_buffer("stride", torch.from_numpy(behind[:, ::-1] * real), persistent=False)
        self.table = nn.Parameter(torch.zeros(len(sizes), int(sizes.prod(axis=1).max()), nets.bias[-1].shape[-1]))

    def gather(self, obs: Tensor) -> Tensor:
        """The number of the state heard: observations ``[..., n, d]`` to ``[n, N, 1]``."""
        state = obs.flatten(end_dim=-3).argmax(dim=-1)
        return (state[:, self.index] * self.stride).sum(dim=-1).T[..., None]

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers of states ``[n, N, 1]`` to outputs ``[n, N, O]``."""
        return self.table[torch.arange(len(self.table))[:, None], inputs[..., 0]]

    def put(self, tables: Sequence[Array]) -> None:
        """Write ``n`` arrays ``[L_i]`` (of one output) or ``[L_i, O_i]``."""
        with torch.no_grad():
            for i, table in enumerate(tables):
                columns = table.reshape(len(table), -1)
                self.table[i, : len(table), : columns.shape[1]] = torch.from_numpy(columns)


def heard_by(nets: LocalNets | LocalTables) -> list[tuple[int, ...]]:
    """Whom each agent's network hears, ascending: ``n`` tuples."""
    return [tuple(index[real].tolist()) for index, real in zip(nets.index, nets.real, strict=True)]


def local_observations(mdp: NetworkedMDP, members: Sequence[int]) -> np.ndarray:
    """Observations ``[L, n, d]`` that go through all states of ``members``, in C order; the others are in state 0."""
    sizes = [mdp.n_states[j] for j in members]
    state = np.zeros((math.prod(sizes), mdp.n), dtype=np.int64)
    state[:, list(members)] = np.stack(np.unravel_index(np.arange(len(state)), sizes), axis=-1)
    return np.eye(max(mdp.n_states), dtype=np.float32)[state]


@torch.no_grad()
def tabulated(nets: LocalNets, mdp: NetworkedMDP) -> list[Array]:
    """What agent ``i``'s network says in every state of those it hears: ``n`` arrays ``[L_i, O]``."""
    result = []
    for i, members in enumerate(heard_by(nets)):
        obs = torch.from_numpy(local_observations(mdp, members))
        result.append(nets(nets.gather(obs))[i].double().numpy())
    return result


def on_joint(mdp: NetworkedMDP, tables: Sequence[Array], members: Sequence[Sequence[int]]) -> Array:
    """Tables ``[L_i]`` over the states of ``members[i]`` as functions of the joint state: ``[n, X]``."""
    return np.stack([table[states_of(mdp, seen)] for table, seen in zip(tables, members, strict=True)])


def seen_part(mdp: NetworkedMDP, function: Array, members: Sequence[int]) -> Array:
    """A function ``[X]`` of the states of ``members`` as a table over them, ``[L]``."""
    first = np.unique(states_of(mdp, members), return_index=True)[1]
    return function[first]


def policy_of(actor: Actor, mdp: NetworkedMDP) -> LocalPolicy:
    """The policies of an actor in tables, exactly normalised."""
    parents, tables = heard_by(actor.net), []
    for i, logits in enumerate(tabulated(actor.net, mdp)):
        logits = logits[:, : mdp.n_actions[i]]
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        weight[weight < np.finfo(np.float32).tiny] = 0.0
        share = weight / weight.sum(axis=1, keepdims=True)
        tables.append(share.reshape(*(mdp.n_states[j] for j in parents[i]), -1))
    return LocalPolicy(mdp, tuple(tables), tuple(parents))


def widened(mdp: NetworkedMDP, policy: LocalPolicy, parents: Sequence[Sequence[int]]) -> LocalPolicy:
    """The same policy, read off more agents: ``parents[i]`` holds all that ``pi_i`` reads."""
    tables = []
    for i, members in enumerate(parents):
        shape = [mdp.n_states[j] if j in policy.parents[i] else 1 for j in members]
        whole = (*(mdp.n_states[j] for j in members), mdp.n_actions[i])
        tables.append(np.broadcast_to(policy.table[i].reshape(*shape, -1), whole))
    return LocalPolicy(mdp, tuple(tables), tuple(map(tuple, parents)))


def logits_of(policy: LocalPolicy) -> list[Array]:
    """Log-probabilities over what each agent reads, ``n`` arrays ``[L_i, A_i]``, ``NEVER`` where there is none."""
    tables = [table.reshape(-1, table.shape[-1]) for table in policy.table]
    return [np.where(p > 0, np.log(np.where(p > 0, p, 1.0)), NEVER) for p in tables]
