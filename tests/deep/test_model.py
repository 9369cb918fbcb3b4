"""Eqs. 5 and 11: the local models learn, and the environment they make ends where the real one does."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.controllers.cacc import uniform
from dmpo_deep.controllers.tabular import uniform as tabular_uniform
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.model import GaussianModel, ModelEnv, local_model
from dmpo_deep.rollout import Trajectory, rollout
from dmpo_theory.graph import path, ring

RNG = np.random.default_rng(0)
N, D, ACTIONS = 5, 2, 3


def linear_data(rng, steps=40, copies=50):
    """A stable linear networked system on a ring: neighbours push, the own action pushes, the reward is linear."""
    graph = ring(N)
    coupling = 0.1 * graph.mask(1) + 0.6 * np.eye(N)
    push = np.array([[-0.3, 0.2], [0.0, 0.0], [0.4, -0.1]])
    x = rng.normal(size=(copies, N, D)).astype(np.float32)
    rows = []
    for t in range(steps):
        action = rng.integers(ACTIONS, size=(copies, N))
        following = (np.einsum("ij,bjd->bid", coupling, x) + push[action]).astype(np.float32)
        reward = (x @ np.array([1.0, -2.0]) + action).astype(np.float32)
        never, index = np.zeros(copies, dtype=bool), np.full(copies, t)
        rows.append((x, action, np.zeros((copies, N)), reward, following, never, never, index, np.zeros(copies)))
        x = following
    return graph, Trajectory(*(np.stack(column) for column in zip(*rows, strict=True)))


def fitted(trajectory, graph, steps=600, period=None):
    model = GaussianModel(graph, 1, D, ACTIONS, (32,), 3e-3, torch.Generator().manual_seed(0), period=period)
    data = TransitionBuffer(10_000)
    data.add(trajectory)
    model.fit(data, steps, 128, np.random.default_rng(1))
    return model


def places_on_a_loop(rng, steps=60, copies=30):
    """Everybody goes round a loop of length 1 at a speed that actions change; the reward is the speed."""
    graph = ring(N)
    speed = rng.uniform(0.005, 0.02, size=(copies, N))
    place = rng.random((copies, N))
    rows = []
    for t in range(steps):
        action = rng.integers(ACTIONS, size=(copies, N))
        faster = np.clip(speed + 0.002 * (action - 1), 0.0, 0.03)
        x, following = (np.stack(pair, axis=-1) for pair in ((speed, place), (faster, (place + faster) % 1.0)))
        x, following = x.astype(np.float32), following.astype(np.float32)
        never, index = np.zeros(copies, dtype=bool), np.full(copies, t)
        reward = faster.astype(np.float32)
        rows.append((x, action, np.zeros((copies, N)), reward, following, never, never, index, np.zeros(copies)))
        speed, place = faster, (place + faster) % 1.0
    return graph, Trajectory(*(np.stack(column) for column in zip(*rows, strict=True)))


def test_a_place_on_a_loop_comes_round():
    graph, trajectory = places_on_a_loop(np.random.default_rng(0))
    _, fresh = places_on_a_loop(np.random.default_rng(1))
    wrong = {}
    for period in (None, np.array([np.inf, 1.0])):
        model = fitted(trajectory, graph, period=period)
        predicted = model.predict(fresh.obs.reshape(-1, N, D), fresh.action.reshape(-1, N), RNG)[0]
        off = np.abs(predicted - fresh.next_obs.reshape(-1, N, D))[..., 1]
        wrong[period is None] = np.sqrt((np.minimum(off, 1 - off) ** 2).mean())
        assert ((predicted[..., 1] >= 0) & (predicted[..., 1] <= 1)).all()
    assert wrong[False] < 0.002
    assert wrong[True] > 5 * wrong[False]
    assert model.open_loop_errors(fresh, 25)[-1] < 0.02
    assert model.one_step_error(fresh) < 0.1


def test_model_learns_a_linear_system_and_keeps_to_it_for_25_steps():
    graph, trajectory = linear_data(np.random.default_rng(0))
    _, fresh = linear_data(np.random.default_rng(1))
    model = fitted(trajectory, graph)
    assert model.one_step_error(fresh) < 0.01
    error = model.open_loop_errors(fresh, 25)[-1]
    assert error < 0.1 * fresh.obs[25:].std()
    flat = (fresh.obs.reshape(-1, N, D), fresh.action.reshape(-1, N))
    reward = model.predict(*flat, RNG)[1]
    assert np.abs(reward - fresh.reward.reshape(-1, N)).mean() < 0.15


def test_model_learns_what_continuous_actions_do():
    graph, data, fresh = ring(N), *(linear_data(np.random.default_rng(k))[1] for k in (0, 1))
    pushed = []
    for trajectory in (data, fresh):
        action = np.random.default_rng(2).uniform(-3, 3, (*trajectory.action.shape, D)).astype(np.float32)
        effect = 0.5 * action[..., ::-1]
        pushed.append(replace(trajectory, action=action, next_obs=trajectory.obs + effect))
    model = GaussianModel(graph, 1, D, D, (32,), 3e-3, torch.Generator().manual_seed(0), continuous=True)
    buffer = TransitionBuffer(10_000)
    buffer.add(pushed[0])
    model.fit(buffer, 600, 128, np.random.default_rng(1))
    assert model.one_step_error(pushed[1]) < 0.01
    np.testing.assert_allclose(model.action_scale[:, 0], np.full((N, D), 3 / np.sqrt(3)), rtol=0.1)


def test_predictions_stay_within_the_data():
    graph, trajectory = linear_data(np.random.default_rng(0))
    model = fitted(trajectory, graph, steps=20)
    far = np.full((1, N, D), 1e3, dtype=np.float32)
    obs, reward = model.predict(far, np.zeros((1, N), dtype=np.int64), RNG)
    assert (obs <= np.maximum(trajectory.obs, trajectory.next_obs).max(axis=(0, 1)) + 1e-5).all()
    assert (np.abs(reward) <= np.abs(trajectory.reward).max(axis=(0, 1)) + 1e-5).all()


def test_open_loop_errors_leave_out_windows_in_which_an_episode_ends():
    graph, trajectory = linear_data(np.random.default_rng(0), steps=10, copies=2)
    model = fitted(trajectory, graph, steps=5)
    trajectory.terminated[3, 0] = True
    trajectory.truncated[7, 1] = True
    assert model.open_loop_errors(trajectory, 5) is not None
    assert model.open_loop_errors(trajectory, 10) is None
    trajectory.terminated[:] = True
    assert model.open_loop_errors(trajectory, 5) is None


def test_charges_at_the_end_are_no_rewards_to_learn():
    graph, trajectory = linear_data(np.random.default_rng(0))
    trajectory.terminated[::7] = True
    trajectory.reward[::7] = -1e4
    model = fitted(trajectory, graph, steps=300)
    _, fresh = linear_data(np.random.default_rng(1))
    reward = model.predict(fresh.obs.reshape(-1, N, D), fresh.action.reshape(-1, N), RNG)[1]
    assert np.abs(reward - fresh.reward.reshape(-1, N)).mean() < 0.5


class Oracle:
    """In place of a model: predicts by a real platoon that starts from the same state."""

    def __init__(self, env):
        self.env = env

    def predict(self, obs, action, rng):
        np.testing.assert_array_equal(obs, self.env.observe())
        next_obs, reward, *_ = self.env.step(action)
        return next_obs, reward


def test_model_rollouts_end_where_and_at_the_price_the_real_ones_do():
    rng = np.random.default_rng(0)
    real, twin = make_env("catchup", 16), make_env("catchup", 16)
    real.reset(rng)
    twin.load_state_dict(real.state_dict())
    data = TransitionBuffer(100)
    first = rollout(twin, uniform(twin), 1, rng)
    data.add(first)
    twin.load_state_dict(real.state_dict())
    env = ModelEnv(Oracle(twin), real, data, 16, recent=16)
    env.reset(rng)
    env._obs, env._step = real.observe(), np.zeros(16, dtype=np.int64)
    gone = np.zeros(16, dtype=bool)
    for _ in range(2 * real.horizon):
        action = rng.integers(1, 4, size=(16, 8))
        _, reward, terminated, truncated, info = real.step(action)
        _, model_reward, model_terminated, model_truncated, model_info = env.step(action)
        np.testing.assert_array_equal(model_terminated, terminated)
        np.testing.assert_array_equal(model_truncated, truncated)
        np.testing.assert_array_equal(model_info["step"], info["step"])
        np.testing.assert_allclose(model_reward, reward)
        if (ended := terminated | truncated).any():
            real.reset(rng, ended)
            twin.load_state_dict(real.state_dict())
            env._obs, env._step = real.observe(), np.where(ended, 0, env._step)
            gone |= ended
    assert gone.all()


def test_branches_are_recent_real_states_and_only_marked_copies_restart():
    rng = np.random.default_rng(0)
    data = TransitionBuffer(1000)
    real = make_env("catchup", 4)
    real.reset(rng)
    data.add(rollout(real, uniform(real), 100, rng))
    obs, step = data.branch(500, recent=40, rng=rng)
    assert set(step) <= set(data["step"][-40:])
    stored = {row.tobytes() for row in data["obs"][-40:]}
    assert {row.tobytes() for row in obs} <= stored
    model = GaussianModel(real.graph, 1, 5, 4, (8,), 1e-3, torch.Generator().manual_seed(0))
    model.fit(data, 1, 16, rng)
    env = ModelEnv(model, real, data, 6, recent=40)
    before = env.reset(rng)
    after = env.reset(rng, np.array([True, False, True, False, False, False]))
    np.testing.assert_array_equal(before[[1, 3, 4, 5]], after[[1, 3, 4, 5]])


def test_buffer_keeps_the_newest():
    rng = np.random.default_rng(0)
    real = make_env("catchup", 2)
    real.reset(rng)
    data = TransitionBuffer(50)
    assert len(data) == 0
    with pytest.raises(ValueError, match="no real transition"):
        data.branch(1, 1, rng)
    for _ in range(3):
        data.add(rollout(real, uniform(real), 20, rng))
    assert len(data) == 50
    assert data["step"][-1] == 59


def test_data_without_a_reward_are_named():
    env = make_env("catchup", 1)
    obs = env.reset(np.random.default_rng(0))
    data = TransitionBuffer(10)
    step = np.zeros((1, 1), dtype=np.int64)
    ended = np.ones((1, 1), dtype=bool)
    zeros = np.zeros((1, 1, 8), dtype=np.float32)
    data.add(Trajectory(obs[None], zeros.astype(int), zeros, zeros, obs[None], ended, ~ended, step, zeros[..., 0]))
    model = GaussianModel(env.graph, 1, 5, 4, (8,), 1e-3, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="all 1 real transitions end the task"):
        model.fit(data, 1, 4, np.random.default_rng(0))


def held_out(share, steps=300, change=None, **options):
    graph, trajectory = linear_data(np.random.default_rng(0), steps=10, copies=20)
    data = TransitionBuffer(10_000)
    data.add(trajectory, share, np.random.default_rng(5) if share else None)
    if change is not None:
        change(data)
    model = GaussianModel(graph, 1, D, ACTIONS, (32,), 3e-3, torch.Generator().manual_seed(0), **options)
    return model, model.fit(data, steps, 64, np.random.default_rng(1)), data


def lie_of_the_first(data):
    """The better the model of agent 0, the worse it fits these."""
    held = data["held"]
    data["next_obs"][held, 0] = 2 * data["obs"][held, 0] - data["next_obs"][held, 0]


def lie_where_held(data):
    data["next_obs"][data["held"]] = 1e3


def nothing_to_learn(data):
    data["next_obs"][:] = np.random.default_rng(3).normal(size=data["next_obs"].shape)


def test_what_is_held_out_never_trains_nor_normalises():
    models = [held_out(0.3, steps=2, change=change) for change in (None, lie_where_held)]
    (honest, fit, data), (lied, other, _) = models
    assert 0.2 < data["held"].mean() < 0.4
    for a, b in zip(honest.parameters(), lied.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(honest.target_scale, lied.target_scale)
    assert torch.equal(honest.high, lied.high)
    assert other.holdout > 1e3 > fit.holdout


def test_the_held_out_error_is_the_mean_over_what_was_held_out():
    model, fit, data = held_out(0.3)
    rows = [data[name][data["held"]] for name in ("obs", "action", "next_obs", "reward")]
    obs, reward = model.predict(*rows[:2], RNG)
    scale = model.target_scale.numpy()[:, 0]
    error = np.concatenate([obs - rows[2], (reward - rows[3])[..., None]], axis=-1) / scale
    inside = (np.abs(obs - model.low.numpy()[:, 0, :D]) > 1e-6) & (np.abs(obs - model.high.numpy()[:, 0, :D]) > 1e-6)
    assert inside.mean() > 0.95  # predictions are kept within the data's range, the loss is not
    assert fit.holdout == pytest.approx((error**2).mean(), rel=0.05)


def test_fitting_stops_when_the_held_out_error_no_longer_falls():
    _, fit, _ = held_out(0.3, steps=1000, change=nothing_to_learn)
    assert fit.steps in range(400, 1000, 100)
    _, fit, _ = held_out(0.3, steps=100)
    assert fit.steps == 100
    _, fit, _ = held_out(0.0, steps=50)
    assert (fit.holdout, fit.steps) == (None, 50)


def test_what_an_agent_holds_out_stops_its_own_model_only():
    """The held-out lies of agent 0 stop its model early; those of all others are the same to the last bit."""
    (honest, fit, _), (lied, _, _) = (held_out(0.3, steps=100, change=c) for c in (None, lie_of_the_first))
    for a, b in zip(honest.parameters(), lied.parameters(), strict=True):
        assert torch.equal(a[1:], b[1:])
        assert not torch.equal(a[0], b[0])
    assert fit.steps == 100


def test_a_model_may_know_the_actions_of_those_it_hears():
    graph = ring(7)
    model = GaussianModel(graph, 2, D, ACTIONS, (16,), 1e-3, torch.Generator().manual_seed(0), neighbor_actions=True)
    obs = np.ones((4, 7, D), dtype=np.float32)
    action = np.zeros((4, 7), dtype=np.int64)
    other = action.copy()
    other[:, 3] = 2
    changed = (model.predict(obs, action, RNG)[0] != model.predict(obs, other, RNG)[0]).any(axis=(0, 2))
    assert changed.tolist() == [3 in graph.neighbors(i, 2) for i in range(7)]


def test_an_ensemble_predicts_by_one_of_its_members_and_errs_by_their_mean():
    model, _, data = held_out(0.0, steps=20, ensemble=3)
    obs, action = data["obs"][:50], data["action"][:50]
    members = model._outcome(obs, action).detach().numpy().transpose(0, 2, 1, 3)
    assert not np.allclose(members[0], members[1])
    rng, seen = np.random.default_rng(0), set()
    for _ in range(3):
        predicted, _ = model.predict(obs, action, rng)
        which = np.abs(members[..., :D] - predicted).max(axis=-1) < 1e-6
        assert which.any(axis=0).all()
        seen |= {tuple(row) for row in which.reshape(3, -1).T}
    assert len(seen) >= 3
    scale = model.target_scale.numpy()[:, 0, :D]
    expected = (((members.mean(axis=0)[..., :D] - data["next_obs"][:50]) / scale) ** 2).mean()
    assert model.error(obs, action, data["next_obs"][:50]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"ensemble": 3}, {"neighbor_actions": True}])
def test_models_of_finitely_many_states_have_the_same_options(options):
    env, rng = make_env("tabular", 8), np.random.default_rng(0)
    env.reset(rng)
    model = local_model(
        env, ModelPreset(hidden_model=(16,), lr_model=3e-3, **options), torch.Generator().manual_seed(0)
    )
    data = TransitionBuffer(5000)
    data.add(rollout(env, tabular_uniform(env), 300, rng), 0.2, rng)
    fit = model.fit(data, 200, 64, rng)
    held = data["held"]
    before, after = np.log(2), model.error(*(data[name][held] for name in ("obs", "action", "next_obs")))
    assert after < before
    assert fit.holdout is not None
    probability, _ = model.outcome(data["obs"][:9], data["action"][:9])
    np.testing.assert_allclose(probability.sum(axis=-1), 1, rtol=1e-5)


def test_model_loss_by_hand():
    """Two agents, two samples, the second terminal: its reward does not count, everything else is a squared error."""
    model = GaussianModel(path(2), 1, 1, 2, (4,), 1e-3, torch.Generator().manual_seed(0))
    outputs = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 0.0]]])
    error = model._error(outputs, torch.zeros(2, 2, 2), torch.tensor([True, False]))
    assert error.tolist() == [[[1.0, 4.0], [9.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]


def test_an_ensembles_loss_leaves_out_each_members_own_terminal_rewards():
    """Two agents, two members whose samples end at different places, by hand."""
    model = GaussianModel(path(2), 1, 1, 2, (4,), 1e-3, torch.Generator().manual_seed(0), ensemble=2)
    outputs = torch.ones(4, 2, 2)  # member by member: agents 0, 1 of member 0, then of member 1
    error = model._error(outputs, torch.zeros(4, 2, 2), torch.tensor([[True, False], [False, True]]))
    rewards = error[..., 1].tolist()
    assert rewards == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert (error[..., 0] == 1).all()


def test_categorical_loss_by_hand():
    """One sample of two agents with two states: minus the log-probability of what came, and the reward's error."""
    env = make_env("tabular", 1, mdp="path", n=2)
    model = local_model(env, ModelPreset(hidden_model=(4,)), torch.Generator().manual_seed(0))
    logits = torch.tensor([[[math.log(3.0), 0.0, 0.5]], [[0.0, 0.0, -1.0]]])
    codes = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    target = model._targets(codes, codes, torch.zeros(1, 2))
    error = model._error(logits, target, torch.tensor([True])).sum(dim=-1)
    square = (logits[..., -1:] - target[..., -1:]) ** 2
    np.testing.assert_allclose(error[0].item(), -math.log(0.75) + square[0].item(), rtol=1e-5)
    np.testing.assert_allclose(error[1].item(), -math.log(0.5) + square[1].item(), rtol=1e-5)


def test_the_buffer_keeps_the_order_of_time_and_branches_from_the_newest():
    _, trajectory = linear_data(np.random.default_rng(0), steps=6, copies=3)
    data = TransitionBuffer(12)
    data.add(trajectory)
    assert data["step"].tolist() == [2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    _, steps = data.branch(200, 4, np.random.default_rng(0))
    assert set(steps) == {4, 5}
