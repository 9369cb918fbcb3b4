"""The derivations: all proven, every corruption caught, and every number again by a route without sympy's algebra."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp

from dmpo_theory import derivations
from dmpo_theory.bounds import BOUNDS
from dmpo_theory.claims import CLAIMS
from dmpo_theory.constructive import flooding_gradient
from dmpo_theory.derivations import SECTIONS, STEPS, L, gamma, kappa, q, render
from dmpo_theory.graph import path, star
from dmpo_theory.symbolic import CLOSED, OPEN, Step, nonnegative, verify, x

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "derivations.md"
FIELDS = ("lhs", "rhs", "slack", "condition")


@pytest.mark.parametrize("name", STEPS)
def test_proven(name: str) -> None:
    assert verify(STEPS[name])


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run `python -m dmpo_theory.derivations > docs/derivations.md`"


def test_page_has_every_step_once_in_order() -> None:
    assert re.findall(r"^\*\*(\S+)\*\*", PAGE.read_text(), re.MULTILINE) == list(STEPS)
    assert {name.split(".")[0] for name in STEPS} == set(SECTIONS)


def test_what_is_not_proven_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(STEPS["T2.3"], rhs=sp.S.One)
    monkeypatch.setitem(derivations.STEPS, "T2.3", wrong)
    with pytest.raises(ValueError, match=r"step T2\.3 is not proven"):
        render()


def test_errata_name_what_exists() -> None:
    """Every claim, line, test and section that the errata refer to."""
    text = (ROOT / "docs" / "errata.md").read_text()
    for names in re.findall(r"--claim ([^-]+) --out", text):
        assert set(names.split()) <= set(CLAIMS), names
    for name in re.findall(r"\b(?:T1|E4|T2i{0,2}|L|PPO)\.\d+\b", text):
        assert name in STEPS, name
    tests = re.findall(r"`pytest (\S+) -k (?:\"([^\"]+)\"|(\w+))", text)
    assert len(tests) == text.count("`pytest")
    for file, several, one in tests:
        for name in (several or one).split(" or "):
            assert re.search(rf"def test_\w*{name}", (ROOT / file).read_text()), (file, name)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.*)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == slugs


# Corruptions: every number and every exponent of every part of a step, and every sign of a side.


def _corrupted(expression: sp.Expr) -> Iterator[sp.Expr]:
    """The expression with one number, or one exponent, larger by one; a sum's limits count as numbers too."""
    if expression.is_Number and expression.is_finite:
        yield expression + 1
    for position, part in enumerate(expression.args):
        limits = [sp.Tuple(part[0], *rest) for rest in _limits(part)] if isinstance(part, sp.Tuple) else None
        changed = limits if limits is not None else list(_corrupted(part))
        if isinstance(expression, sp.Pow) and position == 1 and not part.is_Number:
            changed.append(part + 1)
        for new in changed:
            yield expression.func(*expression.args[:position], new, *expression.args[position + 1 :])


def _limits(limit: sp.Tuple) -> Iterator[tuple[sp.Expr, ...]]:
    """A summation's limits ``(index, first, last)`` with one moved; nothing for a derivative's ``(variable, 1)``."""
    if len(limit) == 3:
        _, first, last = limit
        yield first + 1, last
        if last.is_finite is not False:
            yield first, last + 1


def _corruptions(step: Step) -> Iterator[Step]:
    for field in FIELDS:
        part = getattr(step, field)
        if isinstance(part, tuple):
            if step.kind == "equivalence":
                yield from (replace(step, condition=(new, part[1])) for new in (*_corrupted(part[0]), part[0] + 1))
                yield from (replace(step, condition=(part[0], new)) for new in (*_corrupted(part[1]), part[1] + 1))
        elif field != "slack" or step.kind != "identity":
            yield from (replace(step, **{field: new}) for new in _corrupted(part))
            if part != 0 and (step.kind != "identity" or step.rhs != 0):
                yield replace(step, **{field: -part})


@pytest.mark.parametrize("name", STEPS)
def test_every_corruption_is_caught(name: str) -> None:
    found = list(_corruptions(STEPS[name]))
    assert len(found) >= 2
    for wrong in found:
        assert not verify(wrong), wrong


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.kind == "inequality"])
def test_inequalities_are_not_reversed(name: str) -> None:
    """With the sides exchanged, and the slack with them, the identity still holds; its sign does not."""
    step = STEPS[name]
    assert not verify(replace(step, lhs=step.rhs, rhs=step.lhs, slack=-step.slack))


