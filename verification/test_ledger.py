"""The ledger, claim by claim: what each check computes is what was proven; none knows what is expected of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from dmpo_theory.audit import judge
from dmpo_theory.bounds import BOUNDS
from dmpo_theory.claims import CLAIMS
from dmpo_theory.claims.record import FAILS, HOLDS, TIGHT, Case, Scope
from dmpo_theory.constructive import NON_NEGATIVE, walker, walker_return_gradient, wrong_sign_gradients
from dmpo_theory.graph import FAMILIES, named_graph, path
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.model_witnesses import nonmonotone_tv, parity_tv

SCOPE = Scope(n=4, instances=1)
WIDE = Scope(n=6, instances=8, seed=1)


@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name: str) -> None:
    """Random instances of every family, and the constructive ones."""
    row = judge(CLAIMS[name], CLAIMS[name].check(SCOPE), given=False)
    assert row.as_expected, row
    assert row.checks > 0


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)])
@pytest.mark.parametrize("name", CLAIMS)
def test_claim_widely(name: str, gamma: Fraction) -> None:
    """More instances, larger graphs, three discount factors."""
    row = judge(CLAIMS[name], CLAIMS[name].check(replace(WIDE, gamma=gamma)), given=False)
    assert row.as_expected, row


@pytest.mark.parametrize("name", CLAIMS)
def test_any_other_expectation_would_fail_the_audit(name: str) -> None:
    finding = CLAIMS[name].check(SCOPE)
    for other in {HOLDS, TIGHT, FAILS} - {CLAIMS[name].expected}:
        assert not judge(replace(CLAIMS[name], expected=other), finding, given=False).as_expected


def test_eq14_fails_exactly_where_the_distances_say() -> None:
    """C1: the corrected bound, which is attained, exceeds the printed one iff the distances satisfy an inequality.

    It is 2 gamma^2 n1 + sum gamma^(d - kappa + 1) > n - (1 - gamma^2) |N|: n1 counts the neighbours that do not see
    everything, the sum runs over agents outside.
    """
    for family in FAMILIES:
        graph = named_graph(family, 8)
        for gamma in (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)):
            setting = replace(walker(2, gamma).setting(), graph=graph, reward_range=((-1, 1),) * 8, g_max=(1,) * 8)
            for kappa in range(graph.diameter + 1):
                printed, tight = (BOUNDS[f"theorem2-{k}"].value(setting, kappa) for k in ("printed", "tight"))
                for i in range(8):
                    inside = graph.neighbors(i, kappa)
                    blind = sum(len(graph.neighbors(j, kappa)) < 8 for j in inside)
                    outside = sum(
                        gamma ** (int(graph.hop_distance[i, j]) - kappa + 1)
                        for j in range(8)
                        if j not in inside and graph.hop_distance[i, j] < 8
                    )
                    assert (tight[i] > printed[i]) == (
                        2 * gamma**2 * blind + outside > 8 - (1 - gamma**2) * len(inside)
                    ), (family, gamma, kappa, i)


def test_own_reward_at_weight_one_can_point_the_wrong_way() -> None:
    """C4 in exact fractions: the true derivative is negative, the printed advantage's is positive."""
    assert wrong_sign_gradients(Fraction(9, 10)) == (Fraction(-17, 80), Fraction(13, 80))


def test_gradient_of_the_return_breaks_eq14_even_for_one_signed_rewards() -> None:
    """C5: a coin-driven walk of 10 positions, rewards 0 and 1."""
    gamma = Fraction(99, 100)
    bound = BOUNDS["theorem2-printed"].value(walker(10, gamma, NON_NEGATIVE).setting(), 0)[0]
    ratio = walker_return_gradient(10, gamma, NON_NEGATIVE) / bound
    assert 1.06 < ratio < 1.07


def test_models_in_exact_fractions() -> None:
    """F5: total variation may rise before it falls, and need not move at all until the true radius."""
    assert nonmonotone_tv() == [Fraction(1, 20), Fraction(9, 100), 0]
    assert parity_tv(5) == [Fraction(1, 2)] * 5 + [0]


def test_given_instances_are_asked_only_what_they_can_answer() -> None:
    """Hypotheses that are not met give "not applicable", with the hypothesis and the value that breaks it."""
    mdp = random_mdp(path(3), reward_range=(-1, 1), rng=0)
    case = Case("mine", mdp, random_policy(mdp, rng=1))
    scope = Scope(given=(case,))
    rows = {name: judge(claim, claim.check(scope), given=True) for name, claim in CLAIMS.items()}
    assert all(row.as_expected for row in rows.values())
    assert rows["A1"].verdict == HOLDS  # no counterexample to Eq. 12 here
    assert rows["A2"].verdict == "not applicable"
    assert "rewards of one sign; found mine: signed" in rows["A2"].witness
    assert "p = 0" in rows["A4"].witness
    assert rows["F3a"].verdict == "not applicable"
