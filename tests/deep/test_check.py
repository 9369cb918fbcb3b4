"""What the checks of the learner rest on: their level, tables in the place of networks, data that follow the law."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gymnasium")

import torch

from dmpo_deep.check.learning import Levels, learn
from dmpo_deep.check.model import best_model
from dmpo_deep.check.setting import Setting, by_copy, states_heard
from dmpo_deep.check.statistics import mean_is_zero, no_deviation, within
from dmpo_deep.check.tables import (
    LocalTables,
    heard_by,
    local_observations,
    logits_of,
    on_joint,
    policy_of,
    seen_part,
    tabulated,
    widened,
)
from dmpo_deep.nets import LocalNets
from dmpo_deep.policies import Actor, Categorical
from dmpo_theory import occupancy
from dmpo_theory.bootstrap import advantage_continuation, rollout_target, settled_critic, step_targets
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.extended import JointLaw, uniform_law
from dmpo_theory.graph import path, ring, star
from dmpo_theory.instances import noisy_relay, random_mdp, random_policy
from dmpo_theory.mdp import on_joint_states


def drawn(graph, **options):
    mdp = random_mdp(graph, rng=3, **options)
    return mdp, random_policy(mdp, rng=4)


def weights(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_level_of_a_family_is_kept_and_a_shift_is_seen():
    rng = np.random.default_rng(0)
    names = [str(k) for k in range(20)]
    level, trials = 0.05, 400
    failed = [
        not mean_is_zero("", "", rng.exponential(size=(400, 20)) - 1, names, level, 1.0).passed for _ in range(trials)
    ]
    assert np.mean(failed) < level + 4 * math.sqrt(level / trials)
    assert np.mean(failed) > level / 5, "the test hardly ever fails: it has no power"
    shifted = rng.normal(size=(400, 20)) + 0.5 * (np.arange(20) == 7)
    finding = mean_is_zero("", "", shifted, names, 1e-4, 1.0)
    assert not finding.passed
    assert finding.where == "7"


def test_what_is_not_finite_fails_and_exact_zeros_pass():
    names = ["a", "b"]
    assert not no_deviation("", "", np.array([0.1, np.nan]), np.ones(2), 9, names, 1e-4, 1.0).passed
    assert not no_deviation("", "", np.array([0.1, 1.0]), np.array([1.0, 0.0]), 9, names, 1e-4, 1.0).passed
    assert no_deviation("", "", np.zeros(2), np.zeros(2), 9, names, 1e-4, 1.0).passed
    assert no_deviation("", "", np.full(2, 1e-4), np.zeros(2), 9, names, 1e-4, 1e3).passed, "single precision"
    assert no_deviation("", "", np.zeros(0), np.zeros(0), 9, [], 1e-4, 1.0).tests == 0
    assert within("", "", [(1e-12, 0.0, "a"), (1.0, 1.0, "b")], 1e-4, 1.0).passed
    assert not within("", "", [(1.01, 1.0, "a"), (0.5, 1.0, "b")], 1e-4, 1.0).passed
    assert not within("", "", [(0.1, 0.0, "a")], 1e-4, 1.0).passed


@pytest.mark.parametrize("kappa", [0, 1, 2])
def test_tables_say_what_the_network_says(kappa):
    mdp, _ = drawn(star(4), n_states=[2, 3, 1, 2])
    nets = LocalNets(mdp.graph, kappa, 3, 2, (8,), weights())
    tables = LocalTables(nets, mdp.n_states)
    tables.put(tabulated(nets, mdp))
    assert heard_by(nets) == [mdp.graph.neighbors(i, kappa) for i in range(mdp.n)] == tables.members
    obs = torch.from_numpy(local_observations(mdp, range(mdp.n)))
    np.testing.assert_allclose(tables(tables.gather(obs)).detach(), nets(nets.gather(obs)).detach(), atol=1e-6)


def test_tables_on_joint_states_and_back():
    mdp, _ = drawn(path(3), n_states=[2, 3, 2])
    members = [mdp.graph.neighbors(i) for i in range(3)]
    tables = [
        np.random.default_rng(i).normal(size=math.prod(mdp.n_states[j] for j in m)) for i, m in enumerate(members)
    ]
    lifted = on_joint(mdp, tables, members)
    for i, (table, seen) in enumerate(zip(tables, members, strict=True)):
        shaped = table.reshape([mdp.n_states[j] for j in seen])
        np.testing.assert_array_equal(lifted[i], on_joint_states(shaped, seen, mdp.n_states))
        np.testing.assert_array_equal(seen_part(mdp, lifted[i], seen), table)


def test_an_actors_policy_in_tables_is_the_one_it_plays():
    mdp, policy = drawn(ring(4), n_actions=[2, 3, 1, 2])
    actor = Actor(mdp.graph, 1, 2, Categorical(mdp.n_actions), (8,), weights(1))
    found = policy_of(actor, mdp)
    obs = local_observations(mdp, range(mdp.n))
    action, log_prob = actor(np.repeat(obs, 50, axis=0), np.random.default_rng(0))
    for i in range(mdp.n):
        table = np.repeat(on_joint_states(found.table[i], found.parents[i], mdp.n_states), 50, axis=0)
        played = table[np.arange(len(action)), action[:, i]]
        np.testing.assert_allclose(np.log(played), log_prob[:, i], atol=1e-6)
    tables = LocalTables(actor.net, mdp.n_states)
    tables.put(logits_of(widened(mdp, policy, tables.members)))
    actor.net = tables
    for table, again in zip(policy.table, policy_of(actor, mdp).table, strict=True):
        np.testing.assert_allclose(again, table, atol=1e-6)


def test_samples_follow_the_occupancy_and_parts_are_independent():
    mdp, policy = drawn(path(3), concentration=0.3)
    setting = Setting(mdp, policy, copies=2000, steps=5)
    data, again, other = setting.sample(0), setting.sample(0), setting.sample(1)
    np.testing.assert_array_equal(data.obs, again.obs)
    assert (data.obs != other.obs).any()
    state = np.ravel_multi_index(tuple(np.moveaxis(data.obs.argmax(axis=-1), -1, 0)), mdp.n_states)
    exact = occupancy(mdp, policy).law
    for step in range(5):
        share = np.bincount(state[step], minlength=8) / 2000
        assert (np.abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / 2000) + 1e-12).all()


def test_the_level_of_means_of_rare_events_is_kept_about():
    """At the cut, 400 expected events: skewed, but not by much."""
    rng, names, level, trials = np.random.default_rng(0), [str(k) for k in range(20)], 0.01, 400
    samples = ((rng.binomial(20, 0.01, size=(2000, 20)) - 0.2) / 20 for _ in range(trials))
    failed = [not mean_is_zero("", "", each, names, level, 0.0).passed for each in samples]
    assert np.mean(failed) < 3 * level + 4 * math.sqrt(level / trials)


def test_means_by_copy_and_state():
    values, where = np.arange(12.0).reshape(2, 3, 2), np.array([[[0, 1], [1, 1], [0, 0]], [[0, 0], [1, 0], [1, 1]]])
    expected = np.zeros((3, 2, 2))
    for t, b, i in np.ndindex(2, 3, 2):
        expected[b, i, where[t, b, i]] += values[t, b, i] / 2
    np.testing.assert_array_equal(by_copy(values, where, 2), expected)


def test_states_heard_are_numbered_in_the_order_of_the_theory():
    mdp, policy = drawn(ring(5), n_states=[2, 3, 2, 2, 3])
    setting = Setting(mdp, policy, copies=200, steps=3)
    data = setting.sample(0)
    tables = setting.agents(1).critic
    state = data.obs.argmax(axis=-1)
    for i, found in enumerate(np.moveaxis(states_heard(tables, data), -1, 0)):
        members = mdp.graph.neighbors(i)
        codes = np.ravel_multi_index(tuple(state[..., j] for j in members), [mdp.n_states[j] for j in members])
        np.testing.assert_array_equal(found, codes)


def simulated(mdp, policy, critics, lam, steps, cut):
    """Expected target (lam = 1) or advantage, by the recursion that training runs, in expectation."""
    chain = closed_loop(mdp, policy)
    rewards, matrix, gamma = chain.reward_functions(), chain.matrix, mdp.gamma
    total, following = 0, critics
    for left in range(1, steps + 1):
        ahead = critics if left == 1 else cut * critics + (1 - cut) * following
        following = rewards + gamma * ((1 - lam) * critics + lam * ahead) @ matrix.T
        total = total + following
    return total / steps


@pytest.mark.parametrize("cut", [0.0, 0.1])
def test_expected_targets_and_advantages_are_those_of_the_recursion(cut):
    mdp, policy = drawn(path(3))
    chain = closed_loop(mdp, policy)
    critics = np.random.default_rng(0).normal(size=(3, 8))
    gain, far = rollout_target(chain, mdp.gamma, 6, cut)
    np.testing.assert_allclose(gain + critics @ far.T, simulated(mdp, policy, critics, 1.0, 6, cut), atol=1e-12)
    for lam in (0.0, 0.7):
        follows = advantage_continuation(chain, mdp.gamma, lam, critics, 6, cut)
        expected = simulated(mdp, policy, critics, lam, 6, cut) - critics
        ours = chain.reward_functions() + mdp.gamma * follows @ chain.matrix.T - critics
        np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("law", ["uniform", "occupancy"])
def test_the_settled_critic_is_a_fixed_point_and_with_all_seen_the_value(law):
    mdp, policy = drawn(path(3))
    chain = closed_loop(mdp, policy)
    reference = uniform_law(mdp) if law == "uniform" else JointLaw(occupancy(mdp, policy).law)
    *_, (gain, far) = step_targets(chain, mdp.gamma, 4)
    values = np.linalg.solve(np.eye(8) - mdp.gamma * chain.matrix, chain.reward_functions().T).T
    np.testing.assert_allclose(settled_critic(mdp, gain[0], far, (0, 1, 2), reference), values[0], atol=1e-12)
    critic = settled_critic(mdp, gain[0], far, (0, 1), reference)
    mean = np.full(8, 1 / 8) if law == "uniform" else reference.probabilities
    target = (mean * (gain[0] + far @ critic)).reshape(4, 2).sum(axis=1) / mean.reshape(4, 2).sum(axis=1)
    np.testing.assert_allclose(critic.reshape(4, 2), np.repeat(target[:, None], 2, axis=1), atol=1e-12)


def test_the_best_model_by_enumeration_of_the_unseen():
    mdp, policy = drawn(path(3), n_states=[2, 3, 2])
    setting = Setting(mdp, policy)
    law, mass, reward = best_model(setting, 1, (1, 2))
    joint = setting.law.reshape(mdp.n_states)
    for own, right, a in np.ndindex(3, 2, 2):
        weight = joint[:, own, right] * policy.table[1][:, own, right, a]
        expected = (weight[:, None] * mdp.transition[1][:, own, right, a]).sum(axis=0) / weight.sum()
        np.testing.assert_allclose(law[2 * own + right, a], expected, atol=1e-12)
        assert mass[2 * own + right, a] == pytest.approx(weight.sum())
        assert reward[2 * own + right, a] == pytest.approx(mdp.reward[1][own, a])


def test_bits_of_the_relay_travel():
    mdp, _ = noisy_relay(5, noise=0.0)
    for i in range(5):
        members = mdp.graph.neighbors(i)
        for bits in np.ndindex(2, 2, 2):
            before, own = bits[members.index((i - 1) % 5)], bits[members.index(i)]
            assert mdp.transition[i][bits][0, before] == 1
            assert mdp.transition[i][bits][1, own] == 1
    with pytest.raises(ValueError, match=r"noise = 0.6 is outside"):
        noisy_relay(5, noise=0.6)


@pytest.mark.parametrize("algo", ["dppo", "dmpo"])
def test_learning_curves_are_exact_and_repeat(algo):
    options = {"mdp": "star", "n": 3, "concentration": 0.5}
    curve = learn(options, algo, 0, 1200, 400)
    assert curve == learn(options, algo, 0, 1200, 400)
    first = {"dppo": [400], "dmpo": []}[algo]  # a first rollout of 800 steps
    assert [step for step, _ in curve] == [0, *first, 800, 1200]
    assert curve[-1][1] > curve[0][1]


def test_the_share_of_the_gap():
    level = Levels(uniform=1.0, own_state=None, local=3.0, central=4.0)
    np.testing.assert_array_equal(level.share(np.array([1.0, 2.0, 3.0, 3.5])), [1.0, 0.5, 0.0, -0.25])
