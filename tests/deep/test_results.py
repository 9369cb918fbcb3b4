"""Results in CSV files: nothing is lost or doubled, and what earlier code made is told apart."""

from __future__ import annotations

import csv
import errno
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmpo_deep import cli, golden, results
from dmpo_deep.evaluate import EVALUATION, evaluate
from dmpo_deep.groups import collect
from dmpo_deep.intervals import ratio_of_medians
from dmpo_deep.log import PROGRESS
from dmpo_deep.results import TRAFFIC, add, from_run, gather, read, stale
from dmpo_deep.summary import each_run, first_reached, rows, value_at, worst_since, write
from dmpo_theory import files
from tests.deep.runs import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small("dmpo", tmp_path_factory.mktemp("results") / "run")


def test_a_run_comes_back_whole(run: Path, tmp_path: Path) -> None:
    result = from_run(run)
    assert not result.stale
    (back,) = add([result], tmp_path / "results")
    (again,) = read(tmp_path / "results")
    assert back == result
    assert (again.id, again.label, again.versions) == (result.id, result.label, result.versions)
    assert again.traffic == {key: float(f"{mean:.6g}") for key, mean in result.traffic.items()}
    for row, original in zip(again.rows, result.rows, strict=True):
        assert row == {name: None if x is None else float(f"{x:.6g}") for name, x in original.items()}


def test_traffic_is_that_of_the_last_evaluation(run: Path, tmp_path: Path) -> None:
    played = evaluate(run, out=tmp_path / "again.csv")
    measured = {(policy, name): x.mean() for policy, e in played.items() for name, x in e.measures.items()}
    assert from_run(run).traffic == pytest.approx(measured)
    assert {name for _, name in measured} == {"speed", "headway"}
    shutil.copytree(run, tmp_path / "other")
    lines = (run / EVALUATION).read_text().splitlines()
    (tmp_path / "other" / EVALUATION).write_text("\n".join(lines[:-1]) + "\n")  # as if of other policies
    assert from_run(tmp_path / "other").traffic == {}
    for damage in (lines[:2], ["policy,draw,metric", "sampled,0,much"]):
        (tmp_path / "other" / EVALUATION).write_text("\n".join(damage) + "\n")
        with pytest.raises(ValueError, match=r"evaluation.csv is damaged .*; dmpo evaluate .*other writes it anew"):
            from_run(tmp_path / "other")
    (tmp_path / "other" / EVALUATION).unlink()
    assert from_run(tmp_path / "other").traffic == {}
    still = {"eval_sampled": 0.0, "eval_greedy": 0.0}  # a metric of 0 is one, too
    (tmp_path / "other" / EVALUATION).write_text("policy,draw,metric,speed\nsampled,0,0.0,1.5\ngreedy,0,0.0,2.5\n")
    assert results._traffic(tmp_path / "other", still) == {("sampled", "speed"): 1.5, ("greedy", "speed"): 2.5}
    results.add([from_run(run)], tmp_path)
    with (tmp_path / TRAFFIC).open("a") as file:
        file.write("catchup,x,sampled,speed,fast\n")
    with pytest.raises(ValueError, match=r"traffic.csv, line 6: .*'fast'; restore it from version control"):
        read(tmp_path)


def test_traffic_has_a_table_for_each_task(run: Path, tmp_path: Path) -> None:
    first = from_run(run)
    second = replace(first, seed=4, traffic={key: mean + 1 for key, mean in first.traffic.items()})
    names = write(collect([first, second]), tmp_path)
    assert {"traffic.csv", "traffic.md"} <= set(names)
    speed = first.traffic["sampled", "speed"] + 0.5
    said = f"| catchup | {first.label} | sampled | 2 | {speed:.2f} (0.71) |"
    assert said in (tmp_path / "traffic.md").read_text()
    assert len((tmp_path / "traffic.csv").read_text().splitlines()) == 1 + 2 * 4
    assert "traffic.md" not in write(collect([replace(first, traffic={})]), tmp_path)


