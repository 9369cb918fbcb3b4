"""Section VI-B: the platoon against trajectories of the original code, and its two ways to treat a collision."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep.envs import make_env
from dmpo_deep.envs.cacc import GAINS, HORIZON, METRIC_SCALE, N, headway_of
from dmpo_deep.envs.traffic import EVALUATION_DRAWS

GOLDEN = {
    task: json.loads((Path(__file__).parent / "data" / f"cacc_{task}.json").read_text())
    for task in ("catchup", "slowdown")
}
EPISODES = GOLDEN["catchup"]["episodes"]
CASES = [(task, episode) for task, golden in GOLDEN.items() for episode in golden["episodes"]]
NAMES = [f"{task}-always-{episode['constant_action']}" for task, episode in CASES]


def play(episode, task="catchup", collision="freeze", **options):
    """Whole episode: states ``[600, N]`` after each step, rewards, observations ``[601, N, 5]``, metric, last step."""
    env = make_env(task, 1, collision=collision, draws=[episode["initial_draw_u"]], **options)
    obs = [env.reset(np.random.default_rng(0))[0]]
    rows, metric = [], 0.0
    for _ in range(HORIZON):
        next_obs, reward, terminated, truncated, info = env.step(np.full((1, N), episode["constant_action"]))
        state = env.state_dict()
        rows.append(
            (state["headway"][0], state["speed"][0], state["acceleration"][0], info["raw_reward"][0], reward[0])
        )
        obs.append(next_obs[0])
        metric += info["metric"][0]
        if terminated[0] or truncated[0]:
            break
    h, v, u, raw, reward = (np.array(column) for column in zip(*rows, strict=True))
    return {"h": h, "v": v, "u": u, "raw": raw, "reward": reward, "obs": np.array(obs), "metric": metric}


@pytest.mark.parametrize(("task", "episode"), CASES, ids=NAMES)
def test_trajectories_equal_the_original(task, episode):
    run = play(episode, task, clip_acceleration=False)
    steps = GOLDEN[task]["steps"]
    for mine, theirs in (("h", "h"), ("v", "v"), ("u", "u"), ("raw", "reward")):
        np.testing.assert_allclose(run[mine][steps], episode[theirs], rtol=0, atol=1e-9, err_msg=mine)
    theirs = np.array(episode["obs_every_10"])
    np.testing.assert_allclose(run["obs"][: 10 * len(theirs) : 10], theirs, rtol=0, atol=1e-6)
    assert run["metric"] == pytest.approx(episode["sum_reward_over_600"], abs=1e-9)


def test_slowdown_may_start_above_the_speed_limit_and_its_first_acceleration_is_clipped_by_default():
    options = {"batch": 2, "draws": [0.99, 0.4]}
    observed = {}
    for clip in (True, False):
        env = make_env("slowdown", clip_acceleration=clip, **options)
        env.reset(np.random.default_rng(0))
        observed[clip] = env.step(np.full((2, N), 3))[0]
        assert env.observation_space.contains(observed[clip][0, 0])
    np.testing.assert_allclose(observed[False][0, :, 4], (30 - 15 * 2.49) / 0.1 / 2.5, rtol=1e-6)
    np.testing.assert_array_equal(observed[True][0, :, 4], -1.5)
    np.testing.assert_array_equal(observed[True][..., :4], observed[False][..., :4])
    np.testing.assert_array_equal(observed[True][1], observed[False][1])


def test_the_comparison_sees_a_gain_that_is_a_little_wrong(monkeypatch):
    monkeypatch.setattr("dmpo_deep.envs.cacc.GAINS", GAINS * 1.00002)
    run = play(EPISODES[1])
    assert np.abs(run["h"][GOLDEN["catchup"]["steps"]] - EPISODES[1]["h"]).max() > 1e-7


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_a_collision_is_charged_the_discounted_frozen_tail(scale):
    gamma = 0.97
    frozen = play(EPISODES[0])
    ended = play(EPISODES[0], collision="end", collision_scale=scale, gamma=gamma)
    t = EPISODES[0]["first_collision_step"]
    assert len(ended["h"]) == t + 1
    np.testing.assert_array_equal(ended["reward"][:t], frozen["reward"][:t])
    tail = frozen["reward"][t:]
    expected = scale * (gamma ** np.arange(len(tail)) @ tail)
    np.testing.assert_allclose(ended["reward"][t], expected, rtol=1e-12)


@pytest.mark.parametrize(("task", "episode"), CASES, ids=NAMES)
def test_the_metric_does_not_depend_on_the_collision_mode(task, episode):
    frozen = play(episode, task)["metric"]
    assert play(episode, task, collision="end")["metric"] == pytest.approx(frozen, rel=1e-12)


@pytest.mark.parametrize("task", GOLDEN)
def test_termination_from_observations_agrees_with_the_real_end(task):
    env = make_env(task, 64)
    rng = np.random.default_rng(3)
    env.reset(rng)
    ends = 0
    for _ in range(400):
        next_obs, reward, terminated, truncated, info = env.step(rng.integers(4, size=(64, N)))
        before = info["step"].copy(), next_obs.copy()
        predicted, charge = env.termination(next_obs, info["step"])
        np.testing.assert_array_equal(before[0], info["step"])
        np.testing.assert_array_equal(before[1], next_obs)
        np.testing.assert_array_equal(predicted, terminated)
        np.testing.assert_array_equal(reward[terminated], np.repeat(charge[terminated, None], N, axis=1))
        np.testing.assert_allclose(headway_of(next_obs)[:, 1:], env.state_dict()["headway"][:, 1:], atol=1e-4)
        ends += terminated.sum()
        env.reset(rng, terminated | truncated)
    assert ends > 50


def test_only_the_marked_copies_are_reset_and_draws_come_from_the_generator():
    env = make_env("catchup", 3)
    first = env.reset(np.random.default_rng(5))
    np.testing.assert_array_equal(first, make_env("catchup", 3).reset(np.random.default_rng(5)))
    env.step(np.full((3, N), 3))
    before = env.observe()
    after = env.reset(np.random.default_rng(6), np.array([False, True, False]))
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert np.abs(after[1] - before[1]).max() > 0
    np.testing.assert_array_equal(env.state_dict()["time"], [1, 0, 1])


def test_time_limit_truncates_and_does_not_terminate():
    run = play(EPISODES[1], collision="end")
    assert len(run["h"]) == HORIZON
    assert run["raw"].sum() / METRIC_SCALE == pytest.approx(run["metric"])


def test_evaluation_draws_are_the_published_ones():
    assert len(EVALUATION_DRAWS) == 20
    assert EVALUATION_DRAWS[3] == np.random.RandomState(1004).rand()


def test_mistakes_name_the_nearest_remedy():
    with pytest.raises(ValueError, match="did you mean 'catchup'"):
        make_env("catch-up", 1)
    with pytest.raises(ValueError, match="did you mean 'collision'"):
        make_env("catchup", 1, colision="end")
    with pytest.raises(ValueError, match="'freeze'"):
        make_env("catchup", 1, collision="stop")
    with pytest.raises(ValueError, match="one per copy"):
        make_env("catchup", 2, draws=[0.5])
    with pytest.raises(ValueError, match="give a finite scale"):
        make_env("catchup", 1, collision_scale=np.inf)
    for options in ({"collision_scale": "much"}, {"collision": 1}, {"collision_scale": True}):
        with pytest.raises(ValueError, match="this option of catchup must be of type"):
            make_env("catchup", 1, **options)
    with pytest.raises(MemoryError, match=r"catchup in 1000000000000 copies needs .* GiB"):
        make_env("catchup", 10**12)
