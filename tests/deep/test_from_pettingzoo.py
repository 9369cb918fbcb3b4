"""PettingZoo environments brought in: there and back without a difference, and what cannot be is refused."""

import math
import sys
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pettingzoo")

from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

from dmpo_deep.conformance import examine
from dmpo_deep.envs import make_env
from dmpo_deep.envs.cacc import HORIZON, N
from dmpo_deep.envs.from_pettingzoo import Parallel
from dmpo_deep.envs.pettingzoo import ParallelTask
from dmpo_deep.train import train
from tests.deep.runs import SMALL, timeless

CHAIN = [(f"agent_{i}", f"agent_{i + 1}") for i in range(N - 1)]
HERE = f"{sys.modules[__name__].__file__}"


def brought(batch, gamma=0.99, draws=None):
    """Catch-up, exported and brought in again."""
    rule = make_env("catchup", 1, gamma=gamma).termination
    return Parallel(
        *(batch, lambda: ParallelTask("catchup", gamma=gamma), CHAIN),
        **{"horizon": HORIZON, "metric": "metric", "measures": ("speed",), "termination": rule, "draws": draws},
    )


class Each:
    """The same without PettingZoo: each copy a platoon of its own, seeded as the bridge seeds."""

    def __init__(self, batch, gamma=0.99, draws=None):
        self.copies, self._draws = [make_env("catchup", 1, gamma=gamma) for _ in range(batch)], draws
        self.batch = batch

    def __getattr__(self, name):
        return getattr(self.copies[0], name)

    def reset(self, rng, where=None):
        marked = np.flatnonzero(np.ones(self.batch, dtype=bool) if where is None else where)
        seeds = rng.integers(2**31, size=len(marked))
        if self._draws is not None:
            seeds = [int(self._draws[k] * 2**31) for k in marked]
        for k, seed in zip(marked, seeds, strict=True):
            self.copies[k].reset(np.random.default_rng(int(seed)))
        return self.observe()

    def observe(self):
        return np.concatenate([env.observe() for env in self.copies])

    def step(self, action):
        *columns, infos = zip(*(env.step(action[k : k + 1]) for k, env in enumerate(self.copies)), strict=True)
        info = {name: np.concatenate([one[name] for one in infos]) for name in infos[0]}
        return *map(np.concatenate, columns), info

    def state_dict(self):
        return {str(k): env.state_dict() for k, env in enumerate(self.copies)}

    def load_state_dict(self, state):
        for k, env in enumerate(self.copies):
            env.load_state_dict(state[str(k)])


def test_there_and_back_is_the_same_trajectory():
    native, back, rngs = Each(3), brought(3), [np.random.default_rng(4) for _ in range(2)]
    np.testing.assert_array_equal(*(env.reset(rng) for env, rng in zip((native, back), rngs, strict=True)))
    acts, ends = np.random.default_rng(1), 0
    for _ in range(1500):
        action = acts.integers(4, size=(3, N)) * (acts.random((3, N)) < 0.5)  # gentle enough to see collisions late
        one, two = native.step(action), back.step(action)
        for a, b in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        for name in ("metric", "step", "speed"):
            np.testing.assert_array_equal(one[4][name], two[4][name])
        if (ended := one[2] | one[3]).any():
            ends += 1
            resets = [env.reset(rng, ended) for env, rng in zip((native, back), rngs, strict=True)]
            np.testing.assert_array_equal(*resets)
    assert ends > 3


Each.evaluations = brought.evaluations = 2


@pytest.mark.parametrize("algo", ["dmpo", "ia2c"])
def test_there_and_back_is_the_same_training_and_it_resumes(algo, tmp_path):
    settings = {"seed": 3, "steps": 400, "overrides": SMALL[algo], "eval_every": 400, "progress": False}
    native, back = (
        timeless(train(f"{HERE}:{factory}", algo, out=tmp_path / factory, **settings))
        for factory in ("Each", "brought")
    )
    same = [name for name in native[0] if name != "eval_collisions"]
    for one, two in zip(native, back, strict=True):
        assert {k: one[k] for k in same if "collisions" not in k} == {k: two[k] for k in same if "collisions" not in k}
    if algo == "dmpo":
        return
    parts = train(f"{HERE}:brought", algo, out=tmp_path / "parts", **(settings | {"steps": 200}))
    train(f"{HERE}:brought", algo, out=parts, resume=True, **settings)
    assert timeless(parts) == back


