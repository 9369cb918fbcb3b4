"""Axis order, immutability, and every refusal of a malformed MDP or policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dmpo_theory.exact import local_values
from dmpo_theory.graph import AgentGraph, path
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP


def test_axis_order_is_c_order_agent_zero_slowest() -> None:
    """Two agents whose rewards name their own state: V at gamma = 0 spells out the joint index."""
    stay = [np.eye(2)[:, None, :], np.eye(3)[:, None, :]]
    reward = (np.array([[0.0], [10.0]]), np.array([[0.0], [1.0], [2.0]]))
    mdp = NetworkedMDP(AgentGraph.from_edges(2, []), 0.0, tuple(stay), reward)
    policy = LocalPolicy(mdp, (np.ones((2, 1)), np.ones((3, 1))))
    assert (local_values(mdp, policy).values.sum(axis=0) == [0, 1, 2, 10, 11, 12]).all()


def test_tables_are_copied_and_read_only() -> None:
    table = np.full((2, 1), 0.5)
    mdp = NetworkedMDP(path(1), 0.5, (np.full((2, 1, 2), 0.5),), (table,))
    table[0] = 7
    assert mdp.reward[0][0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        mdp.reward[0][0, 0] = 1


def test_radii() -> None:
    mdp = random_mdp(path(4), radius=2)
    assert mdp.radius == 2
    assert random_policy(mdp, radius=0).radius == 0
    assert random_policy(mdp).radius == 1


def test_coupling_zero_ignores_the_neighbors() -> None:
    mdp = random_mdp(path(3), coupling=0.0, rng=1)
    middle = mdp.transition[1]
    assert np.allclose(middle, middle[:1, :, :1])
    assert not np.allclose(middle[0, 0, 0], middle[0, 1, 0])


def broken(change: Callable[[dict[str, Any]], None]) -> Callable[[], NetworkedMDP]:
    mdp = random_mdp(path(3), n_states=[2, 3, 2], rng=0)
    parts: dict[str, Any] = {
        "graph": mdp.graph,
        "gamma": 0.9,
        "transition": [table.copy() for table in mdp.transition],
        "reward": [table.copy() for table in mdp.reward],
    }
    change(parts)
    return lambda: NetworkedMDP(**parts)


def entry(name: str, i: int, index: tuple[int, ...], value: float) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        parts[name][i][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            entry("transition", 1, (0, 2, 1, 0, 0), 0.9),
            r"transition\[1\], row \[0, 2, 1, 0\], sums to .* not to 1; divide",
        ),
        (entry("transition", 0, (1, 1, 0, 1), -0.5), r"transition\[0\]\[1, 1, 0, 1\] = .*-0.5.* is negative"),
        (entry("transition", 2, (1, 1, 0, 1), np.nan), r"transition\[2\]\[1, 1, 0, 1\] is not a finite number"),
        (entry("reward", 1, (2, 1), np.inf), r"reward\[1\]\[2, 1\] is not a finite number"),
        (lambda p: p.update(gamma=1.0), r"gamma = 1.0 is outside \[0, 1\)"),
        (lambda p: p.update(gamma=-0.1), r"gamma = -0.1 is outside"),
        (lambda p: p.update(gamma=float("nan")), r"gamma = nan is outside"),
        (lambda p: p["transition"].pop(), "transition has 2 entries; expected one for each of the 3 agents"),
        (
            lambda p: p["transition"].__setitem__(0, np.full((2, 2, 2, 2), 0.5)),
            r"transition\[0\] has shape \(2, 2, 2, 2\), expected \(2, 3, 2, 2\): parents' states in ascending",
        ),
        (lambda p: p["reward"].__setitem__(2, np.zeros(4)), r"reward\[2\] has shape \(4,\); expected \[S_2, A_2\]"),
        (lambda p: p["reward"].__setitem__(2, [[1], [1, 2]]), r"reward\[2\] is not a rectangular array"),
        (lambda p: p.update(transition_parents=[[0], [1]]), "transition_parents has 2 entries"),
        (lambda p: p.update(transition_parents=[[1, 0], [1], [2]]), r"transition_parents\[0\] = .* ascending"),
        (
            lambda p: p.update(transition_parents=[[0], [1], [2, 3]]),
            r"transition_parents\[2\] names the missing node 3",
        ),
    ],
)
def test_malformed_mdp(change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken(change)()


def test_parents_must_be_linked() -> None:
    graph = AgentGraph.from_edges(2, [])
    tables = (np.full((2, 2, 1, 2), 0.5), np.full((2, 1, 2), 0.5))
    with pytest.raises(ValueError, match=r"transition_parents\[0\] names agent 1, which no path links to agent 0"):
        NetworkedMDP(graph, 0.9, tables, (np.zeros((2, 1)),) * 2, ((0, 1), (1,)))


def test_malformed_policy() -> None:
    mdp = random_mdp(path(2), rng=0)
    good = np.full((2, 2, 2), 0.5)
    with pytest.raises(ValueError, match=r"policy\[1\] has shape \(2, 2\), expected \(2, 2, 2\)"):
        LocalPolicy(mdp, (good, np.full((2, 2), 0.5)))
    with pytest.raises(ValueError, match=r"policy\[0\], row \[0, 0\], sums to"):
        LocalPolicy(mdp, (good * 1.1, good))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling": 1.5}, "coupling = 1.5 is outside"),
        ({"concentration": 0.0}, "concentration = 0.0 must be positive"),
        ({"reward_range": (1.0, -1.0)}, "reward_range = .* is empty"),
        ({"n_states": [2, 2]}, "n_states = .* one for each of the 3 agents"),
    ],
)
def test_generator_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_mdp(path(3), **options)
