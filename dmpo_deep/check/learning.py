"""Learning towards a known optimum: what truncation costs, what sampling costs, and what a learned model costs.

On a small MDP the return of any policy is exact, so that learning curves have no noise of evaluation. Beside them
stand the levels that policies of each kind can reach, and ascent on exact and on truncated gradients: what the
algorithms would do with no noise at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.check.tables import policy_of
from dmpo_deep.drawing import COLORS
from dmpo_deep.envs import make_env
from dmpo_deep.envs.tabular import Tabular
from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.nets import one_thread
from dmpo_deep.ppo import LocalAgents
from dmpo_deep.presets import get_preset, override
from dmpo_theory.files import save_figure, whole, write_text
from dmpo_theory.mdp import NetworkedMDP
from dmpo_theory.optimum import (
    Direction,
    ascent,
    best_local,
    best_own_state,
    central_optimum,
    exact_direction,
    expected_return,
    softmax_policy,
    truncated_direction,
    uniform_logits,
)

STARTS = 50
"""Exact ascents from random starts."""
ASCENT_STEPS, RATE = 400, 0.1
"""Steps of noise-free ascent from the uniform policy, and the largest change of a logit in each."""
FLOOR = 1e-4
"""The smallest share of the gap that the figure tells from none."""


@dataclass(frozen=True)
class Levels:
    """Returns that policies reach, uniform start."""

    uniform: float
    """Of uniform play."""
    own_state: float | None
    """Largest of deterministic policies that read their own state only, by enumeration; None where that is too long."""
    local: float
    """Best of :data:`STARTS` exact ascents over policies that read their neighbours: reached, but no bound."""
    central: float
    """Largest of one controller that sees and decides everything: a bound on all."""

    def share(self, value: Any) -> Any:
        """The share of the gap from uniform play to the best local policy that is left at a return."""
        return (self.local - value) / max(self.local - self.uniform, 1e-12)


def levels(mdp: NetworkedMDP, seed: int, tell: Callable[[], object] = lambda: None) -> Levels:
    """The levels of an MDP; ``tell`` is called after each ascent."""
    uniform = expected_return(mdp, softmax_policy(mdp, uniform_logits(mdp)))
    best = -np.inf
    for value, _ in best_local(mdp, STARTS, np.random.default_rng(seed)):
        best = max(best, value)
        tell()
    try:
        own: float | None = best_own_state(mdp)[0]
    except ValueError:
        own = None
    return Levels(uniform, own, best, central_optimum(mdp))


def noise_free(mdp: NetworkedMDP) -> dict[str, list[float]]:
    """Returns along ascent with the exact gradient, and with the truncated one for each kappa below the diameter."""
    directions: dict[str, Direction] = {"exact gradient": exact_direction}
    directions |= {f"truncated, kappa {kappa}": truncated_direction(kappa) for kappa in range(mdp.graph.diameter)}
    return {
        name: [value for value, _ in ascent(mdp, direction, ASCENT_STEPS, RATE)]
        for name, direction in directions.items()
    }


@one_thread()
def learn(
    options: Mapping[str, Any],
    algo: str,
    seed: int,
    steps: int,
    every: int,
    changes: Mapping[str, str] | None = None,
    tell: Callable[[int], object] = lambda env_steps: None,
) -> list[tuple[int, float]]:
    """Train on the tabular task; environment steps and the exact return of the policies, at the start and then on.

    Args:
        options: of the task.
        algo: the algorithm.
        seed: of everything random in training.
        steps: environment steps.
        every: environment steps between returns.
        changes: to the default preset.
        tell: called with the environment steps after each epoch.
    """
    require_memoryless(algo)
    preset = replace(override(get_preset("tabular", algo), changes or {}), environment=options)
    env = make_env("tabular", preset.copies, gamma=preset.gamma, **options)
    assert isinstance(env, Tabular)
    learner = ALGORITHMS[algo](env, preset, seed)
    agents = cast(LocalAgents, learner.agents)
    curve = [(0, expected_return(env.mdp, policy_of(agents.actor, env.mdp)))]
    while (spent := learner.collector.env_steps) < steps:
        learner.epoch()
        now = learner.collector.env_steps
        if now // every > spent // every or now >= steps:
            curve.append((now, expected_return(env.mdp, policy_of(agents.actor, env.mdp))))
        tell(now)
    return curve


def require_memoryless(algo: str) -> None:
    """``ValueError`` if policies of the algorithm remember: no table says what they do."""
    population = ALGORITHMS[algo].population
    if not (isinstance(population, type) and issubclass(population, LocalAgents)):
        raise ValueError(f"policies of {algo} remember, so that no table says what they do; leave {algo} out")


def study(
    graphs: Mapping[str, Mapping[str, Any]],
    algos: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    every: int,
    folder: Path,
    tell: Callable[[str], object] = lambda part: None,
) -> None:
    """Levels, noise-free ascents and learning curves of each MDP; what ``folder`` holds already is not done again.

    Args:
        graphs: name -> options of the tabular task.
        algos: the algorithms.
        seeds: of training.
        steps: environment steps of each run.
        every: environment steps between exact returns.
        folder: where one file for each part goes, written whole or not at all.
        tell: called with the name of each part that is finished.
    """
    for name, options in graphs.items():
        mdp = make_env("tabular", 1, **options).mdp  # type: ignore[attr-defined]
        _once(folder / f"{name}-levels.json", lambda mdp=mdp: asdict(levels(mdp, 0)))  # type: ignore[misc]
        tell(f"{name}, levels")
        _once(folder / f"{name}-ascent.json", lambda mdp=mdp: noise_free(mdp))  # type: ignore[misc]
        tell(f"{name}, ascent")
        for algo in algos:
            for seed in seeds:
                path = folder / f"{name}-{algo}-s{seed}.json"
                _once(path, lambda a=algo, s=seed, o=options: learn(o, a, s, steps, every))  # type: ignore[misc]
                tell(f"{name}, {algo}, seed {seed}")


def _once(path: Path, make: Callable[[], Any]) -> None:
    if not path.exists():
        write_text(path, json.dumps(make()))


def write(graphs: Sequence[str], algos: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """``gap.csv`` (every point), ``gap-table.csv`` and ``gap.png`` and ``gap.pdf`` from the parts in ``folder``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.3 * len(graphs)), layout="constrained", dpi=300)
    axes = figure.subplots(len(graphs), 2, squeeze=False, sharey=True)
    rows: list[tuple[Any, ...]] = []
    table = []
    for (left, right), name in zip(axes, graphs, strict=True):
        level = Levels(**json.loads((folder / f"{name}-levels.json").read_text()))
        final: dict[str, Any] = {"graph": name, **asdict(level)}
        for color, (kind, values) in zip(
            ("black", *COLORS), json.loads((folder / f"{name}-ascent.json").read_text()).items(), strict=False
        ):
            shares = level.share(np.array(values))
            exact = color == "black"
            left.plot(np.maximum(shares, FLOOR), color=color, lw=1.1, label=kind, ls="--" if exact else "-", zorder=3)
            final[f"gap of ascent, {kind}"] = shares[-1]
            rows += [(name, "ascent", kind, "", step, value) for step, value in enumerate(values)]
        for color, algo in zip(COLORS, algos, strict=False):
            curves = [json.loads((folder / f"{name}-{algo}-s{seed}.json").read_text()) for seed in seeds]
            for seed, curve in zip(seeds, curves, strict=True):
                rows += [(name, "learning", algo, seed, step, value) for step, value in curve]
            shares = level.share(np.array(curves)[..., 1])
            center, low, high = interquartile_mean(shares)
            steps = np.array(curves)[0, :, 0]
            right.plot(
                steps, np.maximum(center, FLOOR), color=color, lw=1.2, label=f"{algo.upper()} ({len(seeds)} seeds)"
            )
            right.fill_between(steps, np.maximum(low, FLOOR), np.maximum(high, FLOOR), color=color, alpha=0.2, lw=0)
            final |= {f"gap of {algo}": center[-1], f"{algo} low": low[-1], f"{algo} high": high[-1]}
        if level.own_state is not None:
            for panel in (left, right):
                own = max(level.share(level.own_state), FLOOR)
                panel.axhline(own, color="0.35", lw=0.8, ls="--", label="best deterministic own-state policy")
        left.set_ylabel(f"{name}: share of the gap left", fontsize=8)
        table.append(final)
    for panel in axes[-1]:
        panel.set_xlabel("steps of exact ascent" if panel is axes[-1][0] else "environment steps", fontsize=8)
    for panel in axes.flat:
        panel.set_yscale("log")
        panel.set_ylim(FLOOR, 2)
        panel.tick_params(labelsize=7)
    for panel in axes[0]:
        panel.legend(fontsize=6, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for suffix in ("png", "pdf"):
        save_figure(figure, folder / f"gap.{suffix}")
    with whole(folder / "gap.csv") as file:
        csv.writer(file).writerows([("graph", "kind", "which", "seed", "step", "return"), *rows])
    columns = list(dict.fromkeys(key for row in table for key in row))
    with whole(folder / "gap-table.csv") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
