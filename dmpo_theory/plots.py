"""Figures of the exact half. Matplotlib is imported when a figure is drawn, and never shown."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from dmpo_theory.sweep import Check

PANELS = {"theorem1": "Theorem 1", "remark1": "Remark 1", "theorem2": "Theorem 2, reading (i)"}
# Okabe-Ito colours, told apart by colour-blind readers too.
BLUE, VERMILION, GREY, BLACK = "#0072B2", "#D55E00", "#888888", "#000000"


def plot_bounds(checks: Sequence[Check], path: Path) -> None:
    """Error of truncation and its bounds against kappa, above; error over the printed bound, below.

    Errors above are in units of ``r_max / (1 - gamma)``, for Theorem 2 times ``g_max``; bands are the range of a bound
    over the graphs checked, lines its maximum. A star above 1 below is a counterexample to the bound as printed.

    Args:
        checks: what to draw; instances whose rewards are signed are drawn if there are any, else all.
        path: PNG file to write; a PDF is written beside it.
    """
    from matplotlib.figure import Figure

    checks = [c for c in checks if c.rewards == "signed"] or checks
    figure = Figure(figsize=(7.2, 4.3), layout="constrained")
    grid = figure.subplots(2, len(PANELS), sharex="col", sharey="row", height_ratios=(3, 2), squeeze=False)
    for (upper, lower), (claim, title) in zip(grid.T, PANELS.items(), strict=True):
        printed = [c for c in checks if c.bound == f"{claim}-printed"]
        for colour, label, found in (
            (VERMILION, "bound as printed", printed),
            (BLUE, "bound, corrected", [c for c in checks if c.bound == f"{claim}-tight"]),
        ):
            by_kappa: dict[int, list[float]] = {}
            for c in found:
                if c.value > 0:
                    by_kappa.setdefault(c.kappa, []).append(float(c.value) / c.unit)
            kappas = sorted(by_kappa)
            high = [max(by_kappa[kappa]) for kappa in kappas]
            upper.plot(kappas, high, color=colour, lw=1.5, label=label, zorder=3)
            upper.fill_between(kappas, [min(by_kappa[k]) for k in kappas], high, color=colour, alpha=0.15, lw=0)
        for exact, style in (
            (False, {"s": 8, "marker": "o", "color": GREY, "alpha": 0.5, "label": "random or given"}),
            (True, {"s": 34, "marker": "*", "color": BLACK, "zorder": 4, "label": "constructive, exact"}),
        ):
            dots = [c for c in printed if isinstance(c.error, Fraction) == exact and c.error > 0]
            kappas = [c.kappa for c in dots]
            upper.scatter(kappas, [float(c.error) / c.unit for c in dots], lw=0, **style)
            lower.scatter(kappas, [float(c.ratio) for c in dots], lw=0, **style)
        upper.set(title=title, yscale="log")
        upper.title.set_fontsize(9)
        lower.axhline(1, color=VERMILION, lw=1.5)
        lower.set(xlabel=r"$\kappa$", ylim=(0, None))
        lower.xaxis.get_major_locator().set_params(integer=True)
        for axis in (upper, lower):
            axis.grid(alpha=0.25, lw=0.5)
            axis.tick_params(labelsize=8)
    grid[0, 0].set_ylabel(r"error, in $r_{\max}/(1-\gamma)\;[\times\,g_{\max}]$", fontsize=8)
    grid[1, 0].set_ylabel("error / printed bound", fontsize=8)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=200)
    figure.savefig(path.with_suffix(".pdf"))