class Market(ParallelEnv):
    """Three agents of unequal sight who see a random number; a stall may close before the others."""

    metadata = {"name": "market"}  # noqa: RUF012

    def __init__(self, closing_time=(4, 4, 4), cut=False, acts=None, sees=None):
        self.possible_agents = ["anna", "bert", "cleo"]
        self.closing, self.cut = dict(zip(self.possible_agents, closing_time, strict=True)), cut
        self.acts = acts or {name: Discrete(2 + k, start=k) for k, name in enumerate(self.possible_agents)}
        self.sees = sees or {
            "anna": Box(-1, 1, (2, 2), np.float64), "bert": Discrete(3, start=1), "cleo": Box(-1, 5, (1,), np.float32)
        }  # fmt: skip

    def observation_space(self, agent):
        return self.sees[agent]

    def action_space(self, agent):
        return self.acts[agent]

    def reset(self, seed=None, options=None):
        self.rng, self.agents, self.time = np.random.default_rng(seed), list(self.possible_agents), 0
        return self._look(), {name: {} for name in self.agents}

    def _look(self):
        code = 1 + int(self.rng.integers(3))
        seen = {"anna": self.rng.random((2, 2)), "bert": code, "cleo": np.array([code], dtype=np.float32)}
        return {name: seen[name] for name in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        assert all(self.acts[name].contains(act) for name, act in actions.items())
        self.time += 1
        seen, names = self._look(), self.agents
        over = {name: self.time >= self.closing[name] for name in names}
        self.agents = [name for name in names if not over[name]]
        nothing = dict.fromkeys(names, False)
        ends, cuts = (nothing, over) if self.cut else (over, nothing)
        return seen, {name: float(actions[name]) for name in names}, ends, cuts, {name: {"crowd": 3} for name in names}


TRADE = [("anna", "bert"), ("bert", "cleo")]


def market(batch=2, **options):
    given = {key: options.pop(key) for key in ("closing_time", "cut", "acts", "sees") if key in options}
    graph = options.pop("graph", TRADE)
    return Parallel(batch, lambda: Market(**given), graph, **({"horizon": 10} | options))


def test_unequal_agents_are_padded_and_act_in_their_own_spaces():
    env = market(measures=("crowd",))
    assert isinstance(env.action_space, MultiDiscrete)
    assert env.action_space.nvec.tolist() == [2, 3, 4]
    assert env.graph.nodes == ("anna", "bert", "cleo")
    obs = env.reset(np.random.default_rng(0))
    assert obs.shape == (2, 3, 4)
    assert (obs[:, 1].sum(axis=-1) == 1).all()
    assert (obs[:, 2, 1:] == 0).all()
    assert (obs[:, 1].argmax(axis=-1) + 1 == obs[:, 2, 0]).all()
    _, reward, *_, info = env.step(np.array([[1, 2, 3], [0, 0, 0]]))
    assert reward.tolist() == [[1, 3, 5], [0, 1, 2]]  # the spaces start at 0, 1, 2
    np.testing.assert_allclose(info["metric"], reward.mean(axis=1))
    assert info["crowd"].tolist() == [3, 3]


@pytest.mark.parametrize(("cut", "ended"), [(False, (True, False)), (True, (False, True))])
def test_the_last_word_of_the_agents_decides(cut, ended):
    env, rng = market(cut=cut), np.random.default_rng(0)
    env.reset(rng)
    for t in range(4):
        *_, terminated, truncated, _ = env.step(np.zeros((2, 3), dtype=int))
        assert (terminated[0], truncated[0]) == (ended if t == 3 else (False, False))


def test_the_horizon_truncates():
    env = market(horizon=2)
    env.reset(np.random.default_rng(0))
    assert not env.step(np.zeros((2, 3), dtype=int))[3].any()
    *_, terminated, truncated, _ = env.step(np.zeros((2, 3), dtype=int))
    assert truncated.all()
    assert not terminated.any()


def test_agents_that_leave():
    nothing = np.zeros((2, 3), dtype=int)
    env = market(closing_time=(2, 4, 4))
    env.reset(np.random.default_rng(0))
    env.step(nothing)
    with pytest.raises(
        ValueError, match=r"agent 'anna' of copy 0 leaves in step 1 while others stay; give leaving='absent'"
    ):
        env.step(nothing)
    env = market(closing_time=(2, 4, 4), leaving="end")
    env.reset(np.random.default_rng(0))
    assert not env.step(nothing)[2].any()
    assert env.step(nothing)[2].all()
    env = market(closing_time=(2, 4, 4), leaving="absent")
    obs = env.reset(np.random.default_rng(0))
    assert obs.shape == (2, 3, 5)
    assert (obs[..., -1] == 1).all()
    env.step(nothing)
    obs, reward, terminated, *_ = env.step(nothing)  # anna's last one
    assert (obs[:, 0, -1] == 1).all()
    obs, reward, terminated, *_ = env.step(nothing)
    assert (obs[:, 0] == 0).all()
    assert reward[:, 0].tolist() == [0, 0]
    assert (obs[:, 1:, -1] == 1).all()
    assert not terminated.any()
    assert env.step(nothing)[2].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": [("anna", "dora")]}, "the graph links 'dora', which is no agent; agents are anna, bert, cleo"),
        ({"horizon": 0}, "horizon = 0; give the steps"),
        ({"leaving": "stay"}, "leaving = 'stay'; give 'refuse' or 'absent' or 'end'"),
        ({"metric": "profit"}, "no agent's infos have 'profit'"),
        ({"sees": dict.fromkeys(("anna", "bert", "cleo"), Dict({"x": Discrete(2)}))}, "agent 'anna' observes Dict"),
        (
            {"acts": {"anna": Discrete(2), "bert": Box(0, 1, (1,)), "cleo": Discrete(2)}},
            "agent 'anna' acts in Discrete.*; all must act in Discrete spaces, or in one Box",
        ),
        (
            {"acts": {"anna": Box(0, 1, (1,)), "bert": Box(0, 2, (1,)), "cleo": Box(0, 1, (1,))}},
            "agent 'bert' acts in Box",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    def play():
        env = market(**options)
        env.reset(np.random.default_rng(0))
        env.step(np.zeros((2, 3), dtype=int))

    with pytest.raises(ValueError, match=message):
        play()


@pytest.mark.parametrize("options", [{}, {"closing_time": (2, 3, 7), "leaving": "absent", "cut": True}])
def test_the_bridge_keeps_the_contract(options):
    found = examine(lambda batch: market(batch, **options), steps=50)
    assert [f for f in found if f.verdict == "FAILED"] == []


def test_actions_beyond_an_agents_own_space_move_nothing():
    env = market()
    env.reset(np.random.default_rng(0))
    before = env.observe()
    with pytest.raises(ValueError, match="action 2 of agent 'anna' in copy 1 is not in"):
        env.step(np.array([[0, 0, 0], [2, 0, 0]]))
    np.testing.assert_array_equal(env.observe(), before)
    assert [copy.time for copy in env.copies] == [0, 0]


def test_a_published_environment_trains(tmp_path):
    mpe = pytest.importorskip("mpe2")
    assert mpe is not None
    run = train(f"{HERE}:spread", "dppo", 0, 400, tmp_path / "run", overrides=("hidden=8",), progress=False)
    assert math.isfinite(float(timeless(run)[-1]["eval_sampled"]))
    with closing(spread(2)) as env:
        assert env.graph.n == 3


def spread(batch):
    """Three agents that cover three landmarks, the first two linked to the last."""
    from mpe2 import simple_spread_v3

    edges = [("agent_0", "agent_2"), ("agent_1", "agent_2")]
    return Parallel(batch, lambda: simple_spread_v3.parallel_env(N=3), edges, horizon=25)
