"""Tables of `results/` that stand in pages themselves, for readers of the source: `python docs/_ext/written.py`.

A page asks for one by `<!-- results: FIGURE KIND [TASK] -->` and gets it between that line and the next
`<!-- end -->`. FIGURE names a plan, whose whole runs are taken; KIND is one of `KINDS`. A test holds pages against
`results/`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from planned import planned

from dmpo_deep.algorithms import TITLES
from dmpo_deep.groups import Group, collect
from dmpo_deep.summary import LEVELS, MARKS, each_run, rows, traffic_tables
from dmpo_deep.tables import markdown
from dmpo_theory.files import write_text

DOCS = Path(__file__).parents[1]
PLACE = re.compile(r"(<!-- results: (\w+) (\w+)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
MINUS = re.compile(r"(?<![\w.)-])-(?=[\d ])")

Line = Mapping[str, str]


def scores(groups: Sequence[Group]) -> list[Line]:
    """Normalised scores, sampled and greedy."""
    names = {f"score at {mark:,}{kind}": f"{mark:,}{kind}" for kind in ("", ", greedy") for mark in MARKS}
    return _columns(rows(groups), {"algorithm": "", "seeds": "seeds", **names})


def costs(groups: Sequence[Group]) -> list[Line]:
    """Environment steps to scores, and what training took."""
    names = {f"steps to {level:g}": f"steps to {level:g}" for level in LEVELS}
    more = ("steps", "gradient steps", "CPU-s per 10,000 steps", "floats per agent and step")
    return _columns(rows(groups), {"algorithm": "", **names, **{name: name for name in more}})


def variants(groups: Sequence[Group]) -> list[Line]:
    """Scores and environment steps to scores of short runs."""
    names = {"score at 10,000": "score at 10,000", "score at 10,000, greedy": "greedy"}
    names |= {f"steps to {level:g}": f"steps to {level:g}" for level in LEVELS}
    return _columns(rows(groups), {"algorithm": "", "seeds": "seeds", **names, "gradient steps": "gradient steps"})


def runs(groups: Sequence[Group]) -> list[Line]:
    """Every run by itself."""
    return _untitled(each_run(groups))


def traffic(groups: Sequence[Group]) -> list[Line]:
    """What the last evaluations measured."""
    return [line for lines in traffic_tables(groups).values() for line in _untitled(lines)]


KINDS: Mapping[str, Callable[[Sequence[Group]], list[Line]]] = {
    "scores": scores,
    "costs": costs,
    "variants": variants,
    "runs": runs,
    "traffic": traffic,
}


def filled(page: str) -> str:
    """The page with its tables as ``results/`` has them now."""

    def table(found: re.Match[str]) -> str:
        begin, figure, kind, task, end = found.groups()
        groups = [group for group in _groups(figure) if task in (None, group.task)]
        text = markdown(KINDS[kind](groups)) if groups else "*No run yet.*\n"
        return f"{begin}\n{MINUS.sub('−', text)}\n{end}"

    return PLACE.sub(table, page)


@cache
def _groups(figure: str) -> list[Group]:
    """Those of a plan's runs, rivals in the order of the algorithms, variants behind their algorithm."""
    order = list(TITLES.values())
    return sorted(collect(planned(figure)), key=lambda group: order.index(TITLES[group.runs[0].algo]))


def _untitled(lines: Sequence[Line]) -> list[Line]:
    """All columns but the task, which a page says above."""
    return _columns(lines, {"algorithm": "", **{name: name for name in lines[0] if name not in ("task", "algorithm")}})


def _columns(lines: Sequence[Line], names: Mapping[str, str]) -> list[Line]:
    return [{title: line[name] for name, title in names.items()} for line in lines]


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        if (new := filled(old := path.read_text())) != old:
            write_text(path, new)
            sys.stdout.write(f"{path}: filled\n")
