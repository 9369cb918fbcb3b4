"""The corrected bounds are suprema: a search from random starting points comes within a hair of them, never beyond."""

from __future__ import annotations

import numpy as np
import pytest

from dmpo_theory.adversary import Attack, search_theorem1, search_theorem2
from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.exact import local_values
from dmpo_theory.extended import extended_value, point_law
from dmpo_theory.gradient import state_gradient, truncated_state_gradient
from dmpo_theory.graph import path, star
from dmpo_theory.sweep import Check
from verification.conftest import Report

GAMMA = 0.9
SIGNS = pytest.mark.parametrize("signed", [True, False], ids=["signed", "one-signed"])


def _checked(found: Attack, graph_name: str, signed: bool) -> list[Check]:
    """The found instance against the corrected bound and the one that is printed, its error computed anew."""
    mdp, policy, i, kappa = found.mdp, found.policy, found.agent, found.kappa
    values = local_values(mdp, policy, method="numpy", tolerance=1e-11).values
    law = point_law(mdp, found.reference)
    x = int(np.ravel_multi_index(found.state, mdp.n_states))
    if found.claim == "theorem1":
        error = abs(values[i] - extended_value(mdp, values[i], mdp.graph.neighbors(i, kappa), law))[x]
    else:
        exact = state_gradient(mdp, policy, i, values.mean(axis=0), np.full(mdp.n, 1 / mdp.n))[x]
        error = np.linalg.norm(exact - truncated_state_gradient(mdp, policy, i, values, kappa, reference=law)[x])
    assert error == pytest.approx(found.error, abs=1e-9)
    setting = Setting.of(mdp, policy)
    checks = []
    for form in ("printed", "tight") if signed else ("printed", "one-signed", "tight"):
        key = f"{found.claim}-{form}"
        assert BOUNDS[key].applies(setting)
        value = float(BOUNDS[key].value(setting, kappa)[i])
        rewards, name = "signed" if signed else "non-negative", f"search on {graph_name}"
        unit = float(setting.r_max) / (1 - GAMMA) * (1.0 if found.claim == "theorem1" else float(setting.g_max[i]))
        checks.append(Check(key, name, mdp.n, rewards, GAMMA, kappa, i, float(error), value, unit))
    assert not checks[-1].violated
    assert checks[0].ratio == pytest.approx(found.ratio, rel=1e-9)
    return checks


@SIGNS
@pytest.mark.parametrize(("n", "kappa"), [(n, kappa) for n in (3, 4, 5) for kappa in range(n - 1)])
def test_theorem1_at_the_end_of_a_path(n: int, kappa: int, signed: bool, report: Report) -> None:
    """From 20 starting points, agents with one bit each: 0.99 of span / r_max, 2 signed and 1 one-signed."""
    found = search_theorem1(path(n), 0, kappa, GAMMA, signed=signed)
    report(_checked(found, f"path({n})", signed))
    assert len(found.ratios) == 20
    assert found.supremum == pytest.approx(2 if signed else 1)
    assert found.fraction > 0.99


@SIGNS
@pytest.mark.parametrize(
    ("n", "kappa"), [(3, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(3, 1), (4, 0), (4, 1)])]
)
def test_theorem2_at_the_centre_of_a_star(n: int, kappa: int, signed: bool, report: Report) -> None:
    """From 20 starting points: 0.95 of 2 L / (L + 1) at kappa = 1 for L leaves, half of it one-signed.

    At kappa = 0 the supremum depends on gamma; at kappa = 2 the centre's truncation is exact.
    """
    sizes = [4, *[3 if n == 3 else 2] * (n - 1)]  # 36 and 32 joint states: linear algebra on one thread, hence fast
    found = search_theorem2(star(n), 0, kappa, GAMMA, signed=signed, n_states=sizes)
    report(_checked(found, f"star({n})", signed))
    assert len(found.ratios) == 20
    if kappa == 1:
        assert found.supremum == pytest.approx(2 * (n - 1) / n / (1 if signed else 2))
    assert found.fraction > 0.95


def test_theorem2_as_printed_is_broken_from_a_random_start() -> None:
    """Three agents: the smallest counterexample is stumbled upon, not only constructed."""
    found = search_theorem2(star(3), 0, 1, GAMMA, starts=2)
    checks = _checked(found, "star(3)", True)
    assert checks[0].violated
    assert found.fraction > 0.95
