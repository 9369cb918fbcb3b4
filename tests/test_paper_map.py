"""docs/paper-map.md: everything numbered in the paper is there, and whatever it points to exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import pytest

from dmpo_theory.claims import CLAIMS

ROOT = Path(__file__).parents[1]
TABLE_I = ("lr of V_i", "lr of π", "lr of p_i", "π_i Net.", "V_i Net.", "p_i Net.", "κ", "Rollout")
PLACES = {
    *(f"Eq. {k}" for k in range(1, 18)),
    *("Theorem 1", "Theorem 2", "Remark 1", "Remark 2", "Appendix A"),
    *(f"Algorithm 1, line {k}" for k in range(1, 14)),
    *(f"Table I, {row}" for row in TABLE_I),
    *(f"Fig. {k}" for k in range(1, 8)),
}
"""What the paper numbers."""


class Entry(NamedTuple):
    """A line of the map."""

    place: str
    code: list[str]
    tests: list[str]
    claims: list[str]


def entries(text: str) -> list[Entry]:
    """The rows of all tables, their headers left out."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows if row[0].strip() != "place"]
    return [
        Entry(place, re.findall(r"`([^`]+)`", code), re.findall(r"`([^`]+)`", tests), re.findall(r"[^,\s]+", claims))
        for place, _, code, tests, claims in cells
    ]


MAP = entries((ROOT / "docs" / "paper-map.md").read_text())


@cache
def defined(file: str) -> set[str]:
    """The names that a file defines at its top level."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def test_nothing_numbered_is_missing_and_nothing_is_there_twice() -> None:
    places = [entry.place for entry in MAP]
    assert PLACES - set(places) == set()
    assert len(places) == len(set(places))
    others = {place for place in places if re.match(r"Eq\. |Fig\. |Theorem|Remark|Algorithm|Table", place)} - PLACES
    assert others == set(), "numbers that the paper does not have"


@pytest.mark.parametrize("entry", MAP, ids=lambda entry: entry.place)
def test_what_it_points_to_exists(entry: Entry) -> None:
    pytest.importorskip("torch")
    assert entry.code, "every entry names its code"
    assert entry.tests, "every entry names a test"
    for name in entry.code:
        resolve_name(name)
    for test in entry.tests:
        file, _, function = test.partition("::")
        assert function.startswith("test_"), test
        assert function in defined(file), test
    assert set(entry.claims) <= set(CLAIMS), entry.claims


def test_every_claim_of_the_ledger_is_on_the_map() -> None:
    assert {claim for entry in MAP for claim in entry.claims} == set(CLAIMS)


def test_broken_links_are_noticed() -> None:
    for name in ("dmpo_theory.bounds.theorem3_tight", "dmpo_theory.bonds"):
        with pytest.raises(AttributeError):
            resolve_name(name)
    assert "test_claim" in defined("verification/test_claims_model.py")
    assert "test_nothing" not in defined("verification/test_claims_model.py")
