"""What the figures of results share: colours that colour-blind readers can tell apart, one column, PNG, PDF and CSV."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dmpo_deep.intervals import SEEDS_FOR_INTERVAL, interquartile_mean
from dmpo_deep.tables import write_csv
from dmpo_theory.files import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too pale for a line on white."""
DASHES: Sequence[Any] = ("-", (0, (4, 1.5)), (0, (1, 1)))
"""Of lines, when there are more than colours."""
COLUMN_WIDTH = 3.4
"""Inches: one column of a two-column page."""
LABEL, TICK, LEGEND = 8, 7, 6.5
"""Sizes of letters in points."""

MOST_NUMBERS = 8
"""Beside a logarithmic scale."""

Look = Mapping[str, Any]
"""How a line is drawn, in matplotlib's words."""


class NothingToDraw(ValueError):
    """The runs have nothing for this kind of figure; the message says what is missing."""


class Chart(NamedTuple):
    """A figure and the numbers behind it."""

    figure: Figure
    rows: Sequence[Mapping[str, Any]]
    """One for each line of the CSV file, all with the same keys."""


def column_figure(height: float) -> Figure:
    """An empty figure of one column, ``height`` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(COLUMN_WIDTH, height), layout="constrained", dpi=300)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A colour for each name, and a dash where colours come again."""
    all_looks = [{"color": color, "linestyle": dash} for dash, color in itertools.product(DASHES, COLORS)]
    return dict(zip(sorted(set(names)), itertools.cycle(all_looks), strict=False))


def draw_band(axes: Axes, x: np.ndarray, values: np.ndarray, look: Look, label: str, seeds: bool = False) -> None:
    """The interquartile mean over seeds of ``values [seeds, E]`` with its interval; every seed if they are too few.

    Places ``x [E]`` at which some seed has no number are left out; ``seeds`` puts their count behind the label.
    """
    known = ~np.isnan(values).any(axis=0)
    x, values, name = x[known], values[:, known], wrapped(label)
    look = {**look, "marker": "o" if len(x) == 1 else None, "markersize": 2.5}
    if len(values) < SEEDS_FOR_INTERVAL:
        for k, line in enumerate(values):
            axes.plot(x, line, linewidth=0.7, label=None if k else name, **look)
        return
    center, low, high = interquartile_mean(values)
    axes.plot(x, center, linewidth=1.2, label=f"{name} ({len(values)} seeds)" if seeds else name, **look)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def wrapped(label: str, width: int = 40) -> str:
    """In lines short enough for a legend."""
    return textwrap.fill(label, width, break_long_words=False)


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes, in letters that can be read in one column."""
    axes.set_xlabel(x, fontsize=LABEL)
    axes.set_ylabel(y, fontsize=LABEL)
    axes.tick_params(labelsize=TICK)


def count_steps(axes: Axes) -> None:
    """Environment steps along the axis, as 10k."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def log_scale(axes: Axes, linear_below: float | None = None) -> None:
    """A logarithmic scale upwards with plain numbers; for both signs, and linear near 0, if ``linear_below`` is given.

    To be called after drawing: 2 and 5 have numbers, too, where there is room.
    """
    from matplotlib.ticker import FuncFormatter, Locator, LogLocator, NullFormatter, SymmetricalLogLocator

    if linear_below is None:
        axes.set_yscale("log")
    elif max(map(abs, axes.get_ylim())) <= linear_below:
        return
    else:
        axes.set_yscale("symlog", linthresh=linear_below, subs=range(2, 10))
    axes.autoscale_view(scalex=False)
    low, high = axes.get_ylim()
    for subs in ((1.0, 2.0, 5.0), (1.0,)):
        locator: Locator = LogLocator(subs=subs)
        if linear_below is not None:
            locator = SymmetricalLogLocator(base=10, linthresh=linear_below, subs=subs)
        axes.yaxis.set_major_locator(locator)
        if 0 < sum(low <= tick <= high for tick in axes.get_yticks()) <= MOST_NUMBERS:  # none: decades are skipped
            break
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes, columns: int = 2) -> None:
    """The legend, on top of a panel, where it hides nothing; the figure grows by it."""
    lines, names = axes.get_legend_handles_labels()
    style = _legend(axes.get_figure(), names, columns)
    axes.legend(lines, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), **style)


def legend_outside(figure: Figure, columns: int) -> None:
    """One legend of all panels on top of the figure, which grows by it; in fewer ``columns`` if names are long."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        named |= {name: line for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named, loc="outside upper center", **_legend(figure, list(named), columns))


def _legend(figure: Any, names: Sequence[str], most: int) -> dict[str, Any]:
    """Style of a legend with as many columns as have room, and room for it."""
    lines = [name.splitlines() for name in names]
    longest = max((len(line) for entry in lines for line in entry), default=0)
    columns = min(most, max(1, 60 // (longest + 6)))
    rows = -(-len(names) // columns) * max(map(len, lines), default=0)
    figure.set_figheight(figure.get_figheight() + 0.13 * rows)
    return {"fontsize": LEGEND, "frameon": False, "ncols": columns, "columnspacing": 1.2, "handletextpad": 0.4}


def save(chart: Chart, path: Path) -> list[str]:
    """As PNG, PDF and CSV at a path without suffix; the names of the files."""
    names = [f"{path.name}.{suffix}" for suffix in ("png", "pdf", "csv")]
    for name in names[:2]:
        save_figure(chart.figure, path.with_name(name))
    write_csv(path.with_name(names[2]), chart.rows)
    return names
