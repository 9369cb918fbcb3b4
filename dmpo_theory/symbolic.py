r"""Proofs by sympy of identities, inequalities and equivalences in the appendix's symbols; used by ``derivations``.

An inequality ``lhs <= rhs`` carries its slack: that ``rhs - lhs`` equals the slack is an identity, and that the slack
is not negative is seen from its factors: each is an even power, or has only non-negative coefficients once every
variable between 0 and 1 is written as ``a / (a + b)`` with ``a, b >= 0``. Numbers are put in only to refute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sympy as sp
from sympy import Expr

gamma, x, share = sp.symbols("gamma x u", positive=True)
OPEN, CLOSED = {gamma}, {x, share}
"""Variables in (0, 1) and in [0, 1]; all others have their range in sympy's assumptions."""


@dataclass(frozen=True)
class Step:
    """One line of a derivation.

    Attributes:
        id: short name; what comes before the dot is its section.
        source: where it stands in the paper, or what it corrects.
        statement: the step in words.
        kind: an identity ``lhs = rhs``; an inequality ``lhs <= rhs``; or an equivalence, ``lhs <= rhs`` if and only if
            ``condition[0] <= condition[1]``.
        lhs: left-hand side.
        rhs: right-hand side.
        slack: ``rhs - lhs`` of an inequality; of an equivalence, its positive ratio to the condition's.
        condition: the simpler inequality of an equivalence.
    """

    id: str
    source: str
    statement: str
    kind: Literal["identity", "inequality", "equivalence"]
    lhs: Expr
    rhs: Expr
    slack: Expr = sp.S.Zero
    condition: tuple[Expr, Expr] = (sp.S.Zero, sp.S.Zero)


def verify(step: Step) -> bool:
    """Whether sympy proves the step on its whole domain.

    >>> verify(Step("1", "Eq. 1", "x is at most 1.", "inequality", x, sp.S.One, 1 - x))
    True
    >>> verify(Step("1", "Eq. 1", "x is at most gamma.", "inequality", x, gamma, gamma - x))
    False
    """
    gap = step.rhs - step.lhs
    if step.kind == "identity":
        return _vanishes(gap)
    if step.kind == "inequality":
        return nonnegative(step.slack) and _vanishes(gap - step.slack)
    small, large = step.condition
    return nonnegative(step.slack, strict=True) and _vanishes(gap - step.slack * (large - small))


def nonnegative(expression: Expr, strict: bool = False) -> bool:
    """Whether the factors of an expression show that it is not negative, or positive; False if they do not show it.

    >>> nonnegative((1 - x) * (2 - gamma**2)), nonnegative(x - gamma)
    (True, False)
    >>> nonnegative(1 - gamma, strict=True), nonnegative(1 - x, strict=True)
    (True, False)
    """
    positive = True
    for factor in sp.Mul.make_args(sp.factor(sp.together(_settle(expression)))):
        base, power = factor.as_base_exp()
        if power.is_even and base.is_real and not strict:
            continue
        if not _coefficients_show(base, strict):
            if not _coefficients_show(-base, strict):
                return False
            positive ^= not power.is_even
            if not power.is_integer:
                return False
    return positive


def formula(step: Step) -> str:
    """The step in LaTeX, with what proves it."""
    left, right, slack = (sp.latex(part) for part in (step.lhs, step.rhs, step.slack))
    if step.kind == "identity":
        return f"{left} = {right}"
    if step.kind == "inequality":
        return f"{left} \\le {right}, \\qquad \\text{{slack}}\\quad {slack} \\ge 0"
    small, large = map(sp.latex, step.condition)
    return f"{left} \\le {right} \\iff {small} \\le {large}, \\qquad \\text{{ratio of the slacks}}\\quad {slack} > 0"


def _settle(expression: Expr) -> Expr:
    """Carry out sums and derivatives, for ``0 < gamma < 1``; a maximum is a mean plus half a distance."""
    return expression.doit().rewrite(sp.Abs).subs({gamma < 1: True, sp.Eq(gamma, 1): False, sp.Eq(1 / gamma, 1): False})


def _vanishes(expression: Expr) -> bool:
    settled = sp.together(sp.expand(_settle(expression), power_exp=True))
    return settled == 0 or (not _refuted(settled) and bool(sp.simplify(settled) == 0))


def _refuted(expression: Expr) -> bool:
    """Whether the expression is visibly not 0 at one point; saves sympy the attempt to prove what is false."""
    symbols = sorted(expression.free_symbols, key=str)
    at = {s: k + 2 if s.is_integer else sp.Rational(k + 2, k + 5) for k, s in enumerate(symbols)}
    value = expression.subs(at).evalf()
    return bool(value.is_number and value.is_finite and abs(value) > 1e-9)


def _coefficients_show(expression: Expr, strict: bool) -> bool:
    """Whether no coefficient is negative and, if strict, some term is positive, in variables from 0 to infinity."""
    expanded = sp.expand(expression, power_exp=True)
    powers: dict[Expr, Expr] = {}  # gamma^k, which lies between 0 and 1 too
    for power in expanded.atoms(sp.Pow):
        if power.base in OPEN and not power.exp.is_number:
            if not power.exp.is_nonnegative:
                return False
            powers[power] = 1 / (1 + sp.Dummy(positive=power.exp.is_positive or None, nonnegative=True))
    replaced = expanded.subs(powers)
    for symbol in replaced.free_symbols & OPEN:
        replaced = replaced.subs(symbol, 1 / (1 + sp.Dummy(positive=True)))
    for symbol in replaced.free_symbols & CLOSED:
        top, rest = sp.Dummy(nonnegative=True), sp.Dummy(nonnegative=True)
        replaced = replaced.subs(symbol, top / (top + rest))
    return all(_part_shows(part, strict) for part in sp.fraction(sp.together(replaced)))


def _part_shows(part: Expr, strict: bool) -> bool:
    if part.is_number:
        return bool(part.is_positive if strict else part.is_nonnegative)
    polynomial = sp.Poly(sp.expand(part))
    some_positive = False
    for exponents, coefficient in polynomial.terms():
        used = [(generator, power) for generator, power in zip(polynomial.gens, exponents, strict=True) if power]
        if not coefficient.is_nonnegative or not all(base.is_nonnegative or power % 2 == 0 for base, power in used):
            return False
        some_positive |= all(base.is_positive for base, _ in used)
    return some_positive or not strict
