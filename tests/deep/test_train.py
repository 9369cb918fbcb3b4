"""Runs: refusals before any work, records, evaluation, report, and that both algorithms learn."""

import csv
import errno
import json
import math
import os
import subprocess

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep import checkpoint, cli, log
from dmpo_deep.checkpoint import load
from dmpo_deep.config import CONFIG
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import make_env
from dmpo_deep.envs.cacc import Platoon
from dmpo_deep.evaluate import evaluate, evaluate_controller
from dmpo_deep.presets import get_preset, key_values, override
from dmpo_deep.train import ALGORITHMS, COLUMNS, train
from tests.deep.runs import SMALL, assert_same, small, timeless


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(finished, tmp_path, threads):
    algo, whole = finished
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = small(algo, tmp_path / "again")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_same(load(again / log.CHECKPOINT), load(whole / log.CHECKPOINT))


def test_collisions_count_in_both_modes():
    random = CONTROLLERS["catchup"]["random"]
    ends, freezes = (evaluate_controller("catchup", random, {"collision": mode}) for mode in ("end", "freeze"))
    assert ends.collisions == freezes.collisions == 20


def test_evaluations_do_not_touch_training(finished, tmp_path):
    algo, whole = finished
    rare = small(algo, tmp_path / "rare", eval_every=1200)
    assert_same(load(rare / log.CHECKPOINT), load(whole / log.CHECKPOINT))


def test_seeds_differ(finished, tmp_path):
    algo, whole = finished
    other = load(small(algo, tmp_path / "other", seed=4) / log.CHECKPOINT)["learner"]["agents"]["actor"]
    mine = load(whole / log.CHECKPOINT)["learner"]["agents"]["actor"]
    assert all(not torch.equal(other[name], mine[name]) for name in mine)


def test_the_run_directory_tells_everything(finished):
    algo, run = finished
    config = json.loads((run / CONFIG).read_text())
    assert (config["task"], config["algo"], config["seed"], config["steps"]) == ("catchup", algo, 3, 1200)
    assert config["overrides"] == list(SMALL[algo])
    assert config["preset"]["rollout_steps"] == 50
    assert config["versions"]["torch"] == torch.__version__
    rows = log.read_progress(run)
    assert list(rows[0]) == list(COLUMNS)
    assert [row["env_steps"] for row in rows] == [200, 400, 600, 800, 1000, 1200]
    assert [row["eval_sampled"] is not None for row in rows] == [False, True] * 3
    assert any(path.name.startswith("events") for path in run.iterdir())
    assert (rows[-1]["model_error"] is not None) == (algo == "dmpo")


