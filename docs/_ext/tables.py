"""Tables that pages take from `results/` whenever the site is built, so that no number in them is older than a run.

The same on a terminal: `python docs/_ext/tables.py` prints them all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from docutils import nodes
from planned import RESULTS, planned, wanted
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from dmpo_deep.algorithms import ALGORITHMS, TITLES
from dmpo_deep.cli.common import table
from dmpo_deep.figures import FIGURES
from dmpo_deep.report import collect
from dmpo_deep.results import RUNS, Result, read
from dmpo_deep.summary import cpu_seconds, rows

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def results_of(algo: str) -> Table:
    """A line for every task on which ``results/`` has runs of the algorithm that the present code would repeat."""
    groups = collect([result for result in read(RESULTS) if not result.stale])
    scores = ("score at 10,000", "score at 30,000", "score at 100,000")
    shown = ("task", "seeds", "steps", *scores, "steps to 0", "gradient steps")
    columns = (*shown, "CPU-s per 10,000 steps", "floats per agent and step")
    lines = [line for line in rows(groups) if line["algorithm"] == TITLES[algo]]
    return columns, [[line[column] for column in columns] for line in lines]


def minutes() -> Table:
    """A line for every figure: how many of its runs ``results/`` has, and the processor time they took."""
    lines = []
    for figure, title in ((name, figure.title) for name, figure in FIGURES.items()):
        there = planned(figure)
        lines.append((figure, title, f"{len(there)} of {len(wanted(figure))}", _minutes(there), _slowest(there)))
    return ("figure", "shows", "runs there", "their processor minutes", "the longest run, minutes"), lines


def _minutes(runs: Sequence[Result]) -> str:
    return f"{sum(cpu_seconds(run, run.steps) for run in runs) / 60:.0f}" if runs else "not measured"


def _slowest(runs: Sequence[Result]) -> str:
    return f"{max(cpu_seconds(run, run.steps) for run in runs) / 60:.1f}" if runs else "not measured"


class FromResults(SphinxDirective):
    """``{results} ALGO``, or ``{minutes}``: one of the tables."""

    optional_arguments = 1
    tables: Mapping[str, Callable[..., Table]] = {"results": results_of, "minutes": minutes}

    def run(self) -> list[nodes.Node]:
        """The table as Markdown, or a sentence if it is empty."""
        self.env.note_dependency(str(RESULTS / RUNS))
        header, lines = self.tables[self.name](*self.arguments)
        text = ["*No run of it in `results/` that the present code would repeat.*"]
        if lines:
            text = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *lines)]
        return self.parse_text_to_nodes("\n".join(text))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for name in FromResults.tables:
        app.add_directive(name, FromResults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for title, found in [*((TITLES[algo], results_of(algo)) for algo in ALGORITHMS), ("Figures", minutes())]:
        sys.stdout.write(f"{title}\n{table(*found)}\n\n")
