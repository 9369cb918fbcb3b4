"""Warnings: policies below random play, models whose error explodes, radii beyond the graph."""

import pytest

pytest.importorskip("torch")

from dmpo_deep import log, train
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.watch import Watch, radii_beyond


def said(new, earlier=()):
    watch = Watch(lambda: -100.0, earlier)
    return [len(watch.look(row)) for row in new]


def test_ten_evaluations_below_random_play_are_named():
    bad = [{"eval_sampled": -150.0}, {"eval_sampled": None}] * 10
    assert sum(said(bad)) == 1
    assert said(bad)[18] == 1
    assert sum(said([*bad[:18], {"eval_sampled": -90.0}])) == 0
    assert sum(said(bad[:2], [{"eval_sampled": "-120"}] * 9)) == 1
    [message] = Watch(lambda: -100.0, [{"eval_sampled": "-120"}] * 9).look(bad[0])
    assert "last 10 evaluations of the sampled policy were below random play (-100), this one at -150" in message


def test_without_a_level_of_random_play_nothing_is_said():
    watch = Watch(lambda: None)
    assert not any(watch.look({"eval_sampled": -1e9}) for _ in range(30))


def test_random_play_is_measured_once_and_only_when_it_matters():
    asked = []
    watch = Watch(lambda: asked.append(1) or -100.0)
    for k in range(30):
        assert len(asked) == (k >= 10)
        watch.look({"eval_sampled": 0.0})


@pytest.mark.parametrize(("error", "warns"), [(0.9, 0), (1.9, 0), (2.1, 1), (9e9, 1)])
def test_a_model_whose_error_explodes_is_named(error, warns):
    usual = [{"model_error": 0.2}] * 12
    assert said([*usual, {"model_error": error}])[-1] == warns
    assert sum(said(usual)) == 0


def test_radii_beyond_the_graph_are_allowed_and_named():
    env = make_env("catchup", 1)
    notes = radii_beyond(env, ModelPreset(kappa_critic=9, kappa_model=7, kappa_policy=float("inf")))
    assert notes == ["kappa_critic = 9 is beyond the graph's diameter of 7; 7 hears the same"]


def test_a_run_keeps_its_warnings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dmpo_deep.watch.EVALUATIONS", 2)
    monkeypatch.setattr("dmpo_deep.train.random_level", lambda task, options: 1.0)
    small = ("rollout_steps=25", "hidden=8", "updates=1", "minibatches=1", "kappa_critic=8")
    run = train.train("catchup", "dppo", 0, 200, tmp_path / "run", overrides=small, eval_every=100, progress=False)
    assert "200 steps: the last 2 evaluations" in (run / log.WARNINGS).read_text()
    error = capsys.readouterr().err
    assert "Warning: 200 steps" in error
    assert "kappa_critic = 8 is beyond the graph's diameter of 7" in error
