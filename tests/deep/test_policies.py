"""Section IV-B: policies of continuous actions: their likelihood, entropy and bounds, by quadrature and by sampling."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from gymnasium.spaces import Box
from scipy import integrate, stats

from dmpo_deep.envs import make_env
from dmpo_deep.policies import Categorical, Gaussian, local_head
from dmpo_deep.ppo import Agents
from dmpo_deep.presets import Preset
from dmpo_deep.rollout import rollout

CASES = [(-1.0, 1.0, 0.0, 0.5), (-1.0, 1.0, 1.4, 0.3), (-3.0, 0.5, -2.0, 2.0), (0.0, 5.0, 6.0, 1.0)]
"""``low, high, mean, sd``, in units of the action."""


def head(low, high, mean, sd):
    """A head of one agent and one number, and the outputs that give this mean."""
    unit, center = (high - low) / 2, (high + low) / 2
    made = Gaussian(1, Box(low, high, (1,), np.float64), sd / unit).double()
    made.log_sd.data.fill_(math.log(sd / unit))  # beyond single precision
    return made, torch.full((1, 1, 1), (mean - center) / unit, dtype=torch.float64)


def likelihood(made, outputs, action):
    points = torch.tensor(action, dtype=torch.float64).reshape(1, -1, 1)
    return made.evaluate(outputs.expand(1, points.shape[1], 1), points)[0][0].exp().detach().numpy()


@pytest.mark.parametrize("case", CASES)
def test_density_inside_and_atoms_at_the_bounds_make_one(case):
    low, high, mean, sd = case
    made, outputs = head(*case)
    inside = np.linspace(low, high, 9)[1:-1]
    np.testing.assert_allclose(likelihood(made, outputs, inside), stats.norm(mean, sd).pdf(inside), rtol=1e-9)
    atoms = likelihood(made, outputs, [low, high])
    np.testing.assert_allclose(atoms, [stats.norm(mean, sd).cdf(low), stats.norm(mean, sd).sf(high)], rtol=1e-9)
    between, _ = integrate.quad(lambda a: likelihood(made, outputs, [a])[0], low + 1e-12, high - 1e-12, epsabs=1e-11)
    assert between + atoms.sum() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_entropy_is_the_mean_surprise(case):
    low, high, *_ = case
    made, outputs = head(*case)

    def surprise(p):
        return -p * math.log(p) if p > 0 else 0.0

    between, _ = integrate.quad(lambda a: surprise(likelihood(made, outputs, [a])[0]), low + 1e-12, high - 1e-12)
    expected = between + sum(map(surprise, likelihood(made, outputs, [low, high])))
    _, entropy = made.evaluate(outputs, torch.zeros(1, 1, 1, dtype=torch.float64))
    assert entropy.item() == pytest.approx(expected, abs=1e-7)


def test_entropy_without_bounds_is_the_normal_distributions():
    made = Gaussian(2, Box(-np.inf, np.inf, (3,)), 0.7)
    log_prob, entropy = made.evaluate(torch.zeros(2, 5, 3), torch.ones(2, 5, 3))
    np.testing.assert_allclose(entropy.detach(), np.full((2, 5), 3 * stats.norm(0, 0.7).entropy()), rtol=1e-6)
    np.testing.assert_allclose(log_prob.detach(), np.full((2, 5), 3 * stats.norm(0, 0.7).logpdf(1)), rtol=1e-6)
    (log_prob.sum() + entropy.sum()).backward()
    assert made.log_sd.grad.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_the_mean_score_is_zero(case):
    """E[grad log pi] = 0, the identity that policy gradients rest on: it fails for the density of clipped actions."""
    low, high, *_ = case
    made, outputs = head(*case)
    outputs.requires_grad_()

    def score(a):
        point = torch.tensor([[[a]]], dtype=torch.float64)
        log_prob, _ = made.evaluate(outputs, point)
        grads = torch.autograd.grad(log_prob.sum(), (outputs, made.log_sd))
        return float(log_prob.detach().exp()), [float(g) for g in grads]

    for k in range(2):
        between, _ = integrate.quad(lambda a, k=k: score(a)[0] * score(a)[1][k], low + 1e-12, high - 1e-12)
        atoms = sum(p * g[k] for p, g in map(score, (low, high)))
        assert between + atoms == pytest.approx(0, abs=1e-7)
        assert abs(atoms) > 1e-3 or abs(between) < 1e-3


def test_samples_follow_the_likelihood_that_they_report():
    low, high, mean, sd = -1.0, 1.0, 0.6, 0.5
    made, outputs = head(low, high, mean, sd)
    action, log_prob = made.float().sample(outputs.float().expand(1, 40_000, 1).detach(), np.random.default_rng(0))
    action = action[:, 0, 0]
    assert (action == 1).mean() == pytest.approx(stats.norm(mean, sd).sf(1), abs=0.01)
    assert (action == -1).mean() == pytest.approx(stats.norm(mean, sd).cdf(-1), abs=0.01)
    middle = action[(action > -1) & (action < 1)]
    truncated = stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)
    assert stats.kstest(middle, truncated.cdf).pvalue > 0.01
    expected = np.where(action == 1, stats.norm(mean, sd).logsf(1), stats.norm(mean, sd).logpdf(action))
    expected = np.where(action == -1, stats.norm(mean, sd).logcdf(-1), expected)
    np.testing.assert_allclose(log_prob[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.7, 1.0])
def test_no_action_exceeds_the_environments_limit_by_a_rounding(limit):
    env, rng = make_env("ring", 2, limit=limit), np.random.default_rng(0)
    env.reset(rng)
    made = local_head(env, 5.0)
    for _ in range(20):
        action, _ = made.sample(torch.zeros(22, 2, 1), rng)
        env.step(action)  # refuses what is beyond
        assert np.abs(action.astype(np.float64)).max() == pytest.approx(limit)


def test_greedy_actions_are_the_means_within_the_bounds():
    made, outputs = head(-1.0, 1.0, 0.25, 0.5)
    assert made.mode(outputs)[0].item() == pytest.approx(0.25)
    made, outputs = head(-1.0, 1.0, 4.0, 0.5)
    assert made.mode(outputs)[0].item() == 1.0


def test_actions_that_are_no_vector_are_refused():
    with pytest.raises(ValueError, match=r"actions of shape \(2, 2\); policies are learned for shape \(k,\)"):
        Gaussian(3, Box(-1, 1, (2, 2)), 0.5)


def ring_agents(**fields):
    env, rng = make_env("ring", 4, observation="local"), np.random.default_rng(0)
    env.reset(rng)
    agents = Agents(env, replace(Preset(hidden=(16,), minibatches=2), **fields), torch.Generator().manual_seed(0))
    return agents, rollout(env, agents.actor, 30, rng), rng


def test_update_moves_continuous_policies_to_what_paid():
    agents, data, rng = ring_agents(gamma=0.0, kappa_critic=0, entropy=0.0, updates=30, lr_actor=1e-2)
    data = replace(data, reward=-np.abs(data.action[..., 0] - 0.4).astype(np.float32))
    before = agents.actor.greedy(data.obs[0], rng)[0]
    agents.update(data, rng)
    after = agents.actor.greedy(data.obs[0], rng)[0]
    assert np.abs(before).max() < 0.1
    assert (after > before).all()
    assert after.mean() > 0.15


def test_first_surrogate_of_a_batch_has_ratio_one():
    agents, data, rng = ring_agents(updates=1, minibatches=1)
    logged = agents.update(data, rng)
    assert logged["clip_fraction"] == 0
    heard = agents.actor.net.gather(torch.from_numpy(data.obs))
    assert heard.shape == (22, 120, 9)


class Last:
    """A generator that draws the largest number below 1."""

    def random(self, shape):
        return np.full(shape, np.nextafter(1.0, 0.0))


def test_an_action_that_an_agent_does_not_have_is_never_drawn():
    """Probabilities in single precision need not sum to 1, and what is missing must not fill the gap."""
    made = Categorical([2, 4, 1])
    outputs = torch.randn(3, 2000, 4, generator=torch.Generator().manual_seed(0))
    action, log_prob = made.sample(outputs, Last())
    assert (action == np.array([1, 3, 0])).all()
    assert np.isfinite(log_prob).all()
    assert (log_prob > -100).all()
    exact = made.log_probabilities(outputs).exp()[0, :4, 0].numpy()
    rng = np.random.default_rng(0)
    share = np.mean([made.sample(outputs[:, :4], rng)[0][:, 0] == 0 for _ in range(4000)], axis=0)
    np.testing.assert_allclose(share, exact, atol=0.04)
