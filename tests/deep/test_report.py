"""Learning curves and tables from run directories alone."""

import csv

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep import log
from dmpo_deep.report import collect, interquartile_mean, plot


def fake_run(folder, algo="dppo", seed=0, steps=(1000, 2000), levels=(-900.0, -80.0)):
    folder.mkdir()
    log.write_config(folder, {"task": "catchup", "algo": algo, "seed": seed, "preset_name": "tuned", "overrides": []})
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
    assert {path.name for path in out.iterdir()} == {"learning.png", "learning.pdf", "learning.csv", "table.csv"}
    with (out / "table.csv").open() as file:
        table = {row["label"]: row for row in csv.DictReader(file)}
    assert all(None not in row.values() for row in table.values())
    assert list(table) == ["DMPO", "DPPO", "always (0.5, 0.5)", "uniform random"]
    assert float(table["DPPO"]["sampled"]) == -81.5
    assert float(table["DPPO"]["sampled_low"]) <= -81.5 <= float(table["DPPO"]["sampled_high"])
    assert (table["DMPO"]["sampled"], table["DMPO"]["sampled_low"]) == ("-40", "")
    assert float(table["always (0.5, 0.5)"]["sampled"]) == pytest.approx(-72.9, abs=0.05)
    with (out / "learning.csv").open() as file:
        curve = [row for row in csv.DictReader(file) if row["label"] == "DPPO" and row["score"] == "eval_sampled"]
    assert [row["env_steps"] for row in curve] == ["1000", "2000"]
    assert curve[1]["scores_by_seed"] == "-80;-81;-82;-83"


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
