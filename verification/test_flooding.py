"""The flooding family attains the corrected bounds with equality: exact fractions, graph by graph, agent by agent."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dmpo_theory.bounds import BOUNDS
from dmpo_theory.constructive import flooding_gradient, flooding_values
from dmpo_theory.graph import FAMILIES, AgentGraph, named_graph

SLOW = pytest.mark.slow
CASES = [
    pytest.param(n, gamma, marks=[] if (n, gamma) == (8, Fraction(9, 10)) else SLOW)
    for n in (8, 12, 16)
    for gamma in (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100))
]


def pairs(graph: AgentGraph) -> list[tuple[int, int]]:
    """Agents and kappas up to 4 such that another agent lies exactly kappa + 1 hops away: else nothing is hidden."""
    return [(i, kappa) for i in range(graph.n) for kappa in range(5) if (graph.hop_distance[i] == kappa + 1).any()]


def test_there_are_enough_pairs() -> None:
    graphs = [named_graph(family, n, 1) for family in FAMILIES for n in (8, 12, 16)]
    assert sum(len(pairs(graph)) for graph in graphs) > 1000


@pytest.mark.parametrize(("n", "gamma"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_equality_for_every_agent_and_kappa(family: str, n: int, gamma: Fraction) -> None:
    """Theorem 1 and Theorem 2 in both readings."""
    graph = named_graph(family, n, 1)
    values = {kappa: flooding_values(graph, kappa, gamma) for kappa in range(5)}
    for i, kappa in pairs(graph):
        found = values[kappa]
        assert 0 < found.errors[i] == BOUNDS["theorem1-tight"].value(found.setting, kappa)[i]
        for reading, key in (("eq9", "theorem2-tight"), ("theorem2", "theorem2ii-tight")):
            found = flooding_gradient(graph, i, kappa, gamma, reading)  # type: ignore[arg-type]
            assert 0 < found.errors[0] == BOUNDS[key].value(found.setting, kappa)[i]
