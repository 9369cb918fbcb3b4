"""Local bounds against definitions spelled out state by state, at any radius, and on a graph no joint space fits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.errors import ProblemTooLarge
from dmpo_theory.graph import AgentGraph, path, random_regular, ring
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.local_bounds import (
    LocalQuantities,
    gradient_error_bound,
    local_quantities,
    value_error_bound,
)
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP

GRAPH = AgentGraph.from_edges(6, [(0, 1), (1, 2), (2, 3), (1, 3), (4, 5)])
Problem = tuple[NetworkedMDP, LocalPolicy]


def problem(graph: AgentGraph, m: int, p: int, coupling: float = 0.5, seed: int = 0) -> Problem:
    """Agents with different numbers of states and actions."""
    rng = np.random.default_rng(seed)
    sizes = [[int(k) for k in rng.integers(1, 4, graph.n)] for _ in range(2)]
    mdp = random_mdp(graph, n_states=sizes[0], n_actions=sizes[1], coupling=coupling, radius=m, rng=rng)
    return mdp, random_policy(mdp, coupling=coupling, radius=p, rng=rng)


PROBLEMS = [problem(GRAPH, m, p, seed=10 * m + p) for m, p in ((1, 1), (1, 0), (2, 1), (1, 2), (0, 0), (0, 1))]


@pytest.mark.parametrize("case", PROBLEMS)
def test_coefficients_are_their_definitions(case: Problem) -> None:
    """Total variations between all pairs of joint states, by enumeration."""
    mdp, policy = case
    local = local_quantities(mdp, policy)
    chain = closed_loop(mdp, policy)
    states = list(itertools.product(*map(range, mdp.n_states)))
    coupling, reward = np.zeros((2, mdp.n, mdp.n))
    tau, span = np.zeros((2, mdp.n))
    for k in range(mdp.n):
        rows = np.array([chain.kernels[k][tuple(s[j] for j in chain.parents[k])] for s in states])
        pay = np.array([chain.rewards[k][tuple(s[j] for j in chain.reward_parents[k])] for s in states])
        for x, s in enumerate(states):
            distance = np.abs(rows - rows[x]).sum(axis=1) / 2
            gap = np.abs(pay - pay[x])
            tau[k], span[k] = max(tau[k], distance.max()), max(span[k], gap.max())
            for y, other in enumerate(states):
                differing = [j for j in range(mdp.n) if s[j] != other[j]]
                if len(differing) == 1:
                    coupling[k, differing[0]] = max(coupling[k, differing[0]], distance[y])
                    reward[k, differing[0]] = max(reward[k, differing[0]], gap[y])
    np.testing.assert_allclose(local.coupling.toarray(), coupling, atol=1e-14)
    np.testing.assert_allclose(local.reward.toarray(), reward, atol=1e-14)
    np.testing.assert_allclose(local.tau, tau, atol=1e-14)
    np.testing.assert_allclose(local.reward_span, span, atol=1e-14)
    for k, table in enumerate(mdp.transition):
        pairs = itertools.product(range(mdp.n_actions[k]), repeat=2)
        worst = max(np.abs(table[..., a, :] - table[..., b, :]).sum(axis=-1).max() / 2 for a, b in pairs)
        assert local.action_effect[k] == pytest.approx(worst, abs=1e-14)


def oscillation(local: LocalQuantities, i: int, outside: set[int], steps: int = 400) -> float:
    """D1's sum for one agent on the whole graph, term by term."""
    coupling, reward = local.coupling.toarray(), local.reward.toarray()
    differ = np.array([float(k in outside) for k in range(local.graph.n)])
    total = 0.0
    for t in range(steps):
        total += local.gamma**t * min(local.reward_span[i], reward[i] @ differ)
        differ = np.minimum(np.minimum(1.0, local.tau), coupling @ differ)
    return total


