"""Running the ledger: selection, the record that an interrupted audit leaves, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dmpo_theory.audit import RECORD, judge, run, select, write_html, write_json
from dmpo_theory.claims import CLAIMS
from dmpo_theory.claims.record import FAILS, HOLDS, Case, Claim, Finding, Scope, Tally, as_text
from dmpo_theory.graph import path
from dmpo_theory.instances import random_mdp, random_policy

SCOPE = Scope(families=("path",), n=3, instances=1)
GIVEN = Scope(given=(Case("mine", random_mdp(path(2)), random_policy(random_mdp(path(2)))),))
SETTINGS: dict[str, Any] = {"n": 3, "gamma": "9/10"}


def test_unknown_claims_name_the_nearest() -> None:
    assert [claim.id for claim in select(["C3", "A1", "A1"])] == ["C3", "A1"]
    assert len(select([])) == len(CLAIMS)
    with pytest.raises(ValueError, match="unknown claim 'A11'; did you mean 'A1'"):
        select(["A11"])


def counting(name: str, calls: list[str]) -> Claim:
    def check(scope: Scope) -> Finding:
        calls.append(name)
        return CLAIMS[name].check(scope)

    return replace(CLAIMS[name], check=check)


def test_an_audit_that_was_stopped_continues(tmp_path: Path) -> None:
    calls: list[str] = []
    claims = [counting(name, calls) for name in ("F3a", "F5c", "F6c")]

    def stop_after_two(left: list[Claim]):  # type: ignore[no-untyped-def]
        for k, claim in enumerate(left):
            if k == 2:
                raise KeyboardInterrupt
            yield claim

    with pytest.raises(KeyboardInterrupt):
        run(claims, SCOPE, SETTINGS, tmp_path, stop_after_two)
    with (tmp_path / RECORD).open("a") as file:
        file.write('{"id": "F6c", "verd')  # cut short by a crash
    rows = run(claims, SCOPE, SETTINGS, tmp_path)
    assert calls == ["F3a", "F5c", "F6c"]
    assert [row.id for row in rows] == ["F3a", "F5c", "F6c"]
    assert all(row.as_expected for row in rows)
    assert run(claims, SCOPE, SETTINGS, tmp_path) == rows
    assert calls == ["F3a", "F5c", "F6c"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run([CLAIMS["F3a"]], SCOPE, SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="holds an audit with n = 3, not 4; resume it with the same settings"):
        run([CLAIMS["F3a"]], SCOPE, SETTINGS | {"n": 4}, tmp_path)


def test_reports(tmp_path: Path) -> None:
    rows = run(select(["A1", "F5c"]), SCOPE, SETTINGS, tmp_path)
    write_json(rows, SETTINGS, tmp_path / "audit.json")
    content = json.loads((tmp_path / "audit.json").read_text())
    assert [row["verdict"] for row in content["rows"]] == [FAILS, FAILS]
    assert content["claims"]["A1"]["source"] == "Theorem 1, Eq. 12"
    picture = tmp_path / "dot.png"
    picture.write_bytes(b"png")
    write_html(rows, SETTINGS, [("a <caption>", picture)], tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert "all 2 verdicts as expected" in page
    assert "<math" in page
    assert "a &lt;caption&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "the page must not need the network"
    wrong = [replace(rows[0], as_expected=False, verdict=HOLDS)]
    write_html(wrong, SETTINGS, [], tmp_path / "audit.html")
    assert "1 of 1 verdicts not as expected: A1" in (tmp_path / "audit.html").read_text()


def test_tally() -> None:
    tally = Tally()
    tally.add(Fraction(1, 2), Fraction(1, 2), "equal")
    assert tally.verdict == "holds, tight"
    tally.add(1.0 + 1e-12, 1.0, "rounding")
    assert tally.verdict == "holds, tight"
    tally.add(Fraction(1, 2) + Fraction(1, 10**30), Fraction(1, 2), "exact violation")
    tally.add(Fraction(3), Fraction(1), "worse")
    assert (tally.verdict, tally.worst, tally.witness) == (FAILS, 3, "exact violation: ratio 1")
    assert Tally().verdict == "not applicable"


def test_not_applicable_is_a_failure_of_the_ledger_but_not_of_a_given_instance() -> None:
    finding = Finding("not applicable", 0, None, None, "why")
    assert not judge(CLAIMS["A1"], finding, SCOPE).as_expected
    assert judge(CLAIMS["A1"], finding, GIVEN).as_expected


def test_proven_claims_must_not_fail_on_a_given_instance() -> None:
    finding = Finding(FAILS, 1, None, 1.5, "where")
    assert not judge(CLAIMS["A5"], finding, GIVEN).as_expected
    assert judge(CLAIMS["A1"], finding, GIVEN).as_expected


def test_ratios_as_text() -> None:
    assert as_text(None) == ""
    assert as_text(Fraction(4, 3)) == "4/3"
    assert as_text(Fraction(10**12 + 1, 10**12)) == "1"
    assert as_text(0.123456) == "0.1235"


def test_given_instances_are_asked_only_what_they_can_answer() -> None:
    """Hypotheses that are not met give "not applicable", with the hypothesis and the value that breaks it."""
    mdp = random_mdp(path(3), reward_range=(-1, 1), rng=0)
    case = Case("mine", mdp, random_policy(mdp, rng=1))
    scope = Scope(given=(case,))
    rows = {name: judge(claim, claim.check(scope), scope) for name, claim in CLAIMS.items()}
    assert all(row.as_expected for row in rows.values())
    assert rows["A1"].verdict == HOLDS  # no counterexample to Eq. 12 here
    assert rows["A2"].verdict == "not applicable"
    assert "rewards of one sign; found mine: signed" in rows["A2"].witness
    assert "p = 0" in rows["A4"].witness
    assert rows["F3a"].verdict == "not applicable"


def test_a_row_of_the_ledger_may_have_several_claims() -> None:
    assert [claim.id for claim in select(["F1", "A1"])] == ["F1a", "F1b", "A1"]


@pytest.mark.parametrize(
    "narrow",
    [
        {"gamma": Fraction(1, 10)},
        {"gamma": Fraction(999, 1000)},
        {"n": 2},
        {"families": ("star",)},
        *({"kappa": kappa} for kappa in (0, 1, 2, 5)),
    ],
    ids=str,
)
def test_verdicts_do_not_depend_on_where_one_looks(narrow: dict[str, Any]) -> None:
    """Whatever gamma, size, family and kappa: every claim finds the instance that decides it, or nothing to check."""
    scope = replace(Scope(families=("path", "star"), n=4, instances=1), **narrow)
    rows = [judge(claim, claim.check(scope), scope) for claim in CLAIMS.values()]
    assert not [row for row in rows if not row.as_expected]
    decided = [row for row in rows if row.verdict != "not applicable"]
    assert len(decided) == len(rows) if not scope.narrowed else len(decided) > len(rows) / 2
