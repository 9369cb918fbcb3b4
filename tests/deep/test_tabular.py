"""A networked MDP as an environment: its transitions, rewards and the law of its states, against exact ones."""

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from scipy import stats

from dmpo_deep.controllers.tabular import from_tables, given, uniform
from dmpo_deep.envs import action_counts, evaluation_env, make_env, named_task
from dmpo_deep.episodes import play
from dmpo_deep.rollout import rollout
from dmpo_theory import local_values, occupancy, stationary
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.graph import ring
from dmpo_theory.instances import random_mdp

UNEQUAL = str(Path(__file__).parents[1] / "data" / "unequal.instance.json")
SOURCES = {
    "ring": {"n": 4, "states": 3},
    "unequal": {"mdp": UNEQUAL},
    "slow": {"n": 4, "concentration": 0.2, "instance": 1},
}
every_source = pytest.mark.parametrize("options", SOURCES.values(), ids=SOURCES.keys())
LEVEL = 1e-4


def played(options, batch, steps, seed=0, burn=0):
    env, rng = make_env("tabular", batch, **options), np.random.default_rng(seed)
    env.reset(rng)
    if burn:
        rollout(env, given(env), burn, rng)
    return env, rollout(env, given(env), steps, rng)


def joint(env, obs):
    return np.ravel_multi_index(tuple(np.moveaxis(obs.argmax(axis=-1), -1, 0)), env.mdp.n_states)


@every_source
def test_transitions_and_rewards_are_those_of_the_tables(options):
    env, data = played(options, 500, 100)
    state, following = data.obs.argmax(axis=-1), data.next_obs.argmax(axis=-1)
    assert (data.obs.sum(axis=-1) == 1).all()
    for i in range(env.graph.n):
        table, parents = env.mdp.transition[i], env.mdp.transition_parents[i]
        row = (*(state[..., j] for j in parents), data.action[..., i])
        np.testing.assert_allclose(
            data.reward[..., i], env.mdp.reward[i][state[..., i], data.action[..., i]], rtol=1e-6
        )
        count = np.zeros(table.shape)
        np.add.at(count, (*row, following[..., i]), 1)
        expected = table * count.sum(axis=-1, keepdims=True)
        assert (count[table == 0] == 0).all()
        some = expected > 5
        statistic, freedom = ((count - expected)[some] ** 2 / expected[some]).sum(), some.sum()
        assert stats.chi2.sf(statistic, freedom) > LEVEL, f"agent {i}"


@every_source
def test_joint_steps_follow_the_closed_loop(options):
    env, data = played(options, 2000, 40)
    matrix = closed_loop(env.mdp, env.policy).matrix
    count = np.zeros_like(matrix)
    np.add.at(count, (joint(env, data.obs), joint(env, data.next_obs)), 1)
    expected = matrix * count.sum(axis=1, keepdims=True)
    some = expected > 5
    statistic = ((count - expected)[some] ** 2 / expected[some]).sum()
    assert stats.chi2.sf(statistic, some.sum()) > LEVEL


def law_of_states(env, data):
    count = np.zeros((env.batch, env.mdp.n_joint_states))
    np.add.at(count, (np.arange(env.batch)[None], joint(env, data.obs)), 1)
    return count / len(data.obs)


@pytest.mark.parametrize(("horizon", "law"), [(None, occupancy), (math.inf, stationary)])
@every_source
def test_states_follow_the_occupancy_or_without_restarts_the_stationary_law(options, horizon, law):
    env, data = played({**options, "horizon": horizon}, 400, 200, burn=150)
    shares = law_of_states(env, data)
    exact = law(env.mdp, env.policy).law
    least = stats.t.isf(LEVEL / 2 / len(exact), len(shares) - 1)
    assert worst_score(shares, exact) < least
    if options is SOURCES["slow"]:  # negative control: there the two laws can be told apart
        other = (stationary if law is occupancy else occupancy)(env.mdp, env.policy).law
        assert worst_score(shares, other) > 2 * least


