"""Local bounds against exact errors: never exceeded on random instances, attained on tabulated counterexamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.certify import certify
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.constructive import START, shift_register, three_agent_star
from dmpo_theory.envelope import Envelope, envelope
from dmpo_theory.exact import local_values
from dmpo_theory.extended import ReferenceLaw, point_law, span, uniform_law
from dmpo_theory.gradient import expected_gradient, state_gradient, truncated_state_gradient
from dmpo_theory.graph import FAMILIES, named_graph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy
from dmpo_theory.local_bounds import gradient_error_bound, local_quantities, value_error_bound
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.rational import tabulate

Record = Callable[[str, object], None]
Problem = tuple[NetworkedMDP, LocalPolicy]
ROUNDING = 1e-9


def gradient_errors(mdp: NetworkedMDP, policy: LocalPolicy, law: ReferenceLaw, kappas: int) -> Array:
    """Exact errors of the truncated gradient in Eq. 9, at the worst joint state: ``[n, kappas]``.

    The mean under the discounted occupancy is checked to be no larger.
    """
    values, visited = local_values(mdp, policy).values, occupancy(mdp, policy).law
    errors = np.zeros((mdp.n, kappas))
    for i in range(mdp.n):
        exact = state_gradient(mdp, policy, i, values.mean(axis=0), np.full(mdp.n, 1 / mdp.n))
        for kappa in range(kappas):
            gap = exact - truncated_state_gradient(mdp, policy, i, values, kappa, reference=law)
            errors[i, kappa] = np.linalg.norm(gap, axis=1).max()
            assert np.linalg.norm(expected_gradient(mdp, policy, i, gap, visited)) <= errors[i, kappa] + 1e-12
    return errors


def problem(seed: int, largest: int) -> Problem:
    """Any family, size, radii, coupling and discount, drawn from a seed."""
    rng = np.random.default_rng([seed, 2024])
    n = int(rng.integers(3, largest + 1))
    sizes = [int(s) for s in rng.integers(1, 4, n)] if n <= 6 else 2
    family = list(FAMILIES)[int(rng.integers(len(FAMILIES)))]
    couplings = [float(c) for c in rng.choice([0.05, 0.2, 0.6, 1.0], 2)]
    sharpness = float(rng.choice([0.05, 0.3, 1.0]))
    mdp = random_mdp(
        named_graph(family, n, rng),
        n_states=sizes,
        gamma=float(rng.choice([0.3, 0.9, 0.97])),
        coupling=couplings[0],
        concentration=sharpness,
        radius=int(rng.choice([0, 1, 1, 1, 2])),
        rng=rng,
    )
    radius = int(rng.choice([0, 1, 1, 1, 2]))
    return mdp, random_policy(mdp, coupling=couplings[1], concentration=sharpness, radius=radius, rng=rng)


def assert_never_below(
    mdp: NetworkedMDP, policy: LocalPolicy, reference: ReferenceLaw | None = None
) -> dict[str, tuple[float, float]]:
    """Hold every local bound against exact errors; for each the largest ratio, and the least slack."""
    graph, local, chain = mdp.graph, local_quantities(mdp, policy), closed_loop(mdp, policy)
    kappas = graph.diameter + 1
    values = local_values(mdp, policy).values
    spans = span(mdp, values)[:, :kappas]
    gradients = gradient_errors(mdp, policy, reference or uniform_law(mdp), kappas)
    pairs = [
        ("local value", spans, value_error_bound(local, range(kappas))),
        ("local value, cut", spans[:, :2], value_error_bound(local, range(kappas)[:2], radius=1)),
        ("local gradient", gradients, gradient_error_bound(local, range(kappas))),
        ("local gradient, cut", gradients[:, :2], gradient_error_bound(local, range(kappas)[:2], radius=1)),
    ]
    for radius in range(min(kappas, 3)):
        found = [envelope(chain, graph, mdp.gamma, i, radius) for i in range(mdp.n)]
        for i, outer in enumerate(found):
            unseen = tuple(j for j in range(mdp.n) if j not in outer.members)
            value, rounding = values[i].reshape(mdp.n_states), 1e-9 / (1 - mdp.gamma)
            assert (outer.lower <= value.min(axis=unseen) + rounding).all()
            assert (outer.upper >= value.max(axis=unseen) - rounding).all()
        errors = [np.pad(outer.errors(), (0, radius), mode="edge")[: radius + 1] for outer in found]
        pairs.append(("envelope", spans[:, : radius + 1], np.array(errors)))
    size = float(np.ptp(values)) + 1.0
    result: dict[str, tuple[float, float]] = {}
    for name, error, bound in pairs:
        slack = bound * (1 + ROUNDING) + 1e-10 * size - error
        assert slack.min() >= 0, (name, error, bound)
        meaningful = bound > 1e-8 * size
        ratio = float((error[meaningful] / bound[meaningful]).max(initial=0.0))
        before = result.get(name, (0.0, np.inf))
        result[name] = max(before[0], ratio), min(before[1], float((bound - error).min()))
    for quantity, errors in (("value", spans), ("gradient", gradients)):
        tolerance = max(float(errors.max()) / 3, 1e-6)
        found = certify(mdp, policy, tolerance, quantity)  # type: ignore[arg-type]
        for row in found.rows:
            worst = float(errors[:, min(row.kappa, kappas - 1)].max())
            assert worst <= row.error * (1 + ROUNDING) + 1e-10 * size
        assert errors[:, found.kappa].max() <= tolerance * (1 + ROUNDING)
    return result


def run(seeds: range, largest: int, record_property: Record) -> None:
    worst: dict[str, list[tuple[float, float, int]]] = {}
    for seed in seeds:
        for name, (ratio, slack) in assert_never_below(*problem(seed, largest)).items():
            worst.setdefault(name, []).append((ratio, slack, seed))
    for name, rows in worst.items():
        ratio, _, seed = max(rows)
        slack = min(row[1] for row in rows)
        record_property("bound", (name, 0, len(rows), ratio, slack, f"random, seed {seed}: ratio {ratio:.3f}"))


def test_never_below_the_true_error(record_property: Record) -> None:
    run(range(24), 6, record_property)


@pytest.mark.slow
def test_never_below_the_true_error_on_500_instances(record_property: Record) -> None:
    run(range(100, 580), 8, record_property)
    run(range(600, 620), 12, record_property)


@pytest.mark.parametrize("kappa", [0, 1, 2])
def test_shift_register_attains_the_value_bounds(kappa: int) -> None:
    """Error, local bound and envelope all equal Theorem 1's; so a bound that is 1 % too small is caught here."""
    mdp, policy = register_problem(kappa)
    error = span(mdp, local_values(mdp, policy).values)[0, kappa]
    local = value_error_bound(local_quantities(mdp, policy), [kappa])[0, 0]
    outer = envelope(closed_loop(mdp, policy), mdp.graph, mdp.gamma, 0, kappa).errors()[kappa]
    assert error == pytest.approx(2 * 0.9**kappa / 0.1)
    for bound in (local, outer):
        assert error == pytest.approx(bound, rel=1e-4)
        assert error <= bound * (1 + ROUNDING)
        assert error > 0.99 * bound * (1 + ROUNDING), "1 % less would be refuted"


