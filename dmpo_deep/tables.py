"""Tables for people: Markdown to read, CSV to compute with, LaTeX (booktabs) to print."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from dmpo_theory.files import whole

Row = Mapping[str, str]
"""Column -> cell; all rows of a table have the same columns."""

_ESCAPED = str.maketrans(
    {
        **{special: f"\\{special}" for special in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{"κ": r"\(\kappa\)", "∞": r"\(\infty\)", "−": r"\(-\)", "\n": " "},
    }
)


def escaped(text: str) -> str:
    r"""Text as LaTeX shows it, in any font encoding; a hyphen before a number becomes a minus sign.

    Example:
        >>> print(escaped("hidden_model=64 & 50 % of -3"))
        hidden\_model=64 \& 50 \% of \(-\)3
    """
    return re.sub(r"(?<![\w.)])-(?=\d)", r"\\(-\\)", text.translate(_ESCAPED))


def latex(rows: Sequence[Row], by: str) -> str:
    """A ``tabular`` with the rules of booktabs; rows with the same cell in column ``by`` stand under it."""
    header = [name for name in rows[0] if name != by]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(header) - 1)}@{{}}}}",
        r"\toprule",
        " & ".join(map(escaped, header)) + r" \\",
    ]
    for shared, members in groupby(rows, key=lambda row: row[by]):
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{@{{}}l}}{{\emph{{{escaped(shared)}}}}} \\"]
        lines += [" & ".join(escaped(row[name]) for name in header) + r" \\" for row in members]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """A table as GitHub reads it."""
    header = list(rows[0])
    cells = [header, ["---"] * len(header), *([row[name].replace("|", r"\|") for name in header] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A header of the first row's keys, and all rows: numbers to six digits, blank for none, NaN and infinity."""
    with whole(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _number(value) for name, value in row.items()} for row in rows)


def _number(value: object) -> object:
    if isinstance(value, float):  # NumPy's are, too
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value