def worst_score(shares, exact):
    often = exact > 1e-3
    spread = shares.std(axis=0, ddof=1) / np.sqrt(len(shares))
    return np.abs((shares.mean(axis=0) - exact)[often] / spread[often]).max()


@every_source
def test_the_mean_return_of_an_episode_is_the_exact_value(options):
    env = make_env("tabular", 20_000, **options)
    rng = np.random.default_rng(0)
    metric = play(env, given(env), rng, rng).metric
    exact = local_values(env.mdp, env.policy).values.mean()
    assert abs(metric.mean() - exact) < stats.norm.isf(LEVEL / 2) * metric.std() / np.sqrt(len(metric))
    with_own_horizon = make_env("tabular", 10, **options, horizon=7)
    assert (rollout_lengths(with_own_horizon, rng) == 7).all()


def rollout_lengths(env, rng):
    env.reset(rng)
    ended = rollout(env, given(env), 70, rng).truncated
    return np.diff(np.flatnonzero(ended[:, 0]), prepend=-1)


def test_agents_have_their_own_numbers_of_states_and_actions():
    env = make_env("tabular", 3, mdp=UNEQUAL)
    assert (action_counts(env), env.n_states) == ((3, 1, 2, 2), (2, 3, 1, 4))
    assert env.observation_space.shape == (4,)
    obs, rng = env.reset(np.random.default_rng(0)), np.random.default_rng(1)
    assert (obs[:, 2, 0] == 1).all()
    for policy in (uniform(env), given(env)):
        action, log_prob = policy(np.repeat(obs, 1000, axis=0), rng)
        assert (action.max(axis=0) == np.array((3, 1, 2, 2)) - 1).all()
        assert (log_prob <= 0).all()
        assert (log_prob[:, 1] == 0).all()
    with pytest.raises(ValueError, match="action 1 of agent 1 in copy 0 is out of range; give integers from 0 to one"):
        env.step(np.ones((3, 4), dtype=int))


def test_evaluation_draws_are_start_states():
    env = evaluation_env("tabular", n=5, states=3)
    first, second = (env.reset(np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(joint(env, first))) > 10


def test_large_networks_are_played_too():
    mdp = random_mdp(ring(300), n_states=3, rng=0)
    env = make_env("tabular", 2, mdp=mdp)
    obs = env.reset(np.random.default_rng(0))
    obs, *_ = env.step(from_tables(env.policy)(obs, np.random.default_rng(1))[0])
    assert obs.shape == (2, 300, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mdp": "rign"}, "mdp = 'rign' is no instance file, nor a graph family"),
        ({"mdp": UNEQUAL, "gamma": 0.95}, "gamma = 0.95, but .* discounts by 0.9; train with gamma=0.9"),
        ({"horizon": 0}, "horizon = 0; give at least 1 step"),
        ({"horizon": 2.5}, "horizon = 2.5"),
        ({"states": "two"}, "states = 'two'; this option of tabular must be of type int"),
        ({"n": 2}, "a ring needs at least 3 agents"),
        ({"nn": 2}, "did you mean 'n'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_env("tabular", 1, **options)


def test_sources_of_tasks():
    assert named_task(f"tabular:{UNEQUAL}") == ("tabular", {"mdp": UNEQUAL})
    with pytest.raises(ValueError, match=r"'catchup:x': give catchup \(tasks with one: tabular:MDP\)"):
        named_task("catchup:x")
    with pytest.raises(ValueError, match="'tabular:': give tabular:SOURCE"):
        named_task("tabular:")
    with pytest.raises(ValueError, match="did you mean 'tabular'"):
        named_task("tabula:ring")


def test_episodes_without_end_are_not_evaluated():
    env = make_env("tabular", 2, horizon=math.inf)
    with pytest.raises(ValueError, match="have no end to be measured at; give horizon=1000"):
        play(env, given(env), np.random.default_rng(0), np.random.default_rng(0))
