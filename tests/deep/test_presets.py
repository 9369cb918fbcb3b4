"""Hyper-parameters: Table I, and overrides that cannot go wrong silently."""

import dataclasses
import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from benchmarks.incentives import collision, discounted, driving, replaced, rewards, setting_out, tried
from benchmarks.standstill import from_start
from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.config import from_config, to_config
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import LATER, ModelPreset, Preset, RecurrentPreset
from dmpo_deep.presets import PRESETS, get_preset, override, paper_fields

TABLE_I = """
          catchup slowdown eight ring  atsc
lr_critic    3e-4     3e-4  5e-5 5e-4  5e-4
lr_actor     3e-4     3e-4  5e-5 5e-4  5e-4
lr_model     3e-4     3e-4  5e-4 5e-4  2e-4
hidden      64,64    64,64 64,64 64,64 128,128
hidden_model 16,16   16,16 16,16 16,16 64,64
kappa_critic    2        2     3    3     1
model_horizon  25       25    25   25    25
"""
"""As printed."""


def test_paper_preset_is_table_one():
    tasks, *rows = (line.split() for line in TABLE_I.strip().splitlines())
    for name, *cells in rows:
        for task, cell in zip(tasks, cells, strict=True):
            wanted = tuple(map(int, cell.split(","))) if "," in cell else float(cell)
            assert paper_fields(task)[name] == wanted, (task, name)
            preset = get_preset(task, "dmpo", "paper")
            assert getattr(preset, name) == wanted, (task, name)
            assert (preset.kappa_policy, preset.kappa_model) == (1, 1)


@pytest.mark.parametrize(("task", "algo"), PRESETS)
def test_every_preset_survives_json(task, algo):
    assert algo in ALGORITHMS
    for preset in PRESETS[task, algo].values():
        for changed in (preset, override(preset, {"lam": "1", "environment.collision": "freeze"})):
            stored = json.loads(json.dumps(to_config(changed), allow_nan=False))
            assert from_config(task, algo, stored) == changed


def test_overrides_take_the_type_of_the_field():
    changed = override(
        ModelPreset(),
        {"lr_actor": "1e-4", "hidden": "32,16", "updates": "3", "normalize_advantage": "False", "kappa_critic": "inf"}
        | {"environment.collision_scale": "0.5", "environment.collision": "freeze"},
    )
    assert changed.lr_actor == 1e-4
    assert changed.hidden == (32, 16)
    assert changed.updates == 3
    assert changed.normalize_advantage is False
    assert changed.kappa_critic == math.inf
    assert changed.environment == {"collision_scale": 0.5, "collision": "freeze"}


def test_an_override_that_changes_nothing_is_the_same_run():
    """A radius of 2, read as 2.0, would have another identity in ``results/``."""
    preset = get_preset("catchup", "dmpo")
    same = override(preset, {"kappa_critic": str(preset.kappa_critic), "kappa_model": str(preset.kappa_model)})
    assert json.dumps(to_config(same)) == json.dumps(to_config(preset))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_actr": "1"}, "did you mean 'lr_actor'"),
        ({"environment": "1"}, "unknown hyper-parameter 'environment'"),
        ({"updates": "2.5"}, "updates = '2.5' is not an integer"),
        ({"gamma": "high"}, "gamma = 'high' is not a number"),
        ({"hidden": "64;64"}, "hidden = '64;64' is not integers"),
        ({"normalize_advantage": "1"}, "is not true or false"),
        ({"gamma": "1"}, r"gamma = 1.0 is out of range; it must be in \[0, 1\)"),
        ({"lr_actor": "-1"}, "lr_actor = -1.0 is out of range"),
        ({"lr_actor": "nan"}, "lr_actor = nan is out of range"),
        ({"minibatches": "0"}, "minibatches = 0 is out of range"),
        ({"hidden": "0"}, "widths of at least 1"),
        ({"kappa_critic": "1.5"}, "kappa_critic: kappa = 1.5"),
        ({"kappa_policy": "-1"}, "kappa_policy: kappa = -1"),
        ({"minibatches": "601"}, "minibatches = 601 exceeds the 600 samples of an update"),
        ({"environment.gamma": "0.9"}, "environment.gamma is not yours to set; set gamma=VALUE instead"),
        ({"environment.batch": "2"}, "set copies=VALUE instead"),
        ({"environment.draws": "2"}, "environment.draws is not yours"),
    ],
)
def test_mistakes_name_key_value_and_remedy(values, message):
    with pytest.raises(ValueError, match=message):
        override(Preset(), values)


