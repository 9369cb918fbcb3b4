"""The rational solver against the float ones on the same instances."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from dmpo_theory import rational
from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.constructive import (
    shift_register,
    shift_register_witness,
    three_agent_star,
    three_agent_star_witness,
    walker,
)
from dmpo_theory.exact import local_values
from dmpo_theory.extended import point_law, span
from dmpo_theory.gradient import policy_gradient, truncated_gradient
from dmpo_theory.graph import path, ring
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP
from dmpo_theory.rational import RationalMDP, coin_gradient, rational_values, tabulate

GAMMA = Fraction(9, 10)


def random_rational(seed: int, agents: int = 3) -> RationalMDP:
    """A ring with dense tables in 1/16ths: one strongly connected component of ``2^agents`` states."""
    rng = np.random.default_rng(seed)
    heads = rng.integers(1, 16, size=(agents, 2, 2, 2, 2))
    plays = rng.integers(1, 16, size=(agents, 2, 2, 2))

    def coin(k: int) -> dict[int, Fraction]:
        return {0: Fraction(int(k), 16), 1: Fraction(16 - int(k), 16)}

    return RationalMDP(
        ring(agents),
        GAMMA,
        lambda i, seen, action: coin(heads[(i, *seen, action)]),
        lambda i, seen: coin(plays[(i, *seen)]),
        lambda i, state, action: Fraction(int(state) * 2 - int(action) * (i + 1), 3),
        ((Fraction(-1), Fraction(1)),) * agents,
    )


@pytest.mark.parametrize("seed", range(3))
def test_dense_components_agree_with_float(seed: int) -> None:
    instance = random_rational(seed)
    exact = rational_values(instance, [(0, 0, 0)])
    assert len(exact) == 8
    mdp, policy = tabulate(instance, [[0, 1]] * 3, [2] * 3)
    values = local_values(mdp, policy).values
    for x, s in enumerate(itertools.product((0, 1), repeat=3)):
        np.testing.assert_allclose(values[:, x], [float(v) for v in exact[s]], atol=1e-12)


@pytest.mark.parametrize("kappa", range(4))
def test_shift_register_as_tables(kappa: int) -> None:
    """The float span over all states and reference laws is the rational witness's error."""
    n = kappa + 2
    mdp, policy = tabulate(shift_register(kappa, GAMMA), [[0, 1]] * n, [2] * n)
    assert mdp.n_joint_states == 2**n
    worst = span(mdp, local_values(mdp, policy).values)[0, kappa]
    assert worst == pytest.approx(float(shift_register_witness(kappa, GAMMA).errors[0]), rel=1e-12)


def star_tables() -> tuple[NetworkedMDP, LocalPolicy]:
    return tabulate(three_agent_star(GAMMA), [["start", 0, 1], [0, 1], [0, 1]], [2] * 3)


def test_three_agent_star_as_tables() -> None:
    """The same 4/3 from the float truncated gradient with the reference law "the other leaf's bit is 1"."""
    mdp, policy = star_tables()
    assert mdp.n_joint_states == 12
    values = local_values(mdp, policy).values
    law = np.zeros(12)
    law[0] = 1
    exact = policy_gradient(mdp, policy, values, law)[0]
    truncated = truncated_gradient(mdp, policy, values, law, 1, reference=point_law(mdp, [0, 1, 1]))[0]
    setting = Setting.of(mdp, policy)
    printed = float(BOUNDS["theorem2-printed"].value(setting, 1)[0])
    # Only the row of logits read at the start matters: g_max there is that of a fair coin, 1/sqrt(2).
    fair = printed / float(setting.g_max[0]) / np.sqrt(2)
    assert np.linalg.norm(exact - truncated) / fair == pytest.approx(4 / 3, rel=1e-12)
    witness = three_agent_star_witness(GAMMA)
    assert witness.errors[0] / BOUNDS["theorem2-printed"].value(witness.setting, 1)[0] == Fraction(4, 3)


