"""Every task keeps the contract: PettingZoo's test, spaces, determinism across processes, refusals, and no leak."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("gymnasium")

from gymnasium.spaces import Box

from dmpo_deep.conformance import examine
from dmpo_deep.conformance.findings import THEN
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.envs import ENVIRONMENTS, action_counts, make_env

UNEQUAL = str(Path(__file__).parents[1] / "data" / "unequal.instance.json")
SIMULATED = ("eight", "atsc")
VARIANTS = [
    ("catchup", {}),
    ("catchup", {"collision": "freeze"}),
    ("slowdown", {}),
    ("ring", {}),
    ("ring", {"observation": "local", "start": "bunched"}),
    ("ring", {"humans": 19, "warmup": 40}),
    ("eight", {"collision_rule": "ignore"}),
    ("eight", {"observation": "local", "graph": "conflict", "warmup": 20}),
    ("atsc", {"num_seconds": 150, "observation": "wave_and_phase"}),
    ("atsc", {"num_seconds": 150, "reward_fn": "queue", "lanes": "by_link", "min_green": 10}),
    ("tabular", {}),
    ("tabular", {"mdp": UNEQUAL, "horizon": 50}),
]
NAMES = [" ".join([task, *(f"{k}={v}" for k, v in options.items())]) for task, options in VARIANTS]
every_task = pytest.mark.parametrize(("task", "options"), VARIANTS, ids=NAMES)


def random_actions(env, rng):
    shape = (env.batch, env.graph.n)
    if not isinstance(env.action_space, Box):
        return rng.integers(action_counts(env), size=shape)
    return rng.uniform(-1, 1, (*shape, *env.action_space.shape))


@every_task
def test_pettingzoo_accepts_the_adapter(task, options):
    pytest.importorskip("pettingzoo")
    from pettingzoo.test import parallel_api_test

    from dmpo_deep.envs.pettingzoo import ParallelTask

    parallel_api_test(ParallelTask(task, **options), num_cycles=700)


@every_task
def test_the_adapter_says_what_the_environment_says(task, options):
    pytest.importorskip("pettingzoo")
    from dmpo_deep.envs.pettingzoo import ParallelTask

    adapter, env, rng = ParallelTask(task, **options), make_env(task, 1, **options), np.random.default_rng(0)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before"):
        adapter.step({})
    seen, _ = adapter.reset(seed=5)
    obs = env.reset(np.random.default_rng(5))
    for _ in range(env.horizon):
        np.testing.assert_array_equal(np.stack(list(seen.values())), obs[0])
        action = random_actions(env, rng)
        obs, reward, terminated, truncated, info = env.step(action)
        seen, rewards, ends, cuts, infos = adapter.step(dict(zip(adapter.agents, action[0], strict=True)))
        assert list(rewards.values()) == reward[0].tolist()
        assert set(ends.values()) == {bool(terminated[0])}
        assert set(cuts.values()) == {bool(truncated[0])}
        assert infos["agent_0"]["metric"] == info["metric"][0]
        if terminated[0] or truncated[0]:
            break
    assert adapter.agents == []
    adapter.reset()
    given = {agent: adapter.action_space(agent).sample() for agent in adapter.agents}
    with pytest.raises(ValueError, match="missing or unknown for agent_0"):
        adapter.step({agent: action for agent, action in given.items() if agent != "agent_0"})
    with pytest.raises(ValueError, match="missing or unknown for agent_99"):
        adapter.step(given | {"agent_99": given["agent_0"]})


COSTLY = (*THEN.keys() - {"numbers", "episodes", "arrays of its own"},)
"""What starts a simulator many times; tests of their own hold the simulators to it."""


@every_task
def test_the_checker_of_environments_finds_nothing(task, options):
    without = COSTLY if task in SIMULATED else ()
    found = examine(partial(make_env, task, **options), copies=3, steps=400, without=without)
    wrong = {f.check: f.said for f in found if f.verdict != "ok" and f.check not in ("scale", "episodes")}
    assert wrong == {}


TRACE = """
import hashlib, json, sys
import numpy as np
from tests.deep.test_conventions import VARIANTS, random_actions
from dmpo_deep.envs import make_env

digests = []
for task, options in VARIANTS:
    env, rng, digest = make_env(task, 2, **options), np.random.default_rng(int(sys.argv[1])), hashlib.sha256()
    digest.update(env.reset(rng).tobytes())
    fixed = np.random.default_rng(0)
    for _ in range(300):
        obs, reward, terminated, truncated, info = env.step(random_actions(env, fixed))
        for array in (obs, reward, terminated, truncated, info["metric"]):
            digest.update(array.tobytes())
        if (terminated | truncated).any():
            digest.update(env.reset(rng, terminated | truncated).tobytes())
    digests.append(digest.hexdigest())
