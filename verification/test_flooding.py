"""The flooding family attains the corrected bounds with equality: exact fractions, graph by graph, agent by agent."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dmpo_theory.bounds import BOUNDS
from dmpo_theory.constructive import flooding_gradient, flooding_values
from dmpo_theory.graph import FAMILIES, named_graph

GAMMAS = [
    Fraction(9, 10),
    pytest.param(Fraction(1, 2), marks=pytest.mark.slow),
    pytest.param(Fraction(99, 100), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equality_for_every_agent_and_kappa(family: str, gamma: Fraction, record_property: object) -> None:
    """Theorem 1 and Theorem 2 in both readings; a pair counts where an agent lies exactly kappa + 1 hops away."""
    graph = named_graph(family, 8, 1)
    pairs = 0
    for kappa in range(5):
        values = flooding_values(graph, kappa, gamma)
        theorem1 = BOUNDS["theorem1-tight"].value(values.setting, kappa)
        for i in range(graph.n):
            if not (graph.hop_distance[i] == kappa + 1).any():
                continue
            pairs += 1
            assert 0 < values.errors[i] == theorem1[i]
            for reading, key in (("eq9", "theorem2-tight"), ("theorem2", "theorem2ii-tight")):
                found = flooding_gradient(graph, i, kappa, gamma, reading)  # type: ignore[arg-type]
                assert 0 < found.errors[0] == BOUNDS[key].value(found.setting, kappa)[i]
    assert pairs > 0
    record_property("pairs", pairs)  # type: ignore[operator]
