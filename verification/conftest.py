"""Every check reports its worst case and slack; the table at the end of the run sums them up, a line a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from dmpo_theory.sweep import Check, verdicts

Report = Callable[[Iterable[Check]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--deep-seed` draws the data of the checks of the learner anew."""
    parser.addoption("--deep-seed", type=int, default=0, help="seed of the checks of the learner against exact truth")


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Hand over what was checked, to be summed up in the table."""

    def note(checks: Iterable[Check]) -> None:
        found = list(checks)
        for v in verdicts(found):
            slack = min(float(check.slack) for check in found if check.bound == v.bound)
            record_property("bound", (v.bound, v.violations, v.checks, float(v.worst.ratio), slack, v.because))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each claim's verdict and witness; each bound's violations, checks, worst ratio of error to bound, least slack."""
    claims = [
        value
        for outcome in terminalreporter.stats.get("passed", [])
        for key, value in getattr(outcome, "user_properties", [])
        if key == "claim"
    ]
    if claims:
        terminalreporter.section("claims: verdict, ratio to the printed and to the corrected bound, witness")
    for name, title, verdict, printed, corrected, witness in sorted(claims):
        terminalreporter.line(f"{name:4} {title:48} {verdict:12} {printed:>9} {corrected:>9}  {witness}")
    learner: dict[str, list[tuple[str, int, float, float]]] = {}
    bugs = []
    for outcome in terminalreporter.stats.get("passed", []):
        for key, value in getattr(outcome, "user_properties", []):
            if key == "learner":
                learner.setdefault(value[0], []).append(tuple(value[1:]))
            if key == "bug":
                bugs.append(value)
    if learner:
        terminalreporter.section("learner against exact truth: families, tests, least p after Bonferroni, worst")
    for check, found in sorted(learner.items()):
        p, about, worst = min((p, about, worst) for about, _, worst, p in found)
        tests = sum(tests for _, tests, _, _ in found)
        terminalreporter.line(f"{check:42} {len(found):4} {tests:6}  {p:9.2e}  {worst:8.3f}  {about}")
    if bugs:
        terminalreporter.section("deliberate mistakes: the check that finds each, its p and deviation")
    for bug, check, about, worst, p in sorted(bugs):
        terminalreporter.line(f"{bug:16} {check:34} {about:26} {p:9.2e}  {worst:9.3g}")
    by_bound: dict[str, list[tuple[int, int, float, float, str]]] = {}
    for outcome in terminalreporter.stats.get("passed", []):
        for key, value in getattr(outcome, "user_properties", []):
            if key == "bound":
                by_bound.setdefault(value[0], []).append(tuple(value[1:]))
    if by_bound:
        terminalreporter.section("bounds: violations/checks, worst error/bound, least slack, witness")
    for bound, rows in sorted(by_bound.items()):
        violations, checks = (sum(row[k] for row in rows) for k in (0, 1))
        ratio, slack = max(row[2] for row in rows), min(row[3] for row in rows)
        witness = max(rows, key=lambda row: row[2])[4]
        terminalreporter.line(f"{bound:20} {violations:4}/{checks:<5} {ratio:7.4f} {slack:10.2e}  {witness}")
