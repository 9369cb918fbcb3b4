"""Every algorithm on every kind of task: exact continuation, one trace for one seed, and what sets each apart."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep import communication
from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.checkpoint import load, save
from dmpo_deep.cppo import CPPO
from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import IndependentPreset, Preset, TrueModelPreset
from dmpo_deep.ia2c import IA2C
from dmpo_deep.nets import on_device, one_thread
from dmpo_deep.presets import PRESETS, get_preset
from dmpo_deep.rollout import rollout
from dmpo_deep.true_model import Remembering, Simulator, TrueModelDMPO
from dmpo_theory.graph import AgentGraph, grid, path, star
from tests.deep.runs import assert_same

TINY = {"copies": 2, "rollout_steps": 20, "width": 8, "hidden": (8,), "minibatches": 2, "updates": 2}
TINY |= {
    "warmup_steps": 20,
    "branches": 8,
    "model_horizon": 5,
    "model_steps": 4,
    "model_batch": 16,
    "hidden_model": (8,),
}


def learner(task, algo, seed=3, **values):
    preset = get_preset(task, algo)
    preset = replace(preset, **{name: value for name, value in (TINY | values).items() if hasattr(preset, name)})
    return ALGORITHMS[algo](make_env(task, preset.copies, gamma=preset.gamma, **preset.environment), preset, seed)


def timeless(row):
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


@pytest.mark.parametrize("algo", ALGORITHMS)
@one_thread()
def test_step_sizes_halve(algo):
    made = learner("catchup", algo, lr_half=6.0)
    agents, preset = made.agents, made.preset
    optimizers = {name: part for name, part in vars(agents).items() if isinstance(part, torch.optim.Optimizer)}
    fields = {"actor_optimizer": "lr_actor", "critic_optimizer": "lr_critic", "optimizer": "lr"}
    before = []
    original = agents.update
    agents.update = lambda *given: before.append(agents.gradient_steps) or original(*given)
    while agents.gradient_steps < 12:
        made.epoch()
    assert before[0] == 0 < before[-1] < agents.gradient_steps
    for name, optimizer in optimizers.items():
        (group,) = optimizer.param_groups
        assert group["lr"] == getattr(preset, fields[name]) / (1 + before[-1] / 6)


@pytest.mark.parametrize(("task", "algo"), PRESETS)
@one_thread()
def test_a_state_that_was_saved_continues_bit_for_bit(task, algo, tmp_path):
    straight, stopped, resumed = (learner(task, algo) for _ in range(3))
    for _ in range(2):
        straight.epoch()
        stopped.epoch()
    save(tmp_path / "state", stopped.state_dict())
    resumed.load_state_dict(load(tmp_path / "state"))
    for _ in range(2):
        rows = [timeless(made.epoch()) for made in (straight, resumed)]
        assert rows[0] == rows[1]
    save(tmp_path / "a", straight.state_dict())
    save(tmp_path / "b", resumed.state_dict())
    assert_same(load(tmp_path / "a"), load(tmp_path / "b"))
    assert straight.collector.env_steps > 0


TRACE = """
import hashlib, sys
from tests.deep.test_algorithms import ALGORITHMS, PRESETS, learner, one_thread, timeless
with one_thread():
    for task, algo in PRESETS:
        if task in ("slowdown", "catchup"):
            made = learner(task, algo)
            rows = [timeless(made.epoch()) for _ in range(2)]
            print(task, algo, hashlib.sha256(repr(rows).encode()).hexdigest())