def test_slacks_that_prove_nothing_are_refused() -> None:
    assert not nonnegative(x - gamma)
    assert not nonnegative(1 - 2 * gamma)
    assert nonnegative((1 - 2 * gamma) ** 2)
    assert nonnegative(1 - gamma**kappa)
    assert not nonnegative(1 - gamma**kappa, strict=True)  # kappa = 0
    assert nonnegative(1 - gamma ** (kappa + q), strict=True)
    assert not nonnegative(sp.Symbol("real", real=True) * gamma)
    assert not nonnegative(-gamma * x)
    assert nonnegative((gamma - 1) * (x - 1))
    assert not nonnegative((gamma - 1) ** 3)
    assert not nonnegative(sp.sqrt(gamma - 1))


# The second route: evaluate both sides at random rational points, by recursion and without any simplification.


Point = dict[sp.Symbol, mpmath.mpf]


def _value(expression: sp.Expr, at: Point) -> mpmath.mpf:
    """The number an expression stands for: sums term by term, derivatives by finite differences."""
    if isinstance(expression, sp.Symbol):
        return at[expression]
    if expression.is_Rational:
        return mpmath.mpf(expression.p) / expression.q
    if isinstance(expression, sp.Indexed):
        return mpmath.mpf(2 + 3 * int(_value(expression.indices[0], at)) % 5)  # some hop distances
    if isinstance(expression, sp.Sum):
        index, first, last = expression.limits[0]
        start = int(_value(first, at))
        stop = start + 1000 if last is sp.oo else int(_value(last, at))
        return mpmath.fsum(_value(expression.function, at | {index: mpmath.mpf(k)}) for k in range(start, stop + 1))
    if isinstance(expression, sp.Derivative):
        variable = expression.variables[0]
        return mpmath.diff(lambda z: _value(expression.expr, at | {variable: z}), at[variable])
    if isinstance(expression, sp.Subs):
        places = zip(expression.variables, expression.point, strict=True)
        return _value(expression.expr, at | {variable: _value(place, at) for variable, place in places})
    return _OPERATIONS[expression.func.__name__](*[_value(part, at) for part in expression.args])


_OPERATIONS = {
    "Add": lambda *terms: mpmath.fsum(terms),
    "Mul": lambda *factors: mpmath.fprod(factors),
    "Pow": lambda base, power: base**power,
    "exp": mpmath.exp,
    "log": mpmath.log,
    "Max": max,
    "Abs": abs,
    "ceiling": mpmath.ceil,
    "pi": lambda z: (3 + mpmath.sin(z)) / 7,  # any smooth positive function does
}


def _point(symbols: set[sp.Symbol], rng: random.Random) -> Point:
    def number(symbol: sp.Symbol) -> Fraction:
        if symbol in OPEN:
            return Fraction(rng.randint(1, 9), 10)
        if symbol in CLOSED:
            return Fraction(rng.randint(0, 12), 12)
        if symbol.is_integer:
            return Fraction(rng.randint(1 if symbol.is_positive else 0, 6))
        if symbol.is_nonnegative:
            return Fraction(rng.randint(1, 40), rng.randint(3, 20))
        return Fraction(rng.randint(-40, 40), rng.randint(7, 20))

    drawn = {symbol: number(symbol) for symbol in sorted(symbols, key=str)}
    return {symbol: mpmath.mpf(value.numerator) / value.denominator for symbol, value in drawn.items()}


def _symbols(step: Step) -> set[sp.Symbol]:
    parts = (step.lhs, step.rhs, step.slack, *step.condition)
    return {atom for part in parts for atom in part.atoms(sp.Symbol)}


@pytest.mark.parametrize("name", STEPS)
def test_numbers_agree(name: str) -> None:
    """Forty random points for each step, thirty digits; never a call of sympy's that simplifies."""
    step, rng = STEPS[name], random.Random(name)
    kinds = {"identity": _identity_holds, "inequality": _inequality_holds, "equivalence": _equivalence_holds}
    with mpmath.workdps(30):
        for _ in range(40 if not step.lhs.has(sp.oo) else 8):
            at = _point(_symbols(step), rng)
            assert kinds[step.kind](step, at), at


def _close(left: mpmath.mpf, right: mpmath.mpf) -> bool:
    return bool(mpmath.almosteq(left, right, rel_eps=1e-12, abs_eps=1e-12))


def _identity_holds(step: Step, at: Point) -> bool:
    return _close(_value(step.lhs, at), _value(step.rhs, at))


def _inequality_holds(step: Step, at: Point) -> bool:
    gap = _value(step.rhs, at) - _value(step.lhs, at)
    return gap >= -1e-12 and _close(gap, _value(step.slack, at))


