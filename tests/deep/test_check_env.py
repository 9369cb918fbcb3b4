"""The checker of environments: a good one passes, and every mistake is found by the check that is made for it."""

import random
import re
from functools import partial

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from gymnasium.spaces import Box, Discrete

from dmpo_deep import cli
from dmpo_deep.conformance import examine
from dmpo_deep.conformance.findings import CHECKS
from dmpo_deep.envs import Environment
from dmpo_deep.envs.validate import require_discrete, require_running
from dmpo_theory.graph import path


class Heat(Environment):
    """Four rods in a row, each warmed by its own heater, its neighbours and chance; it may burn through."""

    action_space, observation_space = Discrete(2), Box(-4, 4, (1,), np.float32)
    horizon, graph, reach = 12, path(4), 1
    measures = ("warmth",)

    def __init__(self, batch, *, draws=None):
        self.batch = batch
        self.warm, self.time = np.zeros((batch, 4)), np.full(batch, 12)
        self.noise = np.random.default_rng(0)

    def reset(self, rng, where=None):
        if where is None:
            self.noise, where = np.random.default_rng(rng.integers(2**63)), np.ones(self.batch, dtype=bool)
        start = self.noise.uniform(-0.5, 0.5, (self.batch, 4))
        self.warm, self.time = np.where(where[:, None], start, self.warm), np.where(where, 0, self.time)
        return self.observe()

    def observe(self):
        return self.warm[..., None].astype(np.float32)

    def step(self, action):
        require_running(self.time >= 12)
        require_discrete(action, (self.batch, 4), 2)
        padded = np.pad(self.warm, ((0, 0), (1, 1)), mode="edge")
        spread = 0.1 * (padded[:, 2:] + padded[:, :-2] - 2 * self.warm)
        warm = self.warm + spread + 0.3 * action - 0.1 + 0.05 * self.noise.standard_normal((self.batch, 4))
        self.warm = np.clip(warm, -4, 4)
        step, self.time = self.time, self.time + 1
        terminated, charge = self.termination(self.observe(), step)
        reward = np.where(terminated[:, None], charge[:, None], -np.abs(self.warm))
        truncated = (self.time >= 12) & ~terminated
        self.time = np.where(terminated, 12, self.time)
        info = {"metric": reward.mean(axis=1), "step": step, "collided": np.zeros(self.batch, dtype=bool)}
        return self.observe(), reward, terminated, truncated, info | {"warmth": self.warm.mean(axis=1)}

    def termination(self, next_obs, step):
        return (next_obs[..., 0] > 1).any(axis=1), np.full(len(next_obs), -3.0)


def stepping(change):
    """A heater whose step is changed: ``change(env, action, super().step)``."""

    class Changed(Heat):
        def step(self, action):
            return change(self, action, super().step)

    return Changed


def returning(position, change):
    """A heater that returns something else in one place."""

    def changed(env, action, step):
        out = list(step(action))
        out[position] = change(env, out[position])
        return tuple(out)

    return stepping(changed)


def told(**entries):
    return returning(4, lambda env, info: info | {name: value(env, info) for name, value in entries.items()})


class GlobalDraws(Heat):
    def reset(self, rng, where=None):
        np.random.rand()  # noqa: NPY002
        return super().reset(rng, where)


class PythonDraws(Heat):
    def step(self, action):
        self.warm = self.warm + 1e-3 * random.random()
        return super().step(action)


class Unseeded(Heat):
    def reset(self, rng, where=None):
        return super().reset(np.random.default_rng(), where)


class Hot(Heat):
    def observe(self):
        return super().observe() + 9 * (np.arange(4) == 2)[:, None].astype(np.float32)


class ResetsAll(Heat):
    def reset(self, rng, where=None):
        return super().reset(rng, None if where is not None and where.any() else where)


class Marks(Heat):
    def reset(self, rng, where=None):
        out = super().reset(rng, where)
        if where is not None:
            where[:] = False
        return out


class Shares(Heat):
    observation_space = Box(-4, 4, (1,), np.float32)

    def __init__(self, batch, *, draws=None):
        super().__init__(batch)
        self.seen = np.zeros((batch, 4, 1), dtype=np.float32)

    def observe(self):
        self.seen[...] = self.warm[..., None]
        return self.seen


