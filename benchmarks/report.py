"""Table and figure of benchmarks/exact.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from measure import OURS, Row
from peers import PEERS

# Okabe-Ito colours, yellow replaced by grey: on white it can hardly be seen.
_COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#888888")
_MARKERS = "sDv^<>X"
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_SMALL_STATES = 256


def write_report(rows: Sequence[Row], about: dict[str, Any], folder: Path) -> list[Path]:
    """Write table.md, and scaling.png with a PDF beside it where matplotlib is there; the files written."""
    table = folder / "table.md"
    table.write_text(markdown(rows, about))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return [table]
    return [table, *draw(rows, about, folder / "scaling.png")]


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The whole table, in Markdown."""
    ok = {(row.solver, row.family, row.n): row for row in rows if row.status == "ok"}
    families = list(dict.fromkeys(row.family for row in rows))
    solvers = [name for name in PEERS if any(row.solver == name for row in rows)]
    offered = {(row.solver, row.family, row.n) for row in rows}
    instances = [(family, n) for family in families for n in sorted({row.n for row in rows if row.family == family})]
    shared = [at for at in instances if (OURS, *at) in ok and all((solver, *at) in offered for solver in solvers)]
    code = max((row.compiled_mib or 0.0 for row in ok.values() if row.solver == OURS), default=0.0)
    parts = [_heading(rows, about)]
    brackets = "and in brackets times that of dmpo"
    for title, unit, value, explanation in (
        ("Time", "s", lambda row: row.seconds, f"Wall seconds for all n values, {brackets}. \\* scaled to all agents."),
        (
            "Memory",
            "MiB",
            lambda row: row.peak_mib,
            f"Peak above the imports, {brackets}, {code:.0f} MiB of which are compiled code.",
        ),
    ):
        parts.append(f"## {title}\n\n{explanation}")
        parts.append(_against_peers(ok, shared, solvers, unit, value))
    parts.append(_agreement(ok.values(), solvers))
    parts.append(_alone(rows, about, families))
    parts.append(_gradients(ok.values()))
    parts.append(_small(ok, solvers))
    parts.append(_missing(rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(rows: Sequence[Row], about: dict[str, Any]) -> str:
    loads = [row.load for row in rows if row.load is not None and row.status == "ok"]
    busy = f"{min(loads):.2f} to {max(loads):.2f}" if loads else "not known"
    rates = ", ".join(f"{float(r) / 1e9:.3g} with {t}" for t, r in about["multiply_adds_per_second"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join(
        [
            "# Exact local values of random binary networked MDPs",
            "",
            f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB; {about['threads']} threads for "
            f"everybody; load average {busy}. numpy multiplies matrices at 10^9 multiply-adds per second: {rates} "
            f"threads. Python {about['python']}; {versions}.",
            "",
            f"gamma = {about['gamma']}, all n values to {about['tolerance']:g}, two states and two actions for each "
            "agent, uniform Dirichlet tables. Every measurement is a process of its own; imports and compiling are not "
            "counted; the best of several repeats where half a second allows several, and of three such rounds of "
            "dmpo and the two fastest peers below a second. Peers get the chain with the policy averaged "
            "out, one action, and its dense kernel built by the fastest way that numpy knows, which is counted, as are "
            "their input formats.",
        ]
    )


def _against_peers(
    ok: dict[tuple[str, str, int], Row],
    shared: Iterable[tuple[str, int]],
    solvers: Sequence[str],
    unit: str,
    value: Callable[[Row], float | None],
) -> str:
    lines = []
    for family, n in shared:
        ours = value(ok[OURS, family, n]) or 0.0
        cells, ratios = [], []
        for solver in solvers:
            row = ok.get((solver, family, n))
            found = value(row) if row else None
            if row is None or found is None:
                cells.append("-")
                continue
            ratio = found / ours if ours > 0 else float("inf")
            ratios.append((ratio, solver))
            star = "\\*" if row.scaled and unit == "s" else ""
            cells.append(f"{_number(found)}{star} ({_number(ratio)})")
        best = f"{_number(min(ratios)[0])} ({min(ratios)[1]})" if ratios else "-"
        lines.append([family, n, _number(ours), best, *cells])
    return _table(["graph", "n", f"dmpo, {unit}", "best peer / dmpo", *solvers], lines)


def _agreement(rows: Iterable[Row], solvers: Sequence[str]) -> str:
    lines = []
    for solver in solvers:
        found = [(row.difference, row.n) for row in rows if row.solver == solver and row.difference is not None]
        if found:
            lines.append([solver, f"{max(found)[0]:.1e}", len(found), max(n for _, n in found)])
    if not lines:
        return ""
    text = "## Agreement\n\nLargest difference from dmpo over all agents solved and all joint states.\n\n"
    return text + _table(["peer", "largest difference", "instances", "up to n"], lines)


def _alone(rows: Sequence[Row], about: dict[str, Any], families: Sequence[str]) -> str:
    ours = [row for row in rows if row.solver == OURS]
    lines, reached = [], []
    rate = float(about["multiply_adds_per_second"]["1"])
    limit = about.get("limits", {}).get("seconds", float("inf"))
    for family in families:
        mine = sorted((row for row in ours if row.family == family), key=lambda row: row.n)
        for row in (row for row in mine if row.status == "ok" and row.route != "dense"):
            speed = share = apply = ""
            if row.apply_seconds and row.multiplications:
                per_second = row.multiplications / row.apply_seconds
                apply, speed = f"{1e3 * row.apply_seconds:.3g}", f"{per_second / 1e9:.3g}"
                share = f"{100 * per_second / rate:.0f} %"
            bound = "" if row.error_bound is None else f"{row.error_bound:.1e}"
            times = [_number(row.seconds), _number(row.cpu_seconds), _number(row.peak_mib)]
            lines.append([family, row.n, 2**row.n, *times, row.sweeps, apply, speed, share, bound])
        done = [row for row in mine if row.status == "ok" and (row.seconds or 0.0) <= limit]
        if done:
            after = next((row for row in mine if row.n > done[-1].n), None)
            took = "" if after is None else after.reason or f"n = {after.n} took {_number(after.seconds)} s"
            then = took or "not asked for more"
            reached.append(f"- {family}: n = {done[-1].n} in {_number(done[-1].seconds)} s; then {then}")
    if not lines:
        return ""
    head = ["graph", "n", "joint states", "s", "CPU s", "MiB", "sweeps", "ms a sweep", "10^9 FMA/s", "share", "error"]
    text = (
        "## Ours alone\n\nSweeps are applications of the kernel, all agents together, those of a light cone included; "
        "one is timed in one thread, and its rate of multiply-adds set against that of numpy's matrix product in one. "
        "The error is what the result certifies.\n\n"
    )
    return text + "\n".join(reached) + "\n\n" + _table(head, lines)


def _gradients(rows: Iterable[Row]) -> str:
    lines = []
    for row in rows:
        times = [row.apply_seconds, row.gradient_seconds, row.whole_gradient_seconds, row.truncated_seconds]
        if row.apply_seconds and all(times):
            cells = [f"{1e3 * (t or 0):.3g} ({(t or 0) / row.apply_seconds:.3g})" for t in times]
            lines.append([row.family, row.n, *cells])
    if not lines:
        return ""
    text = (
        "## Gradients\n\nMilliseconds, and in brackets applications of the kernel: of all g_i given the mean value and "
        "the occupancy; with the two solves for these; of all truncated ones, every kappa, in the reading of Eq. 9.\n\n"
    )
    return text + _table(["graph", "n", "application", "all g_i", "with solves", "all truncated"], lines)


def _small(ok: dict[tuple[str, str, int], Row], solvers: Sequence[str]) -> str:
    dense = [solver for solver in solvers if solver.startswith("dense")]
    lines = []
    for (solver, family, n), row in sorted(ok.items(), key=lambda item: item[0][1:]):
        peers = [ok[name, family, n].seconds or 0.0 for name in dense if (name, family, n) in ok]
        if solver == OURS and peers and 2**n <= _SMALL_STATES:
            times = [f"{1e3 * (ok[k, family, n].seconds or 0):.3g}" if (k, family, n) in ok else "-" for k in dense]
            ours = row.seconds or 0.0
            lines.append([family, n, 2**n, f"{1e3 * ours:.3g}", *times, f"{ours / min(peers):.2f}"])
    if not lines:
        return ""
    text = "## Small instances\n\nMilliseconds, and dmpo's time over the faster dense one's.\n\n"
    return text + _table(["graph", "n", "joint states", "dmpo", *dense, "ratio"], lines)


def _missing(rows: Sequence[Row]) -> str:
    reached = {(row.solver, row.family): row.n for row in sorted(rows, key=lambda row: row.n) if row.status == "ok"}
    left = [row for row in rows if row.status != "ok"]
    left = [row for row in left if row.solver != OURS or row.n > reached.get((OURS, row.family), 0)]
    lines = [[row.solver, row.family, row.n, row.status, row.reason] for row in left]
    return "## Not measured\n\n" + _table(["solver", "graph", "n", "", "why"], lines) if lines else ""


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def draw(rows: Sequence[Row], about: dict[str, Any], path: Path) -> list[Path]:
    """Time and memory against the number of agents, both logarithmic in the joint states, one column wide.

    Peers on the first family, ours on all; hollow markers are times scaled to all agents.
    """
    from matplotlib.figure import Figure

    ok = [row for row in rows if row.status == "ok" and row.n >= 4]
    families = list(dict.fromkeys(row.family for row in ok))
    figure = Figure(figsize=(3.5, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    curves = [(solver, families[0]) for solver in PEERS] + [(OURS, family) for family in families]
    for position, (solver, family) in enumerate(curves):
        mine = sorted((row for row in ok if (row.solver, row.family) == (solver, family)), key=lambda row: row.n)
        if not mine:
            continue
        style: dict[str, Any] = {"lw": 1, "ms": 3.5, "label": solver}
        if solver == OURS:
            label = f"dmpo, {family}"
            dash = _DASHES[families.index(family) % len(_DASHES)]
            style |= {"color": "black", "ls": dash, "label": label, "marker": "o", "ms": 2, "zorder": 3}
        else:
            style |= {"color": _COLOURS[position % len(_COLOURS)], "marker": _MARKERS[position % len(_MARKERS)]}
        for axis, values in ((upper, [row.seconds for row in mine]), (lower, [row.peak_mib for row in mine])):
            (line,) = axis.plot([row.n for row in mine], values, **style)
            scaled = [row.n for row in mine if row.scaled]
            if axis is upper:
                heights = [row.seconds for row in mine if row.scaled]
                hollow = {"mec": line.get_color(), "mfc": "white", "marker": line.get_marker(), "ms": style["ms"]}
                axis.plot(scaled, heights, ls="", zorder=4, **hollow)
    upper.set(yscale="log", ylabel="wall time, s")
    lower.set(yscale="log", ylabel="peak memory, MiB", xlabel="agents n")
    lower.set_ylim(bottom=0.5)
    top = upper.secondary_xaxis("top")
    ticks = list(range(4, max((row.n for row in ok), default=4) + 1, 4))
    lower.set_xticks(ticks)
    top.set_xticks(ticks, [f"$2^{{{n}}}$" for n in ticks])
    top.set_xlabel("joint states", fontsize=8)
    for axis in (upper, lower, top):
        axis.tick_params(labelsize=7)
    for axis in (upper, lower):
        axis.grid(alpha=0.25, lw=0.5)
        axis.yaxis.label.set_fontsize(8)
        axis.xaxis.label.set_fontsize(8)
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=6.5, frameon=False)
    figure.savefig(path, dpi=200)
    figure.savefig(path.with_suffix(".pdf"))
    return [path, path.with_suffix(".pdf")]