def test_evaluate_a_run_repeats_its_last_evaluation(finished):
    _, run = finished
    results = evaluate(run)
    last = log.read_progress(run)[-1]
    assert results["sampled"].mean == last["eval_sampled"]
    assert results["greedy"].mean == last["eval_greedy"]
    assert results["greedy"].collisions == last["eval_collisions_greedy"]
    with (run / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert list(rows[0]) == ["policy", "draw", "metric", "collided", "speed", "headway"]


def test_reference_controllers_have_the_published_levels():
    results = evaluate("catchup")
    assert results["always"].mean == pytest.approx(-72.9, abs=0.05)
    assert results["always"].collisions == 0
    assert results["random"].mean == pytest.approx(-1684, abs=120)
    assert "0 of 20 collided; mean speed 15." in str(results["always"])
    assert list(evaluate("catchup", controller="always")) == ["always"]
    for target, controller, message in (
        ("catchup", "alway", "did you mean 'always'"),
        ("catchupp", None, "did you mean 'catchup'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(target, controller)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "catchupp"}, "unknown task 'catchupp'; did you mean 'catchup'"),
        ({"algo": "dpo"}, "unknown algorithm 'dpo'; did you mean"),
        ({"preset": "papr"}, "did you mean 'paper'"),
        ({"overrides": ["lr_actr=1"]}, "did you mean 'lr_actor'"),
        ({"overrides": ["lr_actor"]}, "is not KEY=VALUE"),
        ({"overrides": ["environment.colision=end"]}, "did you mean 'collision'"),
        ({"steps": 0}, "steps = 0; it must be at least 1"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**64}, "seed = 18446744073709551616; it must be at least 0 and below"),
        ({"overrides": ["clip=0.1", "clip=0.2"]}, "override clip is given twice, 0.1 and 0.2"),
        ({"overrides": ["environment.gamma=0.5"]}, "set gamma=VALUE instead"),
        ({"overrides": ["environment.collision_scale=x"]}, "must be of type float"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(tmp_path, options, message):
    arguments = {"task": "catchup", "algo": "dmpo", "seed": 0, "steps": 100, "out": tmp_path / "run"} | options
    with pytest.raises(ValueError, match=message):
        train(**arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_what_is_not_finite_ends_the_run_before_it_is_saved(tmp_path, monkeypatch, what):
    kind, original = ALGORITHMS["dppo"], ALGORITHMS["dppo"].epoch

    def epoch(self):
        if self.collector.env_steps == 600 and what == "weights":
            with torch.no_grad():
                self.agents.actor.net.weight[0][3, 0, 0] = math.nan
        logged = original(self)
        return logged | {"value_loss": math.inf} if self.collector.env_steps == 800 else logged

    monkeypatch.setattr(kind, "epoch", epoch)
    why = r"the loss of the actor is nan, by agents \[3\]; .*|value_loss = inf"
    at = f"epoch 4: ({why}); .* keeps its checkpoint at 400 steps"
    with pytest.raises(FloatingPointError, match=at):
        small("dppo", tmp_path / "run")
    run = tmp_path / "run"
    assert load(run / log.CHECKPOINT)["epoch"] == 2
    assert log.read_progress(run)[-1]["env_steps"] == 600


@pytest.mark.parametrize(("what", "index", "evaluates"), [("observation", (2, 3, 1), False), ("reward", (2, 3), True)])
def test_an_environment_that_gives_no_number_stops_the_run_at_that_step(tmp_path, monkeypatch, what, index, evaluates):
    original, steps = Platoon.step, []

    def step(self, action):
        obs, reward, *rest = original(self, action)
        if (self.batch > 8) == evaluates:
            steps.append(int(rest[2]["step"][2]))
        if len(steps) == (1300 if evaluates else 170) and (self.batch > 8) == evaluates:
            answers = {"observation": obs.copy(), "reward": reward.copy()}
            answers[what][index] = math.nan
            obs, reward = answers.values()
        return obs, reward, *rest

    monkeypatch.setattr(Platoon, "step", step)
    with pytest.raises(FloatingPointError) as error:
        small("dppo", tmp_path / "run")
    feature = ", feature 1" if what == "observation" else ""
    told = f"epoch 4: Platoon gave nan as {what} of agent 3 in copy 2{feature}, at step {steps[-1]} of its episode; an"
    assert str(error.value).startswith(told)
    assert str(error.value).endswith(
        "keeps its checkpoint at 400 steps; the same command with --resume continues from there"
    )
    assert len(steps) == (1300 if evaluates else 170)
    monkeypatch.setattr(Platoon, "step", original)
    small("dppo", tmp_path / "run", resume=True)
    assert log.read_progress(tmp_path / "run")[-1]["env_steps"] == 1200


@pytest.mark.parametrize("algo", ["dmpo", "dppo", "ia2c", "ic3net"])
def test_a_loss_that_is_no_number_stops_the_step(algo):
    env = make_env("catchup", 4)
    preset = override(get_preset("catchup", algo), key_values(SMALL[algo]))
    learner = ALGORITHMS[algo](env, preset, 0)
    learner.epoch()
    network = getattr(learner.agents, "actor", None) or learner.agents.net
    with torch.no_grad():
        next(network.parameters())[...] = math.nan
    before = [weight.clone() for weight in getattr(learner.agents, "critic", network).parameters()]
    with pytest.raises(
        FloatingPointError,
        match=r"the loss of the \w+ is nan, by agents \[[\d, ]+\]; smaller learning rates may help|gave nan as",
    ):
        learner.epoch()
    after = getattr(learner.agents, "critic", network).parameters()
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, after, strict=True))


def test_what_fails_before_the_first_checkpoint_says_that_there_is_none(tmp_path, monkeypatch):
    """Even where a reset has warmed up, so that environment steps are spent."""

    def write(record, row):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log.RunLog, "write", write)
    short = ["copies=2", "rollout_steps=2", "hidden=8", "updates=1", "minibatches=1", "environment.warmup=40"]
    with pytest.raises(OSError, match=r"epoch 1: .*run: No space left.*run has no checkpoint yet; start anew"):
        train("ring", "dppo", 0, 10**6, tmp_path / "run", overrides=short, eval_every=10**6, progress=False)


def test_a_full_disk_names_the_run_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    run, original = tmp_path / "run", checkpoint.save

    def save(path, state):
        if state["epoch"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, state)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(
        OSError, match=r"epoch 4: .*run: No space left on device; free some space.*checkpoint at 400 steps"
    ):
        small("dppo", run)
    monkeypatch.setattr(checkpoint, "save", original)
    small("dppo", run, resume=True)
    whole = small("dppo", tmp_path / "whole")
    assert timeless(run) == timeless(whole)
    assert_same(load(run / log.CHECKPOINT), load(whole / log.CHECKPOINT))


def test_evaluate_checks_where_to_write_before_it_works(tmp_path, monkeypatch):
    out = tmp_path / "e.csv"
    evaluate("catchup", "always", out)
    monkeypatch.setattr("dmpo_deep.evaluate.evaluate_policy", lambda *a: pytest.fail("worked before it checked"))
    with pytest.raises(FileExistsError, match=r"e\.csv exists; give another file"):
        evaluate("catchup", "always", out)
    with pytest.raises(FileExistsError, match="exists"):
        evaluate("catchup", "always", tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match="is no folder to write x in"):
        evaluate("catchup", "always", tmp_path / "none" / "x")
    monkeypatch.undo()
    evaluate("catchup", "random", out, overwrite=True)
    assert "random" in out.read_text()


def test_the_commit_is_that_of_a_repository_that_tracks_the_code(tmp_path, monkeypatch):
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "log.py").touch()
    monkeypatch.setattr(log, "__file__", str(tmp_path / "log.py"))
    assert "commit" not in log.versions()
    subprocess.run(["git", "add", "log.py"], cwd=tmp_path, check=True)
    assert "commit" in log.versions()