class Leads(Heat):
    """What it returns is the state itself."""

    def step(self, action):
        *out, info = super().step(action)
        return *out, info | {"all": self.warm}


class Forgets(Heat):
    def state_dict(self):
        state = super().state_dict()
        del state["noise"]
        return state


class SavesObjects(Heat):
    def state_dict(self):
        return {"me": self}


class Far(Heat):
    """Its heaters warm everybody's rod."""

    def step(self, action):
        out = super().step(action)
        self.warm = self.warm + 0.01 * action.sum(axis=1, keepdims=True)
        return self.observe(), *out[1:]


class Accepts(Heat):
    def step(self, action):
        if not isinstance(action, np.ndarray) or action.shape != (self.batch, 4) or (action > 1).any():
            action = np.zeros((self.batch, 4), dtype=int)
        self.time = np.minimum(self.time, 11)
        return super().step(action)


class Endless(Heat):
    def termination(self, next_obs, step):
        return np.zeros(len(next_obs), dtype=bool), np.zeros(len(next_obs))

    def step(self, action):
        out = list(super().step(action))
        out[2] = (self.warm > 1).any(axis=1)
        out[3] = out[3] & ~out[2]
        self.time = np.where(out[2], 12, self.time)
        return tuple(out)


class Impure(Heat):
    def termination(self, next_obs, step):
        self.warm = self.warm * 1.01
        return super().termination(next_obs, step)


def mixes(env, action, step):
    out = step(action)
    env.warm = env.warm + 1e-3 * action.mean()
    return env.observe(), *out[1:]


def overwrites(env, action, step):
    out = step(action)
    action[0, 0] = 1 - action[0, 0]
    return out


BROKEN = {
    "members": [
        (type("Bare", (), {"__init__": lambda self, batch: None}), "without graph, batch, action_space"),
        (type("Text", (Heat,), {"graph": "path"}), "graph is 'path'; it must be AgentGraph"),
        (type("Zero", (Heat,), {"horizon": 0}), "horizon = 0; give the steps"),
        (lambda batch: Heat(batch + 1), "batch = 5 for 4 copies"),
    ],
    "spaces": [
        (type("Square", (Heat,), {"observation_space": Box(-4, 4, (2, 2), np.float32)}), r"shape \(2, 2\).*flatten"),
        (type("Double", (Heat,), {"observation_space": Box(-4, 4, (1,), np.float64)}), "type float64; make it"),
        (type("One", (Heat,), {"action_space": Discrete(2, start=1)}), "action_space starts at 1"),
        (type("States", (Heat,), {"n_states": (2, 2, 2, 2)}), r"n_states = \(2, 2, 2, 2\) with 4 agents"),
    ],
    "shapes and types": [
        (returning(0, lambda env, x: x.astype(float)), "observations of a step: type float64; make it float32"),
        (returning(1, lambda env, x: x[:, :3]), r"rewards of a step: shape \(4, 3\); it must be \(4, 4\)"),
        (returning(2, lambda env, x: x.astype(int)), "terminated of a step: type int64; make it bool"),
        (returning(3, lambda env, x: x.tolist()), "truncated of a step is a list"),
        (returning(4, lambda env, x: {"step": x["step"]}), "info has no 'metric'"),
        (stepping(lambda env, action, step: step(action)[:4]), "step returned tuple; give"),
    ],
    "numbers": [
        (Hot,
         r"observation .* of agent 2 in copy 0, feature 0, after 0 steps is outside of observation_space \[-4, 4\]"),
        (returning(1, lambda env, x: np.where(np.arange(4) == 3, np.nan, x)), "reward nan of agent 3 in copy 0"),
        (told(warmth=lambda env, info: np.full(4, np.inf)), "warmth inf of copy 0 at step 0 is not finite"),
    ],
    "episodes": [
        (returning(3, lambda env, x: x | (env.time == 5)), None),
        (stepping(lambda env, action, step: (*(o := step(action))[:2], o[2] | o[3], o[2] | o[3], o[4])), "both termin"),
        (told(step=lambda env, info: info["step"] + 1), r"info\['step'\] of copy 0 is 1 in step 0"),
        (type("Long", (Heat,), {"horizon": 7}), "goes on after 7 steps, its horizon; set truncated there"),
    ],
    "determinism": [(Unseeded, "two resets with one seed differ; draw everything from the generator")],
    "global randomness": [
        (GlobalDraws, "drew from the global generator of numpy.random"),
        (PythonDraws, "drew from the global generator of random"),
    ],
    "copies apart": [(stepping(mixes), "observation of agent 0 in copy 0 at step 0 depends on what other copies did")],
    "reset of some copies": [
        (ResetsAll, r"of copy 1 changed the observation of agent 0 in copy 0; leave it alone"),
        (Marks, "reset changed the mask"),
    ],
    "arrays of its own": [
        (Shares, "that step 0 returned has changed by step 1; return copies"),
        (Leads, "whoever writes into a returned array changes the environment: observation of agent 0 in copy 0"),
        (stepping(overwrites), "step changed the action that it was given, at agent 0 in copy 0"),
    ],
    "saved states": [
        (Forgets, "a loaded state goes on otherwise than the one that was saved: observation of agent 0 in copy 0"),
        (SavesObjects, r"state_dict\(\)\['me'\] is a SavesObjects; checkpoints hold"),
    ],
    "termination()": [(Impure, r"termination\(\) changed the environment")],
    "reach of actions": [(Far, "observation of agent 3 changes with the action of agent 0 in step 0, 3 hops away")],
}  # fmt: skip
CASES = [(check, *case) for check, cases in BROKEN.items() for case in cases]
quick = partial(examine, steps=60)


