"""One claim before the referee: its check's verdict on a small and on a wide scope, reported for the closing table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from dmpo_theory.audit import judge
from dmpo_theory.claims.record import FAILS, HOLDS, TIGHT, Claim, Scope

Record = Callable[[str, object], None]
SCOPE = Scope(n=4, instances=1)
WIDE = Scope(n=6, instances=8, seed=1)
GAMMAS = (Fraction(1, 2), Fraction(9, 10), Fraction(99, 100))


def examine(claims: tuple[Claim, ...]) -> tuple[Callable[..., None], Callable[..., None]]:
    """A quick and a slow test over a group's claims.

    The quick one also sees that any other expectation would fail: no check knows what is expected of it.
    """

    @pytest.mark.parametrize("claim", claims, ids=lambda claim: claim.id)
    def quickly(claim: Claim, record_property: Record) -> None:
        finding = claim.check(SCOPE)
        row = judge(claim, finding, SCOPE)
        assert row.as_expected, row
        assert row.checks > 0
        for other in {HOLDS, TIGHT, FAILS} - {claim.expected}:
            assert not judge(replace(claim, expected=other), finding, SCOPE).as_expected
        record_property("claim", (claim.id, claim.title, row.verdict, row.printed, row.corrected, row.witness))

    @pytest.mark.slow
    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("claim", claims, ids=lambda claim: claim.id)
    def widely(claim: Claim, gamma: Fraction) -> None:
        scope = replace(WIDE, gamma=gamma)
        row = judge(claim, claim.check(scope), scope)
        assert row.as_expected, row

    return quickly, widely