def test_minibatches_of_a_model_rollout_come_from_the_model_rollout():
    with pytest.raises(ValueError, match=r"exceeds the 50 samples .* branches \* model_horizon = 50 must grow"):
        ModelPreset(branches=10, model_horizon=5, minibatches=51)
    assert ModelPreset(branches=10, model_horizon=60, minibatches=600, copies=1, rollout_steps=10).minibatches == 600


@pytest.mark.parametrize("text", ["()" * 400, "[" * 5000, "\0", "{[]: 1}"])
def test_environment_options_of_any_shape_are_text(text):
    assert override(Preset(), {"environment.collision": text}).environment["collision"] == text


def test_paper_presets_spell_out_every_field():
    assert {f.name for f in dataclasses.fields(ModelPreset)} == set(paper_fields("ring"))


def test_the_same_task_and_idea_have_the_same_hyper_parameters():
    for task in ("catchup", "slowdown", "ring"):
        dppo, cppo = (get_preset(task, algo, "paper") for algo in ("dppo", "cppo"))
        assert dataclasses.replace(dppo, kappa_critic=math.inf) == cppo


def test_fields_that_came_later_do_not_change_what_a_run_is():
    preset = ModelPreset()
    for key, neutral in LATER.items():
        assert getattr(preset, key) == neutral
        assert key not in to_config(preset)
    more = dataclasses.replace(preset, real_rounds=2)
    assert to_config(more) == to_config(preset) | {"real_rounds": 2}
    for given in (preset, more):
        assert from_config("catchup", "dmpo", to_config(given)) == given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "missing or unknown: extra"),
        ({"gamma": None}, "gamma = None is not a number"),
        ({"hidden": [64, "x"]}, "is not integers"),
        ({"updates": True}, "updates = True is not an integer"),
        ({"environment": 3}, "environment = 3 is no table"),
        ({"gamma": 2}, "gamma = 2 is out of range"),
    ],
)
def test_stored_presets_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        from_config("catchup", "dppo", to_config(get_preset("catchup", "dppo")) | change)


@pytest.mark.parametrize(
    ("algo", "field"),
    [
        ("dppo", "model_horizon"),
        ("dmpo-true-model", "lr_model"),
        ("ia2c", "clip"),
        ("ic3net", "kappa_critic"),
        ("dppo", "value_weight"),
    ],
)
def test_algorithms_have_no_fields_that_they_do_not_read(algo, field):
    with pytest.raises(ValueError, match=f"unknown hyper-parameter '{field}'"):
        override(get_preset("catchup", algo), {field: "5"})


def test_a_rollout_that_the_buffer_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"buffer = 500 is too small for a rollout .* 600 joint transitions; raise it"):
        ModelPreset(buffer=500)


def test_sequences_are_not_divided():
    with pytest.raises(ValueError, match=r"minibatches = 9 exceeds the 8 samples .* or copies = 8 must grow"):
        RecurrentPreset(copies=8, minibatches=9)


def test_a_task_without_presets_of_an_algorithm_says_so():
    with pytest.raises(ValueError, match="no preset of dmpo-true-model on eight; eight has presets of cppo, dmpo"):
        get_preset("eight", "dmpo-true-model")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'tuned'"):
        get_preset("catchup", "dmpo", "tund")


