"""Figures of the exact half. Matplotlib is imported when a figure is drawn, and never shown."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from dmpo_theory import graph as graphs
from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.claims.record import Scope
from dmpo_theory.constructive import flooding_gradient, flooding_values
from dmpo_theory.envelope import each_envelope
from dmpo_theory.exact import each_value
from dmpo_theory.extended import agent_span
from dmpo_theory.files import save_figure
from dmpo_theory.graph import AgentGraph, named_graph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.local_bounds import local_quantities, value_error_bound
from dmpo_theory.sweep import Check

PANELS = {"theorem1": "Theorem 1", "remark1": "Remark 1", "theorem2": "Theorem 2, reading (i)"}
# Okabe-Ito colours, told apart by colour-blind readers too.
BLUE, VERMILION, GREEN, PURPLE, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#888888", "#000000"
_ENVELOPE_AGENTS = 14
"""Envelopes are drawn as far as all neighbourhoods are no larger."""


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
    save_figure(figure, path, dpi=200)
    save_figure(figure, path.with_suffix(".pdf"))


def audit_figures(scope: Scope, folder: Path) -> list[tuple[str, Path]]:
    """The figures of an audit, as captions and PNG files (each with a PDF beside it)."""
    figures = [("Error of truncation and its bounds against kappa; below, error over the printed bound.", "bounds.png")]
    plot_bounds(scope.checks, folder / "bounds.png")
    if scope.constructive:
        plot_decay(scope, folder / "decay.png")
        figures += [("True worst error and every bound on it, by graph family and coupling strength.", "decay.png")]
        plot_tightness(scope, folder / "tightness.png")
        draw_witnesses(folder / "witnesses.png")
        figures += [
            (
                "Exact error over bound, worst agent, in flooding instances against the number of agents.",
                "tightness.png",
            ),
            ("The smallest counterexamples: who tells whom, and what the error is.", "witnesses.png"),
        ]
    return [(caption, folder / name) for caption, name in figures]


def plot_decay(scope: Scope, path: Path) -> None:
    """The true worst error against kappa with every bound on it: a panel for each graph family and coupling strength.

    In units of ``r_max / (1 - gamma)``, the worst agent of one random instance with rewards of both signs.
    """
    from matplotlib.figure import Figure

    panels = [(family, coupling) for coupling in (0.3, 1.0) for family in scope.families]
    columns = min(len(scope.families), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.2, 0.6 + 1.25 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (family, coupling) in zip(axes.flat, panels, strict=False):
        rng = np.random.default_rng([scope.seed, scope.families.index(family)])
        graph = named_graph(family, max(scope.n, 8), rng)  # smaller graphs have too few kappas to see a rate
        mdp = random_mdp(graph, gamma=float(scope.gamma), coupling=coupling, concentration=0.3, rng=rng)
        policy = random_policy(mdp, coupling=coupling, concentration=0.3, rng=rng)
        setting, kappas = Setting.of(mdp, policy), range(graph.diameter)
        unit = float(setting.r_max) / (1 - mdp.gamma)
        worst = np.max([agent_span(mdp, v.values, v.agent) for v in each_value(mdp, policy)], axis=0)
        local = [k for k in kappas if max(len(graph.neighbors(i, k)) for i in range(graph.n)) <= _ENVELOPE_AGENTS]
        dobrushin = value_error_bound(local_quantities(mdp, policy), kappas).max(axis=0)
        lines = {
            "printed": (VERMILION, [float(max(BOUNDS["theorem1-printed"].value(setting, k))) for k in kappas]),
            "corrected": (BLUE, [float(max(BOUNDS["theorem1-tight"].value(setting, k))) for k in kappas]),
            "Dobrushin": (GREEN, list(dobrushin)),
            "envelope": (
                PURPLE,
                [max(found.errors()[-1] for found in each_envelope(mdp, policy, k)) for k in local],
            ),
            "true error": (BLACK, [worst[k] for k in kappas]),
        }
        for name, (colour, line) in lines.items():
            width, marker = (1.6, ".") if name == "true error" else (1.0, None)
            axis.plot(
                kappas[: len(line)], np.array(line) / unit, color=colour, lw=width, marker=marker, ms=4, label=name
            )
        axis.set(yscale="log")
        axis.set_title(f"{family}, coupling {coupling:g}", fontsize=6)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25, lw=0.5)
        axis.tick_params(labelsize=6)
    figure.supxlabel(r"$\kappa$", fontsize=8)
    figure.supylabel(r"error, in $r_{\max}/(1-\gamma)$", fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=7, frameon=False)
    save_figure(figure, path, dpi=200)
    save_figure(figure, path.with_suffix(".pdf"))


def plot_tightness(scope: Scope, path: Path) -> None:
    """Exact error over the printed and the corrected bound against the number of agents: paths, rings and stars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    sizes = range(3, 9)
    for axis, (claim, title) in zip(figure.subplots(1, 2, sharey=True), list(PANELS.items())[::2], strict=True):
        for marker, family in (("o", "path"), ("s", "ring"), ("^", "star")):
            for colour, key in ((VERMILION, f"{claim}-printed"), (BLUE, f"{claim}-tight")):
                worst = [_worst_flooding(named_graph(family, n), scope.gamma, claim, key) for n in sizes]
                axis.plot(sizes, worst, color=colour, marker=marker, ms=4, lw=1, label=f"{family}, {key.split('-')[1]}")
        axis.axhline(1, color=BLACK, lw=0.6)
        axis.set(title=title, xlabel="agents", ylim=(0, 2.2))
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, lw=0.5)
    figure.axes[0].set_ylabel("error / bound", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path, dpi=200)
    save_figure(figure, path.with_suffix(".pdf"))


