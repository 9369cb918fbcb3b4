"""Algorithm 1: what an epoch does, in which order and on which data; and that every network has its own step size."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep.dmpo import DMPO
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.rollout import Trajectory

PRESET = ModelPreset(
    copies=2,
    rollout_steps=20,
    warmup_steps=30,
    recent=12,
    branches=6,
    model_horizon=5,
    model_rounds=3,
    updates=2,
    minibatches=5,
    model_steps=4,
    model_batch=8,
    hidden=(8, 7),
    hidden_model=(6,),
    lr_actor=1e-3,
    lr_critic=2e-3,
    lr_model=3e-3,
)


def watched(learner, monkeypatch):
    """The calls that an epoch makes, in order: names and what they were given."""
    calls = []

    def watch(owner, method, name, note):
        original = getattr(owner, method)

        def call(*arguments):
            result = original(*arguments)
            calls.append((name, note(arguments, result)))
            return result

        monkeypatch.setattr(owner, method, call)

    watch(learner.collector, "collect", "collect", lambda given, real: real)
    watch(learner.data, "add", "add", lambda given, _: given[0])
    watch(learner.model, "fit", "fit", lambda given, _: len(given[0]))
    watch(learner.model_env, "reset", "branch", lambda given, obs: obs.copy() if len(given) == 1 else None)
    watch(learner.agents, "update", "update", lambda given, _: given[0])
    return calls


def test_an_epoch_is_algorithm_one(monkeypatch):
    learner = DMPO(make_env("catchup", 2), PRESET, seed=0)
    calls = watched(learner, monkeypatch)
    for epoch, (steps, known) in enumerate(((30, 60), (20, 100))):
        calls.clear()
        learner.epoch()
        main = [(name, what) for name, what in calls if not (name == "branch" and what is None)]
        assert [name for name, _ in main] == ["collect", "add", "fit", *["branch", "update"] * 3]
        real: Trajectory = main[0][1]
        assert real.obs.shape[:2] == (steps, 2)
        assert main[1][1] is real
        assert main[2][1] == known, "line 5 fits the models to all of D^E"
        assert learner.collector.env_steps == known
        newest = {state.tobytes() for state in learner.data["obs"][-12:]}
        everything = {state.tobytes() for state in learner.data["next_obs"]}
        for (_, starts), (_, imagined) in zip(main[3::2], main[4::2], strict=True):
            assert imagined.obs.shape[:2] == (5, 6), "line 10: T steps of M branches"
            np.testing.assert_array_equal(imagined.obs[0], starts)
            assert {state.tobytes() for state in starts} <= newest, "line 9: recent real states"
            assert not {state.tobytes() for state in imagined.next_obs.reshape(30, *starts.shape[1:])} & everything
        assert learner.agents.gradient_steps == (epoch + 1) * 3 * 2 * 5


def test_real_rounds_come_first_and_learn_from_the_rollout_at_hand(monkeypatch):
    learner = DMPO(make_env("catchup", 2), replace(PRESET, real_rounds=2), seed=0)
    calls = watched(learner, monkeypatch)
    log = learner.epoch()
    main = [(name, what) for name, what in calls if not (name == "branch" and what is None)]
    assert [name for name, _ in main] == ["collect", "add", "fit", "update", "update", *["branch", "update"] * 3]
    assert main[3][1] is main[4][1] is main[0][1]
    assert learner.agents.gradient_steps == (2 + 3) * 2 * 5
    plain = DMPO(make_env("catchup", 2), PRESET, seed=0).epoch()
    ratio = (2 + 3 * 6 * 5 / 60) / (3 * 6 * 5 / 60)
    assert log["floats_critic"] == pytest.approx(ratio * plain["floats_critic"])
    with pytest.raises(ValueError, match=r"minibatches = 41 exceeds the .* = 40 samples of a real round"):
        replace(PRESET, real_rounds=1, minibatches=41, branches=20)


def test_every_network_has_its_own_width_and_step_size():
    learner = DMPO(make_env("catchup", 2), PRESET, seed=0)
    for optimizer, rate in (
        (learner.agents.actor_optimizer, 1e-3),
        (learner.agents.critic_optimizer, 2e-3),
        (learner.model.optimizer, 3e-3),
    ):
        assert [group["lr"] for group in optimizer.param_groups] == [rate]
    for net, hidden in ((learner.agents.actor.net, [8, 7]), (learner.agents.critic, [8, 7]), (learner.model.net, [6])):
        assert [bias.shape[-1] for bias in net.bias][:-1] == hidden
    optimized = {id(p) for group in learner.model.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in learner.model.parameters()}


def test_resuming_is_exact_with_every_option_on():
    preset = replace(PRESET, holdout=0.2, ensemble=2, neighbor_actions=True, kl_stop=1e-9, updates=4)
    whole, parts, again = (DMPO(make_env("catchup", 2), preset, seed=1) for _ in range(3))
    whole.epoch()
    whole.epoch()
    parts.epoch()
    again.load_state_dict(parts.state_dict())
    logged = again.epoch()
    assert logged["kl_stopped"] > 0
    for old, new in ((whole.agents.actor, again.agents.actor), (whole.model, again.model)):
        for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