def test_dppo_learns_to_use_its_gains(tmp_path):
    run = train("catchup", "dppo", seed=1, steps=18_000, out=tmp_path / "run", eval_every=18_000, progress=False)
    rows = log.read_progress(run)
    returns = [row["train_return"] for row in rows if row["train_return"] is not None]
    assert max(returns[-8:]) > -400 > -1400 > np.mean(returns[:5])


def test_the_command_line_takes_overrides_in_either_form_and_says_where_results_lie(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("dmpo_deep.train.train", lambda *a, overrides, **k: seen.append(overrides))
    for given in (
        ["--set", "a=1", "--set", "b=2"],
        ["--set", "a=1", "b=2"],
        ["--set", "a=1", "b=2", "--set", "c=3"],
        [],
    ):
        assert cli.main(["train", "catchup", *given]) == 0
    assert seen == [["a=1", "b=2"], ["a=1", "b=2"], ["a=1", "b=2", "c=3"], []]
    out = tmp_path / "e.csv"
    evaluation = ["evaluate", "catchup", "--controller", "always", "--out", str(out)]
    assert cli.main(evaluation) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Results: {out}"
    assert cli.main(evaluation) == 2
    assert "exists" in capsys.readouterr().err
    assert cli.main([*evaluation, "--overwrite"]) == 0
