"""Envelopes against exact values of the whole graph, at every joint state, on random instances of every family."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.envelope import Envelope, envelope
from dmpo_theory.exact import Values, local_values
from dmpo_theory.extended import agent_span
from dmpo_theory.graph import FAMILIES, AgentGraph, named_graph, path
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP
from tests.theory.test_certificate import exactly, floating, rational_values_of_tables

PARTS, EACH = 8, 25


def problem(seed: int) -> tuple[NetworkedMDP, LocalPolicy]:
    """Every family in turn; four to eight agents of one to three states; radii 0 to 2, at most 2000 joint states."""
    rng = np.random.default_rng([seed, 11])
    family = list(FAMILIES)[seed % len(FAMILIES)]
    n = int(rng.integers(4, 9))
    sizes = [int(s) for s in rng.integers(1, 4, n)]
    while np.prod(sizes) > 2000:
        sizes[int(np.argmax(sizes))] -= 1
    gamma, coupling, concentration = (
        float(rng.choice(choices)) for choices in ([0.0, 0.5, 0.9, 0.95], [0.05, 0.3, 1.0], [0.1, 1.0])
    )
    mdp = random_mdp(
        named_graph(family, n, rng),
        n_states=sizes,
        n_actions=[int(a) for a in rng.integers(1, 4, n)],
        gamma=gamma,
        coupling=coupling,
        concentration=concentration,
        radius=int(rng.choice([0, 1, 1, 2])),
        rng=rng,
    )
    radius = int(rng.choice([0, 1, 1, 2]))
    return mdp, random_policy(mdp, coupling=coupling, concentration=concentration, radius=radius, rng=rng)


def spread(mdp: NetworkedMDP, found: Envelope) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper end at every joint state, ``[X]`` each."""
    states = np.indices(mdp.n_states).reshape(mdp.n, -1)
    seen = tuple(states[j] for j in found.members)
    return found.lower[seen], found.upper[seen]


def holds(mdp: NetworkedMDP, policy: LocalPolicy, exact: Values, i: int, radius: int) -> float:
    """Hold one envelope against the enclosure of the exact value; its largest width relative to the value's span."""
    found = envelope(closed_loop(mdp, policy), mdp.graph, mdp.gamma, i, radius)
    assert found.members == mdp.graph.neighbors(i, radius)
    lower, upper = spread(mdp, found)
    value, error = exact.values[i], float(max(-exact.lower[i], exact.upper[i]))
    assert (lower <= value + exact.upper[i]).all()
    assert (value + exact.lower[i] <= upper).all()
    spans = agent_span(mdp, value, i)
    most, least = found.errors(), found.least_errors()
    assert most.shape == least.shape == (max(found.hops) + 1,)
    assert (least <= most).all()
    assert (np.diff(most) <= 0).all(), "seeing more leaves less to be wrong about"
    for kappa in range(len(most)):
        assert spans[kappa] - 2 * error <= most[kappa]
        assert least[kappa] <= spans[kappa] + 2 * error
    return float((upper - lower).max())


@pytest.mark.parametrize("part", range(PARTS))
def test_two_hundred_instances_are_enclosed(part: int) -> None:
    for seed in range(EACH * part, EACH * part + EACH):
        mdp, policy = problem(seed)
        exact = local_values(mdp, policy, threads=1)
        for i in range(mdp.n):
            holds(mdp, policy, exact, i, (seed + i) % 4)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_eight_hundred_instances_at_every_radius(part: int) -> None:
    """A larger neighbourhood only narrows the envelope, but for where the iteration stops."""
    for seed in range(200 + 200 * part, 400 + 200 * part):
        mdp, policy = problem(seed)
        exact = local_values(mdp, policy, threads=1)
        for i in range(mdp.n):
            widths = [holds(mdp, policy, exact, i, radius) for radius in range(4)]
            assert (np.diff(widths) <= 1e-3 * np.array(widths[:-1]) + 1e-9).all()


def exactly_enclosed(mdp: NetworkedMDP, policy: LocalPolicy, radius: int) -> bool:
    """Whether the ends enclose the rational values of the float tables, in exact arithmetic."""
    values, chain = rational_values_of_tables(mdp, policy), closed_loop(mdp, policy)
    for i in range(mdp.n):
        lower, upper = spread(mdp, envelope(chain, mdp.graph, mdp.gamma, i, radius))
        if not all(exactly(a) <= v <= exactly(b) for a, v, b in zip(lower, values[i], upper, strict=True)):
            return False
    return True


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_rational_values_are_enclosed(seed: int) -> None:
    """With everybody in the neighbourhood nothing but rounding is left between the ends."""
    for radius in (0, 4):
        assert exactly_enclosed(*floating(seed), radius)


@pytest.mark.parametrize("off", [-0.9e-12, 0.9e-12])
def test_rows_that_do_not_sum_to_one_are_counted(off: float) -> None:
    """Rows are let pass if they are off by 1e-12; values then move by a hundred times that."""
    mdp = NetworkedMDP(path(2), 0.9, (np.full((2, 2, 1, 2), 0.5 + off / 2),) * 2, (np.ones((2, 1)),) * 2)
    assert exactly_enclosed(mdp, LocalPolicy(mdp, (np.ones((2, 2, 1)),) * 2), 1)


def test_rewards_that_cancel_are_counted() -> None:
    """Two actions' rewards whose mean vanishes but for rounding."""
    p, first = next(
        (p, first)
        for p, first in np.random.default_rng(0).random((1000, 2))
        if p * first + (1 - p) * (-(p * first) / (1 - p)) == 0
        and Fraction(p) * Fraction(first) + Fraction(1 - p) * Fraction(-(p * first) / (1 - p)) != 0
    )
    rewards = np.array([[first, -(p * first) / (1 - p)]] * 2)
    mdp = NetworkedMDP(AgentGraph.from_edges(1, []), 0.9, (np.full((2, 2, 2), 0.5),), (rewards,))
    assert exactly_enclosed(mdp, LocalPolicy(mdp, (np.array([[p, 1 - p]] * 2),)), 0)


def test_negative_control() -> None:
    """Ends drawn in by a fifth of their distance are refuted, on many instances: envelopes are not vacuously wide."""
    refuted = 0
    for seed in range(18):
        mdp, policy = problem(seed)
        exact = local_values(mdp, policy, threads=1)
        chain = closed_loop(mdp, policy)
        for i in range(mdp.n):
            found = envelope(chain, mdp.graph, mdp.gamma, i, 0)
            margin = 0.2 * (found.upper - found.lower).max()
            narrow = dataclasses.replace(found, lower=found.lower + margin, upper=found.upper - margin)
            lower, upper = spread(mdp, narrow)
            value = exact.values[i]
            refuted += bool((lower > value + exact.upper[i]).any() or (value + exact.lower[i] > upper).any())
    assert refuted > 10
