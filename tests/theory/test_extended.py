"""Extended values and worst cases by enumeration of what agrees on a neighbourhood."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dmpo_theory.exact import local_values
from dmpo_theory.extended import (
    JointLaw,
    ProductLaw,
    deviation,
    extended_value,
    mean_span,
    point_law,
    span,
    uniform_law,
)
from dmpo_theory.graph import AgentGraph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import NetworkedMDP
from tests.theory import brute_force


@pytest.fixture
def solved() -> tuple[NetworkedMDP, np.ndarray]:
    graph = AgentGraph.from_edges(4, [(0, 1), (1, 2)])
    mdp = random_mdp(graph, n_states=[2, 3, 2, 2], rng=0)
    return mdp, local_values(mdp, random_policy(mdp, rng=1)).values


def test_extended_values_by_enumeration(solved: tuple[NetworkedMDP, np.ndarray]) -> None:
    mdp, values = solved
    rng = np.random.default_rng(2)
    marginals = tuple(rng.dirichlet(np.ones(size)) for size in mdp.n_states)
    joint = rng.dirichlet(np.full(mdp.n_joint_states, 0.2))
    joint[:6] = 0  # some of what can be seen has no mass
    joint /= joint.sum()
    states = brute_force.joint_states(mdp)
    for seen in ((0,), (0, 1), (1, 3), (0, 1, 2, 3), ()):
        unseen = [j for j in range(4) if j not in seen]
        by_product = extended_value(mdp, values[0], seen, ProductLaw(marginals))
        by_joint = extended_value(mdp, values[0], seen, JointLaw(joint))
        for x, s in enumerate(states):
            block = [y for y, t in enumerate(states) if all(t[j] == s[j] for j in seen)]
            weights = np.array([np.prod([marginals[j][states[y][j]] for j in unseen]) for y in block])
            assert by_product[x] == pytest.approx(weights @ values[0][block], abs=1e-12)
            mass = joint[block]
            expected = mass @ values[0][block] / mass.sum() if mass.sum() else values[0][block].mean()
            assert by_joint[x] == pytest.approx(expected, abs=1e-12)


def test_span_is_the_worst_case_over_all_point_laws(solved: tuple[NetworkedMDP, np.ndarray]) -> None:
    """The error is convex in the law, so the worst law is a point; all of them are tried."""
    mdp, values = solved
    worst = np.zeros((mdp.n, mdp.n))
    for placeholder in itertools.product(*map(range, mdp.n_states)):
        worst = np.maximum(worst, deviation(mdp, values, point_law(mdp, placeholder)))
    np.testing.assert_allclose(span(mdp, values), worst, atol=1e-12)


def test_mean_span_is_the_worst_case_of_remark_1(solved: tuple[NetworkedMDP, np.ndarray]) -> None:
    mdp, values = solved
    states = brute_force.joint_states(mdp)
    for kappa in range(mdp.n):
        worst = 0.0
        for x, s in enumerate(states):
            low, high = 0.0, 0.0
            for i in range(mdp.n):
                seen = mdp.graph.neighbors(i, kappa)
                block = [values[i][y] for y, t in enumerate(states) if all(t[j] == s[j] for j in seen)]
                low, high = low + values[i][x] - min(block), high + max(block) - values[i][x]
            worst = max(worst, low / mdp.n, high / mdp.n)
        assert mean_span(mdp, values)[kappa] == pytest.approx(worst, abs=1e-12)


def test_any_law_lies_below_the_span(solved: tuple[NetworkedMDP, np.ndarray]) -> None:
    mdp, values = solved
    worst = span(mdp, values)
    assert (deviation(mdp, values, uniform_law(mdp)) <= worst + 1e-12).all()
    assert (np.diff(worst, axis=1) <= 1e-12).all()
    assert (worst[:, -1] < 1e-12).all()
