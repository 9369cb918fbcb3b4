"""The paper's figures from results, and what is trained for them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from dmpo_deep import cli, figures
from dmpo_deep.cli.sweep import read_plan
from dmpo_deep.config import CONFIG, read_config
from dmpo_deep.drawing import NothingToDraw, column_figure, log_scale
from dmpo_deep.envs import evaluation_env
from dmpo_deep.figures import FIGURES, PLANS
from dmpo_deep.frontier import communicated
from dmpo_deep.radii import ablation, by_radius
from dmpo_deep.results import Result, from_run, read
from dmpo_deep.sweep import check
from dmpo_deep.variants import compared
from tests.deep.runs import small

PLAN = """
[[train]]
tasks = ["catchup"]
algos = ["dppo"]
seeds = [3, 4]
steps = 200
eval_every = 200
set = { rollout_steps = 50, hidden = [8], updates = 2 }
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return from_run(small("dmpo", tmp_path_factory.mktemp("figures") / "run"))


@pytest.mark.parametrize("name", FIGURES)
def test_plans_can_be_run(name: str) -> None:
    check(list(read_plan(PLANS / f"{name}.toml")))


@pytest.mark.parametrize("name", [name for name, figure in FIGURES.items() if not figure.plays])
def test_figures_can_be_drawn(result: Result, tmp_path: Path, name: str) -> None:
    radii = name in ("fig5", "floats")
    varied = [{"kappa_critic": 0}, {"kappa_critic": 1}, {"kappa_model": 0}] if radii else [{}]
    several = [with_radii(result, seed, **way) for way in varied for seed in range(3)]
    if name == "floats":
        several = [hearing(run, 10.0 * run.hyperparameters["kappa_critic"]) for run in several]
    FIGURES[name].draw(several, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.pdf", f"{name}.csv"}


def test_profiles_are_those_of_the_first_evaluation_episode(tmp_path: Path) -> None:
    run = small("dppo", tmp_path / "run", steps=200)
    FIGURES["fig7"].draw([run], tmp_path / "fig7")
    with (tmp_path / "fig7.csv").open() as file:
        rows = list(csv.DictReader(file))
    config = read_config(run)
    env = evaluation_env(config.task, **config.preset.environment)
    env.reset(np.random.default_rng(0))
    assert {row["car"] for row in rows} == {"1", "5", "8"}
    for car, row in zip((0, 4, 7), (row for row in rows if row["seconds"] == "0.0"), strict=True):
        assert float(row["headway"]) == pytest.approx(env.traffic().headway[0, car], rel=1e-3)
    assert (tmp_path / "fig7.png").stat().st_size > 10_000


def with_radii(result: Result, seed: int, **radii: float | str) -> Result:
    """A run of other radii; its score says which."""
    values = {**result.hyperparameters, **radii}
    score = 10 * float(values["kappa_critic"]) + float(values["kappa_model"]) + seed
    last = {**result.rows[-1], "eval_score": score}
    overrides = (*result.overrides, *(f"{name}={kappa}" for name, kappa in radii.items()))
    return replace(result, seed=seed, overrides=overrides, hyperparameters=values, rows=(last | {"model_error": 1.0},))


def hearing(run: Result, floats: float) -> Result:
    """A run whose agents receive so many numbers."""
    heard = {"floats_policy": 5.0, "floats_critic": floats, "floats_model": None, "floats_gates": None}
    return replace(run, rows=tuple({**row, **heard} for row in run.rows))


def test_scores_stand_beside_all_numbers_received(result: Result) -> None:
    result = replace(result, overrides=())
    ways: list[dict[str, float]] = [{"kappa_critic": 0}, {"kappa_critic": 3}, {"kappa_model": 4}, {}]
    runs = [hearing(with_radii(result, s, **way), 100.0 + s) for way in ways for s in range(3)]
    rival = hearing(replace(with_radii(result, 0), algo="dppo", overrides=()), 7.0)
    rival = replace(rival, rows=tuple({**row, "eval_score": 0.25} for row in rival.rows))
    chart = communicated([*runs, rival])
    told = {(row["series"], row["kappa"]): (row["floats"], row["score"], row["seeds"]) for row in chart.rows}
    assert told == {
        ("kappa of DMPO: critic", "0"): (106.0, 2.0, 3),
        ("kappa of DMPO: critic", "2"): (106.0, 22.0, 3),
        ("kappa of DMPO: critic", "3"): (106.0, 32.0, 3),
        ("kappa of DMPO: model", "1"): (106.0, 22.0, 3),  # the preset's runs stand for both
        ("kappa of DMPO: model", "4"): (106.0, 25.0, 3),
        ("DPPO", ""): (12.0, 0.25, 1),
    }
    with pytest.raises(NothingToDraw, match="no two algorithms or radii"):
        communicated(runs[:3])
    unscored = {**rival.rows[0], "eval_score": None}
    with pytest.raises(NothingToDraw, match="no two algorithms or radii"):
        communicated([*runs[:3], replace(rival, rows=(unscored,))])


def test_radii_are_told_apart(result: Result) -> None:
    ways: list[dict[str, float]] = [
        *({"kappa_critic": k} for k in (0, 1)),
        *({"kappa_model": k} for k in (0, 3)),
        *({"kappa_critic": k, "kappa_model": k} for k in (3, 0)),
        *({"kappa_critic": 4, "kappa_model": 0}, {}),
    ]
    preset = result.hyperparameters
    assert (preset["kappa_critic"], preset["kappa_model"]) == (2, 1)
    chart = ablation([with_radii(result, s, **way) for way in ways for s in range(3)])
    found: dict[str, dict[float, float]] = {}
    for row in chart.rows:
        if row["measure"] == "score":
            found.setdefault(row["varied"], {})[float(row["kappa"])] = row["iqm"] - 1
    assert found == {
        "critic": {0: 1, 1: 11, 2: 21},  # the run of the preset counts for all
        "model": {0: 20, 1: 21, 3: 23},
        "critic and model": {0: 0, 1: 11, 3: 33},
    }


def test_a_run_that_stands_for_two_equal_settings_counts_for_both(result: Result) -> None:
    """Results keep one of the runs whose overrides are the preset's values."""
    runs = [with_radii(result, 0, kappa_critic=k) for k in (0, 1, 3)]
    runs += [with_radii(result, 0, kappa_model=k) for k in (0, 1, 2)]  # the second one is the preset
    found = {name: list(series) for name, series in by_radius(runs).items()}
    # critic and model are 1 in one run and 2 in another, but none of the runs varies both
    assert found == {"critic": [0, 1, 2, 3], "model": [0, 1, 2]}


def test_radii_need_two_runs_that_differ_in_them_alone(result: Result) -> None:
    one = with_radii(result, 0, kappa_critic=0)
    with pytest.raises(NothingToDraw, match="no two runs differ in kappa_policy, kappa_critic or kappa_model alone"):
        ablation([one, replace(with_radii(result, 0, kappa_critic=1), overrides=("kappa_critic=1", "lr_actor=1e-3"))])
    infinite = with_radii(result, 0, kappa_critic="inf")
    last = {**infinite.rows[0], "eval_score": 5.0}
    chart = ablation([one, replace(infinite, rows=(last,))])
    assert [tick.get_text() for tick in chart.figure.axes[0].get_xticklabels()] == ["0", r"$\infty$"]


def test_variants_are_counted_by_hand(result: Result) -> None:
    def run(seed: int, scores: list[float], *overrides: str) -> Result:
        rows = [{**result.rows[0], "env_steps": 1000.0 * (k + 1), "eval_score": x} for k, x in enumerate(scores)]
        return replace(result, seed=seed, overrides=overrides, rows=tuple(rows))

    shorter = [run(seed, [-1, -1, 0.5], "model_horizon=1") for seed in range(3)]
    chart = compared([run(0, [0.1, -1, -2]), run(1, [-1, 0.2, 0.3, 0.4]), run(2, [-3, -2, -1]), *shorter])
    told = [(row["variant"], row["seed"], row["score"], row["steps_to_0"], row["trained_for"]) for row in chart.rows]
    assert told[:3] == [("DMPO", 0, -2, 1000, 3000), ("DMPO", 1, 0.3, 2000, 4000), ("DMPO", 2, -1, np.inf, 3000)]
    assert told[3:] == [("DMPO model_horizon=1", seed, 0.5, 3000, 3000) for seed in range(3)]
    with pytest.raises(NothingToDraw, match="no normalised score"):
        compared([replace(result, rows=({**result.rows[0], "eval_score": None},))])


@pytest.mark.parametrize("values", [(2e-4, 120.0), (0.3, 0.9), (1.0, 5e7)])
def test_a_logarithmic_axis_has_numbers(values: tuple[float, float]) -> None:
    """However many decades there are."""
    axes = column_figure(1.6).subplots(1, 2)[0]
    axes.plot([0, 1], values)
    log_scale(axes)
    low, high = axes.get_ylim()
    assert 2 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 8


def test_a_longer_run_counts_as_what_it_was_then(result: Result) -> None:
    rows = tuple({**result.rows[0], "env_steps": steps} for steps in (900.0, 2100.0, 3000.0, 4200.0))
    long = replace(result, rows=rows, traffic={("sampled", "speed"): 1.0})
    assert [long.until(steps).steps for steps in (1, 900, 1000, 3000, 4200, 10**6)] == [
        900,
        900,
        2100,
        3000,
        4200,
        4200,
    ]
    assert not long.until(3000).traffic, "it is of the last evaluation"
    assert long.until(4000) == long


def test_reproduce_trains_what_is_missing_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "PLANS", tmp_path)
    (tmp_path / "fig4.toml").write_text(PLAN)
    out, results = tmp_path / "out", tmp_path / "results"
    command = ["reproduce", "fig4", "--out", str(out), "--results", str(results), "--workers", "1"]
    assert cli.main([*command, "--as-is"]) == 2
    assert "holds a whole run of fig4; leave out --as-is" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert "from 2 of 2 runs" in capsys.readouterr().out
    assert cli.main(["collect", *map(str, (out / "runs").iterdir()), "--into", str(results)]) == 0
    assert len(read(results)) == 2
    elsewhere = ["reproduce", "fig4", "--out", str(tmp_path / "again"), "--results", str(results)]
    assert cli.main(elsewhere) == 0
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        *(
            "fig4.png",
            "fig4.pdf",
            "fig4.csv",
            "summary.csv",
            "summary.md",
            "each-run.csv",
            "each-run.md",
            "traffic.csv",
            "traffic.md",
        )
    }
    assert (tmp_path / "again" / "summary.md").read_text() == (out / "summary.md").read_text()
    assert cli.main(["reproduce", "fig40"]) == 2
    assert "fig4" in capsys.readouterr().err


def test_reproduce_sets_runs_of_other_code_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "PLANS", tmp_path)
    (tmp_path / "fig4.toml").write_text(PLAN)
    out = tmp_path / "out"
    command = ["reproduce", "fig4", "--out", str(out), "--results", str(tmp_path / "none"), "--workers", "1"]
    assert cli.main(command) == 0
    of_other_code, of_this = sorted((out / "runs").iterdir())
    config = of_other_code / CONFIG
    config.write_text(config.read_text().replace(read_config(of_other_code).versions["trace"], "0123456789ab"))
    kept = {path: path.read_bytes() for path in (*of_other_code.iterdir(), *of_this.iterdir()) if path.is_file()}
    assert cli.main(command) == 0
    aside = of_other_code.with_name(f"{of_other_code.name}.old-1")
    assert f"{of_other_code.name} was begun by other code or with another preset; it is {aside} now" in (
        capsys.readouterr().out
    )
    for path, content in kept.items():
        assert (aside / path.name if path.parent == of_other_code else path).read_bytes() == content
    assert not from_run(of_other_code).stale
