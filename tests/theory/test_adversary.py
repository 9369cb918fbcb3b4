"""The search's solver and derivatives by second routes, and what it does at its edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dmpo_theory.adversary import BoundExceeded, search_theorem1, search_theorem2
from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.exact import local_values
from dmpo_theory.extended import extended_value, point_law
from dmpo_theory.gradient import state_gradient, truncated_state_gradient
from dmpo_theory.graph import AgentGraph, path, ring, star
from dmpo_theory.instance_file import load_instance, save_instance
from dmpo_theory.sweep import check_instance
from dmpo_theory.truncation_error import Family, Tables, theorem1_error, theorem2_error

ErrorOf = Callable[[Family, int, int, Tables], tuple[float, Tables]]
ERRORS = pytest.mark.parametrize("error", [theorem1_error, theorem2_error])
CASES = pytest.mark.parametrize(
    ("graph", "sizes", "agent", "kappa", "signed"),
    [
        (path(3), (2, 3, 2), 0, 1, True),
        (path(3), (2, 2, 3), 1, 0, False),
        (star(4), (3, 2, 2, 2), 0, 1, True),
        (ring(4), (2, 2, 3, 2), 2, 1, True),
        (AgentGraph.from_edges(4, [(0, 1), (2, 3)]), (2, 3, 2, 2), 0, 0, True),
    ],
)


def _theta(family: Family, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=sum(int(np.prod(shape)) for shape in family.shapes))


@ERRORS
@CASES
def test_derivatives_by_finite_differences(
    error: ErrorOf, graph: AgentGraph, sizes: tuple[int, ...], agent: int, kappa: int, signed: bool
) -> None:
    family = Family.of(graph, 0.8, sizes, signed)
    theta = _theta(family, 0)
    tables = family.tables(theta)
    derivative = family.pull_back(tables, error(family, agent, kappa, tables)[1])

    def value(parameters: np.ndarray) -> float:
        return error(family, agent, kappa, family.tables(parameters))[0]

    steps = 1e-5 * np.eye(len(theta))
    differences = np.array([(value(theta + step) - value(theta - step)) / 2e-5 for step in steps])
    if error is theorem2_error or len(graph.neighbors(agent, kappa)) < graph.n:
        assert np.abs(derivative).max() > 1e-4
    np.testing.assert_allclose(derivative, differences, atol=1e-8)


@CASES
@pytest.mark.parametrize("seed", range(3))
def test_errors_by_the_exact_package(
    graph: AgentGraph, sizes: tuple[int, ...], agent: int, kappa: int, signed: bool, seed: int
) -> None:
    """Values without a joint kernel, extended values of a point law and gradients by agent's coordinates."""
    family = Family.of(graph, 0.8, sizes, signed)
    tables = family.tables(_theta(family, seed))
    mdp, policy = family.instance(tables)
    values = local_values(mdp, policy, method="numpy", tolerance=1e-12).values
    law = point_law(mdp, (1,) * mdp.n)
    extended = extended_value(mdp, values[agent], graph.neighbors(agent, kappa), law)
    assert theorem1_error(family, agent, kappa, tables)[0] == pytest.approx((values[agent] - extended)[0], abs=1e-10)
    exact = state_gradient(mdp, policy, agent, values.mean(axis=0), np.full(mdp.n, 1 / mdp.n))
    truncated = truncated_state_gradient(mdp, policy, agent, values, kappa, reference=law)
    norm = np.linalg.norm(exact[0] - truncated[0])
    assert abs(theorem2_error(family, agent, kappa, tables)[0]) == pytest.approx(norm, abs=1e-10)


def test_a_found_instance_survives_a_file(tmp_path: Path) -> None:
    """Saved, loaded and checked from scratch it breaks the bound as printed and keeps the corrected one."""
    found = search_theorem1(path(3), 0, 1, starts=2)
    save_instance(tmp_path / "found.json", found.mdp, found.policy)
    loaded = load_instance(tmp_path / "found.json")
    checks = {(c.bound, c.kappa): c for c in check_instance("found", "signed", loaded.mdp, loaded.policy)}
    assert checks["theorem1-printed", 1].violated
    assert float(checks["theorem1-printed", 1].ratio) >= found.ratio - 1e-9
    assert not checks["theorem1-tight", 1].violated


def test_same_seed_same_instance() -> None:
    first, second = (search_theorem1(path(3), 0, 0, starts=2, rng=7) for _ in range(2))
    assert first.ratios == second.ratios
    np.testing.assert_array_equal(first.mdp.transition[1], second.mdp.transition[1])
    assert first.ratio == max(first.ratios.values()) == first.ratios[first.seed]


@pytest.mark.parametrize(("claim", "search"), [("theorem1", search_theorem1), ("theorem2", search_theorem2)])
def test_negative_control(claim: str, search: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrected bound that is 1 % too small is exceeded, and the exception carries the instance."""
    bound = BOUNDS[f"{claim}-tight"]
    smaller = replace(bound, value=lambda s, kappa: [0.99 * float(b) for b in bound.value(s, kappa)])
    monkeypatch.setitem(BOUNDS, bound.key, smaller)
    with pytest.raises(BoundExceeded, match="save_instance") as caught:
        search(star(3), 0, 0, starts=20)
    found = caught.value.found
    assert found.ratio > found.limit
    assert found.error <= float(bound.value(Setting.of(found.mdp, found.policy), 0)[0]) * (1 + 1e-9)


def test_nothing_to_find_where_every_agent_is_seen() -> None:
    """On a star of four agents the corrected bound is 0 at kappa = 2 = n - 2, and so is the error."""
    for search in (search_theorem1, search_theorem2):
        for agent in (0, 1):
            with pytest.raises(ValueError, match="lower kappa"):
                search(star(4), agent, 2)
    family = Family.of(star(4), 0.9, 2, True)
    for agent in (0, 1):
        for error in (theorem1_error, theorem2_error):
            assert error(family, agent, 2, family.tables(_theta(family, agent)))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"agent": 3}, IndexError, "agent 3 does not exist"),
        ({"kappa": 0.5}, ValueError, "not an integer"),
        ({"gamma": 1.0}, ValueError, r"gamma = 1.0 is outside \[0, 1\)"),
        ({"n_states": (2, 2)}, ValueError, "n_states"),
        ({"n_states": 1}, ValueError, "n_states"),
        ({"n_states": 200}, MemoryError, "fewer agents or local states"),
        ({"starts": 0}, ValueError, "at least one starting point"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    search = partial(search_theorem1, path(3))
    with pytest.raises(error, match=message):
        search(**({"agent": 0, "kappa": 1} | arguments))  # type: ignore[arg-type]