@pytest.mark.parametrize("task", ["catchup", "slowdown"])
def test_crashing_at_once_is_never_the_best_thing_to_do(task):
    """Or else learning well means learning to crash: a fifth of the tail does it on slow-down, not on catch-up."""
    tuned = [presets["tuned"] for (on, _), presets in PRESETS.items() if on == task]
    for scale, gamma in {(preset.environment["collision_scale"], preset.gamma) for preset in tuned}:
        assert collision(task, scale, gamma) > 2 * driving(task, CONTROLLERS[task]["linear"].make, gamma)[0]
    assert collision("slowdown", 0.2) < driving("slowdown", CONTROLLERS["slowdown"]["linear"].make)[0]


def test_on_the_ring_driving_pays_beyond_a_discount_of_0_995_only():
    """Gaining u costs 40 u and brings at most 0.2 u / (1 - gamma); the paper's preset makes standing still best."""
    assert get_preset("ring", "dmpo", "paper").gamma == 0.99
    drives = rewards("ring", CONTROLLERS["ring"]["proportional-0.1"].make, 2, observation="local")
    assert discounted(drives, 0.99).mean() < 0 < discounted(drives, 0.998).mean()
    env, rng = make_env("ring", 3, length=270.0, gamma=0.99), np.random.default_rng(0)
    env.reset(rng)
    worth, best = np.zeros((3, 22)), -np.inf
    for step in range(300):
        action = rng.uniform(-0.1, 1, (3, 22, 1)) * np.exp(-step / np.array([10, 40, 100]))[:, None, None]
        worth += 0.995**step * env.step(action)[1]
        best = max(best, worth.max())
    assert best < 0


@pytest.mark.parametrize("gamma", [0.99, 0.998])
def test_among_cars_at_rest_one_that_sets_out_alone_loses(gamma):
    """It pays 4 |a|/22 for ever, and what it drives is at most its gap, 7.3 m, at 4/(20 * 22) a step and m/s."""
    own, neighborhood, each = setting_out(0.0, [gamma])[0]
    price = 0.05 * 4 / 22 * (1 - gamma**3000) / (1 - gamma)
    assert -price < own < -price + 4 / (20 * 22) * 7.3 / 0.1
    assert own == pytest.approx(neighborhood, abs=1e-12)
    assert own < 0
    if gamma > 0.995:
        assert each > 0 > own


def test_who_follows_a_leader_at_rest_drives_only_if_all_start_in_motion():
    def policy(obs, rng):
        follow = np.clip(3 * (obs[..., 2] - obs[..., 0]), -1, 1)
        return follow[..., None].astype(float), np.zeros(follow.shape, np.float32)

    options = {"observation": "local", "exploring_starts": 0.9}
    assert from_start(lambda env: policy, False, options) == (0.0, 0.0, 1.0)
    metric, speed, resting = from_start(lambda env: policy, True, options)
    assert metric > 500
    assert speed > 1
    assert resting < 0.3


def test_what_an_agent_would_gain_by_the_best_controller_is_told_from_what_it_tries():
    env, preset = make_env("slowdown", 64), get_preset("slowdown", "dppo")
    agents = ALGORITHMS["dppo"].population(env, preset, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(tried("slowdown", agents, steps=5), -math.log(4), atol=0.05)  # nearly uniform
    nobody, all_agents = np.zeros(8, bool), np.ones(8, bool)
    best, always = (CONTROLLERS["slowdown"][name].make(env) for name in ("linear", "always"))
    worth = replaced("slowdown", best, nobody)
    np.testing.assert_array_equal(replaced("slowdown", always, all_agents), worth)
    assert -worth.mean() == pytest.approx(driving("slowdown", CONTROLLERS["slowdown"]["linear"].make)[0])
    assert replaced("slowdown", always, np.arange(8) == 3)[3] != replaced("slowdown", always, nobody)[3]