"""


def test_two_processes_with_one_seed_have_one_trace():
    root = Path(__file__).parents[2]
    traces = []
    for seed in ("1", "2"):
        setting = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", TRACE]
        traces.append(subprocess.run(command, cwd=root, env=setting, capture_output=True, text=True, check=True).stdout)
    assert traces[0] == traces[1]
    assert len(set(traces[0].split())) >= 2 * len(ALGORITHMS)


@pytest.mark.parametrize(("task", "algo"), PRESETS)
def test_what_an_algorithm_logs_has_a_column(task, algo):
    from dmpo_deep.train import COLUMNS

    made = learner(task, algo)
    rows = [made.epoch() for _ in range(2)]
    assert set(rows[1]) <= set(COLUMNS)
    assert made.agents.gradient_steps > 0
    assert sum(value for name, value in rows[1].items() if name.startswith("seconds_cpu")) > 0


def platoon(kind, preset):
    env = make_env("catchup", preset.copies)
    made = kind(env, preset, 0)
    return made, made.collector.collect(made.agents.policy(), 20)


def flat(net, i):
    return torch.cat([weight[i].flatten() for weight in net.parameters()]).detach()


@pytest.mark.parametrize(
    ("kind", "preset", "actors", "critics"),
    [
        (CPPO, Preset(hidden=(16,), kappa_critic=math.inf, normalize_advantage=False), range(8), [7]),
        (IA2C, IndependentPreset(hidden=(16,), critic_steps=3, normalize_advantage=False), [7], [7]),
    ],
)
def test_whom_a_reward_moves(kind, preset, actors, critics):
    """A reward of vehicle 7 moves every actor of CPPO, only its own of IA2C, and its own critic in both."""
    ends = []
    for bonus in (0.0, 50.0):
        made, data = platoon(kind, preset)
        reward = data.reward.copy()
        reward[..., 7] += bonus * (data.action[..., 7] == 1)
        made.agents.update(replace(data, reward=reward), np.random.default_rng(0))
        ends.append(made.agents)
    before, after = ends
    moved, judged = (
        [not torch.equal(flat(getattr(before, part), i), flat(getattr(after, part), i)) for i in range(8)]
        for part in ("actor", "critic")
    )
    assert moved == [i in actors for i in range(8)]
    assert judged == [i in critics for i in range(8)]


def test_centralised_critics_hear_everybody_even_across_components():
    env = make_env("tabular", 1)
    env.graph = AgentGraph.from_edges(4, [(0, 1), (2, 3)])
    agents = CPPO.population(env, Preset(hidden=(16,), kappa_critic=math.inf), torch.Generator().manual_seed(0))
    obs = torch.randn(1, 5, 4, env.observation_space.shape[0], generator=torch.Generator().manual_seed(1))
    for j in range(4):
        changed = obs.clone()
        changed[:, :, j] += 1
        assert (agents.values(obs) != agents.values(changed)).all()
    assert agents.mask.all()


def test_the_teams_advantage_is_the_mean_of_all():
    made, data = platoon(CPPO, Preset(hidden=(16,), kappa_critic=math.inf, lam=0.0))
    agents = made.agents
    value, following = (agents.values(torch.from_numpy(x)) for x in (data.obs, data.next_obs))
    residual = 0.1 * torch.from_numpy(data.reward) - value
    residual += 0.99 * following * torch.from_numpy(~data.terminated)[..., None]
    expected = residual.mean(dim=-1, keepdim=True).expand(-1, -1, 8)
    torch.testing.assert_close(agents.estimates(data)[1], expected, atol=1e-5, rtol=1e-4)


def test_a_centralised_critic_with_a_radius_is_refused():
    with pytest.raises(ValueError, match=r"kappa_critic = 2; a centralised critic hears everybody, .* train dppo"):
        platoon(CPPO, Preset(kappa_critic=2))


def test_advantage_actor_critic_descends_the_policy_gradient_and_climbs_the_entropy():
    preset = IndependentPreset(hidden=(16,), normalize_advantage=False, entropy=0.5, critic_steps=3)
    made, data = platoon(IA2C, preset)
    agents, heard = made.agents, made.agents.actor.net.gather(torch.from_numpy(data.obs))
    _, advantage = agents.estimates(data)
    own = advantage.flatten(end_dim=1).T
    action = torch.from_numpy(data.action).flatten(end_dim=1).T
    logits = agents.actor.net(heard)
    chosen = torch.distributions.Categorical(logits=logits)
    loss = -(chosen.log_prob(action) * own).mean(dim=1) - 0.5 * chosen.entropy().mean(dim=1)
    expected = torch.autograd.grad(loss.sum(), list(agents.actor.parameters()))
    seen, steps = [], {"actor": 0, "critic": 0}

    def count(name):
        def step():
            steps[name] += 1
            if name == "actor":
                seen.extend(p.grad.clone() for p in agents.actor.parameters())

        return step

    agents.actor_optimizer.step, agents.critic_optimizer.step = count("actor"), count("critic")
    agents.update(data, np.random.default_rng(0))
    assert steps == {"actor": 1, "critic": 3}
    for gradient, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    log_prob, advantage = torch.tensor([[-1.0, -2.0]]), torch.tensor([[3.0, -4.0]])
    assert agents.policy_loss(log_prob, log_prob, advantage).tolist() == [-2.5]


@pytest.mark.parametrize(("task", "options"), [("catchup", {}), ("ring", {"observation": "local"})])
def test_the_simulator_branches_from_recent_states_and_moves_as_the_real_task(task, options):
    rng = np.random.default_rng(0)
    made = ALGORITHMS["dppo"](make_env(task, 3, **options), Preset(copies=3, hidden=(8,)), 0)
    policy = made.agents.policy()
    real = Remembering(make_env(task, 3, **options), recent=30)
    real.reset(rng)
    data = rollout(real, policy, 25, rng)
    assert len(real.states) == 10
    simulator = Simulator(make_env(task, 40, **options), real)
    first = simulator.reset(rng)
    recorded = {obs.tobytes(): (t, b) for t in range(15, 25) for b, obs in enumerate(data.obs[t])}
    where = [recorded[obs.tobytes()] for obs in first]
    assert len(set(where)) > 10
    t, b = np.array(where).T
    next_obs, reward, terminated, truncated, info = simulator.step(data.action[t, b])
    np.testing.assert_array_equal(next_obs, data.next_obs[t, b])
    np.testing.assert_array_equal(reward.astype(np.float32), data.reward[t, b])
    np.testing.assert_array_equal(info["step"], data.step[t, b])
    np.testing.assert_array_equal(terminated | truncated, data.ended[t, b])
    again = simulator.reset(rng, np.arange(40) == 5)
    assert again[5].tobytes() in recorded
    np.testing.assert_array_equal(np.delete(again, 5, axis=0), np.delete(next_obs, 5, axis=0))


def test_simulated_steps_are_no_environment_steps():
    preset = TrueModelPreset(copies=2, rollout_steps=10, branches=8, model_horizon=5, minibatches=2, hidden=(8,))
    made = TrueModelDMPO(make_env("catchup", 2), preset, 0)
    made.epoch()
    assert made.collector.env_steps == 20


def test_a_simulator_whose_state_cannot_be_kept_is_refused():
    class Sealed:
        task, batch, horizon, warmup_steps = "sealed", 1, 10, 0

        def state_dict(self):
            raise RuntimeError("no state")

    with pytest.raises(ValueError, match=r"sealed cannot be branched \(no state\); train dmpo"):
        Remembering(Sealed(), 10)


@pytest.mark.parametrize("graph", [path(6), star(5), grid(3, 3)], ids=repr)
def test_communication_is_counted_neighbour_by_neighbour(graph):
    d, policy, critic, model, imagined = 3, 1, 2, 2, 7.0
    hears, judges, models = (
        [set(graph.neighbors(i, kappa)) - {i} for i in range(graph.n)] for kappa in (policy, critic, model)
    )

    def mean(counts):
        return pytest.approx(sum(counts) / graph.n)

    assert communication.acting(graph, d, policy) == mean([d * len(h) for h in hears])
    expected = [d * len(j - h) + len(j) for h, j in zip(hears, judges, strict=True)]
    assert communication.judging(graph, d, critic, heard=policy) == mean(expected)
    real = [d * len(m - h) for h, m in zip(hears, models, strict=True)]
    dreamt = [imagined * d * len(m | h) for h, m in zip(hears, models, strict=True)]
    counts = [r + x for r, x in zip(real, dreamt, strict=True)]
    assert communication.modelling(graph, d, model, policy, imagined) == mean(counts)
    assert communication.others(graph, math.inf) == graph.n - 1


def test_a_device_that_is_not_there_is_refused():
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ValueError, match=f"device = '{name}' does not work here .* give cpu"), on_device(name):
            pass


@pytest.mark.parametrize(("task", "algo"), [pair for pair in PRESETS if pair[0] in ("catchup", "ring", "tabular")])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_algorithm_learns_on_a_cuda_device_from_the_same_weights(task, algo, tmp_path):
    here = learner(task, algo)
    with on_device("cuda"):
        there = learner(task, algo)
        rows = [there.epoch() for _ in range(2)]
        save(tmp_path / "state", there.state_dict())
        there.load_state_dict(load(tmp_path / "state"))
        there.epoch()
    first = here.epoch()
    for name in ("policy_loss", "value_loss", "entropy"):
        assert rows[0][name] == pytest.approx(first[name], rel=0.05, abs=1e-3)
