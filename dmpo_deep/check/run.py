"""All checks of one MDP and frozen policy, and their results as tables and as one figure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dmpo_deep.check.critic import CriticError, check_critic, check_network, critic_error, fit
from dmpo_deep.check.gradient import GradientError, check_gradient, check_update, gradient_error
from dmpo_deep.check.locality import check_locality
from dmpo_deep.check.model import check_model
from dmpo_deep.check.rollouts import RolloutError, check_rollouts
from dmpo_deep.check.setting import Setting
from dmpo_deep.check.statistics import Finding
from dmpo_deep.check.tables import on_joint
from dmpo_deep.nets import one_thread
from dmpo_theory.files import save_figure, whole

LAMBDA = 0.95
"""Of the generalised advantages that are checked beside TD residuals."""


@dataclass(eq=False)
class Report:
    """What was found."""

    findings: list[Finding] = field(default_factory=list)
    critics: list[CriticError] = field(default_factory=list)
    gradients: list[GradientError] = field(default_factory=list)
    rollouts: list[RolloutError] = field(default_factory=list)

    @property
    def failed(self) -> list[Finding]:
        """Checks that failed."""
        return [finding for finding in self.findings if not finding.passed]


def stages(setting: Setting, kappas: Sequence[float], report: Report) -> Iterator[str]:
    """Run the checks, filling ``report``; yields the name of each stage before it starts.

    Args:
        setting: MDP, frozen policy, sizes, level.
        kappas: radii of critics and of the sum over neighbours; the targets of model rollouts end with critics of the
            first.
        report: what to fill.
    """
    setting.require_memory()
    yield "data"
    data, more = setting.sample(0), setting.sample(1)
    for kappa in kappas:
        yield f"critics, kappa {kappa}"
        found = fit(setting, kappa, data)
        report.findings += check_critic(setting, kappa, found)
        report.findings.append(check_network(setting, kappa, found, data))
        report.critics.append(critic_error(setting, kappa, found))
        yield f"gradients, kappa {kappa}"
        fitted = on_joint(setting.mdp, found.tables, found.members)
        report.findings += [
            check_gradient(setting, kappa, 0.0, more),
            check_gradient(setting, kappa, LAMBDA, more),
            check_gradient(setting, kappa, 0.0, more, fitted),
            *check_update(setting, kappa, more),
        ]
        report.gradients.append(gradient_error(setting, kappa, found, more))
    report.findings.append(check_locality(setting, kappas))
    if not setting.has_models:
        return
    for kappa in model_kappas(setting):
        yield f"models, kappa {kappa}"
        report.findings += check_model(setting, kappa, data)
    yield "model rollouts"
    findings, report.rollouts = check_rollouts(setting, kappas[0], data)
    report.findings += findings


def model_kappas(setting: Setting) -> range:
    """Radii of models: from 0, which hears too little for most transitions, to the transitions' own and 1 at least."""
    return range(max(setting.mdp.radius, 1) + 1)


def number_of_stages(setting: Setting, kappas: Sequence[float]) -> int:
    """How many stages there are."""
    return 2 * len(kappas) + (len(model_kappas(setting)) + 2 if setting.has_models else 1)


@one_thread()
def run(setting: Setting, kappas: Sequence[float], tell: Callable[[str], object] = lambda stage: None) -> Report:
    """Run all checks.

    Args:
        setting: MDP, frozen policy, sizes, level.
        kappas: as in :func:`stages`.
        tell: called with the name of each stage before it starts.

    Example:
        >>> from dmpo_theory import named_graph, random_mdp, random_policy
        >>> mdp = random_mdp(named_graph("star", 3), rng=0)
        >>> report = run(Setting(mdp, random_policy(mdp, rng=1), copies=500), kappas=[1])
        >>> report.failed
        []
    """
    report = Report()
    for stage in stages(setting, kappas, report):
        tell(stage)
    return report


def write(report: Report, folder: Path) -> list[str]:
    """One CSV file for each kind of result that there is, and ``check.png`` and ``check.pdf``; their names."""
    kinds = {
        "findings": [asdict(f) | {"passed": int(f.passed)} for f in report.findings],
        "critics": [asdict(x) for x in report.critics],
        "gradients": [asdict(x) for x in report.gradients],
        "rollouts": [asdict(x) for x in report.rollouts],
    }
    tables = {f"{kind}.csv": rows for kind, rows in kinds.items() if rows}
    for name, rows in tables.items():
        with whole(folder / name) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    draw(report, folder / "check.png")
    return [*tables, "check.png", "check.pdf"]


