"""Run the ledger: every claim's verdict, as a table, as JSON and as a page; stopped audits continue where they were."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

from dmpo_theory.claims import CLAIMS
from dmpo_theory.claims.record import FAILS, NOT_APPLICABLE, Claim, Finding, Scope, as_text, not_applicable
from dmpo_theory.errors import ProblemTooLarge, unknown_name
from dmpo_theory.files import explained, write_text

RECORD = "progress.jsonl"


@dataclass(frozen=True)
class Row:
    """One line of the audit.

    Attributes:
        id: the claim.
        verdict: what its check computed.
        expected: what the ledger expects.
        as_expected: whether they agree; on a given instance, whether nothing fails that is proven.
        checks: number of comparisons.
        printed: largest ratio to the printed bound, as text; a fraction where it is exact and short.
        corrected: likewise to the corrected bound.
        witness: what decides.
        seconds: wall time.
    """

    id: str
    verdict: str
    expected: str
    as_expected: bool
    checks: int
    printed: str
    corrected: str
    witness: str
    seconds: float


def select(ids: Sequence[str]) -> list[Claim]:
    """The claims with these ids, all by default; ``F1`` stands for ``F1a``, ``F1b`` and so on.

    Raises:
        ValueError: there is no such claim; the message names the nearest.
    """
    chosen: dict[str, Claim] = {}
    for name in ids or CLAIMS:
        group = {key: claim for key, claim in CLAIMS.items() if key == name or (key[:-1] == name and key[-1].isalpha())}
        if not group:
            raise unknown_name("claim", name, CLAIMS)
        chosen |= {name: CLAIMS[name]} if name in CLAIMS else group
    return list(chosen.values())


def judge(claim: Claim, finding: Finding, scope: Scope, seconds: float = 0.0) -> Row:
    """Compare a finding in a scope with what the ledger expects."""
    if finding.verdict == NOT_APPLICABLE:
        fine = scope.narrowed
    elif scope.given:
        fine = finding.verdict != FAILS or claim.expected == FAILS
    else:
        fine = finding.verdict == claim.expected
    return Row(
        claim.id,
        finding.verdict,
        claim.expected,
        fine,
        finding.checks,
        as_text(finding.printed),
        as_text(finding.corrected),
        finding.witness,
        seconds,
    )


def run(
    claims: Sequence[Claim],
    scope: Scope,
    settings: dict[str, Any],
    folder: Path,
    watch: Callable[[list[Claim]], Iterator[Claim]] = iter,
) -> list[Row]:
    """Check the claims one by one; each row is written to ``folder`` at once, and rows found there are not redone.

    Args:
        claims: what to check.
        scope: what to check it on.
        settings: what was asked for, to be compared when an audit is resumed.
        folder: where ``progress.jsonl`` lies or is begun.
        watch: wraps the list of claims left to do, for a progress bar.

    Raises:
        ValueError: the folder holds an audit with other settings; the message names the first that differs.
    """
    record = folder / RECORD
    done: dict[str, Row] = {}
    if record.exists():
        earlier, lines = _recorded(record)
        for key in settings:
            if earlier.get(key) != settings[key]:
                raise ValueError(
                    f"{folder} holds an audit with {key} = {earlier.get(key)!r}, not {settings[key]!r}; resume it with "
                    "the same settings, or give another --out"
                )
        done = {row["id"]: Row(**row) for row in lines}
    else:
        folder.mkdir(parents=True, exist_ok=True)
    write_text(record, "".join(json.dumps(line) + "\n" for line in (settings, *map(asdict, done.values()))))
    left = [claim for claim in claims if claim.id not in done]
    try:
        with record.open("a") as file:
            for claim in watch(left):
                started = time.perf_counter()
                try:
                    finding = claim.check(scope)
                except ProblemTooLarge as error:
                    finding = not_applicable(str(error))
                row = judge(claim, finding, scope, time.perf_counter() - started)
                file.write(json.dumps(asdict(row)) + "\n")
                file.flush()
                done[claim.id] = row
    except OSError as error:
        raise OSError(f"{explained(error, record)}, with --resume; {len(done)} claims are kept") from error
    return [done[claim.id] for claim in claims if claim.id in done]


def _recorded(record: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and rows of an audit that was begun; a last line that a crash cut short is left out.

    Raises:
        ValueError: a damaged record; the message names it and the line.
    """
    found: list[dict[str, Any]] = []
    names = {field.name for field in fields(Row)}
    for number, line in enumerate(record.read_text(errors="replace").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            content = error
        if not isinstance(content, dict) or (number > 1 and (content.keys() != names or content["id"] not in CLAIMS)):
            raise ValueError(f"{record}, line {number} is no row of an audit; restore it from a copy, or audit anew")
        found.append(content)
    if not found:
        raise ValueError(f"{record} is empty; audit anew in another --out")
    return found[0], found[1:]


def write_json(rows: Sequence[Row], settings: dict[str, Any], path: Path) -> None:
    """Settings, rows and the statements behind them."""
    claims = {
        row.id: {
            key: getattr(CLAIMS[row.id], key) for key in ("source", "title", "statement", "hypotheses", "constant")
        }
        for row in rows
    }
    content = {"settings": settings, "rows": [asdict(row) for row in rows], "claims": claims}
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_html(rows: Sequence[Row], settings: dict[str, Any], figures: Sequence[tuple[str, Path]], path: Path) -> None:
    """One page that needs nothing else: the table, every statement with its hypotheses, and the figures.

    Args:
        rows: the audit.
        settings: what was asked for.
        figures: captions and PNG files.
        path: file to write.
    """
    bad = [row.id for row in rows if not row.as_expected]
    verdict = (
        f"{len(bad)} of {len(rows)} verdicts not as expected: {', '.join(bad)}"
        if bad
        else (f"all {len(rows)} verdicts as expected")
    )
    lines = "".join(_html_row(row) for row in rows)
    listed = {key: ", ".join(value) if isinstance(value, list) else value for key, value in settings.items()}
    shown = "; ".join(f"{key}: {value}" for key, value in listed.items() if key != "claims" and value not in (None, ""))
    pictures = "".join(
        f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,"
        f"{base64.b64encode(picture.read_bytes()).decode()}'><figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, picture in figures
    )
    write_text(
        path,
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Audit</title>"
        f"<style>{_STYLE}</style><h1>Audit of the claims</h1><p>{html.escape(verdict)}. {html.escape(shown)}.</p>"
        "<table><thead><tr><th>claim</th><th>statement and hypotheses</th><th>verdict</th><th>ratio to printed</th>"
        "<th>ratio to corrected</th><th>tight form</th><th>witness</th></tr></thead>"
        f"<tbody>{lines}</tbody></table>{pictures}</html>\n",
    )


def _html_row(row: Row) -> str:
    claim = CLAIMS[row.id]
    kind = "bad" if not row.as_expected else "fails" if row.verdict == FAILS else "holds"
    cells = (
        f"<b>{html.escape(row.id)}</b><br><small>{html.escape(claim.source)}</small>",
        f"{html.escape(claim.title)}<br>{_math(claim.statement)}<br><small>{html.escape(claim.hypotheses)}</small>",
        html.escape(row.verdict)
        + ("" if row.as_expected else f"<br>expected: {html.escape(row.expected)}")
        + f"<br><small>{row.checks} checks, {row.seconds:.1f} s</small>",
        html.escape(row.printed),
        html.escape(row.corrected),
        _math(claim.constant),
        html.escape(row.witness),
    )
    return f"<tr class='{kind}'>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _math(latex: str) -> str:
    """MathML, which browsers draw by themselves."""
    result: str = convert(latex)
    return result


_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:90em;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.35em .6em;border-bottom:1px solid #ddd;"
    "text-align:left;vertical-align:top}math{font-size:.95em}td:last-child{min-width:11em}th{position:sticky;top:0;background:#fff}small{color:#555}"
    ".fails td:nth-child(3){color:#b34000}.holds td:nth-child(3){color:#00568c}.bad td{background:#fdd}"
    "img{max-width:100%}figure{margin:2em 0}figcaption{color:#333}@media print{body{font-size:9px;max-width:none}}"
)
