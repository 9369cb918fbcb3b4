"""Theorem 2 in every reading: how far a truncated policy gradient can be off."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from dmpo_theory.bounds import BOUNDS
from dmpo_theory.claims import theorem2
from dmpo_theory.constructive import NON_NEGATIVE, walker, walker_return_gradient, wrong_sign_gradients
from dmpo_theory.graph import FAMILIES, named_graph
from verification.referee import examine

test_claim, test_claim_widely = examine(theorem2.CLAIMS)


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
