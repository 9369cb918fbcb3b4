"""Runs that were interrupted, killed, damaged or given more steps: continued exactly, or refused."""

import json
import shutil
import signal

import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep import log
from dmpo_deep.checkpoint import CheckpointError, load, save
from dmpo_deep.config import CONFIG, read_config
from dmpo_deep.evaluate import evaluate
from dmpo_deep.results import from_run
from dmpo_deep.train import ALGORITHMS, COLUMNS, train
from tests.deep.runs import SMALL, assert_same, files, small, timeless


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


@pytest.mark.parametrize(("seconds", "kept"), [(300.0, 800), (0.0, 1000)], ids=["at evaluations", "in between"])
def test_a_run_that_was_killed_continues_from_its_last_checkpoint(finished, tmp_path, monkeypatch, seconds, kept):
    algo, whole = finished
    kind, original = ALGORITHMS[algo], ALGORITHMS[algo].epoch

    def epoch(self):
        if self.collector.env_steps == 1000:
            raise RuntimeError("power cut")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "epoch", epoch)
        patch.setattr(f"{train.__module__}.CHECKPOINT_EVERY", seconds)
        with pytest.raises(RuntimeError, match="power cut"):
            small(algo, tmp_path / "killed")
    run = tmp_path / "killed"
    assert load(run / log.CHECKPOINT)["learner"]["collector"]["env_steps"] == kept
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
    with pytest.raises(ValueError, match="was started with stagger = True, not False"):
        small(algo, run, resume=True, overrides=[*SMALL[algo], "stagger=false"])


def test_an_evaluation_only_the_end_called_for_is_taken_back(tmp_path):
    run = small("dppo", tmp_path / "more", steps=1000)
    assert log.read_progress(run)[-1]["eval_sampled"] is not None
    small("dppo", run, steps=1600, resume=True)
    straight = small("dppo", tmp_path / "straight", steps=1600)
    assert timeless(run) == timeless(straight)


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
    for read in (lambda: small(algo, run, resume=True), lambda: evaluate(run), lambda: from_run(run)):
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
