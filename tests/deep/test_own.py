"""Tasks of one's own: everything that works with a registered task works with them, and mistakes are named."""

import csv
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep import cli
from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.config import read_config
from dmpo_deep.envs import find_task, make_env, named_task
from dmpo_deep.envs.own import source_digest
from dmpo_deep.evaluate import evaluate
from dmpo_deep.golden import digest
from dmpo_deep.results import add, from_run, read
from dmpo_deep.train import train
from tests.deep.runs import SMALL, timeless

EXAMPLES = Path(__file__).parents[2] / "examples"
RIVER = f"{EXAMPLES / 'reservoirs.py'}:Reservoirs"
RIVERS = [(0, 2), (1, 2), (2, 5), (3, 4), (4, 5), (5, 6)]
HERE = f"{__file__}:heat"


def heat(batch, *, draws=None, warm: float = 0.0, kind: str = "a"):
    """Discrete actions, and episodes that end early."""
    from tests.deep.test_check_env import Heat

    return Heat(batch)


heat.evaluations = 3


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_trains_resumes_and_is_evaluated(algo, tmp_path):
    settings = {"overrides": (*SMALL[algo], "environment.warm=1"), "eval_every": 200, "progress": False}
    parts = train(HERE, algo, 1, 200, tmp_path / "parts", **settings)
    assert evaluate(parts)["sampled"].mean == float(timeless(parts)[-1]["eval_sampled"])
    train(HERE, algo, 1, 400, parts, resume=True, **settings)
    whole = train(HERE, algo, 1, 400, tmp_path / "whole", **settings)
    assert timeless(parts) == timeless(whole)
    assert all(row["eval_score"] == "" for row in timeless(whole))


def test_continuous_actions_train_and_the_example_keeps_the_contract(tmp_path, capsys):
    weeks = "environment.weeks=20"
    for algo in ("dmpo", "ic3net"):
        run = train(RIVER, algo, 0, 200, tmp_path / algo, overrides=(*SMALL[algo], weeks), progress=False)
        assert np.isfinite(float(timeless(run)[-1]["eval_sampled"]))
    assert cli.main(["check-env", RIVER, "--steps", "150"]) == 0
    out = capsys.readouterr().out
    assert "note" not in out
    assert "as claimed: 1" in out
    assert cli.main(["envs", RIVER]) == 0
    assert "by-level-2" in capsys.readouterr().out


def test_no_water_of_the_example_is_lost():
    """The same river once more, reservoir by reservoir."""
    env, rng = make_env(RIVER, 2), np.random.default_rng(0)
    env.reset(rng)
    known = runpy.run_path(str(EXAMPLES / "reservoirs.py"))
    for _ in range(104):
        level, arriving, week = env.level.copy(), env.arriving.copy(), env.start + env.time
        action = rng.random((2, 7, 1)).astype(np.float32)
        _, reward, _, _, info = env.step(action)
        for b in range(2):
            flood, let_go = [], []
            for i in range(7):
                snow = known["INFLOW"][i] * (1 + 0.9 * math.sin(2 * math.pi * week[b] / 52))
                released = min(30 * float(action[b, i, 0]), level[b, i])
                full = level[b, i] + arriving[b, i] + snow * math.exp(env.rain[b, i] - 0.125) - released
                flood.append(max(full - 100, 0))
                let_go.append(released + flood[i])
                np.testing.assert_allclose(env.level[b, i], full - flood[i], rtol=1e-5)
                earned = released * (0.5 + level[b, i] / 200) - 0.05 * flood[i] - 0.5 * max(2 - let_go[i], 0)
                np.testing.assert_allclose(reward[b, i], earned / 10, rtol=1e-5, atol=1e-6)
            for j in range(7):
                np.testing.assert_allclose(env.arriving[b, j], sum(let_go[i] for i, k in RIVERS if k == j), rtol=1e-5)
            np.testing.assert_allclose(info["spilled"][b], np.mean(flood), rtol=1e-5, atol=1e-6)
    assert known["DOWNSTREAM"] == dict(RIVERS)