@pytest.mark.parametrize("kappa", [0, 1])
def test_three_agent_star_attains_the_gradient_bound(kappa: int) -> None:
    """The centre's gradient, by placeholders: the local bound equals Theorem 2's and the error equals both."""
    mdp, policy = star_problem()
    error = gradient_errors(mdp, policy, point_law(mdp, [1, 1, 1]), 2)[0, kappa]
    local = gradient_error_bound(local_quantities(mdp, policy), [kappa])[0, 0]
    tight = BOUNDS["theorem2-tight"].value(Setting.of(mdp, policy), kappa)[0]
    assert error == pytest.approx(local, rel=1e-5)
    assert local == pytest.approx(tight, rel=1e-5)


def register_problem(kappa: int) -> Problem:
    return tabulate(shift_register(kappa, Fraction(9, 10)), [[0, 1]] * (kappa + 2), [2] * (kappa + 2))


def star_problem() -> Problem:
    return tabulate(three_agent_star(Fraction(9, 10)), [[START, 0, 1], [0, 1], [0, 1]], [2] * 3)


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bound, made 1 % too small, is caught on an instance that attains it."""
    register = register_problem(2)
    star = star_problem()
    attained = {"value_error_bound": register, "gradient_error_bound": star, "envelope": register}
    for name, (mdp, policy) in attained.items():
        placeholders = point_law(mdp, [1] * mdp.n)
        assert_never_below(mdp, policy, placeholders)
        with monkeypatch.context() as patch:
            patch.setitem(globals(), name, too_small(globals()[name]))
            with pytest.raises(AssertionError):
                assert_never_below(mdp, policy, placeholders)


def too_small(bound: Callable[..., Any]) -> Callable[..., Any]:
    def smaller(*arguments: Any, **options: Any) -> Any:
        found = bound(*arguments, **options)
        if isinstance(found, Envelope):
            middle, half = (found.lower + found.upper) / 2, 0.99 * (found.upper - found.lower) / 2
            return replace(found, lower=middle - half, upper=middle + half)
        return 0.99 * found

    return smaller
