"""Tables for people: what is written reads back as what was meant."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo_deep.tables import escaped, latex, markdown, write_csv

COMMANDS = {
    **{r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<"},
    **{r"\textgreater{}": ">", r"\textbar{}": "|", r"\(-\)": "-", r"\(\kappa\)": "κ", r"\(\infty\)": "∞"},
    **{f"\\{special}": special for special in "&%$#_{}"},
}
TOKEN = re.compile("|".join(map(re.escape, sorted(COMMANDS, key=len, reverse=True))) + r"|[^\\&%$#_{}~^<>|]")


def as_shown(code: str) -> str:
    """What LaTeX prints; anything that is neither a known command nor a harmless character is refused."""
    tokens = TOKEN.findall(code)
    assert "".join(tokens) == code, f"LaTeX would stumble over {code!r}"
    return "".join(COMMANDS.get(token, token) for token in tokens)


@given(st.text(st.sampled_from("ab1.-_&%$#{}\\~^<>|[]()κ∞ ")))
def test_escaped_text_is_shown_as_it_was(text: str) -> None:
    assert as_shown(escaped(text)) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("DMPO kappa_critic=0", r"DMPO kappa\_critic=0"),
        ("-80.5 [-83.0, -1,206.3]", r"\(-\)80.5 [\(-\)83.0, \(-\)1,206.3]"),
        ("lr_actor=1e-3", r"lr\_actor=1e-3"),
        ("- (0/5)", "- (0/5)"),
        (r"environment.mdp=C:\a_b & 50%", r"environment.mdp=C:\textbackslash{}a\_b \& 50\%"),
    ],
)
def test_escaping(text: str, code: str) -> None:
    assert escaped(text) == code


ROWS = [
    {"task": "catch_up", "": "DMPO a|b", "score": "-1"},
    {"task": "catch_up", "": "DPPO", "score": "2"},
    {"task": "ring", "": "DMPO", "score": "3"},
]


def test_latex_has_the_rules_of_booktabs_and_as_many_cells_as_columns() -> None:
    lines = latex(ROWS, by="task").splitlines()
    assert lines[1:4] == [r"\begin{tabular}{@{}lr@{}}", r"\toprule", r" & score \\"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[4:-2] == [
        *(r"\midrule", r"\multicolumn{2}{@{}l}{\emph{catch\_up}} \\"),
        *(r"DMPO a\textbar{}b & \(-\)1 \\", r"DPPO & 2 \\"),
        *(r"\midrule", r"\multicolumn{2}{@{}l}{\emph{ring}} \\", r"DMPO & 3 \\"),
    ]


def test_markdown_keeps_bars_within_cells() -> None:
    header, rule, first, *_ = markdown(ROWS).splitlines()
    assert (header, rule) == ("| task |  | score |", "| --- | --- | --- |")
    assert re.split(r"(?<!\\)\|", first)[1:-1] == [" catch_up ", r" DMPO a\|b ", " -1 "]


def test_csv_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"a": 1.23456789, "b": np.float64("nan"), "c": float("inf"), "d": None, "e": "x,y"}])
    with (tmp_path / "a.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row == {"a": "1.23457", "b": "", "c": "", "d": "", "e": "x,y"}
