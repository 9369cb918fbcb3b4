"""Algorithm 1, line 4: real rollouts go on where the last one stopped, and copies may be out of step."""

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep.controllers.cacc import uniform
from dmpo_deep.controllers.ring import zero
from dmpo_deep.envs import make_env
from dmpo_deep.rollout import Collector
from tests.deep.runs import assert_same


def test_rollout_restarts_ended_copies_and_keeps_what_they_reached():
    rng = np.random.default_rng(0)
    collector = Collector(make_env("catchup", 8), rng, stagger=False)
    data = collector.collect(uniform(collector.env), 700)
    assert collector.env_steps == 5600
    ended = data.ended
    assert len(collector.finished) == ended.sum() > 8
    assert not (data.terminated & data.truncated).any()
    inside = ~ended[:-1]
    np.testing.assert_array_equal(data.obs[1:][inside], data.next_obs[:-1][inside])
    restarted = data.obs[1:][ended[:-1]]
    np.testing.assert_array_equal(restarted[:, :, 0], 0.0)  # everybody at the target speed
    assert (data.step[1:][ended[:-1]] == 0).all()
    assert np.mean(collector.finished) == pytest.approx(-1700, abs=150)


def test_copies_out_of_step_are_cut_once_each_at_another_part_of_the_episode():
    env = make_env("catchup", 4, collision="freeze")  # so that nothing else ends an episode
    collector = Collector(env, np.random.default_rng(0), stagger=True)
    parts = [collector.collect(uniform(env), steps) for steps in (200, 450, 900)]
    ended = np.concatenate([part.ended for part in parts])
    ends = [(1 + np.flatnonzero(copy)).tolist() for copy in ended.T]
    assert ends == [[600, 1200], [450, 1050], [300, 900, 1500], [150, 750, 1350]]
    assert not any(part.terminated.any() for part in parts)
    assert np.concatenate([part.step for part in parts])[-1].tolist() == [349, 499, 49, 199]
    assert len(collector.finished) == 6  # of the third part, all whole
    assert collector.env_steps == 4 * 1550


def test_the_metric_of_an_episode_that_was_cut_early_is_not_counted():
    env = make_env("ring", 2)
    collector = Collector(env, np.random.default_rng(0), stagger=True)
    counts = []
    for _ in range(4):
        collector.collect(zero(env), 1500)
        counts.append(len(collector.finished))
    assert counts == [0, 1, 1, 1]  # copy 1 is cut after 1,500 and ends after 4,500, copy 0 after 3,000 and 6,000


def test_an_episode_that_ends_before_its_cut_is_not_cut_again():
    env = make_env("slowdown", 4)
    collector = Collector(env, np.random.default_rng(2), stagger=True)
    data = collector.collect(uniform(env), 450)
    crashed, cut = data.terminated.any(axis=0), data.truncated.any(axis=0)
    assert crashed.tolist() == [True, True, False, False]
    assert cut.tolist() == [False, False, True, True]
    assert len(collector.finished) == 1  # what counts for copy 1 begins with its next episode


def test_copies_out_of_step_continue_bit_for_bit():
    def make():
        return Collector(make_env("catchup", 4), np.random.default_rng(3), stagger=True)

    whole, part, other = make(), make(), make()
    policy = uniform(whole.env)
    for steps in (100, 250, 400):
        whole.collect(policy, steps)
    for steps in (100, 250):
        part.collect(policy, steps)
    other.load_state_dict(part.state_dict())
    other.collect(policy, 400)
    assert_same(other.state_dict(), whole.state_dict())


def test_only_a_finite_horizon_can_be_cut():
    env = make_env("tabular", 2, horizon=float("inf"))
    with pytest.raises(ValueError, match="stagger = True needs episodes that are cut; give a finite horizon"):
        Collector(env, np.random.default_rng(0), stagger=True)
