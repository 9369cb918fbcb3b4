"""Section IV: nobody hears beyond its radius: policies, critics and models, bit for bit."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from gymnasium.spaces import Box

from dmpo_deep.model import CategoricalModel, GaussianModel
from dmpo_deep.nets import LocalNets
from dmpo_deep.policies import Actor, Categorical, Gaussian
from dmpo_theory.graph import erdos_renyi, path, ring, star

D, ACTIONS, SAMPLES = 3, 4, 5
RNG = np.random.default_rng(0)
GRAPHS = {
    "ring": ring(7),
    "star": star(6),
    "path": path(5),
    "random": erdos_renyi(9, 0.25, np.random.default_rng(4)),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def policy_output(graph, kappa):
    actor = Actor(graph, kappa, D, Categorical((ACTIONS,) * graph.n), (16, 16), generator())
    return lambda obs: actor.log_probabilities(actor.net.gather(torch.from_numpy(obs))).detach().numpy().swapaxes(0, 1)


def continuous_policy_output(graph, kappa):
    head = Gaussian(graph.n, Box(-1, 1, (2,)), 0.5)
    actor = Actor(graph, kappa, D, head, (16, 16), generator())
    return lambda obs: actor.greedy(obs, RNG)[0]


def critic_output(graph, kappa):
    critic = LocalNets(graph, kappa, D, 1, (16,), generator())
    return lambda obs: critic(critic.gather(torch.from_numpy(obs))).detach().numpy().swapaxes(0, 1)


def model_output(graph, kappa):
    model = GaussianModel(graph, kappa, D, ACTIONS, (16, 16), 1e-3, generator())
    action = np.random.default_rng(9).integers(ACTIONS, size=(SAMPLES, graph.n))
    return lambda obs: np.concatenate([x.reshape(*action.shape, -1) for x in model.predict(obs, action, RNG)], axis=-1)


def categorical_output(graph, kappa):
    model = CategoricalModel(graph, kappa, D, ACTIONS, (16, 16), 1e-3, generator(), [2 + i % 2 for i in range(graph.n)])
    action = np.random.default_rng(9).integers(ACTIONS, size=(SAMPLES, graph.n))
    return lambda obs: np.concatenate([x.reshape(SAMPLES, graph.n, -1) for x in model.outcome(obs, action)], axis=-1)


OUTPUTS = (policy_output, continuous_policy_output, critic_output, model_output, categorical_output)


@pytest.mark.parametrize("kappa", [0, 1, 2, 3, math.inf])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize(
    "output", [policy_output, continuous_policy_output, critic_output, model_output, categorical_output]
)
def test_output_depends_on_the_neighbourhood_and_on_nothing_else(output, graph, kappa):
    function = output(graph, kappa)
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(SAMPLES, graph.n, D)).astype(np.float32)
    before, inside = function(obs), graph.mask(kappa)
    for j in range(graph.n):
        changed = obs.copy()
        changed[:, j] += rng.normal(size=(SAMPLES, D)).astype(np.float32)
        after = function(changed)
        for i in range(graph.n):
            same = np.array_equal(before[:, i], after[:, i])
            assert same != inside[i, j], f"agent {i}, changed agent {j}"


def test_a_model_hears_its_own_action_only():
    graph = GRAPHS["ring"]
    model = GaussianModel(graph, 2, D, ACTIONS, (16,), 1e-3, generator())
    obs = np.ones((SAMPLES, graph.n, D), dtype=np.float32)
    action = np.zeros((SAMPLES, graph.n), dtype=np.int64)
    other = action.copy()
    other[:, 3] = 2
    changed = (model.predict(obs, action, RNG)[0] != model.predict(obs, other, RNG)[0]).any(axis=(0, 2))
    assert changed.tolist() == [i == 3 for i in range(graph.n)]


def test_a_model_of_continuous_actions_hears_its_own_action_only():
    graph, rng = GRAPHS["ring"], np.random.default_rng(3)
    model = GaussianModel(graph, 2, D, 2, (16,), 1e-3, generator(), continuous=True)
    obs = np.ones((SAMPLES, graph.n, D), dtype=np.float32)
    action = rng.uniform(-1, 1, (SAMPLES, graph.n, 2)).astype(np.float32)
    other = action.copy()
    other[:, 3, 1] += 0.5
    changed = (model.predict(obs, action, RNG)[0] != model.predict(obs, other, RNG)[0]).any(axis=(0, 2))
    assert changed.tolist() == [i == 3 for i in range(graph.n)]


def test_padding_is_exactly_zero_and_neighbours_come_in_ascending_order():
    graph = star(4)
    net = LocalNets(graph, 1, 2, 1, (4,), generator())
    obs = torch.arange(1.0, 9.0).reshape(1, 4, 2)
    heard = net.gather(obs)
    assert heard.shape == (4, 1, 8)
    assert heard[2, 0].tolist() == [1.0, 2.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0]
    obs[0, 2] = torch.inf
    assert heard[1].isfinite().all()
    assert net.gather(obs)[2, 0, 4:].tolist() == [0.0] * 4


def test_stacked_networks_equal_separate_ones():
    graph = ring(4)
    net = LocalNets(graph, 1, D, 2, (8, 8), generator())
    inputs = torch.randn(4, SAMPLES, 3 * D, generator=generator(1))
    for i in range(4):
        x = inputs[i]
        for layer in range(3):
            x = x @ net.weight[layer][i] + net.bias[layer][i]
            x = x.relu() if layer < 2 else x
        torch.testing.assert_close(net(inputs)[i], x)


def test_actor_samples_its_own_distribution():
    actor = Actor(ring(3), 1, D, Categorical((ACTIONS,) * 3), (8,), generator())
    with torch.no_grad():
        actor.net.bias[-1][:] = torch.tensor([0.0, 1.0, 2.0, -1.0])
    obs = np.zeros((20_000, 3, D), dtype=np.float32)
    action, log_prob = actor(obs, np.random.default_rng(0))
    expected = torch.softmax(torch.tensor([0.0, 1.0, 2.0, -1.0]), dim=0).numpy()
    frequency = np.stack([(action == a).mean(axis=0) for a in range(ACTIONS)])
    np.testing.assert_allclose(frequency, np.repeat(expected[:, None], 3, axis=1), atol=0.015)
    np.testing.assert_allclose(np.exp(log_prob), expected[action], rtol=1e-5)
    assert (actor.greedy(obs, np.random.default_rng(0))[0] == 2).all()


def test_untrained_policies_are_nearly_uniform():
    actor = Actor(ring(5), 1, D, Categorical((ACTIONS,) * 5), (64, 64), generator())
    obs = np.random.default_rng(0).normal(size=(100, 5, D)).astype(np.float32)
    probability = np.exp(actor(obs, np.random.default_rng(0))[1])
    assert np.abs(probability - 1 / ACTIONS).max() < 0.02