@pytest.mark.parametrize("file", ["catchup.csv", "runs.csv"])
def test_what_stops_between_two_files_leaves_results_that_can_be_read(
    file: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = from_run(run)
    before = add([result], tmp_path)
    original = files.os.replace

    def exchange(part: Path, path: Path) -> None:
        if path.name == file:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        original(part, path)

    monkeypatch.setattr(files.os, "replace", exchange)
    with pytest.raises(OSError, match=rf"{file}: Read-only file system; make it writable"):
        add([replace(result, seed=4)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"catchup.csv", "runs.csv", "traffic.csv"}
    assert [r.id for r in read(tmp_path)] == [r.id for r in before]


def test_means_since_the_last_evaluation_and_totals_since_the_start(run: Path) -> None:
    with (run / PROGRESS).open() as file:
        progress = list(csv.DictReader(file))
    result = from_run(run)
    last = result.rows[-1]
    assert last["env_steps"] == float(progress[-1]["env_steps"])
    assert last["gradient_steps"] == float(progress[-1]["gradient_steps"])
    assert last["model_gradient_steps"] == sum(float(row["model_gradient_steps"]) for row in progress)
    spent = math.fsum(float(row["seconds_cpu_update"]) for row in progress)
    assert last["seconds_cpu_update"] == pytest.approx(spent)
    before = max(k for k, row in enumerate(progress[:-1]) if row["eval_sampled"])
    errors = [float(row["model_error"]) for row in progress[before + 1 :]]
    assert last["model_error"] == pytest.approx(np.mean(errors))


def test_adding_again_changes_nothing_and_the_longer_run_stays(run: Path, tmp_path: Path) -> None:
    whole = from_run(run)
    short = replace(whole, rows=whole.rows[:1])
    for new in ([short], [whole], [short], [whole, whole]):
        found = add(new, tmp_path)
    assert [r.steps for r in found] == [whole.steps]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    add(gather([run, tmp_path]), tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = replace(whole, seed=9)
    assert [r.seed for r in add([other], tmp_path)] == [whole.seed, 9]


def test_what_earlier_code_made_is_stale_and_gives_way(run: Path, tmp_path: Path) -> None:
    new = from_run(run)
    old = replace(new, trace="0" * 12)
    assert old.stale
    (said,) = stale(add([old], tmp_path))
    assert said.startswith("Stale: 1 runs of dmpo on catchup")
    assert not any(r.stale for r in add([replace(new, rows=new.rows[:1])], tmp_path))
    assert not any(r.stale for r in add([old], tmp_path))


def test_a_preset_that_changed_makes_results_stale(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmpo_deep.presets import PRESETS

    other = replace(PRESETS["catchup", "dmpo"]["tuned"], lam=0.5)
    add([from_run(run)], tmp_path)
    assert len(gather([tmp_path])) == 1
    monkeypatch.setitem(PRESETS, ("catchup", "dmpo"), {"tuned": other})
    assert from_run(run).stale
    with pytest.raises(ValueError, match=r"all results in .* are stale"):
        gather([tmp_path])
    assert len(gather([run])) == 1


@pytest.mark.parametrize("damage", ["config", "rows"])
def test_damage_is_named(run: Path, tmp_path: Path, damage: str) -> None:
    add([from_run(run)], tmp_path)
    if damage == "config":
        path = tmp_path / results.RUNS
        path.write_text(path.read_text().replace('""gamma"": 0.99', '""gamma"": 0.98'))
    else:
        path = tmp_path / "catchup.csv"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"runs.csv, line 2: .*; restore it from version control"):
        read(tmp_path)


def test_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    into = tmp_path / "results"
    assert cli.main(["collect", str(run), "--into", str(into)]) == 0
    assert capsys.readouterr().out.endswith("(runs.csv and a file for each task; 1 runs)\n")
    assert cli.main(["plot", str(into), "--out", str(tmp_path / "figures")]) == 0
    for name, third in (("summary", "seeds"), ("each-run", "seed")):
        header, _, line = (tmp_path / "figures" / f"{name}.md").read_text().splitlines()
        assert header.startswith(f"| task | algorithm | {third} |")
        assert line.startswith("| catchup | DMPO rollout_steps=50")
    assert cli.main(["plot", str(tmp_path), "--out", str(tmp_path / "more")]) == 2
    assert "no run directory" in capsys.readouterr().err


def test_summary_counts_by_hand(run: Path) -> None:
    base = from_run(run)

    def made(seed: int, scores: list[float]) -> results.Result:
        given = [
            {**base.rows[0], "env_steps": 5000.0 * (k + 1), "eval_score": score, "eval_score_greedy": None}
            for k, score in enumerate(scores)
        ]
        return replace(base, seed=seed, overrides=(), rows=tuple(given))

    runs = [made(0, [-1, 0.1, 0.2]), made(1, [0.5, 0.3, 0.95]), made(2, [-3, -2, -1]), made(3, [0, 0.4, 0.6])]
    assert [first_reached(r, 0.0) for r in runs] == [10_000, 5_000, math.inf, 5_000]
    assert value_at(runs[0], 7_000, "eval_score") == 0.1
    assert math.isnan(value_at(runs[0], 16_000, "eval_score"))
    slower = [replace(made(seed, [-1, -1, 0.1]), algo="ia2c") for seed in range(4)]
    line, slow = rows(collect([*slower, *runs]))
    assert line["seeds"] == "4"
    assert line["score at 10,000"].startswith("0.20 [")
    assert line["score at 30,000"] == line["score at 10,000, greedy"] == "-"
    assert line["steps to 0"] == "5,000 (3/4)"
    assert line["steps to 0.9"] == "- (1/4)"
    assert slow["steps to 0"].startswith("15,000 (4/4), 3.0 [")
    assert slow["steps to 0.5"] == "- (0/4)"
    metrics = zip(runs[0].rows, (-9.0, -5.0, -2.0), strict=True)
    falls = replace(runs[0], rows=tuple({**row, "eval_sampled": x} for row, x in metrics))
    assert [worst_since(falls, steps) for steps in (0, 5_000, 7_500, 15_000)] == [-9, -9, -5, -2]
    alone = each_run(collect(runs))
    assert [run["seed"] for run in alone] == ["0", "1", "2", "3"]
    assert [run["score 0 after"] for run in alone] == ["10,000", "5,000", "-", "5,000"]


def test_ratio_of_medians() -> None:
    ratio, low, high = ratio_of_medians([20.0] * 5, [5.0] * 5)
    assert (ratio, low, high) == (4, 4, 4)
    ratio, low, high = ratio_of_medians([10, 20, 30, math.inf, math.inf], [2, 3, 4, 5, 6])
    assert ratio == 7.5
    assert low < 7.5 < high == math.inf
    assert math.isnan(ratio_of_medians([math.inf], [math.inf])[0])


@pytest.mark.parametrize(("task", "algo"), golden.traced())
def test_no_golden_trace_has_changed(task: str, algo: str) -> None:
    if task in ("eight", "atsc"):
        pytest.importorskip("libsumo")
    assert list(golden.differences(task, algo)) == []


def test_a_changed_learner_changes_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmpo_deep import ppo

    monkeypatch.setattr(ppo, "value_loss", lambda value, target: 1.02 * ((value - target) ** 2).mean(dim=1))
    assert "value_loss" in next(golden.differences("catchup", "dppo"))
