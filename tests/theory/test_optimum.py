"""Largest returns: against QuantEcon, against each other, and gradients against differences."""

import itertools

import numpy as np
import pytest

from dmpo_theory.exact import local_values
from dmpo_theory.graph import named_graph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy
from dmpo_theory.mdp import LocalPolicy, to_joint
from dmpo_theory.optimum import (
    ascent,
    best_local,
    best_own_state,
    central_optimum,
    evaluated,
    exact_direction,
    expected_return,
    softmax_policy,
    truncated_direction,
    uniform_logits,
)

FAMILIES = ("path", "ring", "star")
every_family = pytest.mark.parametrize("family", FAMILIES)


def drawn(family, n=3, **options):
    return random_mdp(named_graph(family, n, 0), rng=len(family), **options)


@every_family
def test_values_and_occupancy_agree_with_the_certified_routes(family):
    mdp = drawn(family, n_states=3)
    policy = random_policy(mdp, rng=0)
    values, law = evaluated(mdp, policy)
    np.testing.assert_allclose(values, local_values(mdp, policy).values, atol=1e-11)
    np.testing.assert_allclose(law, occupancy(mdp, policy).law, atol=1e-11)
    assert expected_return(mdp, policy) == pytest.approx(values.mean())


@every_family
def test_central_optimum_is_quantecons(family):
    quantecon = pytest.importorskip("quantecon")
    mdp = drawn(family, n_actions=3)
    known = quantecon.markov.DiscreteDP(*to_joint(mdp), mdp.gamma).solve(method="value_iteration", epsilon=1e-10)
    assert central_optimum(mdp) == pytest.approx(known.v.mean(), abs=1e-8)


@every_family
def test_each_kind_of_policy_is_bounded_by_the_next(family):
    mdp = drawn(family)
    own, policy = best_own_state(mdp)
    local = max(value for value, _ in best_local(mdp, 20, np.random.default_rng(0)))
    narrow = max(value for value, _ in best_local(mdp, 20, np.random.default_rng(0), radius=0))
    assert expected_return(mdp, policy) == pytest.approx(own)
    assert narrow > own - 1e-3  # softmax policies only tend to deterministic ones
    assert own - 1e-3 < local <= central_optimum(mdp) + 1e-9


def test_the_enumeration_has_seen_every_policy():
    mdp = drawn("path", 2)
    best = -np.inf
    for rows in itertools.product(range(2), repeat=4):
        tables = tuple(np.eye(2)[list(rows[2 * i : 2 * i + 2])] for i in range(2))
        best = max(best, expected_return(mdp, LocalPolicy(mdp, tables, ((0,), (1,)))))
    assert best_own_state(mdp)[0] == pytest.approx(best)
    with pytest.raises(ValueError, match="too many to go through; use best_local with radius=0"):
        best_own_state(drawn("ring", 9))


def test_who_sees_only_oneself_can_gain_by_drawing_lots():
    mdp = random_mdp(named_graph("path", 2), gamma=0.95, concentration=0.05, rng=426)
    own, _ = best_own_state(mdp)
    drawing = max(best_local(mdp, 10, np.random.default_rng(0), radius=0), key=lambda found: found[0])
    assert drawing[0] > own + 3
    assert expected_return(mdp, drawing[1]) == pytest.approx(local_values(mdp, drawing[1]).values.mean())
    assert max(abs(table - np.round(table)).max() for table in drawing[1].table) > 0.1
    assert drawing[0] < central_optimum(mdp)


@every_family
def test_the_exact_direction_is_the_slope_of_the_return(family):
    mdp = drawn(family)
    rng = np.random.default_rng(1)
    logits = [rng.standard_normal(table.shape) for table in uniform_logits(mdp)]
    policy = softmax_policy(mdp, logits)
    slope = exact_direction(mdp, policy, *evaluated(mdp, policy))
    for i in range(mdp.n):
        for place in np.ndindex(logits[i].shape):
            moved = []
            for step in (1e-5, -1e-5):
                changed = [table.copy() for table in logits]
                changed[i][place] += step
                moved.append(expected_return(mdp, softmax_policy(mdp, changed)))
            assert slope[i][place] / (1 - mdp.gamma) == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=1e-7)


def test_ascent_climbs_and_with_kappa_at_the_diameter_truncation_costs_nothing():
    mdp = drawn("ring", 5)
    exact = [value for value, _ in ascent(mdp, exact_direction, 150, 0.1)]
    best = max(value for value, _ in best_local(mdp, 10, np.random.default_rng(0)))
    assert abs(best - exact[-1]) < 1e-3 * (best - exact[0])
    whole = [value for value, _ in ascent(mdp, truncated_direction(2), 20, 0.1)]
    np.testing.assert_allclose(whole, exact[:21], atol=1e-9)
    near = [value for value, _ in ascent(mdp, truncated_direction(0), 20, 0.1)]
    assert abs(near[-1] - exact[20]) > 1e-4
