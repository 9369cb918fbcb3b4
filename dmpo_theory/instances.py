"""Networked MDPs to check claims on: random ones with knobs, and constructive families with known answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dmpo_theory.errors import require_memory
from dmpo_theory.graph import AgentGraph, ring
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP


def random_mdp(
    graph: AgentGraph,
    *,
    n_states: int | Sequence[int] = 2,
    n_actions: int | Sequence[int] = 2,
    gamma: float = 0.9,
    reward_range: tuple[float, float] = (-1.0, 1.0),
    coupling: float = 1.0,
    concentration: float = 1.0,
    radius: int = 1,
    bits: int | None = None,
    rng: np.random.Generator | int = 0,
) -> NetworkedMDP:
    """A random networked MDP: symmetric Dirichlet rows, uniform rewards.

    Args:
        graph: the agents' graph.
        n_states: ``S_i``, one number for all agents or one each.
        n_actions: ``A_i``, likewise.
        gamma: discount factor.
        reward_range: lowest and highest reward: signed ``(-1, 1)``, non-negative ``(0, 1)``, non-positive ``(-1, 0)``.
        coupling: in [0, 1]; the weight of the neighbours. Each row is ``coupling`` times a row that reads all
            parents plus ``1 - coupling`` times one that reads the own state only.
        concentration: Dirichlet parameter; small values give nearly deterministic rows.
        radius: transition radius ``m``; parents are ``N_i^m``.
        bits: round probabilities and rewards to multiples of ``2^-bits``, rows summing to exactly 1: with up to 24
            bits the closed loop's factors are then exact in float64, and the instance is the rational one.
        rng: generator or seed.
    """
    rng = np.random.default_rng(rng)
    low, high = reward_range
    if not low <= high:
        raise ValueError(f"reward_range = {reward_range!r} is empty; give (lowest, highest)")
    states, actions = _each(n_states, graph.n, "n_states"), _each(n_actions, graph.n, "n_actions")
    parents = tuple(graph.neighbors(i, radius) for i in range(graph.n))
    transition = tuple(
        _coupled_rows(i, parents[i], states, (actions[i], states[i]), coupling, concentration, bits, rng)
        for i in range(graph.n)
    )
    reward = [rng.uniform(low, high, (states[i], actions[i])) for i in range(graph.n)]
    if bits is not None:
        reward = [np.ldexp(np.round(np.ldexp(table, bits)), -bits) for table in reward]
    return NetworkedMDP(graph, gamma, transition, tuple(reward), parents)


def random_policy(
    mdp: NetworkedMDP,
    *,
    coupling: float = 1.0,
    concentration: float = 1.0,
    radius: int = 1,
    bits: int | None = None,
    rng: np.random.Generator | int = 0,
) -> LocalPolicy:
    """A random local policy reading ``N_i^radius``; coupling, concentration and bits as in :func:`random_mdp`."""
    rng = np.random.default_rng(rng)
    parents = tuple(mdp.graph.neighbors(i, radius) for i in range(mdp.n))
    table = tuple(
        _coupled_rows(i, parents[i], mdp.n_states, (mdp.n_actions[i],), coupling, concentration, bits, rng)
        for i in range(mdp.n)
    )
    return LocalPolicy(mdp, table, parents)


def noisy_relay(n: int, *, noise: float = 0.05, gamma: float = 0.9) -> tuple[NetworkedMDP, LocalPolicy]:
    """A ring on which bits travel one agent a step: what is far away matters later, and hardly less.

    With action 0 an agent takes over the bit of the one before it, with action 1 it keeps its own, either with an error
    of probability ``noise``. Its reward is 1 or -1 by its bit, less 0.2 for keeping it. The policy takes over 9 of 10
    ones and 7 of 10 zeros.
    """
    if not 0 <= noise <= 0.5:
        raise ValueError(f"noise = {noise!r} is outside [0, 0.5]; 0 never errs, 0.5 forgets everything")
    graph = ring(n)
    transition, acts = [], []
    for i in range(n):
        members = graph.neighbors(i)
        bit = np.indices((2,) * len(members))
        before, own = bit[members.index((i - 1) % n)], bit[members.index(i)]
        one = np.stack([np.where(source == 1, 1 - noise, noise) for source in (before, own)], axis=-1)
        transition.append(np.stack([1 - one, one], axis=-1))
        passes = np.where(before == 1, 0.9, 0.7)
        acts.append(np.stack([passes, 1 - passes], axis=-1))
    mdp = NetworkedMDP(graph, gamma, tuple(transition), (np.array([[-1.0, -1.2], [1.0, 0.8]]),) * n)
    return mdp, LocalPolicy(mdp, tuple(acts))


def _each(number: int | Sequence[int], n: int, name: str) -> tuple[int, ...]:
    each = (number,) * n if isinstance(number, int) else tuple(number)
    if len(each) != n or min(each) < 1:
        raise ValueError(f"{name} = {number!r}; give one number >= 1, or one for each of the {n} agents")
    return each


def _coupled_rows(
    i: int,
    parents: Sequence[int],
    states: Sequence[int],
    outcome: tuple[int, ...],
    coupling: float,
    concentration: float,
    bits: int | None,
    rng: np.random.Generator,
) -> Array:
    entries = math.prod(states[j] for j in parents) * math.prod(outcome)
    require_memory(
        32.0 * entries, f"the table of agent {i}, which reads {len(parents)} agents,", "use a smaller radius"
    )
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling = {coupling!r} is outside [0, 1]; 0 ignores the neighbours, 1 reads them fully")
    if not concentration > 0:
        raise ValueError(f"concentration = {concentration!r} must be positive; 1 is uniform over distributions")
    alpha = np.full(outcome[-1], concentration)
    full = rng.dirichlet(alpha, (*(states[j] for j in parents), *outcome[:-1]))
    own = rng.dirichlet(alpha, (*(states[j] if j == i else 1 for j in parents), *outcome[:-1]))
    mixed: Array = coupling * full + (1 - coupling) * own
    mixed[mixed < np.finfo(np.float64).tiny] = 0.0  # a small concentration gives probabilities that float64 cannot hold
    mixed /= mixed.sum(axis=-1, keepdims=True)
    return mixed if bits is None else _dyadic(mixed, bits)


def _dyadic(rows: Array, bits: int) -> Array:
    """The nearest rows of multiples of ``2^-bits``: round down, then give what is left to the largest remainders."""
    if not 1 <= bits <= 52:
        raise ValueError(f"bits = {bits!r} is outside 1 .. 52, what float64 can hold")
    scaled = np.ldexp(rows, bits)
    floors = np.floor(scaled)
    left = 2.0**bits - floors.sum(axis=-1, keepdims=True)
    rank = np.argsort(np.argsort(floors - scaled, axis=-1, kind="stable"), axis=-1, kind="stable")
    rounded: Array = np.ldexp(floors + (rank < left), -bits)
    return rounded