def test_coin_gradient_is_the_float_gradient() -> None:
    """One logit of two actions: half the difference of the softmax logits' derivatives."""
    instance = random_rational(1)
    mdp, policy = tabulate(instance, [[0, 1]] * 3, [2] * 3)
    values = local_values(mdp, policy).values
    exact = rational_values(instance, [(0, 0, 0)])
    for x, s in enumerate(itertools.product((0, 1), repeat=3)):
        law = np.eye(8)[x]
        found = policy_gradient(mdp, policy, values, law)
        for i in range(3):
            expected = coin_gradient(instance, i, s, lambda t: sum(exact[t], Fraction(0)) / 3)
            assert found[i][s][1] == pytest.approx(float(expected), abs=1e-12)


def counter(size: int, gamma: Fraction) -> RationalMDP:
    """One agent that counts round a cycle, paid 1 at 0."""
    return RationalMDP(
        path(1),
        gamma,
        lambda i, seen, action: {(int(seen[0]) + 1) % size: Fraction(1)},
        lambda i, seen: {0: Fraction(1)},
        lambda i, state, action: Fraction(int(state == 0)),
        ((Fraction(0), Fraction(1)),),
    )


def test_four_thousand_states_in_a_cycle() -> None:
    """A geometric series with ratio gamma^4000, exactly."""
    gamma = Fraction(1, 2)
    values = rational_values(counter(4000, gamma), [(0,)])
    assert len(values) == 4000
    assert values[(0,)] == (1 / (1 - gamma**4000),)
    assert values[(3999,)] == (gamma / (1 - gamma**4000),)


def test_four_thousand_states_of_a_random_walk() -> None:
    """One component in which every state has two successors; float values agree."""
    instance = walker(2000, Fraction(1, 2))
    states = [(coin, place) for coin in (0, 1) for place in range(2000)]
    exact = rational_values(instance, states)
    assert len(exact) == 4000
    value = np.zeros((2, 2000))
    reward = np.where(2 * np.arange(2000) >= 2000, 1.0, -1.0)
    for _ in range(60):
        down, up = np.maximum(np.arange(2000) - 1, 0), np.minimum(np.arange(2000) + 1, 1999)
        mean = value.mean(axis=0)
        value = reward + 0.5 * np.stack([mean[down], mean[up]])
    found = np.array([[float(exact[(coin, place)][1]) for place in range(2000)] for coin in (0, 1)])
    np.testing.assert_allclose(found, value, atol=1e-12)


def test_two_hundred_and_fifty_six_dense_states() -> None:
    """Eight binary agents, tables in 1/16ths, every joint state reaches every other in one step."""
    rng = np.random.default_rng(0)
    heads = rng.integers(1, 16, size=(8, 2, 2, 2))
    instance = RationalMDP(
        ring(8),
        GAMMA,
        lambda i, seen, action: {0: Fraction(int(heads[(i, *seen)]), 16), 1: Fraction(16 - int(heads[(i, *seen)]), 16)},
        lambda i, seen: {0: Fraction(1)},
        lambda i, state, action: Fraction(int(state)),
        ((Fraction(0), Fraction(1)),) * 8,
    )
    exact = rational_values(instance, [(0,) * 8])
    assert len(exact) == 256
    mdp, policy = tabulate(instance, [[0, 1]] * 8, [1] * 8)
    values = local_values(mdp, policy).values
    for x, s in enumerate(itertools.product((0, 1), repeat=8)):
        np.testing.assert_allclose(values[:, x], [float(v) for v in exact[s]], atol=1e-10)


def test_a_dense_instance_that_would_take_hours_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rational, "PATIENCE", 1e-9)
    with pytest.raises(ValueError, match="joint states reach one another densely: an exact solution would take about"):
        rational_values(random_rational(0, agents=4), [(0,) * 4])


def test_limits() -> None:
    with pytest.raises(ValueError, match="more than 4 joint states can be reached; raise max_states"):
        rational_values(random_rational(0), [(0, 0, 0)], max_states=4)
    star = three_agent_star(GAMMA)
    with pytest.raises(ValueError, match="agent 1 has 1 actions"):
        coin_gradient(star, 1, ("start", 0, 0), lambda s: Fraction(0))
