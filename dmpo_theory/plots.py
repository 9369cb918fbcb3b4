"""Figures of the exact half. Matplotlib is imported when a figure is drawn, and never shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dmpo_theory.sweep import Check

PANELS = {"theorem1": "Theorem 1", "remark1": "Remark 1", "theorem2": "Theorem 2, reading (i)"}
# Okabe-Ito colours, told apart by colour-blind readers too.
BLUE, VERMILION, GREY, BLACK = "#0072B2", "#D55E00", "#888888", "#000000"


def plot_bounds(checks: Sequence[Check], path: Path, rewards: str = "signed") -> None:
    """Error of truncation and its bounds against kappa, in units of ``r_max / (1 - gamma)`` (times ``g_max``).

    Lines are medians over the instances checked and bands their range; a constructive instance above the printed line
    is a counterexample.

    Args:
        checks: what to draw.
        path: PNG file to write; a PDF is written beside it.
        rewards: which sign of rewards to draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    chosen = [c for c in checks if c.rewards == rewards]
    for axis, (claim, title) in zip(np.atleast_1d(axes), PANELS.items(), strict=True):
        printed = [c for c in chosen if c.bound == f"{claim}-printed"]
        for found, colour, label in (
            (printed, VERMILION, "bound as printed"),
            ([c for c in chosen if c.bound == f"{claim}-tight"], BLUE, "bound, corrected"),
        ):
            kappas = sorted({c.kappa for c in found})
            drawn = [[float(c.value) / c.unit for c in found if c.kappa == kappa and c.value > 0] for kappa in kappas]
            kappas = [kappa for kappa, values in zip(kappas, drawn, strict=True) if values]
            drawn = [values for values in drawn if values]
            axis.plot(kappas, [np.median(values) for values in drawn], color=colour, lw=1.5, label=label, zorder=3)
            axis.fill_between(kappas, [min(v) for v in drawn], [max(v) for v in drawn], color=colour, alpha=0.15, lw=0)
        for marker, colour, label, size, exact in (
            (".", GREY, "random instances", 10, False),
            ("*", BLACK, "constructive, exact", 34, True),
        ):
            dots = [c for c in printed if (c.instance.startswith("random")) != exact and c.error > 0]
            axis.scatter(
                [c.kappa for c in dots],
                [float(c.error) / c.unit for c in dots],
                s=size,
                marker=marker,
                color=colour,
                lw=0,
                label=label,
                zorder=4 if exact else 2,
                alpha=1 if exact else 0.5,
            )
        axis.set(title=title, xlabel=r"$\kappa$", yscale="log")
        axis.title.set_fontsize(9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25, lw=0.5)
    np.atleast_1d(axes)[0].set_ylabel(r"error, in $r_{\max}/(1-\gamma)$ $[\times\, g_{\max}]$", fontsize=9)
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=200)
    figure.savefig(path.with_suffix(".pdf"))
