"""Neighbourhoods against networkx's own ego graphs, and what a graph refuses."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from dmpo_theory.graph import FAMILIES, AgentGraph, grid, named_graph, ring, star


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [3, 4, 7, 10])
def test_neighborhoods_are_networkx_ego_graphs(family: str, n: int) -> None:
    graph = named_graph(family, n, 1)
    assert graph.n == n
    for i in range(n):
        for kappa in range(5):
            ego = nx.ego_graph(graph.to_networkx(), i, radius=kappa)
            assert graph.neighbors(i, kappa) == tuple(sorted(ego.nodes))
    for kappa in range(graph.diameter + 1):
        np.testing.assert_array_equal(graph.neighborhood_sizes[:, kappa], graph.mask(kappa).sum(axis=1))


def test_a_power_of_the_adjacency_matrix_is_not_a_neighborhood() -> None:
    """On a 5 x 5 grid without self loops, walks of length two lose every neighbour of odd distance."""
    graph = grid(5, 5)
    adjacency = nx.to_numpy_array(graph.to_networkx())
    walks = (np.linalg.matrix_power(adjacency, 2) > 0) | np.eye(25, dtype=bool)
    assert walks.sum() == 149
    assert graph.mask(2).sum() == 229


def test_labels_and_components() -> None:
    labelled = nx.Graph([("c", "b"), ("b", "a")])
    labelled.add_node("z")
    graph = AgentGraph.from_networkx(labelled)
    assert graph.nodes == ("a", "b", "c", "z")
    assert graph.neighbors(0, math.inf) == (0, 1, 2, 3)
    assert graph.neighbors(0, 99) == (0, 1, 2)
    assert np.isinf(graph.hop_distance[0, 3])
    assert graph.diameter == 2
    mixed = AgentGraph.from_networkx(nx.Graph([("b", 1), (1, (2, 3))]))
    assert mixed.nodes == ("b", 1, (2, 3))


def test_padded_neighbors_hold_exactly_the_neighborhood() -> None:
    index, real = star(5).padded_neighbors(1)
    assert index.shape == real.shape == (5, 5)
    for i in range(5):
        assert tuple(index[i][real[i]]) == star(5).neighbors(i)


def test_same_seed_same_graph() -> None:
    for family in FAMILIES:
        assert named_graph(family, 8, 0).edges == named_graph(family, 8, 0).edges


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 5)], r"edge 0, \[0, 5\], names the missing node 5; agents are 0 .. 2"),
        ([(0, 1), (1, -1)], "edge 1.*missing node -1"),
        ([(1, 1)], r"edge 0, \[1, 1\], is a self loop; remove it"),
        ([(0, 1, 2)], "edge 0 is"),
        ([(0, 1.5)], "missing node 1.5"),
    ],
)
def test_bad_edges(edges: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgentGraph.from_edges(3, edges)


@pytest.mark.parametrize(
    ("kappa", "message"),
    [
        (-1, "kappa = -1 is negative"),
        (1.5, "kappa = 1.5 is not an integer"),
        ("2", "kappa = '2' is not an integer"),
        (math.nan, "not an integer"),
        (True, "not an integer"),
    ],
)
def test_bad_kappa(kappa: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ring(4).neighbors(0, kappa)


def test_bad_graphs() -> None:
    with pytest.raises(ValueError, match=r"directed; .*to_undirected"):
        AgentGraph.from_networkx(nx.DiGraph([(0, 1)]))
    with pytest.raises(ValueError, match="node 'a' has a self loop"):
        AgentGraph.from_networkx(nx.Graph([("a", "a")]))
    with pytest.raises(ValueError, match="at least one agent"):
        AgentGraph.from_edges(0, [])
    with pytest.raises(ValueError, match=r"unknown graph family 'rnig'; did you mean 'ring'"):
        named_graph("rnig", 4)
    with pytest.raises(IndexError, match="agent 7 does not exist"):
        ring(4).neighbors(7)
