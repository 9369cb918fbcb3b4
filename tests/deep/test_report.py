"""Learning curves and tables from run directories alone."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep import log
from dmpo_deep.config import RunConfig
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.evaluate import evaluate
from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.presets import get_preset
from dmpo_deep.report import collect as grouped
from dmpo_deep.report import plot, reference_levels
from dmpo_deep.results import gather
from dmpo_deep.train import train
from dmpo_theory.instance_file import load_instance


def collect(runs):
    return grouped(gather(runs))


def fake_run(folder, algo="dppo", seed=0, steps=(1000, 2000), levels=(-900.0, -80.0)):
    folder.mkdir()
    RunConfig("catchup", algo, seed, 2000, 1000, "tuned", [], get_preset("catchup", algo), {}).write(folder)
    rows = [{"env_steps": 500}]
    rows += [
        {"env_steps": t, "eval_sampled": x - seed, "eval_greedy": x / 2} for t, x in zip(steps, levels, strict=True)
    ]
    with (folder / log.PROGRESS).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["env_steps", "eval_sampled", "eval_greedy"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_figure_and_table_of_two_algorithms(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [fake_run(tmp_path / f"a{s}", seed=s) for s in range(4)]
    runs += [fake_run(tmp_path / "b", algo="dmpo", levels=(-300.0, -40.0))]
    out = plot(runs, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {
        *("learning.png", "learning.pdf", "learning.csv", "table.csv"),
        *("summary.csv", "summary.md", "each-run.csv", "each-run.md"),
    }
    with (out / "table.csv").open() as file:
        table = {row["label"]: row for row in csv.DictReader(file)}
    assert all(None not in row.values() for row in table.values())
    assert list(table) == ["DMPO", "DPPO", *(known.label for known in CONTROLLERS["catchup"].values())]
    assert float(table["DPPO"]["sampled"]) == -81.5
    assert float(table["DPPO"]["sampled_low"]) <= -81.5 <= float(table["DPPO"]["sampled_high"])
    assert (table["DMPO"]["sampled"], table["DMPO"]["sampled_low"]) == ("-40", "")
    assert float(table["always (0.5, 0.5)"]["sampled"]) == pytest.approx(-72.9, abs=0.05)
    with (out / "learning.csv").open() as file:
        curve = [row for row in csv.DictReader(file) if row["label"] == "DPPO" and row["score"] == "eval_sampled"]
    assert [row["env_steps"] for row in curve] == ["1000", "2000"]
    assert curve[1]["scores_by_seed"] == "-80;-81;-82;-83"


def test_no_controller_is_lost_and_no_folder_overwritten(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    known = CONTROLLERS["catchup"] | {
        f"also {k}": CONTROLLERS["catchup"]["always"]._replace(label=f"also {k}") for k in range(3)
    }
    monkeypatch.setitem(CONTROLLERS, "catchup", known)
    drawn, original = [], Axes.axhline
    monkeypatch.setattr(Axes, "axhline", lambda *a, **k: (drawn.append(k["label"]), original(*a, **k))[1])
    run, out = fake_run(tmp_path / "run"), tmp_path / "out"
    short = fake_run(tmp_path / "short", seed=1, steps=(1000,), levels=(-5.0,))
    plot([run, short], out)
    assert drawn == [controller.label for controller in known.values()]
    assert collect([run, short])[0].left_out == 1
    with pytest.raises(FileExistsError, match="exists; give another --out, or --overwrite"):
        plot([run], out)
    assert plot([run], out, overwrite=True) == out
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(FileExistsError, match="is a run directory or a folder of results; give another --out"):
        plot([run], run, overwrite=True)
    with pytest.raises(FileExistsError, match="exists"):
        plot([run], run / log.PROGRESS, overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == before


def test_progress_may_end_in_half_a_line_and_nothing_worse(tmp_path):
    run = fake_run(tmp_path / "run")
    path = run / log.PROGRESS
    whole = path.read_text()
    path.write_text(whole + "3000,-1")
    assert [row["env_steps"] for row in log.read_progress(run)] == [500, 1000, 2000]
    for damage, message in (
        ("3000,-1\n", "line 5: 2 cells for 3 columns"),
        ("x,1,2\n", "env_steps = 'x' is no number"),
    ):
        path.write_text(whole + damage)
        with pytest.raises(ValueError, match=f"progress.csv, line 5: .*{message.split(': ')[-1]}"):
            collect([run])
    path.write_text("\n".join(whole.splitlines()[:2]) + "\n")
    with pytest.raises(ValueError, match="run has no evaluation yet; train it further"):
        collect([run])
    path.write_text("")
    with pytest.raises(ValueError, match="has no evaluation yet"):
        collect([run])
    shutil.rmtree(run)
    with pytest.raises(FileNotFoundError):
        collect([run])


def test_labels_say_what_differs(tmp_path):
    one, two = (gather([fake_run(tmp_path / name, algo=name)])[0] for name in ("dppo", "dmpo"))
    one, two = (replace(r, overrides=("copies=1", *more)) for r, more in ((one, ()), (two, ("lr_actor=1e-3",))))
    assert [group.label for group in grouped([one, two])] == ["DMPO lr_actor=1e-3", "DPPO"]
    assert [group.label for group in grouped([one])] == ["DPPO copies=1"]


def test_interquartile_mean_ignores_the_outer_quarters():
    scores = np.array([[-1e6], [1.0], [2.0], [1e6]])
    center, low, high = interquartile_mean(scores)
    assert center[0] == 1.5
    assert low[0] <= 1.5 <= high[0]
    assert np.isnan(interquartile_mean(scores[:2])[1]).all()


def test_mistakes_are_named(tmp_path):
    one = fake_run(tmp_path / "one")
    with pytest.raises(ValueError, match="no runs given"):
        collect([])
    with pytest.raises(ValueError, match="seed 0 of DPPO on catchup is given twice"):
        collect([one, one])
    with pytest.raises(FileNotFoundError, match=r"no run directory: it has no config\.json"):
        collect([tmp_path])
    with pytest.raises(ValueError, match="no evaluation step in common"):
        collect([one, fake_run(tmp_path / "two", seed=1, steps=(3000, 4000))])


def test_levels_are_the_tasks_even_beside_a_run_of_its_name(tmp_path, monkeypatch):
    train("catchup", "ia2c", 0, 40, tmp_path / "catchup", overrides=("copies=4",), progress=False)
    monkeypatch.chdir(tmp_path)
    assert len(reference_levels("catchup")) == len(CONTROLLERS["catchup"])


def test_levels_of_an_mdp_are_those_of_the_file_that_was_trained_on(tmp_path):
    runs = []
    for file in sorted((Path(__file__).parents[2] / "examples").glob("0*.json")):
        overrides = ("copies=4", f"gamma={load_instance(file).mdp.gamma:g}")
        runs.append(train(f"tabular:{file}", "ia2c", 0, 40, tmp_path / file.name, overrides=overrides, progress=False))
    for run in runs:
        groups = collect([run])
        options = groups[0].runs[0].hyperparameters["environment"]
        wanted = evaluate("tabular", options=options)["given"].mean
        assert reference_levels("tabular", groups)["the policy with the MDP"] == wanted
    assert reference_levels("tabular", collect(runs)) == {}, "two MDPs share no levels"
