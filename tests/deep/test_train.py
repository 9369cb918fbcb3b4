"""Runs: exact continuation, refusals before any work, evaluation, report, and that both algorithms learn."""

import csv
import json
import math
import shutil
import signal
import subprocess

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep import cli, log
from dmpo_deep.checkpoint import CheckpointError, load, save
from dmpo_deep.config import CONFIG, read_config
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.evaluate import evaluate, evaluate_controller
from dmpo_deep.report import collect
from dmpo_deep.train import ALGORITHMS, COLUMNS, train

SMALL = {
    "dmpo": ("rollout_steps=50", "warmup_steps=50", "branches=16", "model_horizon=5", "model_steps=5", "hidden=8"),
    "dppo": ("rollout_steps=50", "hidden=8", "updates=2"),
    "cppo": ("rollout_steps=50", "hidden=8", "updates=2"),
    "dmpo-true-model": ("rollout_steps=50", "branches=16", "model_horizon=5", "hidden=8", "updates=2"),
    "ic3net": ("copies=4", "rollout_steps=50", "width=8"),
    "ia2c": ("copies=4", "rollout_steps=50", "hidden=8"),
}


def files(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def small(algo, out, steps=1200, **options):
    defaults = {"seed": 3, "overrides": SMALL[algo], "eval_every": 400, "progress": False}
    return train("catchup", algo, steps=steps, out=out, **(defaults | options))


def timeless(run):
    """The record without its wall times."""
    with (run / log.PROGRESS).open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in csv.DictReader(file)]


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key != "seconds":
                assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    else:
        assert a == b


@pytest.fixture(scope="module", params=["dmpo", "dppo"])
def finished(request, tmp_path_factory):
    """A small finished run."""
    return request.param, small(request.param, tmp_path_factory.mktemp("runs") / "whole")


def interrupt_in_epoch(monkeypatch, algo, number):
    """Ctrl-C in the midst of the given epoch."""
    kind, count = ALGORITHMS[algo], []
    original = kind.epoch

    def epoch(self):
        count.append(1)
        if len(count) == number:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(kind, "epoch", epoch)


def test_a_run_that_was_interrupted_and_resumed_equals_one_that_was_not(finished, tmp_path, monkeypatch):
    algo, whole = finished
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, algo, 3)
        with pytest.raises(KeyboardInterrupt, match="stands at 600 of 1200 steps; the same command with --resume"):
            small(algo, tmp_path / "parts")
    assert load(tmp_path / "parts" / log.CHECKPOINT)["epoch"] == 3
    run = small(algo, tmp_path / "parts", resume=True)
    assert_same(load(run / log.CHECKPOINT), load(whole / log.CHECKPOINT))
    assert timeless(run) == timeless(whole)


@pytest.mark.parametrize("algo", sorted(ALGORITHMS.keys() - {"dmpo", "dppo"}))
def test_every_algorithm_can_be_given_more_steps_bit_for_bit_and_evaluated(algo, tmp_path):
    parts = small(algo, tmp_path / "parts", steps=400)
    assert evaluate(parts)["sampled"].mean == log.read_progress(parts)[-1]["eval_sampled"]
    small(algo, parts, steps=800, resume=True)
    whole = small(algo, tmp_path / "whole", steps=800)
    assert_same(load(parts / log.CHECKPOINT), load(whole / log.CHECKPOINT))
    assert timeless(parts) == timeless(whole)


def test_a_run_that_was_killed_continues_from_its_last_checkpoint(finished, tmp_path, monkeypatch):
    algo, whole = finished
    kind, original = ALGORITHMS[algo], ALGORITHMS[algo].epoch

    def epoch(self):
        if self.collector.env_steps == 1000:
            raise RuntimeError("power cut")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "epoch", epoch)
        with pytest.raises(RuntimeError, match="power cut"):
            small(algo, tmp_path / "killed")
    run = tmp_path / "killed"
    assert load(run / log.CHECKPOINT)["learner"]["collector"]["env_steps"] == 800
    with (run / log.PROGRESS).open("a") as file:
        file.write("12")  # half a row
    small(algo, run, resume=True)
    assert_same(load(run / log.CHECKPOINT), load(whole / log.CHECKPOINT))
    assert timeless(run) == timeless(whole)


def test_a_finished_run_can_be_given_more_steps(finished, tmp_path):
    algo, whole = finished
    shutil.copytree(whole, tmp_path / "more")
    run = small(algo, tmp_path / "more", steps=1600, resume=True)
    straight = small(algo, tmp_path / "straight", steps=1600)
    assert_same(load(run / log.CHECKPOINT), load(straight / log.CHECKPOINT))
    assert timeless(run) == timeless(straight)
    config = read_config(run)
    assert (config.steps, [start["steps"] for start in config.resumed]) == (1200, [1600])
    assert small(algo, run, steps=1600, resume=True) == run
    assert timeless(run) == timeless(straight)


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


def test_existing_directories_and_missing_checkpoints_are_refused(finished, tmp_path):
    algo, run = finished
    with pytest.raises(FileExistsError, match="exists; give another --out, or --resume to continue it"):
        small(algo, run)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        small(algo, tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="was started with seed = 3, not 4"):
        small(algo, run, resume=True, seed=4)
    with pytest.raises(ValueError, match=r"was started with clip = 0\.2, not 0\.3"):
        small(algo, run, resume=True, overrides=[*SMALL[algo], "clip=0.3"])