def draw_witnesses(path: Path) -> None:
    """The counterexamples as graphs: the agent that errs, what it sees, and where what it misses comes from."""
    import networkx as nx
    from matplotlib.figure import Figure

    drawings: tuple[tuple[str, AgentGraph, int, set[int], set[int]], ...] = (
        ("Theorem 1: ratio 2\nshift register, $\\kappa=1$", graphs.path(3), 0, {0, 1}, {2}),
        ("Theorem 2 (i): ratio 4/3\nstar, $\\kappa=1$", graphs.star(3), 0, {0, 1, 2}, {1, 2}),
        ("Theorem 2 (ii): ratio 11/7\npath, $\\kappa=2$, $\\gamma=1/2$", graphs.path(4), 0, {0, 1, 2}, {3}),
        ("after Eq. 9: wrong sign\nstar, any $\\kappa$", graphs.star(4), 0, {0, 1, 2, 3}, set()),
    )
    figure = Figure(figsize=(7.2, 2.1), layout="constrained")
    for axis, (title, graph, agent, seen, source) in zip(figure.subplots(1, len(drawings)), drawings, strict=True):
        network = graph.to_networkx()
        colours = [VERMILION if k == agent else BLUE if k in seen else GREY for k in network]
        nx.draw_networkx(
            network,
            nx.kamada_kawai_layout(network),
            ax=axis,
            node_color=colours,
            edgecolors=BLACK,
            linewidths=[2.5 if k in source else 0.8 for k in network],
            node_size=260,
            font_size=8,
            font_color="#ffffff",
        )
        axis.set_title(title, fontsize=8)
        axis.set_axis_off()
        axis.margins(0.2)
    figure.supxlabel(
        "red: the agent that errs; blue: what it may see; bold rim: whose bit an extended value misses", fontsize=8
    )
    save_figure(figure, path, dpi=200)
    save_figure(figure, path.with_suffix(".pdf"))


def _worst_flooding(graph: AgentGraph, gamma: Fraction, claim: str, key: str) -> float:
    ratios = [0.0]
    for kappa in range(graph.diameter):
        if claim == "theorem1":
            found = [flooding_values(graph, kappa, gamma)]
        else:
            found = [flooding_gradient(graph, i, kappa, gamma) for i in (0, graph.n // 2)]
        for witness in found:
            bound = BOUNDS[key].value(witness.setting, kappa)
            ratios += [float(e / bound[i]) for i, e in zip(witness.agents, witness.errors, strict=True) if bound[i]]
    return max(ratios)