def test_the_command_line_from_training_to_the_figure(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    small = ["--set", *SMALL["dppo"], "environment.warm=1"]
    runs = [tmp_path / "a", tmp_path / "b"]
    for seed, run in enumerate(runs):
        assert (
            cli.main(
                ["train", HERE, "--algo", "dppo", "--seed", str(seed), "--steps", "100", "--out", str(run), *small]
            )
            == 0
        )
    assert cli.main(["evaluate", str(runs[0])]) == 0
    assert cli.main(["evaluate", HERE, "--set", "warm=2"]) == 0
    assert "random: -" in capsys.readouterr().out
    assert cli.main(["collect", *map(str, runs), "--into", str(tmp_path / "results")]) == 0
    assert cli.main(["plot", str(tmp_path / "results"), "--out", str(tmp_path / "figures")]) == 0
    with (tmp_path / "figures" / "table.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels[-1] == "uniform random"
    out = tmp_path / "sweep"
    assert (
        cli.main(
            ["sweep", "--tasks", HERE, "--algos", "dppo", "--steps", "50", "--out", str(out), *small, "--workers", "1"]
        )
        == 0
    )
    [folder] = out.iterdir()
    assert read_config(folder).task == HERE


def written(folder, text="", name="mine"):
    path = folder / f"{name}.py"
    path.write_text("from tests.deep.test_check_env import Heat\n" + text)
    return path


def test_changed_source_is_said_and_makes_results_stale(tmp_path, capsys):
    path = written(tmp_path, name="changing")
    task, settings = f"{path}:Heat", {"overrides": SMALL["dppo"], "eval_every": 50, "progress": False}
    run = train(task, "dppo", 0, 50, tmp_path / "run", **settings)
    config = json.loads((run / "config.json").read_text())
    assert config["task"] == task
    assert config["versions"]["trace"] == source_digest(task) == digest(task, "dppo")
    [kept] = add([from_run(run)], tmp_path / "results")
    assert not kept.stale
    assert [r.task for r in read(tmp_path / "results")] == [task]
    path.write_text(path.read_text() + "# another rule\n")
    assert kept.stale
    capsys.readouterr()
    assert cli.main(["evaluate", str(run)]) == 0
    assert f"The source of {task} has changed since the run's last start (source:" in capsys.readouterr().out
    train(task, "dppo", 0, 400, run, resume=True, **settings)
    assert f"Warning: The source of {task} has changed" in capsys.readouterr().err
    assert from_run(run).trace == "mixed"
    path.unlink()
    assert not kept.stale, "a source that is not here cannot tell"


@pytest.mark.parametrize(
    ("text", "factory", "message"),
    [
        ("", "Haet", "unknown factory of .*did you mean 'Heat'"),
        ("1 / 0\n", "Heat", r"cannot be imported \(ZeroDivisionError: division by zero\); mend it"),
        ("import no_such_thing\n", "Heat", "cannot be imported: No module named 'no_such_thing'; install that module"),
        ("def make():\n    return Heat(1)\n", "make", "takes no number of copies; let batch be its first parameter"),
        ("def make(batch):\n    return 3\n", "make", "made a int without graph, batch, action_space"),
        ("def make(batch, *, size: int = 1):\n    return Heat(batch)\n", "make", None),
        (
            "def make(batch):\n    return Heat(batch)\nmake.evaluations = 1\n",
            "make",
            "evaluations = 1 of .*; give 2 to",
        ),
    ],
)
def test_mistakes_are_named_before_anything_starts(text, factory, message, tmp_path):
    task = f"{written(tmp_path, text)}:{factory}"
    if message is None:
        for options, said in (({"size": "x"}, "must be of type int"), ({"sise": 1}, "did you mean 'size'")):
            with pytest.raises(ValueError, match=said):
                make_env(task, 1, **options)
        assert make_env(task, 1, gamma=0.9, draws=(0.5,)).task == task, "offered options are no must"
        return
    with pytest.raises((ValueError, ImportError), match=message):
        train(task, "dppo", 0, 50, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_of_modules_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("FOUR = 4\n")
    written(tmp_path, "from beside import FOUR\n", "plain_file")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "__init__.py").write_text("")
    written(tmp_path / "packed", name="inner")
    assert named_task("plain_file.py:Heat") == (f"{tmp_path / 'plain_file.py'}:Heat", {})
    assert named_task("packed.inner:Heat") == ("packed.inner:Heat", {})
    assert find_task("packed.inner:Heat").make(2).batch == 2
    before = source_digest("packed.inner:Heat")
    (tmp_path / "packed" / "more.py").write_text("")
    (tmp_path / "packed" / "more.py").write_text("x = 1\n")
    assert source_digest("packed.inner:Heat") != before
    for name, message in (
        ("no_module:Heat", "there is no module no_module, neither in"),
        ("no_file.py:Heat", "there is no file .*no_file.py"),
        ("plain_file.py:", "names no factory; give MODULE:FACTORY"),
        ("catchup:Heat", r"a module of your own that has this name is ./catchup.py:FACTORY"),
    ):
        with pytest.raises((ValueError, ImportError), match=message):
            named_task(name)
    assert cli.main(["train", "no_module:Heat"]) == 2