def draw(report: Report, path: Path) -> None:
    """Errors of critics and gradients against kappa, and of model rollouts against T, each with its bounds.

    Args:
        report: what to draw.
        path: PNG file to write; a PDF is written beside it.
    """
    from matplotlib.figure import Figure

    panels = 3 if report.rollouts else 2
    figure = Figure(figsize=(2.4 * panels, 3.0), layout="constrained", dpi=300)
    left, middle, *rest = figure.subplots(1, panels)
    kappas = [x.kappa for x in report.critics]
    for name, label, style in (
        ("printed", "Eq. 12", {"color": "#D55E00", "ls": "--"}),
        ("corrected", "corrected", {"color": "#0072B2", "ls": "--"}),
        ("envelope", "envelope of the instance", {"color": "#009E73", "ls": "--"}),
        ("settled", "$V^\\phi$, exact", {"color": "black"}),
        ("extended", "$E[V_i|s_{N_i^\\kappa}]$, exact", {"color": "0.5", "ls": ":"}),
    ):
        _line(left, kappas, [getattr(x, name) for x in report.critics], label, **style)
    _bars(left, kappas, [x.fitted for x in report.critics], [x.interval for x in report.critics], "fitted")
    left.set_ylabel("largest error of a critic")
    for name, label, style in (
        ("printed", "Eq. 14", {"color": "#D55E00", "ls": "--"}),
        ("corrected", "corrected", {"color": "#0072B2", "ls": "--"}),
        ("exact", "the gradient itself", {"color": "0.5", "ls": ":"}),
        ("truncation_bias", "truncation, exact", {"color": "black"}),
    ):
        _line(middle, kappas, [getattr(x, name) for x in report.gradients], label, **style)
    for name, label, color in (("critic", "critics", "#CC79A7"), ("noise", "noise", "#E69F00")):
        size = [x.noise if name == "noise" else x.critic_bias for x in report.gradients]
        _bars(middle, kappas, size, [getattr(x, f"{name}_interval") for x in report.gradients], label, color)
    middle.set_ylabel("error of the gradient, 2-norm")
    for right in rest:
        _rollouts(right, report.rollouts)
    shown = [min(x.fitted for x in report.critics), min(min(x.noise, x.critic_bias) for x in report.gradients)]
    for axes, least in zip((left, middle), shown, strict=True):
        axes.set_xlabel("kappa", fontsize=8)
        axes.set_xticks(kappas)
        axes.set_yscale("log")
        axes.set_ylim(bottom=least / 3)
    for axes in (left, middle, *rest):
        axes.set_yscale("log")
        axes.yaxis.label.set_size(8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for suffix in (".png", ".pdf"):
        save_figure(figure, path.with_suffix(suffix))


def _rollouts(axes: Any, rollouts: Sequence[RolloutError]) -> None:
    """Errors of targets against T, and the bound on them."""
    colors = ("black", "#0072B2", "#D55E00")
    for color, weight in zip(colors, sorted({x.weight for x in rollouts}), strict=False):
        rows = [x for x in rollouts if x.weight == weight]
        steps = [x.horizon for x in rows]
        _line(axes, steps, [x.error for x in rows], f"model error {weight:g}", color=color)
        _line(axes, steps, [x.bound for x in rows], None, color=color, ls="--")
    axes.plot([], [], color="0.5", ls="--", label="bound")
    axes.set_xlabel("steps T of a model rollout", fontsize=8)
    axes.set_ylabel("largest error of a target", fontsize=8)


def _line(axes: Any, x: Sequence[float], y: Sequence[float], label: str | None, **style: Any) -> None:
    """A line through what is not zero but for rounding."""
    shown = [(a, b) for a, b in zip(x, y, strict=True) if b > 1e-9]
    axes.plot(*zip(*shown, strict=True) if shown else ([], []), label=label, lw=1.1, marker="o", ms=2, **style)


def _bars(
    axes: Any, x: Sequence[float], y: Sequence[float], width: Sequence[float], label: str, color: str = "#CC79A7"
) -> None:
    """Points with intervals, which on a logarithmic axis cannot reach down to zero: they leave the picture."""
    low = [min(w, v * (1 - 1e-6)) for v, w in zip(y, width, strict=True)]
    axes.errorbar(x, y, yerr=[low, width], fmt="s", ms=3, lw=0.9, capsize=2, color=color, label=label)
