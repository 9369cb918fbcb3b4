"""Learning curves and tables from run directories alone."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep import curves, log
from dmpo_deep.config import RunConfig
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.drawing import NothingToDraw
from dmpo_deep.evaluate import evaluate, reference_levels
from dmpo_deep.groups import collect as grouped
from dmpo_deep.intervals import interquartile_mean
from dmpo_deep.presets import get_preset
from dmpo_deep.report import final_levels, plot
from dmpo_deep.results import Result, gather
from dmpo_deep.summary import LEVELS
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
    report = plot(runs, tmp_path / "out")
    out = report.folder
    assert (
        {path.name for path in out.iterdir()}
        == set(report.written)
        == {
            *("learning.png", "learning.pdf", "learning.csv", "table.csv", "table.md", "table.tex"),
            *("summary.csv", "summary.md", "each-run.csv", "each-run.md"),
        }
    )
    assert set(report.left_out) == {"thresholds", "model-error", "kappa", "floats", "profiles"}
    assert "no run has a normalised score" in report.left_out["thresholds"]
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
    (out / "kappa.png").write_text("of earlier runs")
    assert plot([run], out, overwrite=True).folder == out
    assert not (out / "kappa.png").exists(), "nothing stays that these runs do not have"
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


def scored(seed, scores, algo="dmpo", horizon=20, **columns):
    """A result with evaluations every 1000 steps."""
    preset = {**vars(get_preset("catchup", algo)), "model_horizon": horizon}
    rows = tuple(
        {"env_steps": 1000.0 * k, "eval_sampled": -x, "eval_greedy": -x, "eval_score": x}
        | {name: values[k - 1] for name, values in columns.items()}
        for k, x in enumerate(scores, start=1)
    )
    return Result("catchup", algo, "tuned", (), seed, 1000, "", {}, preset, rows)


def test_thresholds_are_first_reachings_and_the_others_are_shown_as_not_there():
    runs = [scored(0, [-1.0, 0.2, 0.6]), scored(1, [0.1, -9.0, 0.2]), scored(2, [-1.0, -1.0, -1.0, -1.0])]
    chart = curves.thresholds(grouped(runs))
    found = {(row["seed"], row["score"]): row["env_steps"] for row in chart.rows}
    assert [found[seed, 0.0] for seed in range(3)] == [2000, 1000, math.inf]
    assert [found[seed, 0.5] for seed in range(3)] == [3000, math.inf, math.inf]
    marks = [
        (line.get_marker(), line.get_xdata()[0]) for line in chart.figure.axes[0].lines if len(line.get_xdata()) == 1
    ]
    assert sorted(x for marker, x in marks if marker == "o") == [1000, 2000, 3000]
    assert sorted(x for marker, x in marks if marker == ">") == [3000, 3000, 3000, 4000, 4000, 4000]
    texts = [text.get_text() for text in chart.figure.axes[0].texts]
    assert texts == ["2/3", "1/3", "0/3"], "how many got there, level by level"


def test_levels_that_nobody_reaches_share_a_line():
    runs = [scored(0, [0.1]), replace(scored(0, [-1.0]), algo="dppo")]
    texts = [text.get_text() for text in curves.thresholds(grouped(runs)).figure.axes[0].texts]
    assert texts == ["1/1", "0/1", "0/2", "reached by no run", "0/2", "reached by no run"]


def test_errors_of_models_stand_at_their_steps_in_the_model():
    far = {
        "model_error_at_quarter": [1.0, 0.1],
        "model_error_at_half": [2.0, 0.2],
        "model_error_at_horizon": [4.0, 0.4],
    }
    runs = [scored(seed, [0.0, 1.0], model_error=[9.0 + seed, 3.0 + seed], **far) for seed in range(4)]
    chart = curves.model_errors(grouped([*runs, scored(0, [0.0, 1.0], algo="dppo", model_error=[None, None])]))
    steps, horizon = chart.figure.axes
    [line] = steps.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1000, 2000], [10.5, 4.5])
    last, first, _ = horizon.lines
    assert (list(last.get_xdata()), list(last.get_ydata())) == ([5, 10, 20], [0.1, 0.2, 0.4])
    assert list(first.get_ydata()) == [1, 2, 4]
    assert {(row["error"], row["model_steps"]) for row in chart.rows} == {
        *(("one step", 1), ("open loop", 5), ("open loop", 10), ("open loop", 20))
    }
    with pytest.raises(NothingToDraw, match="no run has learned a model"):
        curves.model_errors(grouped([scored(0, [0.0], algo="dppo")]))


def test_models_without_errors_along_the_horizon_have_one_panel():
    chart = curves.model_errors(grouped([scored(seed, [0.0, 1.0], model_error=[2.0, 1.0]) for seed in range(3)]))
    steps, horizon = chart.figure.axes
    assert (len(steps.lines), len(horizon.lines), horizon.axison) == (1, 0, False)


def test_returns_of_one_sign_leave_no_room_for_the_other():
    runs = [scored(seed, [2000.0, 300.0 + seed, 28.0]) for seed in range(3)]
    axes = curves.learning(grouped(runs), {}).figure.axes[0]
    assert axes.get_ylim()[1] < 0
    numbers = [float(label.get_text()) for label in axes.get_yticklabels()]
    assert {-100.0, -1000.0} <= set(numbers)
    small = curves.learning(grouped([scored(0, [1.0, 2.0])]), {}).figure.axes[0]
    assert small.get_yscale() == "linear"


def test_intervals_leave_out_where_a_seed_has_no_number():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    whole = interquartile_mean(scores)
    scores[2, 1] = np.nan
    for part, known in zip(interquartile_mean(scores), whole, strict=True):
        assert np.isnan(part[1])
        assert part[0] == known[0] == np.sort(part)[0] or not np.isnan(part[0])
    center = interquartile_mean(scores)[0]
    assert center[0] == pytest.approx(np.sort(scores[:, 0])[1:4].mean())


def test_the_table_says_what_the_runs_came_to():
    runs = [scored(seed, [-1.0, 0.1 * seed]) for seed in range(4)]
    group, controller = final_levels(grouped(runs), {"catchup": {"always": -72.9}})
    by_hand = sorted(0.1 * seed for seed in range(4))[1:3]
    assert group["score"] == pytest.approx(sum(by_hand) / 2)
    assert (group["steps_to_0"], group["reached_0"], group["steps_to_0.9"], group["reached_0.9"]) == (
        2000,
        4,
        math.inf,
        0,
    )
    assert (controller["label"], controller["sampled"], controller["seeds"]) == ("always", -72.9, None)
    assert {name for name in group if name.startswith("reached")} == {f"reached_{level:g}" for level in LEVELS}


def test_only_seeds_may_differ_within_a_group():
    with pytest.raises(
        ValueError, match="runs of DMPO on catchup differ in more than their seed: model_horizon = 20 and 15"
    ):
        grouped([scored(0, [0.0]), scored(1, [0.0], horizon=15)])


def test_profiles_are_of_the_median_run(tmp_path):
    pytest.importorskip("matplotlib")
    overrides = ("rollout_steps=50", "hidden=8", "updates=1")
    runs = [
        train("catchup", "dppo", seed, 100, tmp_path / f"s{seed}", overrides=overrides, eval_every=100, progress=False)
        for seed in range(2)
    ]
    worse = min(runs, key=lambda run: log.read_progress(run)[-1]["eval_sampled"])
    seen = []
    report = plot(
        runs, tmp_path / "out", profiles=True, progress=lambda played: (seen.append(run) or run for run in played)
    )
    assert seen == [worse], "the lower of two middle ones"
    name = "profile-catchup-DPPO_rollout_steps=50_hidden=8_updates=1"
    assert {f"{name}.png", f"{name}.pdf", f"{name}.csv"} <= set(report.written)
    assert "profiles" not in report.left_out


def test_levels_are_the_tasks_even_beside_a_run_of_its_name(tmp_path, monkeypatch):
    train("catchup", "ia2c", 0, 40, tmp_path / "catchup", overrides=("copies=4",), progress=False)
    monkeypatch.chdir(tmp_path)
    assert len(reference_levels("catchup", {})) == len(CONTROLLERS["catchup"])


def test_levels_of_an_mdp_are_those_of_the_file_that_was_trained_on(tmp_path):
    runs = []
    for file in sorted((Path(__file__).parents[2] / "examples").glob("0*.json")):
        overrides = ("copies=4", f"gamma={load_instance(file).mdp.gamma:g}")
        runs.append(train(f"tabular:{file}", "ia2c", 0, 40, tmp_path / file.name, overrides=overrides, progress=False))
    for run in runs:
        options = collect([run])[0].hyperparameters["environment"]
        wanted = evaluate("tabular", options=options)["given"].mean
        assert reference_levels("tabular", options)["the policy with the MDP"] == wanted
    pytest.importorskip("matplotlib")
    with (plot(runs, tmp_path / "out").folder / "table.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert all(label.startswith("IA2C") for label in labels), "two MDPs share no levels"
