"""Deliberate mistakes, each of which some check must find: what shows that the checks can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from dmpo_deep import model, ppo
from dmpo_deep.check.setting import Setting
from dmpo_deep.nets import LocalNets
from dmpo_deep.ppo import Agents
from dmpo_deep.rollout import Trajectory
from dmpo_theory.graph import AgentGraph


@dataclass(frozen=True)
class Bug:
    """A mistake."""

    title: str
    """What is wrong."""
    found_by: str
    """The check that must find it."""
    make: Callable[[Setting], Iterator[Setting]]
    """Generator that yields the setting while the mistake is in place."""

    def active(self, setting: Setting) -> AbstractContextManager[Setting]:
        """A context in which the mistake is in place, and the setting to check there."""
        return contextmanager(self.make)(setting)


class _OneHopMore(Agents):
    """Critics that hear one hop more than their radius."""

    def __init__(self, env, preset, rng):  # type: ignore[no-untyped-def]
        super().__init__(env, replace(preset, kappa_critic=preset.kappa_critic + 1), rng)
        self.mask = torch.from_numpy(env.graph.mask(preset.kappa_critic))


class _OwnReward(Agents):
    """The advantage as printed after Eq. 9: the own reward at weight 1 against values at 1/n."""

    def estimates(self, data: Trajectory) -> tuple[Tensor, Tensor]:
        target, advantage = super().estimates(data)
        own = torch.from_numpy(data.reward)
        return target, advantage + own - ppo.neighborhood_advantage(own, self.mask)


class _OwnAdvantage(Agents):
    """No sum over neighbours."""

    def estimates(self, data: Trajectory) -> tuple[Tensor, Tensor]:
        self.mask = torch.eye(len(self.mask), dtype=torch.bool)
        return super().estimates(data)


def _agents(kind: type[Agents]) -> Callable[[Setting], Iterator[Setting]]:
    def make(setting: Setting) -> Iterator[Setting]:
        yield replace(setting, make_agents=kind)

    return make


def _patched(owner: object, name: str, wrong: object) -> Callable[[Setting], Iterator[Setting]]:
    def make(setting: Setting) -> Iterator[Setting]:
        with patch.object(owner, name, wrong):
            yield setting

    return make


_lambda_return, _agents_first, _gather = ppo.lambda_return, ppo.agents_first, LocalNets.gather


def _undiscounted_end(reward, next_value, terminated, truncated, gamma, lam):  # type: ignore[no-untyped-def]
    """Eq. 7 as printed: the last value of a rollout is added without its discount."""
    steps_left = torch.arange(len(reward), 0, -1, dtype=reward.dtype)[:, None, None]
    whole = _lambda_return(reward, next_value, terminated, truncated, gamma, lam)
    without = _lambda_return(reward, torch.zeros_like(next_value), terminated, truncated, gamma, lam)
    return without + (whole - without) / (gamma**steps_left if lam == 1 else 1)


def _cut_is_end(reward, next_value, terminated, truncated, gamma, lam):  # type: ignore[no-untyped-def]
    """A cut episode is taken for one that has ended: nothing is bootstrapped through it."""
    return _lambda_return(reward, next_value, terminated | truncated, truncated, gamma, lam)


def _leaking(nets: LocalNets, obs: Tensor) -> Tensor:
    """What each agent hears, with a trace of everybody in it."""
    heard = _gather(nets, obs)
    return heard + 0.1 * obs.flatten(end_dim=-3).sum(dim=1).repeat(1, heard.shape[-1] // obs.shape[-1])


def _one_sample_late(x: Tensor) -> Tensor:
    """Samples of integers, which actions are, one place off."""
    right = _agents_first(x)
    return right if x.is_floating_point() else right.roll(1, dims=1)


def _most_probable(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The model's most probable next state in the place of a drawn one."""
    codes: np.ndarray = np.eye(probability.shape[-1], dtype=np.float32)[probability.argmax(axis=-1)]
    return codes


def _matrix_power(setting: Setting) -> Iterator[Setting]:
    """Neighbourhoods as the support of a power of the adjacency matrix: walks of length kappa exactly, and oneself."""
    padded, mask = AgentGraph.padded_neighbors, AgentGraph.mask

    def members(graph: AgentGraph, kappa: float) -> np.ndarray:
        if kappa == np.inf:
            return mask(graph, kappa)
        power = np.linalg.matrix_power(graph.adjacency.toarray(), int(kappa)) > 0
        return np.asarray(power | np.eye(graph.n, dtype=bool))

    def padded_members(graph: AgentGraph, kappa: float) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.flatnonzero(row) for row in members(graph, kappa)]
        index, real = padded(graph, kappa)
        for i, row in enumerate(rows):
            index[i], real[i] = i, False
            index[i, : len(row)], real[i, : len(row)] = row, True
        return index, real

    with patch.object(AgentGraph, "mask", members), patch.object(AgentGraph, "padded_neighbors", padded_members):
        yield setting


BUGS = {
    "one-hop-more": Bug("critics hear one hop more than their radius", "tabular critic", _agents(_OneHopMore)),
    "own-reward": Bug("own reward at weight 1 against values at 1/n", "policy gradient", _agents(_OwnReward)),
    "own-advantage": Bug("no sum over neighbours in the advantage", "policy gradient", _agents(_OwnAdvantage)),
    "lost-discount": Bug(
        "the value at a target's end is not discounted",
        "value target",
        _patched(ppo, "lambda_return", _undiscounted_end),
    ),
    "cut-is-end": Bug(
        "nothing is bootstrapped where an episode is cut",
        "value target",
        _patched(ppo, "lambda_return", _cut_is_end),
    ),
    "matrix-power": Bug("neighbourhoods by a power of the adjacency matrix", "tabular critic", _matrix_power),
    "leak": Bug(
        "inputs of networks carry a trace of agents far away",
        "locality",
        _patched(LocalNets, "gather", _leaking),
    ),
    "late-actions": Bug(
        "an update pairs each sample with the action of the one before",
        "policy update",
        _patched(ppo, "agents_first", _one_sample_late),
    ),
    "certain-model": Bug(
        "model rollouts take the most probable state",
        "model rollouts",
        _patched(model, "sampled_codes", _most_probable),
    ),
}
"""Mistakes by name."""
