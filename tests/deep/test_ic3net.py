"""IC3Net: memory, gates and messages each do what they are for; news travels one hop a step and never further."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep.envs import make_env
from dmpo_deep.hyperparameters import RecurrentPreset
from dmpo_deep.ic3net import IC3Net, Memory, Talkers
from dmpo_deep.policies import Categorical
from dmpo_deep.ppo import lambda_return
from dmpo_theory.graph import path, star

D, H, ACTIONS, T = 3, 8, 4, 5


def talkers(graph, seed=0):
    net = Talkers(graph, D, Categorical((ACTIONS,) * graph.n), H, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in net.parameters():  # biases, too, and outputs that differ
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return net


def observations(n, copies=2, seed=0):
    return torch.randn(T, copies, n, D, generator=torch.Generator().manual_seed(seed))


def said(net, obs, gates, ended=None, start=None):
    """Outputs, gate logits and values of every step, ``[T, B, n, A + 3]``."""
    copies, n = obs.shape[1], obs.shape[2]
    ended = torch.zeros(len(obs), copies, dtype=torch.bool) if ended is None else ended
    shape = (len(obs), n, copies)
    drawn = torch.full(shape, float(gates)) if isinstance(gates, int) else gates
    with torch.no_grad():
        result, _ = net.unroll(obs, drawn, ended, net.nothing(copies) if start is None else start)
    everything = torch.cat([result.outputs, result.gate, result.value[..., None]], dim=-1)
    return everything.view(n, len(obs), copies, -1).permute(1, 2, 0, 3)


@pytest.mark.parametrize("agent", range(4))
def test_a_step_is_torchs_lstm_cell_on_what_was_seen_and_heard(agent):
    graph = star(4)
    net, obs = talkers(graph), observations(4)[0]
    generator = torch.Generator().manual_seed(3)
    memory = Memory(*(torch.randn(4, 2, H, generator=generator) for _ in range(2)), torch.tensor([[1.0, 0.0]] * 4))
    cell = torch.nn.LSTMCell(H, H)
    order = [1, 0, 3, 2]  # torch: input, forget, new, output; here: keep, write, show, new

    def of_torch(weight):
        blocks = weight[agent].T.chunk(4, dim=0)
        return torch.cat([blocks[k] for k in order])

    with torch.no_grad():
        cell.weight_ih.copy_(of_torch(net.input))
        cell.weight_hh.copy_(of_torch(net.recurrent))
        cell.bias_ih.copy_(of_torch(net.input_bias.expand(-1, 1, -1))[:, 0])
        cell.bias_hh.zero_()
        neighbors = [j for j in graph.neighbors(agent, 1) if j != agent]
        heard = sum(memory.gate[j][:, None] * memory.hidden[j] for j in neighbors) / len(neighbors)
        seen = obs[:, agent] @ net.encoder[agent] + net.encoder_bias[agent]
        inputs = seen + heard @ net.message[agent] + net.message_bias[agent]
        hidden, state = cell(inputs, (memory.hidden[agent], memory.cell[agent]))
        _, after = net(obs, memory)
    torch.testing.assert_close(after.hidden[agent], hidden)
    torch.testing.assert_close(after.cell[agent], state)


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("graph", [path(6), star(5)], ids=repr)
def test_news_travels_one_hop_a_step_through_open_gates_only(graph, gates):
    net, obs = talkers(graph), observations(graph.n)
    before = said(net, obs, gates)
    for j in range(graph.n):
        changed = obs.clone()
        changed[0, :, j] += 1.0  # in the first step only: later steps know of it by memory
        differs = (said(net, changed, gates) != before).any(dim=-1).all(dim=1)
        for t in range(T):
            for i in range(graph.n):
                reached = i == j or (gates and graph.hop_distance[i, j] <= t)
                assert bool(differs[t, i]) == bool(reached), (t, i, j)


def test_one_closed_gate_silences_one_agent_in_the_next_step():
    graph = path(3)
    net, obs = talkers(graph), observations(3)
    open_, shut = torch.ones(T, 3, 2), torch.ones(T, 3, 2)
    shut[1, 1] = 0.0  # agent 1 falls silent after step 1
    differs = (said(net, obs, open_) != said(net, obs, shut)).any(dim=-1).all(dim=1)
    assert differs[:3].tolist() == [[False] * 3, [False] * 3, [True, False, True]]


def test_memories_are_emptied_where_an_episode_ends_and_nowhere_else():
    graph = path(4)
    net, obs = talkers(graph), observations(4)
    ended = torch.zeros(T, 2, dtype=torch.bool)
    ended[1, 0] = True
    cut, whole = said(net, obs, 1, ended), said(net, obs, 1)
    torch.testing.assert_close(cut[2:, 0], said(net, obs[2:], 1)[:, 0])
    assert torch.equal(cut[:, 1], whole[:, 1])
    assert (cut[2:, 0] != whole[2:, 0]).any(dim=-1).all()


def test_what_is_said_is_learned_through_the_listeners_loss():
    """The gradient of agent 0's loss reaches agent ``j``'s weights after ``j`` steps, through open gates only."""
    net, obs = talkers(path(4)), observations(4)
    for gates in (1.0, 0.0):
        for t in range(4):
            net.zero_grad()
            ended = torch.zeros(t + 1, 2, dtype=torch.bool)
            result, _ = net.unroll(obs[: t + 1], torch.full((t + 1, 4, 2), gates), ended, net.nothing(2))
            result.value[0].view(t + 1, 2)[-1].sum().backward()
            reached = net.encoder.grad.flatten(start_dim=1).abs().amax(dim=1) > 0
            assert reached.tolist() == [j == 0 or (gates == 1 and j <= t) for j in range(4)]


def learner(task="tabular", options=None, **fields):
    options = {"horizon": 7} if options is None else options
    env = make_env(task, 4, **options)
    preset = RecurrentPreset(**{"copies": 4, "rollout_steps": 20, "width": H, "environment": options} | fields)
    return IC3Net(env, preset, seed=0)


def test_living_through_a_rollout_again_gives_the_probabilities_that_acting_had():
    """Over episode ends, and over two rollouts: memory and gates carry on where the first one stopped."""
    made = learner()
    for _ in range(2):
        talk = made.collect()
        assert talk.data.ended.any()
        result, _ = made.agents._relive(talk)
        action, gate = (torch.from_numpy(x).flatten(end_dim=1).T for x in (talk.data.action, talk.gates))
        log_prob, _ = made.agents.net.evaluate(result, action, gate)
        acted = torch.from_numpy(talk.data.log_prob).flatten(end_dim=1).T
        torch.testing.assert_close(log_prob, acted, atol=1e-5, rtol=1e-5)
    assert talk.start.hidden.abs().max() > 0


def test_values_follow_one_memory_step_by_step():
    made = learner(lam=0.7)
    talk = made.collect()
    net, data, preset = made.agents.net, talk.data, made.preset
    value, following, memory = [], [], talk.start
    with torch.no_grad():
        for t in range(20):
            step, memory = net(torch.from_numpy(data.obs[t]), memory)
            value.append(step.value.T)
            memory = memory._replace(gate=torch.from_numpy(talk.gates[t].T).float())
            following.append(net(torch.from_numpy(data.next_obs[t]), memory)[0].value.T)
            memory = memory.forget(torch.from_numpy(data.ended[t]))
    ends = torch.from_numpy(data.terminated), torch.from_numpy(data.truncated)
    reward = torch.from_numpy(data.reward) * preset.reward_scale
    inside = ~data.ended[:-1]
    torch.testing.assert_close(torch.stack(following)[:-1][inside], torch.stack(value)[1:][inside])
    expected = lambda_return(reward, torch.stack(following), *ends, preset.gamma, preset.lam) - torch.stack(value)
    torch.testing.assert_close(made.agents.estimates(talk)[1], expected, atol=1e-5, rtol=1e-4)


def test_gates_learn_by_the_policy_gradient():
    """The gradient on a gate's bias is ``-mean(A (1[g = k] - p_k))``, whatever the action's part does."""
    made = learner(entropy=0.0, normalize_advantage=False, value_weight=1e-12, updates=1, minibatches=1)
    talk = made.collect()
    _, advantage = made.agents.estimates(talk)
    result, _ = made.agents._relive(talk)
    probability = torch.softmax(result.gate, dim=-1).view(-1, 20, 4, 2).permute(1, 2, 0, 3).detach()
    drawn = torch.nn.functional.one_hot(torch.from_numpy(talk.gates), 2)
    expected = -(advantage[..., None] * (drawn - probability)).mean(dim=(0, 1))
    steps = []
    made.agents.optimizer.step = lambda: steps.append(made.agents.net.gate_bias.grad[:, 0].clone())
    made.agents.update(talk, np.random.default_rng(0))
    torch.testing.assert_close(steps[0], expected, atol=1e-6, rtol=1e-3)
    assert expected.abs().min() > 1e-8


def test_messages_are_counted_where_gates_are_open():
    made = learner()
    logged = made.epoch()
    graph = made.collector.env.graph
    links = np.mean([len(graph.neighbors(i, 1)) - 1 for i in range(graph.n)])
    assert 0 < logged["gates_open"] < 1
    assert logged["floats_gates"] == pytest.approx(logged["gates_open"] * links * H * 4)


def test_agents_learn_to_tell_what_only_a_neighbour_can_see():
    """Both are paid if agent 1 names the bit that agent 0 saw one step before; without messages that is a toss-up."""

    class Whisper:
        """Agent 0 sees a fresh bit in every step; agent 1 sees nothing."""

        def __init__(self, like, copies):
            self.graph, self.batch, self.warmup_steps = path(2), copies, 0
            self.action_space, self.observation_space = like.action_space, like.observation_space

        def observe(self):
            obs = np.zeros((self.batch, 2, 2), dtype=np.float32)
            obs[np.arange(self.batch), 0, self.bit] = 1.0
            return obs

        def reset(self, rng, where=None):
            self.rng = rng
            self.bit, self.last = rng.integers(2, size=(2, self.batch))
            return self.observe()

        def step(self, action):
            right = (action[:, 1] == self.last).astype(float)
            reward = np.stack([right, right], axis=1)
            self.last, self.bit = self.bit, self.rng.integers(2, size=self.batch)
            never = np.zeros(self.batch, dtype=bool)
            return self.observe(), reward, never, never, {"step": np.zeros(self.batch), "metric": right}

    like = make_env("tabular", 1)
    preset = RecurrentPreset(copies=32, rollout_steps=10, width=16, gamma=0.6, lr=1e-2, updates=4, reward_scale=1.0)
    made = IC3Net(Whisper(like, 32), preset, seed=0)
    for _ in range(60):
        made.epoch()
    assert made.collect().data.metric[1:].mean() > 0.8
    with torch.no_grad():
        made.agents.net.gate_bias[0, 0] = torch.tensor([50.0, -50.0])  # agent 0 falls silent
    assert made.collect().data.metric[2:].mean() < 0.65