def _equivalence_holds(step: Step, at: Point) -> bool:
    gap = _value(step.rhs, at) - _value(step.lhs, at)
    simpler = _value(step.condition[1], at) - _value(step.condition[0], at)
    return _value(step.slack, at) > 0 and (abs(gap) < 1e-12 or (gap >= 0) == (simpler >= 0))


# The formulas against what the rest of the package computes.


def test_path_ratio_is_the_exact_witnesses() -> None:
    """T2ii.5 at gamma = 1/2 against exact gradients of flooding instances and the printed bound."""
    for half in (1, 2, 3, 5):
        witness = flooding_gradient(path(2 * half + 2), 0, 2 * half, Fraction(1, 2), "theorem2")
        found = witness.errors[0] / BOUNDS["theorem2ii-printed"].value(witness.setting, 2 * half)[0]
        assert found == Fraction(str(STEPS["T2ii.5"].rhs.subs({gamma: sp.Rational(1, 2), q: half})))


def test_star_ratio_is_the_exact_witnesses() -> None:
    for leaves in (2, 3, 5):
        witness = flooding_gradient(star(leaves + 1), 0, 1, Fraction(9, 10))
        found = witness.errors[0] / BOUNDS["theorem2-printed"].value(witness.setting, 1)[0]
        factor = STEPS["T2i.13"].rhs.subs(L, leaves) / STEPS["T2i.13"].rhs.args[-1]
        assert found == Fraction(2 * leaves, leaves + 1) == Fraction(str(factor))


def test_condition_on_distances_decides_eq14() -> None:
    """T2i.9 against the corrected and the printed bound as the package computes them, on paths, signed rewards."""
    for size in (3, 5, 7):
        graph = path(size)
        for discount in (Fraction(1, 2), Fraction(9, 10)):
            for hops in range(size):
                witness = flooding_gradient(graph, 0, hops, discount)
                inside = graph.neighbors(0, hops)
                blind = sum(len(graph.neighbors(k, hops)) < size for k in inside)
                outside = sum(discount ** (k - hops - 1) for k in range(hops + 1, size))
                values = {"n": size, "N": len(inside), "n_1": blind, "D": outside, "gamma": discount}
                symbols = {s: sp.Rational(str(values[s.name])) for s in _symbols(STEPS["T2i.9"]) if s.name in values}
                small, large = (side.subs(symbols) for side in STEPS["T2i.9"].condition)
                printed = BOUNDS["theorem2-printed"].value(witness.setting, hops)[0]
                assert (witness.errors[0] <= printed) == bool(small <= large)


def test_smallest_exponent_by_enumeration() -> None:
    for hops in range(60):
        assert min(max(ell, hops + 1 - ell) for ell in range(hops + 1)) == -(-(hops + 1) // 2)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_printed_target_on_a_random_chain(steps: int) -> None:
    """L.2 in general: the stationary mean of a critic grows by rho (1 - gamma^T) / (1 - gamma) in every sweep."""
    rng, discount = np.random.default_rng(0), 0.9
    matrix, rewards = rng.dirichlet(np.ones(6), 6), rng.normal(size=6)
    law = np.linalg.matrix_power(matrix, 2000)[0]
    value = rng.normal(size=6)
    for _ in range(3):
        new = value
        for back in range(steps):
            new = (discount ** (steps - 1 - back)) * rewards + matrix @ new
        added = law @ new - law @ value
        assert added == pytest.approx(law @ rewards * (1 - discount**steps) / (1 - discount), rel=1e-10)
        value = new


def test_entropy_falls_for_any_number_of_actions() -> None:
    """L.7 beyond a coin: a small step of descent on + beta H lowers the entropy of a softmax."""
    rng = np.random.default_rng(1)
    for actions in (2, 3, 7):
        logits = rng.normal(size=actions)

        def entropy(z: np.ndarray) -> float:
            law = np.exp(z) / np.exp(z).sum()
            return float(-(law * np.log(law)).sum())

        eye = 1e-6 * np.eye(actions)
        slope = np.array([(entropy(logits + row) - entropy(logits - row)) / 2e-6 for row in eye])
        assert entropy(logits - 1e-3 * slope) < entropy(logits)


def test_joint_drift_by_enumeration() -> None:
    """PPO.2 and PPO.3 on random pairs of policies of three agents with three actions."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        before, after = rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(3), 3)
        joint = [np.einsum("a,b,c->abc", *rows) for rows in (before, after)]
        each = np.abs(before - after).sum(axis=1) / 2
        product = 1 - np.prod(1 - each)
        assert np.abs(joint[0] - joint[1]).sum() / 2 <= product + 1e-12
        assert product <= each.sum() + 1e-12
