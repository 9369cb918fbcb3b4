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
from dmpo_deep.envs import evaluation_env
from dmpo_deep.figures import FIGURES, PLANS
from dmpo_deep.results import Result, from_run, read
from dmpo_deep.sweep import check
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
    pairs = [(), ("kappa_critic=0",), ("kappa_critic=1",), ("kappa_model=0",), ("kappa_critic=1", "kappa_model=1")]
    varied = pairs[1:] if name == "fig5" else pairs[:1]
    several = [replace(result, overrides=overrides, seed=seed) for overrides in varied for seed in range(3)]
    FIGURES[name].draw(several, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.pdf"}


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


def test_radii_are_told_apart(result: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.axes import Axes

    lines: dict[str, tuple[list[float], np.ndarray]] = {}
    original = Axes.plot

    def plot(axes: Axes, x: list[float], y: np.ndarray, **options: object) -> object:
        if "score" in axes.get_ylabel() or not axes.get_ylabel():
            lines.setdefault(str(options["label"]), (x, y))
        return original(axes, x, y, **options)

    monkeypatch.setattr(Axes, "plot", plot)

    def run(kappa: int, seed: int, *names: str) -> Result:
        last = {**result.rows[-1], "eval_score": 10.0 * kappa + seed + len(names), "model_error": 1.0}
        return replace(result, seed=seed, overrides=tuple(f"{name}={kappa}" for name in names), rows=(last,))

    ways = [("kappa_critic",), ("kappa_model",), ("kappa_critic", "kappa_model")]
    figures.radii([run(k, s, *way) for way in ways for k in (2, 0) for s in range(3)], tmp_path / "fig5")
    assert {name: (list(x), list(y)) for name, (x, y) in lines.items()} == {
        "critic": ([0, 2], [2, 22]),
        "model": ([0, 2], [2, 22]),
        "both": ([0, 2], [3, 23]),
    }


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
        *("fig4.png", "fig4.pdf", "summary.csv", "summary.md", "each-run.csv", "each-run.md")
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