def test_a_good_environment_passes_every_check():
    found = {f.check: f for f in quick(Heat)}
    assert tuple(found) == CHECKS
    assert {f.verdict for f in found.values()} == {"ok"}, found
    assert "observations 1 hops away, rewards 1 hops away, as claimed: 1" in found["reach of actions"].said or (
        "observations 0 hops away" in found["reach of actions"].said
    )


@pytest.mark.parametrize(("check", "make", "message"), CASES)
def test_every_mistake_is_found_where_it_is(check, make, message):
    found = {f.check: f for f in quick(make)}
    if message is None:  # an early limit is no mistake: horizon is that of the longest episode
        assert found[check].verdict == "ok"
        return
    assert found[check].verdict == "FAILED", found
    assert re.search(message, found[check].said), found[check].said


def test_what_is_worth_knowing_is_no_failure():
    found = {f.check: f for f in quick(Accepts)}
    assert found["refusals"].verdict == "note"
    assert "an action beyond the last one" in found["refusals"].said
    found = {f.check: f for f in quick(Endless)}
    assert found["termination()"].verdict == "note"
    assert "never end; say from next_obs" in found["termination()"].said
    found = {f.check: f for f in quick(returning(1, lambda env, x: 1000 * x))}
    assert "train with --set reward_scale=" in found["scale"].said


def test_an_exception_says_where_and_what_rests_on_it_is_skipped():
    def fall(env, action, step):
        raise KeyError("nothing")

    found = {f.check: f for f in quick(stepping(fall))}
    assert found["shapes and types"].verdict == "FAILED"
    assert "it raised KeyError: 'nothing' (" in found["shapes and types"].said
    assert "test_check_env.py, line" in found["shapes and types"].said
    assert found["numbers"].verdict == "skipped"


def test_the_command(tmp_path, capsys):
    assert cli.main(["check-env", f"{__file__}:Heat", "--steps", "40"]) == 0
    out = capsys.readouterr().out
    assert "numbers               ok" in out
    assert out.splitlines()[-1].endswith(":Heat)")
    assert cli.main(["check-env", f"{__file__}:Forgets", "--steps", "40"]) == 1
    said = capsys.readouterr()
    assert "saved states          FAILED" in said.out
    assert "1 of 16 checks of" in said.err
    assert cli.main(["check-env", f"{__file__}:Heet"]) == 2
    assert "did you mean 'Heat'" in capsys.readouterr().err
    assert cli.main(["check-env", "catchup", "--copies", "1"]) == 2
    assert "copies = 1; it must be at least 2" in capsys.readouterr().err