@pytest.mark.parametrize("case", PROBLEMS)
def test_uncut_bounds_are_their_formulas(case: Problem) -> None:
    local = local_quantities(*case)
    n, graph = local.graph.n, local.graph
    kappas = range(4)
    value, gradient = value_error_bound(local, kappas), gradient_error_bound(local, kappas)
    for kappa in kappas:
        ball = [set(graph.neighbors(i, kappa)) for i in range(n)]
        exact = [oscillation(local, i, set(range(n)) - ball[i]) for i in range(n)]
        np.testing.assert_allclose(value[:, kappa], exact, rtol=2e-5, atol=1e-10)
        for i in range(n):
            single = [oscillation(local, j, {i}) for j in range(n)]
            far = sum(single[j] for j in range(n) if j not in ball[i]) / 2
            scale = local.gamma * local.action_effect[i] * float(local.setting.g_max[i]) / n
            capped = scale * (far + sum(exact[j] for j in ball[i]))
            assert gradient[i, kappa] <= capped * (1 + 3e-5) + 1e-10
            # the uncapped form, a power series, may be the smaller one
            resolvent = local.reward @ np.linalg.inv(np.eye(n) - local.gamma * local.coupling.toarray())
            if local.gamma * np.abs(np.linalg.eigvals(local.coupling.toarray())).max() < 1:
                far = min(far, sum(resolvent[j, i] for j in range(n) if j not in ball[i]) / 2)
            assert gradient[i, kappa] >= scale * (far + sum(exact[j] for j in ball[i])) * (1 - 1e-6) - 1e-10


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 0), (1, 2)])
@pytest.mark.parametrize("coupling", [0.1, 1.0])
def test_a_cut_loosens_and_never_tightens(m: int, p: int, coupling: float) -> None:
    local = local_quantities(*problem(ring(12), m, p, coupling))
    for bound in (value_error_bound, gradient_error_bound):
        by_radius = [bound(local, [0, 1], radius) for radius in (1, 2, 3, 4, math.inf)]
        for cut, wider in itertools.pairwise(by_radius):
            assert (cut >= wider * (1 - 3e-5)).all()
        if coupling < 1:
            assert (by_radius[0] > by_radius[-1] * 1.01).any(), "cutting at the agent's own ball costs something"


def test_no_coupling_no_error() -> None:
    """Agents that do not read each other have no error from kappa = p on; nothing is left of the tails."""
    mdp = random_mdp(path(5), coupling=0.0, radius=0, rng=0)
    local = local_quantities(mdp, random_policy(mdp, radius=0, rng=1))
    assert value_error_bound(local, [0, 1]).max() < 1e-9
    assert gradient_error_bound(local, [0, 1]).max() < 1e-9


def test_gamma_zero() -> None:
    """Only the first reward counts, and only the policy reads the neighbours."""
    mdp = random_mdp(path(5), gamma=0.0, rng=0)
    local = local_quantities(mdp, random_policy(mdp, rng=1))
    others = [local.reward[[i], :].sum() - local.reward[i, i] for i in range(5)]
    expected = np.minimum(local.reward_span, others)
    np.testing.assert_allclose(value_error_bound(local, [0])[:, 0], expected)
    assert value_error_bound(local, [1]).max() == 0
    assert gradient_error_bound(local, [0]).max() == 0


def test_a_thousand_agents_and_refusals() -> None:
    graph = random_regular(3, 2_000, np.random.default_rng(0))
    mdp = random_mdp(graph, coupling=0.1, rng=0)
    local = local_quantities(mdp, random_policy(mdp, coupling=0.1, rng=1))
    worst = value_error_bound(local, [0, 1, 2], radius=4).max(axis=0)
    assert worst[0] > 2 * worst[1] > 4 * worst[2] > 0
    with pytest.raises(ValueError, match="radius = 1 is below kappa = 2; give at least 2"):
        value_error_bound(local, [0, 2], radius=1)
    with pytest.raises(ProblemTooLarge, match=r"N_i\^14 of 2000 agents .* GiB .* use kappa <= "):
        value_error_bound(local, [14])