def test_an_evaluation_only_the_end_called_for_is_taken_back(tmp_path):
    run = small("dppo", tmp_path / "more", steps=1000)
    assert log.read_progress(run)[-1]["eval_sampled"] is not None
    small("dppo", run, steps=1600, resume=True)
    straight = small("dppo", tmp_path / "straight", steps=1600)
    assert timeless(run) == timeless(straight)


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
    at = r"epoch 4: (weights of the actor .* agents \[3\]|value_loss = inf); .* keeps its checkpoint at 400 steps"
    with pytest.raises(FloatingPointError, match=at):
        small("dppo", tmp_path / "run")
    run = tmp_path / "run"
    assert load(run / log.CHECKPOINT)["epoch"] == 2
    assert log.read_progress(run)[-1]["env_steps"] == 600


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "has no row of 1200"),
        (lambda text: text[: text.rindex("1200")], "ends at env_steps = 1000 and has no row of 1200, where the checkp"),
        (lambda text: text[:-3], "ends at env_steps = 1000"),
        (lambda text: text + "1,2\n", f"2 cells for {len(COLUMNS)} columns"),
        (lambda text: text.replace("entropy", "entropie"), "other columns"),
        (None, "has no progress.csv"),
    ],
)
def test_resuming_a_damaged_record_writes_nothing(tmp_path, finished, damage, message):
    algo, whole = finished
    run = shutil.copytree(whole, tmp_path / "run")
    path = run / log.PROGRESS
    if damage:
        path.write_text(damage(path.read_text()))
    else:
        path.unlink()
    before = files(run)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        small(algo, run, steps=1600, resume=True)
    assert files(run) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: "", "Expecting value"),
        (lambda c: json.dumps(c)[:100], "damaged"),
        (lambda c: "[]", "no JSON object"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "seed"}), "missing or unknown: seed"),
        (lambda c: json.dumps(c | {"task": "x"}), "on task 'x'"),
        (lambda c: json.dumps(c | {"algo": "x"}), "no algorithm 'x'"),
        (lambda c: json.dumps(c | {"seed": "x"}), "seed = 'x' is no int"),
        (lambda c: json.dumps(c | {"preset": {}}), "hyper-parameters missing or unknown"),
        (lambda c: json.dumps(c | {"preset": c["preset"] | {"environment": {"x": 1}}}), "unknown option of catchup"),
    ],
)
def test_a_damaged_config_is_named_by_all_who_read_it(tmp_path, finished, damage, message):
    algo, whole = finished
    run = shutil.copytree(whole, tmp_path / "run")
    (run / CONFIG).write_text(damage(json.loads((run / CONFIG).read_text())))
    before = files(run)
    for read in (lambda: small(algo, run, resume=True), lambda: evaluate(run), lambda: collect([run])):
        with pytest.raises(
            ValueError, match=rf"config\.json is damaged: .*{message}.*restore it from a copy|{message}"
        ):
            read()
    assert files(run) == before


def test_checkpoints_of_other_runs_and_with_parts_missing_are_refused(tmp_path, finished):
    algo, whole = finished
    other = small(algo, tmp_path / "other", seed=4, steps=400)
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(other / log.CHECKPOINT, run / log.CHECKPOINT)
    for read in (lambda: small(algo, run, resume=True, steps=1600), lambda: evaluate(run)):
        with pytest.raises(CheckpointError, match="of another run: its seed is 4, and the run's is 3"):
            read()
    state = load(whole / log.CHECKPOINT)
    del state["learner"]["agents"]["actor"]["net.weight.0"]
    save(run / log.CHECKPOINT, state)
    for read in (lambda: small(algo, run, resume=True, steps=1600), lambda: evaluate(run)):
        with pytest.raises(CheckpointError, match="is damaged or does not fit its run"):
            read()


def test_resuming_says_when_versions_differ_and_refuses_fewer_steps_than_spent(tmp_path, finished, capsys):
    algo, whole = finished
    run = shutil.copytree(whole, tmp_path / "run")
    config = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps(config | {"versions": config["versions"] | {"torch": "1.0"}}))
    before = files(run)
    with pytest.raises(ValueError, match="has spent 1200 steps; give --steps 1200 or more"):
        small(algo, run, steps=1000, resume=True)
    assert files(run) == before
    small(algo, run, steps=1400, resume=True)
    assert f"torch 1.0 -> {torch.__version__}" in capsys.readouterr().err
    assert read_config(run).versions["torch"] == "1.0"
    assert [start["versions"]["torch"] for start in read_config(run).resumed] == [torch.__version__]


@pytest.fixture
def sigint_as_usual():
    """A shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_as_usual")
def test_ctrl_c_says_what_it_does_and_twice_what_is_kept(tmp_path, monkeypatch, capfd):
    kind, original = ALGORITHMS["dppo"], ALGORITHMS["dppo"].epoch

    def epoch(self):
        if self.collector.env_steps == 600:
            signal.raise_signal(signal.SIGINT)
            assert "Stopping after this epoch" in capfd.readouterr().err
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(kind, "epoch", epoch)
    with pytest.raises(
        KeyboardInterrupt, match="run keeps its checkpoint at 400 steps; the same command with --resume"
    ):
        small("dppo", tmp_path / "run")


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
