"""Eqs. 7-10: targets, advantages and losses against hand-written loops and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep.envs import make_env
from dmpo_deep.nets import require_finite
from dmpo_deep.ppo import Agents, clipped_loss, lambda_return, minibatches, neighborhood_advantage, normalized
from dmpo_deep.presets import Preset
from dmpo_deep.rollout import rollout
from dmpo_theory.graph import erdos_renyi, ring, star

T, B, N = 12, 3, 4
GAMMA = 0.9


@pytest.fixture
def episode():
    """Random rewards, values and ends: ``reward, value, next_value [T, B, N]``, ``terminated, truncated [T, B]``."""
    rng = np.random.default_rng(2)
    reward, value, next_value = (torch.from_numpy(rng.normal(size=(T, B, N))) for _ in range(3))
    terminated = torch.from_numpy(rng.random((T, B)) < 0.2)
    truncated = torch.from_numpy(rng.random((T, B)) < 0.2) & ~terminated
    assert terminated.any()
    assert truncated.any()
    return reward, value, next_value, terminated, truncated


def test_target_is_the_discounted_reward_to_go_with_a_discounted_bootstrap(episode):
    reward, _, next_value, terminated, truncated = episode
    target = lambda_return(reward, next_value, terminated, truncated, GAMMA, lam=1.0)
    for b in range(B):
        for t in range(T):
            total, weight = torch.zeros(N), 1.0
            for k in range(t, T):
                total = total + weight * reward[k, b]
                weight *= GAMMA
                if terminated[k, b]:
                    break
                if truncated[k, b] or k == T - 1:
                    total = total + weight * next_value[k, b]
                    break
            torch.testing.assert_close(target[t, b], total)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_advantage_is_the_generalised_estimate(episode, lam):
    reward, value, next_value, terminated, truncated = episode
    # Inside an episode, next_value[t] and value[t + 1] are values of the same state.
    inside = ~(terminated | truncated)[:-1, :, None]
    next_value[:-1] = torch.where(inside, value[1:], next_value[:-1])
    advantage = lambda_return(reward, next_value, terminated, truncated, GAMMA, lam) - value
    for b in range(B):
        running = torch.zeros(N)
        for t in reversed(range(T)):
            residual = reward[t, b] + GAMMA * next_value[t, b] * (not terminated[t, b]) - value[t, b]
            running = residual + GAMMA * lam * running * (not (terminated[t, b] or truncated[t, b]))
            torch.testing.assert_close(advantage[t, b], running)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_constant_reward_is_worth_one_over_one_minus_gamma_through_time_limits(lam):
    value = 1 / (1 - GAMMA)
    reward, next_value = torch.ones(T, B, N), torch.full((T, B, N), value)
    truncated = torch.zeros(T, B, dtype=torch.bool)
    truncated[5] = True
    never = torch.zeros(T, B, dtype=torch.bool)
    torch.testing.assert_close(lambda_return(reward, next_value, never, truncated, GAMMA, lam), next_value)
    ended = lambda_return(reward, next_value, truncated, never, GAMMA, lam)
    torch.testing.assert_close(ended[5], reward[5])
    torch.testing.assert_close(ended[4], 1 + GAMMA * ((1 - lam) * next_value[4] + lam * reward[5]))


@pytest.mark.parametrize("kappa", [0, 1, 2, math.inf])
@pytest.mark.parametrize("graph", [ring(6), star(5), erdos_renyi(8, 0.3, np.random.default_rng(0))], ids=repr)
def test_neighbourhood_advantage_against_the_sum(graph, kappa):
    advantage = torch.randn(7, 2, graph.n, generator=torch.Generator().manual_seed(0))
    result = neighborhood_advantage(advantage, torch.from_numpy(graph.mask(kappa)))
    for i in range(graph.n):
        expected = sum(advantage[..., j] for j in graph.neighbors(i, kappa)) / graph.n
        torch.testing.assert_close(result[..., i], expected)


def test_normalisation_is_agent_by_agent():
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [10.0], [0.1]]) + 5
    y = normalized(x)
    torch.testing.assert_close(y.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(dim=1, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_surrogate_has_the_policy_gradient_at_the_old_policy():
    logits = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    action = torch.randint(4, (2, 30, 1), generator=torch.Generator().manual_seed(1))
    advantage = torch.randn(2, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    log_prob = torch.log_softmax(logits, dim=-1).gather(-1, action)[..., 0]
    [surrogate] = torch.autograd.grad(
        clipped_loss(log_prob, log_prob.detach(), advantage, 0.2).sum(), logits, retain_graph=True
    )
    [plain] = torch.autograd.grad(-(log_prob * advantage).mean(dim=1).sum(), logits)
    torch.testing.assert_close(surrogate, plain)
    assert surrogate.abs().max() > 1e-3


def test_surrogate_stops_paying_beyond_the_clip():
    old = torch.zeros(1, 1)
    for ratio, advantage, flat in ((1.5, 1.0, True), (1.5, -1.0, False), (0.5, -1.0, True), (0.5, 1.0, False)):
        log_prob = torch.tensor([[math.log(ratio)]], requires_grad=True)
        clipped_loss(log_prob, old, torch.tensor([[advantage]]), 0.2).sum().backward()
        assert (log_prob.grad.abs().max() == 0) == flat


@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.81, 1.1, 1.19, 1.21, 1.5])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_surrogate_and_its_slope_off_the_old_policy(ratio, advantage):
    """By hand: min(r A, clip(r) A) and its derivative r A in log-probability where the first is the smaller."""
    log_prob = torch.tensor([[math.log(ratio) - 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    old, both = torch.full((1, 2), -1.0, dtype=torch.float64), torch.tensor([[advantage, 0.0]], dtype=torch.float64)
    loss = clipped_loss(log_prob, old, both, 0.2).sum()
    loss.backward()
    follows = ratio <= 1.2 if advantage > 0 else ratio >= 0.8
    limit = ratio if follows else (1.2 if advantage > 0 else 0.8)
    assert loss.item() == pytest.approx(-limit * advantage / 2)
    assert log_prob.grad[0, 0].item() == pytest.approx(-ratio * advantage / 2 if follows else 0.0)


def test_estimates_tell_an_end_from_a_time_limit():
    """Three steps of two copies by hand: the first terminates after its second step, the other is cut there."""
    env = make_env("catchup", 2)
    preset = Preset(copies=2, rollout_steps=3, hidden=(8,), minibatches=1, gamma=0.5, lam=0.25, kappa_critic=1)
    agents = Agents(env, replace(preset, reward_scale=0.1), torch.Generator().manual_seed(0))
    env.reset(np.random.default_rng(0))
    data = rollout(env, agents.actor, 3, np.random.default_rng(0))
    data.terminated[1, 0], data.truncated[1, 1] = True, True
    value, following = (agents.values(torch.from_numpy(x)).double() for x in (data.obs, data.next_obs))
    reward = 0.1 * torch.from_numpy(data.reward).double()
    targets, residuals = torch.zeros(3, 2, 8).double(), torch.zeros(3, 2, 8).double()
    for b in range(2):
        last = reward[2, b] + 0.5 * following[2, b]
        middle = reward[1, b] + (0.0 if b == 0 else 0.5 * following[1, b])
        first = reward[0, b] + 0.5 * middle
        mixed = reward[0, b] + 0.5 * (0.75 * following[0, b] + 0.25 * middle)
        targets[:, b] = torch.stack([first, middle, last])
        residuals[:, b] = torch.stack([mixed, middle, last]) - value[:, b]
    expected = torch.zeros_like(residuals)
    for i in range(8):
        for j in {i - 1, i, i + 1} & set(range(8)):
            expected[..., i] += residuals[..., j] / 8
    target, advantage = agents.estimates(data)
    torch.testing.assert_close(target.double(), targets, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(advantage.double(), expected, atol=1e-6, rtol=1e-5)


def test_minibatches_partition_the_batch():
    parts = list(minibatches(103, 8, np.random.default_rng(0)))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(103))
    assert {len(part) for part in parts} == {12, 13}


def agents_and_data(task="catchup", **fields):
    env = make_env(task, 4)
    rng = np.random.default_rng(0)
    env.reset(rng)
    preset = replace(Preset(hidden=(16,), updates=1, minibatches=1, lr_actor=1e-2), **fields)
    agents = Agents(env, preset, torch.Generator().manual_seed(0))
    with torch.no_grad():
        agents.actor.net.bias[-1][..., 0] += 1.0
    return agents, rollout(env, agents.actor, 20, rng), rng


def mean_entropy(agents, data):
    with torch.no_grad():
        logs = agents.actor.log_probabilities(agents.actor.net.gather(torch.from_numpy(data.obs)))
    return torch.distributions.Categorical(logits=logs).entropy().mean()


def test_entropy_is_a_bonus():
    agents, data, rng = agents_and_data(entropy=1.0, normalize_advantage=False, reward_scale=1e-9)
    with torch.no_grad():
        for parameter in agents.critic.parameters():
            parameter.zero_()  # values and rewards of zero leave the entropy term alone
    before = mean_entropy(agents, data)
    agents.update(data, rng)
    assert mean_entropy(agents, data) > before + 1e-3


def test_update_prefers_the_actions_that_paid():
    agents, data, rng = agents_and_data(gamma=0.0, kappa_critic=0, entropy=0.0, updates=5)
    data = replace(data, reward=(data.action == 3).astype(np.float32))
    before = agents.actor.log_probabilities(agents.actor.net.gather(torch.from_numpy(data.obs)))[..., 3].mean()
    agents.update(data, rng)
    after = agents.actor.log_probabilities(agents.actor.net.gather(torch.from_numpy(data.obs)))[..., 3].mean()
    assert after > before + 0.1


def flat(net, i):
    return torch.cat([weight[i].flatten() for weight in net.parameters()]).detach()


def test_an_actor_stops_for_good_at_its_divergence_limit_and_its_critic_goes_on():
    ends = {}
    for updates, limit in ((1, 1e-9), (20, 1e-9), (20, math.inf)):
        agents, data, rng = agents_and_data(updates=updates, minibatches=2, kl_stop=limit)
        logged = agents.update(data, rng)
        assert agents.gradient_steps == 2 * updates
        assert logged["kl_stopped"] == pytest.approx(0.95 if limit < 1 < updates else 0.0)
        ends[updates, limit] = agents
    moments = [next(iter(a.actor_optimizer.state.values()))["exp_avg"] for a in ends.values()]
    assert torch.equal(moments[0], moments[1])
    one, stopped, free = ends.values()
    for i in range(8):
        assert torch.equal(flat(one.actor, i), flat(stopped.actor, i))
        assert not torch.equal(flat(one.actor, i), flat(free.actor, i))
        assert torch.equal(flat(stopped.critic, i), flat(free.critic, i))


def test_kl_is_that_of_the_updated_policies():
    agents, data, rng = agents_and_data(updates=1, minibatches=1)
    logged = agents.update(data, rng)
    with torch.no_grad():
        new = agents.actor.log_probabilities(agents.actor.net.gather(torch.from_numpy(data.obs)))
    action = torch.from_numpy(data.action).flatten(end_dim=1).T[..., None]
    change = new.gather(-1, action)[..., 0] - torch.from_numpy(data.log_prob).flatten(end_dim=1).T
    assert logged["kl"] == pytest.approx(float((change.exp() - 1 - change).mean()), rel=1e-4)
    assert logged["kl"] > 1e-6


def test_learning_is_local_even_when_some_agents_stop():
    """Rewards of vehicle 7 reach critics within kappa_critic of it and nobody else, whoever exceeds the limit."""
    ends = []
    for bonus in (0.0, 50.0):
        agents, data, rng = agents_and_data(
            updates=6, minibatches=2, kl_stop=4.6e-4, normalize_advantage=False, lr_actor=3e-3, reward_scale=1.0
        )
        reward = data.reward.copy()
        reward[..., 7] += bonus * (data.action[..., 7] == 1)
        logged = agents.update(replace(data, reward=reward), rng)
        assert 0 < logged["kl_stopped"] < 1
        ends.append((agents, logged["kl_stopped"]))
    (plain, stopped), (moved, more) = ends
    assert stopped != more, "the far reward must change who stops, or the test shows nothing"
    for i in range(8):
        hears = 7 - i <= plain.preset.kappa_critic
        assert torch.equal(flat(plain.actor, i), flat(moved.actor, i)) != hears
        assert torch.equal(flat(plain.critic, i), flat(moved.critic, i)) == (i != 7)


def test_weights_that_are_not_finite_are_reported():
    agents, data, rng = agents_and_data(lr_critic=1e30, updates=4)
    with pytest.raises(FloatingPointError, match=r"the loss of the critic is \w+, by agents \[0, 1"):
        agents.update(data, rng)
    with torch.no_grad():
        agents.critic.weight[0][3, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"weights of the critic are not finite any more for agents \[3\]"):
        require_finite("critic", agents.critic)


def test_bootstrap_is_detached():
    agents, data, _ = agents_and_data()
    assert not agents.values(torch.from_numpy(data.next_obs)).requires_grad


@pytest.mark.parametrize("task", ["catchup", "ring"])
@pytest.mark.parametrize(("fewest", "crews"), [(1, 1), (18, 3)])
def test_pieces_that_fit_the_cache_change_nothing_but_rounding(task, fewest, crews, monkeypatch):
    """Few samples of all agents at a time, and of some agents; also where some stop at their divergence limit."""
    ends = []
    for room in (2**30, 8 * 16 * 7):
        monkeypatch.setattr("dmpo_deep.ppo.IN_CACHE", room)
        monkeypatch.setattr("dmpo_deep.ppo.FEWEST", fewest)
        agents, data, rng = agents_and_data(task, updates=3, minibatches=3, entropy=0.1, kl_stop=0.02)
        if room < 2**30 and task == "catchup":
            assert len(agents.crews()) == crews
        ends.append((agents, agents.update(data, rng), agents.values(torch.from_numpy(data.obs))))
    (whole, logged, values), (pieces, same, again) = ends
    assert same == pytest.approx(logged, rel=1e-4, abs=1e-6)
    assert 0 < same["kl_stopped"] < 1
    torch.testing.assert_close(values, again, atol=1e-5, rtol=1e-4)
    for name in ("actor", "critic"):
        for a, b in zip(getattr(whole, name).parameters(), getattr(pieces, name).parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