print(json.dumps(digests))
"""


def traces(seed, hash_seed):
    variables = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", TRACE, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return json.loads(done.stdout)


def test_a_seed_is_the_same_trace_in_every_process_and_another_seed_another():
    once, again, other = traces(11, 1), traces(11, 2), traces(12, 1)
    assert once == again
    assert all(a != b for a, b in zip(once, other, strict=True))


BAD_DISCRETE = [
    (lambda a: a[:, :-1], r"actions have shape \(2, 7\); 8 agents in 2 copies need shape \(2, 8\)"),
    (lambda a: a[:1], r"need shape \(2, 8\)"),
    (lambda a: a.astype(float), "actions of type float64; give integers from 0 to 3"),
    (lambda a: np.where(a == a, np.nan, a), "actions of type float64"),
    (lambda a: a.astype(bool), "actions of type bool"),
    (lambda a: a + 4 * (np.arange(8) == 2), r"action [4-7] of agent 2 in copy 0 is out of range; give integers"),
    (lambda a: a - 9 * (np.arange(8) == 5), r"action -[6-9] of agent 5 in copy 0 is out of range"),
    (lambda a: a.tolist(), r"actions are a list; give a numpy array of shape \(2, 8\)"),
]
BAD_CONTINUOUS = [
    (lambda a: a[:, :-1], r"actions have shape \(2, 21, 1\); 22 agents in 2 copies need shape \(2, 22, 1\)"),
    (lambda a: a[..., 0], r"need shape \(2, 22, 1\)"),
    (lambda a: a.astype(int), "actions of type int64; give floating-point numbers"),
    (lambda a: a.astype(str), "actions of type"),
    (lambda a: a + 3.0 * (np.arange(22)[:, None] == 4), r"of agent 4 in copy 0 is out of range; give accelerations"),
    (lambda a: np.where(np.arange(22)[:, None] == 7, np.nan, a), r"action nan of agent 7 in copy 0 is out of range"),
    (lambda a: a * np.where(np.arange(22)[:, None] == 3, np.inf, 1), r"action -?inf of agent 3 in copy 0"),
]


@pytest.mark.parametrize(
    ("task", "spoil", "message"),
    [("catchup", *case) for case in BAD_DISCRETE] + [("ring", *case) for case in BAD_CONTINUOUS],
)
def test_actions_that_cannot_be_taken_are_refused_before_anything_moves(task, spoil, message):
    env, rng = make_env(task, 2), np.random.default_rng(3)
    env.reset(rng)
    good, before = random_actions(env, rng), env.state_dict()
    with pytest.raises(ValueError, match=message):
        env.step(spoil(good))
    after = env.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    env.step(good)


def test_only_the_original_takes_actions_beyond_the_limit_but_never_an_infinite_one():
    env = make_env("ring", 1, beyond_limit="clip")
    env.reset(np.random.default_rng(0))
    _, reward, *_ = env.step(np.full((1, 22, 1), 5.0))
    np.testing.assert_allclose(env.traffic().speed, 0.1)
    np.testing.assert_allclose(reward, 4 * 0.1 / 440 - 4 * 5 / 22)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=f"action {value} of agent 0"):
            env.step(np.full((1, 22, 1), value))


@every_task
def test_no_step_before_a_reset_or_after_the_end(task, options):
    env, rng = make_env(task, 2, **options), np.random.default_rng(0)
    with pytest.raises(RuntimeError, match=r"copies \[0, 1\] have ended or were never reset; reset"):
        env.step(random_actions(env, rng))
    env.reset(rng)
    ended = np.zeros(2, dtype=bool)
    while not ended.any():
        _, _, terminated, truncated, _ = env.step(random_actions(env, rng))
        ended = terminated | truncated
    with pytest.raises(RuntimeError, match="have ended or were never reset"):
        env.step(random_actions(env, rng))
    env.reset(rng, ended)
    env.step(random_actions(env, rng))


@pytest.mark.parametrize("task", ENVIRONMENTS)
def test_every_task_has_controllers_that_act_within_its_space(task):
    env = make_env(task, 2)
    for controller in CONTROLLERS[task].values():
        policy = controller.make(env)
        action, log_prob = policy(env.reset(np.random.default_rng(0)), np.random.default_rng(0))
        assert action.shape == (2, env.graph.n, *env.action_space.shape)
        assert log_prob.shape == (2, env.graph.n)
        env.step(action)
    env.close()


def memory():
    """Of this process and its workers, in MiB."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in processes) / 2**20


def soak(task, batch, steps, resets, **options):
    """Memory in MiB after a tenth of the work and after all of it."""
    env, rng = make_env(task, batch, **options), np.random.default_rng(0)
    used, obs, count = [], env.reset(rng), 0
    for part in range(10):
        for _ in range(resets // 10):
            env.reset(rng)
        while count < steps * (part + 1) // 10:
            obs, _, terminated, truncated, _ = env.step(random_actions(env, rng))
            count += env.batch
            if (ended := terminated | truncated).any():
                obs = env.reset(rng, ended)
        used.append(memory())
    assert np.isfinite(obs).all()
    env.close()
    return used[0], used[-1]


@pytest.mark.parametrize("batch", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", sorted(ENVIRONMENTS.keys() - set(SIMULATED)))
def test_a_thousand_resets_and_two_hundred_thousand_steps_leak_nothing(task, batch):
    early, late = soak(task, batch, steps=200_000, resets=1000)
    assert late - early < 4, f"{early:.1f} MiB after a tenth, {late:.1f} MiB after all"


@pytest.mark.parametrize("task", SIMULATED)
def test_simulators_leak_nothing_over_episodes(task):
    pytest.importorskip("libsumo")
    options = {"num_seconds": 100} if task == "atsc" else {"collision_rule": "ignore"}
    early, late = soak(task, 2, steps=4000, resets=40, **options)
    assert late - early < 12, f"{early:.1f} MiB after a tenth, {late:.1f} MiB after all"
