"""The smallest certified kappa: its bounds against the plain formulas, its answers against exact errors."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from dmpo_theory import local_bounds
from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.certify import Certificate, _Search, certify, write_rows
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.envelope import envelope
from dmpo_theory.errors import ProblemTooLarge
from dmpo_theory.exact import local_values
from dmpo_theory.extended import span
from dmpo_theory.graph import FAMILIES, AgentGraph, named_graph, path, random_regular, ring
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP

SPLIT = AgentGraph.from_edges(7, [(0, 1), (1, 2), (2, 3), (1, 3), (4, 5)])


def problem(graph: AgentGraph, m: int = 1, p: int = 1, coupling: float = 0.3) -> tuple[NetworkedMDP, LocalPolicy]:
    mdp = random_mdp(graph, radius=m, coupling=coupling, rng=0)
    return mdp, random_policy(mdp, radius=p, coupling=coupling, rng=1)


@pytest.mark.parametrize("graph", [SPLIT, *(named_graph(family, 7) for family in FAMILIES)], ids=str)
@pytest.mark.parametrize(("m", "p"), [(1, 1), (1, 0), (2, 1), (1, 2)])
def test_tight_theorems_without_distances_are_the_formulas(graph: AgentGraph, m: int, p: int) -> None:
    """Theorems 1 and 2 from balls alone equal what bounds.py makes of the table of distances."""
    mdp, policy = problem(graph, m, p)
    setting = Setting.of(mdp, policy)
    search = _Search(mdp, policy, "gradient", 0.0)
    for radius in (math.inf, 2):
        search._sum_balls(radius)
        for kappa in range(5):
            one, two = search._theorem1(kappa), search._theorem2(kappa)
            np.testing.assert_allclose(one, BOUNDS["theorem1-tight"].value(setting, kappa), rtol=1e-12)
            tight = np.array(BOUNDS["theorem2-tight"].value(setting, kappa), dtype=float)
            if radius == math.inf:
                np.testing.assert_allclose(two, tight, rtol=1e-12, atol=1e-15)
            else:
                assert (two >= tight * (1 - 1e-12)).all(), "beyond the balls that were summed it may only be larger"


def test_the_smallest_kappa_is_the_first_certified_one() -> None:
    mdp, policy = problem(ring(9))
    exact = span(mdp, local_values(mdp, policy).values).max(axis=0)
    found = certify(mdp, policy, tolerance=0.01)
    assert [row.kappa for row in found.rows] == list(range(found.kappa + 1))
    assert all(row.error > 0.01 for row in found.rows[:-1])
    assert found.rows[-1].error <= 0.01
    assert found.rows[-1].certified == 9
    assert found.rows[1].seen == 3
    for row in found.rows:
        assert exact[row.kappa] <= row.error <= min(row.errors.values()) * (1 + 1e-12)
        assert row.errors["local"] <= row.errors["theorem1"] * (1 + 1e-12)
    without = certify(mdp, policy, tolerance=0.01, envelope_gib=0.0)
    assert without.kappa >= found.kappa
    assert "envelope is left out from kappa = 0 on" in without.notes[0]
    assert "GiB" in without.notes[0]


@pytest.mark.parametrize("quantity", ["value", "gradient"])
def test_at_the_diameter_every_tolerance_is_certified(quantity: str) -> None:
    mdp, policy = problem(path(6), coupling=1.0)
    found = certify(mdp, policy, 1e-200, quantity)  # type: ignore[arg-type]
    assert found.kappa == 5
    assert found.rows[-1].error == 0
    single = problem(AgentGraph.from_edges(1, []))
    assert certify(*single, 1e-9, quantity).kappa == 0  # type: ignore[arg-type]


def test_progress_and_csv(tmp_path: Path) -> None:
    seen: list[int] = []
    found: Certificate = certify(*problem(SPLIT), 0.2, envelope_gib=1e-6, progress=seen.append)
    assert seen == [row.kappa for row in found.rows]
    write_rows(found, tmp_path / "kappa.csv")
    with (tmp_path / "kappa.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["kappa"]) for row in rows] == seen
    assert float(rows[-1]["certified_error"]) == found.rows[-1].error
    assert rows[-1]["envelope"] == "" or float(rows[-1]["envelope"]) == found.rows[-1].errors["envelope"]


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan, math.inf])
def test_bad_tolerance(tolerance: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        certify(*problem(path(2)), tolerance)


def test_bad_quantity_and_envelope_that_does_not_fit() -> None:
    mdp, policy = problem(random_regular(3, 100, np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r'quantity = .q.; choose "value" or "gradient"'):
        certify(mdp, policy, 0.1, "q")  # type: ignore[arg-type]
    with pytest.raises(ProblemTooLarge, match=r"envelope of agent 3 on the .* agents of N_3\^4 needs .* GiB"):
        envelope(closed_loop(mdp, policy), mdp.graph, mdp.gamma, 3, 4)


def test_envelope_is_value_iteration_against_an_adversary() -> None:
    """By brute force: on a path of four, agent 0 sees two agents and agent 2's state is the adversary's."""
    mdp, policy = problem(path(4), coupling=1.0)
    chain = closed_loop(mdp, policy)
    outer = envelope(chain, mdp.graph, mdp.gamma, 0, 1)
    value = {True: np.zeros((2, 2)), False: np.zeros((2, 2))}
    for _ in range(400):
        for best, table in value.items():
            choices = np.zeros((2, 2, 2))
            for a, b, y in np.ndindex(2, 2, 2):
                following = chain.kernels[0][a, b] @ table @ chain.kernels[1][a, b, y]
                choices[a, b, y] = chain.rewards[0][a, b] + mdp.gamma * following
            value[best] = choices.max(axis=2) if best else choices.min(axis=2)
    np.testing.assert_allclose(outer.upper, value[True], rtol=1e-3)
    np.testing.assert_allclose(outer.lower, value[False], rtol=1e-3, atol=1e-3)
    assert (outer.upper >= value[True] - 1e-9).all()
    assert (outer.lower <= value[False] + 1e-9).all()
    narrower = envelope(chain, mdp.graph, mdp.gamma, 0, 2).errors()
    assert (narrower[:2] <= outer.errors() + 1e-9).all(), "a wider neighbourhood leaves less to the adversary"


def test_a_bound_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local bound stays as long as its balls fit; then Theorem 1 goes on alone, and a note says so."""
    mdp, policy = problem(ring(40), coupling=1.0)
    monkeypatch.setattr(local_bounds, "ROWS", 40 * 11)
    found = certify(mdp, policy, 1.0, envelope_gib=0.0)
    assert found.kappa > 7
    for row in found.rows:
        assert ("local" in row.errors) == (row.kappa <= 5)
    assert sum("the local bound is left out from kappa = 6 on" in note for note in found.notes) == 1
