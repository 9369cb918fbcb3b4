"""Sweeps: what they contain, that they lose nothing, and that no engine changes a result."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dmpo_deep import checkpoint, cli, log
from dmpo_deep.board import Board
from dmpo_deep.sweep import TRACEBACK, Outcome, Training, attempt, check, sweep, trainings
from tests.deep.runs import SMALL, assert_same, timeless


def jobs(*seeds: int, steps: int = 600, algo: str = "dppo") -> list[Training]:
    return trainings(["catchup"], [algo], seeds, steps, 200, "tuned", SMALL[algo])


def assert_same_run(a: Path, b: Path) -> None:
    assert timeless(a) == timeless(b)
    assert_same(*(checkpoint.load(run / log.CHECKPOINT, {}) for run in (a, b)))


@dataclass(frozen=True)
class Broken:
    """A job that misbehaves."""

    name: str
    way: str
    kind: str = "broken"

    def check(self) -> None: ...

    def share(self, folder: Path) -> float:
        return 0.0

    def run(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        with (folder / "tries").open("a") as file:
            file.write("x")
        if self.way == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "dies once" and (folder / "tries").stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "waits":
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        if self.way == "raises":
            raise RuntimeError("nothing good")


def test_the_cross_product() -> None:
    vary = {"kappa_critic+kappa_policy": ["0", "1"], "lr_actor": ["1e-3"]}
    found = trainings(["catchup", "ring"], ["dmpo", "dppo"], [0, 1], 600, 200, "paper", ["copies=2"], vary)
    assert len({job.name for job in found}) == 16
    assert found[0].overrides == ("copies=2", "kappa_critic=0", "kappa_policy=0", "lr_actor=1e-3")
    assert found[0].name == "catchup-dmpo-paper-copies=2-kappa_critic=0-kappa_policy=0-lr_actor=1e-3-s0"
    assert trainings(["tabular:a/b.json"], ["dppo"], [0], 1, 1, "tuned")[0].name == "tabular_a_b.json-dppo-s0"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "nothing to do"),
        (jobs(0, 0), "catchup-dppo.*is in the sweep twice"),
        (trainings(["catchup"], ["dmop"], [0], 1, 1, "tuned"), "catchup-dmop-s0: .*dmpo"),
        (trainings(["catchup"], ["dppo"], [0], 1, 1, "tuned", ["lr_acto=1"]), "lr_acto=1-s0: .*lr_actor"),
        (trainings(["catchup"], ["dppo"], [-1], 1, 1, "tuned"), "seed = -1"),
    ],
)
def test_mistakes_are_found_before_anything_starts(bad: list[Training], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(bad)


def test_runs_are_those_of_train_and_are_not_repeated(tmp_path: Path) -> None:
    several = jobs(3, 4)
    assert all(not outcome.error for outcome in sweep(several, tmp_path / "side", 2))
    for job in several:
        job.run(tmp_path / "alone" / job.name)
        assert_same_run(tmp_path / "side" / job.name, tmp_path / "alone" / job.name)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("side/*/*")}
    assert all(not outcome.error for outcome in sweep(several, tmp_path / "side", 1))
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("side/*/*")}
    fewer = jobs(3, steps=200)
    assert not attempt(fewer[0], tmp_path / "side" / several[0].name, 0).error  # had more: left alone
    assert log.standing(tmp_path / "side" / several[0].name) == 600


def test_a_failed_run_takes_nothing_with_it(tmp_path: Path) -> None:
    broken, fine = Broken("broken", "raises"), Broken("fine", "works")
    outcomes = {outcome.name: outcome for outcome in sweep([broken, fine], tmp_path, 1)}
    assert not outcomes["fine"].error
    assert outcomes["broken"].error.endswith("RuntimeError: nothing good\n")
    assert (tmp_path / "broken" / TRACEBACK).read_text() == outcomes["broken"].error


def test_a_dead_process_is_survived(tmp_path: Path) -> None:
    ways = {"a": "dies once", "b": "works", "c": "dies", "d": "works"}
    outcomes = {found.name: found for found in sweep([Broken(*way) for way in ways.items()], tmp_path, 1)}
    assert {name for name, outcome in outcomes.items() if outcome.error} == {"c"}
    assert "died 2 times" in outcomes["c"].error
    tries = {name: (tmp_path / name / "tries").stat().st_size for name in ways}
    assert tries == {"a": 2, "b": 1, "c": 2, "d": 1}


def test_folders_that_are_no_runs_are_left_alone(tmp_path: Path) -> None:
    (job,) = jobs(0)
    (tmp_path / job.name).mkdir()
    (tmp_path / job.name / "thesis.tex").write_text("years of work")
    (outcome,) = sweep([job], tmp_path, 1)
    assert "exists and is no run" in outcome.error
    assert (tmp_path / job.name / "thesis.tex").exists()


def test_nobody_is_at_work_once_a_sweep_is_killed(tmp_path: Path) -> None:
    code = (
        "from tests.deep.test_sweep import *; list(sweep([Broken('a', 'waits'), Broken('b', 'waits')], Path('.'), 2))"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    while len(pids := [int(file.read_text()) for file in tmp_path.glob("*/pid") if file.read_text()]) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    limit = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    """Killed again and again, at moments that differ, it comes to the same runs, and no finished one is touched."""
    command = ["--tasks", "catchup", "--algos", "dppo", "--seeds", "3", "4", "5", "--steps", "1800"]
    command += ["--eval-every", "200", "--workers", "2", "--set", *SMALL["dppo"]]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(["sweep", *command, "--out", str(whole)]) == 0
    dmpo = "import sys; from dmpo_deep import cli; sys.exit(cli.main())"
    start = [sys.executable, "-c", dmpo, "sweep", *command, "--out", str(cut)]
    finished: dict[str, int] = {}
    for seconds in (6.0, 7.0, 8.0):
        process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = {
            run.name: (run / log.CHECKPOINT).stat().st_mtime_ns for run in cut.glob("*") if log.standing(run) == 1800
        }
        assert all(now[name] == stamp for name, stamp in finished.items())
        finished = now
    assert subprocess.run(start, capture_output=True, check=False).returncode == 0
    for run in whole.iterdir():
        assert_same_run(run, cut / run.name)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed")
def test_ray_gives_the_same_runs(tmp_path: Path) -> None:
    import ray

    several = [*jobs(3, 4), *jobs(3, algo="dmpo"), *jobs(3, algo="ic3net")]
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        assert all(not outcome.error for outcome in sweep(several, tmp_path / "ray", 2, "ray"))
    finally:
        ray.shutdown()
    assert all(not outcome.error for outcome in sweep(several, tmp_path / "processes", 2))
    for job in several:
        assert_same_run(tmp_path / "ray" / job.name, tmp_path / "processes" / job.name)


def test_command_and_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        [[train]]
        tasks = ["catchup"]
        algos = ["dppo"]
        seeds = [3]
        steps = 200
        set = { rollout_steps = 50, hidden = [8], updates = 2 }
        vary = { kappa_critic = [0, inf] }

        [[audit]]
        vary = { gamma = ["1/2"], n = [2], instances = [1], graphs = ["path"], claim = ["A1"] }
        """
    )
    out = tmp_path / "out"
    assert cli.main(["sweep", str(plan), "--out", str(out), "--workers", "1"]) == 0
    runs = {folder.name for folder in out.iterdir()}
    long = "catchup-dppo-rollout_steps=50-hidden=8-updates=2-kappa_critic"
    assert runs == {f"{long}=0-s3", f"{long}=inf-s3", "audit-gamma=1_2-n=2-instances=1-graphs=path-claim=A1-s0"}
    said = capsys.readouterr()
    assert said.out == f"Results: {out} (3 folders)\n"
    assert "3 done, 0 failed, 0 running, 0 waiting" in said.err

    shutil.rmtree(out / f"{long}=0-s3")
    (out / f"{long}=0-s3").mkdir()
    (out / f"{long}=0-s3" / "thesis.tex").touch()
    assert cli.main(["sweep", str(plan), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "1 of 3 failed" in said.err
    assert "FileExistsError" in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[train]\n", "is no TOML"),
        ("[[trian]]\n", "nearest|did you mean|train"),
        ("[[train]]\nalgo = ['dmpo']\n", "algos"),
        ("[[train]]\nseeds = 3\n", r"seeds = 3 is not like \[0\]"),
        ("[[audit]]\nvary = { gama = ['1/2'] }\n", "gamma"),
        ("[[audit]]\nvary = { n = ['x'] }\n", "n = 'x' is no integer"),
    ],
)
def test_bad_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    assert cli.main(["sweep", str(plan), "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_board(tmp_path: Path) -> None:
    several = jobs(0, 1, 2)
    board = Board(several, tmp_path, 2)
    assert board.summary() == "0 done, 0 failed, 0 running, 3 waiting"
    board.started(several[0])
    assert "1 running" in board.summary()
    board.ended(Outcome(several[0].name, ""))
    board.ended(Outcome(several[1].name, "Traceback\nValueError: no"))
    assert board.summary().startswith("1 done, 1 failed, 0 running, 1 waiting")
    assert [outcome.name for outcome in board.failed] == [several[1].name]
