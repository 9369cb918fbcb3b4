"""Section VI-C: the grid of signals against SUMO's own records and its rules by hand, and networks from elsewhere."""

import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("libsumo")

from gymnasium.spaces import Discrete, MultiDiscrete

from dmpo_deep.controllers import CONTROLLERS, LEVELS, atsc, normalised_score
from dmpo_deep.envs import action_counts, make_env
from dmpo_deep.envs.atsc import GRID_DEMAND, GRID_NETWORK
from dmpo_deep.envs.signals import read_network, yellow
from dmpo_deep.envs.sumo import Session
from dmpo_deep.episodes import Episodes, play
from dmpo_theory.graph import grid
from tests.deep.simulations import one_at_a_time

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "net_file": str(ROOT / "tests" / "data" / "grid4x4.net.xml"),
    "route_file": str(ROOT / "tests" / "data" / "grid4x4.rou.xml"),
}
"""A grid of 4x4 by SUMO's netgenerate: corners of two phases, sides of three, the inner signals of four."""
RATES = {
    **{0: (264, 440, 0, 0), 300: (461, 770, 0, 0), 600: (594, 990, 0, 0), 900: (660, 1100, 166, 277)},
    **{1200: (495, 825, 444, 740), 1500: (330, 550, 499, 832), 1800: (165, 275, 555, 925), 2100: (0, 0, 444, 740)},
    **{2400: (0, 0, 333, 555), 2700: (0, 0, 111, 185)},
}
"""Published demand: vehicles per hour of each of three pairs, southwards, eastwards, northwards, westwards."""


@pytest.fixture
def local():
    with one_at_a_time("atsc") as make:
        yield make


def test_the_network_is_the_published_one(local):
    network = read_network(GRID_NETWORK)
    assert [signal.id for signal in network.signals] == [f"n{k}" for k in range(1, 26)]
    assert network.graph.edges == grid(5, 5).edges
    assert {round(length, 2) for length in network.lanes.values()} == {185.6, 179.2, 67.8, 64.6}
    for signal in network.signals:
        assert [link.index for link in signal.links] == list(range(12))
        assert signal.phases == ("GGgrrrGGgrrr", "rrrGrGrrrGrG", "rrrGGrrrrGGr", "rrrGGGrrrrrr", "rrrrrrrrrGGG")
        pattern = [signal.incoming.index(lane) for lane in signal.by_link]
        assert pattern == [0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4, 5]
    assert len(network.incoming) == 150
    env = local()
    assert (env.action_space, env.horizon, env.observation_space.shape) == (Discrete(5), 720, (6,))
    assert local(lanes="by_link", observation="wave_and_phase").observation_space.shape == (12 + 5 + 1,)
    assert local(observation="queue_and_phase").observation_space.shape == (6 + 6 + 1 + 5 + 1,)


def test_the_demand_is_the_published_one():
    flows = ElementTree.parse(GRID_DEMAND).getroot().findall("flow")
    found = {}
    for flow in flows:
        assert float(flow.get("end")) - float(flow.get("begin")) == 300
        assert (flow.get("departSpeed"), flow.get("departLane")) == ("0", "first")
        found.setdefault(int(flow.get("begin")), []).append(int(flow.get("vehsPerHour")))
    assert {t: sorted(rates) for t, rates in found.items()} == {
        t: sorted(rate for rate in rates for _ in range(3) if rate) for t, rates in RATES.items()
    }
    assert sum(map(sum, found.values())) / 12 == pytest.approx(3681, abs=1)


def test_the_generator_makes_the_demand_and_the_programs_that_lie_there():
    spec = importlib.util.spec_from_file_location("grid_generator", ROOT / "benchmarks" / "grid.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.demand() == GRID_DEMAND.read_text()
    _, roads, links = generator.nodes_and_roads()
    net = ElementTree.parse(GRID_NETWORK).getroot()
    made = {e.get("id") for e in ElementTree.fromstring(roads)}
    assert made == {e.get("id") for e in net.findall("edge") if e.get("function") != "internal"}
    wanted = {tuple(c.get(k) for k in ("from", "to", "fromLane", "toLane")) for c in ElementTree.fromstring(links)}
    held = {tuple(c.get(k) for k in ("from", "to", "fromLane", "toLane")) for c in net.findall("connection[@tl]")}
    assert wanted == held
    programs = ElementTree.fromstring(generator.programs())
    assert [[p.get("state") for p in logic] for logic in programs] == [
        [p.get("state") for p in net.find(f"tlLogic[@id='n{k}']")] for k in range(1, 26)
    ]


def record(actions, seed, seconds, folder):
    """The same episode by plain calls: queues from vehicles' places, trips from SUMO's own record."""
    session, network, trips = Session(), read_network(GRID_NETWORK), folder / "trips.xml"
    session.load(
        {
            **{"net-file": GRID_NETWORK, "route-files": GRID_DEMAND, "seed": seed, "time-to-teleport": 600},
            **{"tripinfo-output": trips, "tripinfo-output.write-unfinished": True},
            "tripinfo-output.write-undeparted": True,
        }
    )
    api, total, arrived = session.api, 0.0, 0
    shown = [0] * 25
    for signal in network.signals:
        api.trafficlight.setRedYellowGreenState(signal.id, signal.phases[0])
    for action in actions:
        for i, signal in enumerate(network.signals):
            if action[i] != shown[i]:
                state = yellow(signal.phases[shown[i]], signal.phases[action[i]])
                api.trafficlight.setRedYellowGreenState(signal.id, state)
        for second in range(5):
            if second == 2:
                for i, signal in enumerate(network.signals):
                    api.trafficlight.setRedYellowGreenState(signal.id, signal.phases[action[i]])
            session.step()
            arrived += api.simulation.getArrivedNumber()
        shown = list(action)
        for signal in network.signals:
            for lane in signal.by_link:
                for car in api.lane.getLastStepVehicleIDs(lane):
                    near = api.vehicle.getLanePosition(car) > network.lanes[lane] - 50
                    total += near and api.vehicle.getSpeed(car) < 1.39
    session.close()
    delay = [float(t.get("timeLoss")) + float(t.get("departDelay")) for t in ElementTree.parse(trips).getroot()]
    return -total / (seconds // 5), arrived, np.mean(delay), len(delay) - arrived


def test_metric_arrivals_and_delay_agree_with_sumos_own_records(local, tmp_path):
    seconds, rng = 900, np.random.default_rng(3)
    actions = np.repeat(rng.integers(5, size=(seconds // 15, 25)), 3, axis=0)
    env = local(num_seconds=seconds, sumo_seed=12)
    env.reset(rng)
    metric = 0.0
    for action in actions:
        _, _, _, truncated, info = env.step(action[None])
        metric += info["metric"][0]
    assert truncated[0]
    env.close()
    queue, arrived, delay, unfinished = record(actions, 12, seconds, tmp_path)
    assert metric == pytest.approx(queue, rel=0.02)
    assert info["system_total_arrived"][0] == arrived > 100
    assert info["unfinished"][0] == unfinished
    assert info["mean_delay"][0] == pytest.approx(delay, rel=0.002)


def test_rewards_and_observations_by_plain_loops(local):
    rng = np.random.default_rng(0)
    for reward_fn in ("queue", "queue_and_backlog", "pressure"):
        env = local(num_seconds=600, reward_fn=reward_fn, observation="queue_and_phase", sumo_seed=5)
        env.reset(rng)
        for _ in range(100):
            action = np.full((1, 25), 3)
            obs, reward, *_, info = env.step(action)
        api = env.fleet._copies[0]._simulation._session.api
        for i, signal in enumerate(env.network.signals):
            halting = [api.lane.getLastStepHaltingNumber(lane) for lane in signal.incoming]
            roads = {lane.rpartition("_")[0] for lane in signal.incoming}
            waiting = sum(len(api.edge.getPendingVehicles(road)) for road in roads)
            expected = 0.0
            if reward_fn == "queue":
                expected = sum(api.lanearea.getLastStepHaltingNumber(f"detector {lane}") for lane in signal.by_link)
            elif reward_fn == "pressure":
                count = api.lane.getLastStepVehicleNumber
                expected = abs(sum(map(count, signal.incoming)) - sum(map(count, signal.outgoing)))
            else:
                expected = sum(halting) + waiting
            assert info["raw_reward"][0, i] == -expected
            assert reward[0, i] == pytest.approx(-expected / 20)
            counts = [api.lanearea.getLastStepVehicleNumber(f"detector {lane}") for lane in signal.incoming]
            np.testing.assert_allclose(obs[0, i, :6], np.minimum(np.array(counts) / 5, 2), rtol=1e-6)
            np.testing.assert_allclose(obs[0, i, 6:12], np.minimum(np.array(halting) / 20, 2), rtol=1e-6)
            assert obs[0, i, 12] == pytest.approx(min(waiting / 20, 10))
            assert obs[0, i, 13:18].tolist() == [0, 0, 0, 1, 0]
            assert obs[0, i, 18] == 1
        speeds = [api.vehicle.getSpeed(car) for car in api.vehicle.getIDList()]
        assert info["system_total_running"][0] == len(speeds) > 50
        assert info["system_mean_speed"][0] == pytest.approx(np.mean(speeds))
        assert info["system_total_stopped"][0] == sum(speed < 0.1 for speed in speeds)
        waited = sum(map(api.vehicle.getWaitingTime, api.vehicle.getIDList()))
        assert info["system_total_waiting_time"][0] == waited
        if reward_fn == "queue_and_backlog":
            assert info["system_total_backlogged"][0] > 100
            assert env.signals().backlog.sum() == info["system_total_backlogged"][0]


def test_yellow_comes_before_a_new_green_and_only_where_something_changes(local):
    assert yellow("rrrGrGrrrGrG", "rrrGGrrrrGGr") == "rrrGryrrrGry"
    env = local(num_seconds=600)
    env.reset(np.random.default_rng(0))
    shown = []
    session = env.fleet._copies[0]._simulation._session
    advance = session.step
    session.step = lambda: (advance(), shown.append(session.api.trafficlight.getRedYellowGreenState("n7")))[0]
    action = np.zeros((1, 25), dtype=int)
    env.step(action)
    action[0, 6] = 2
    env.step(action)
    env.step(action)
    phases = env.network.signals[6].phases
    assert shown == [phases[0]] * 5 + ["yyyrrryyyrrr"] * 2 + [phases[2]] * 8


def test_a_signal_stays_green_for_min_green(local):
    env = local(num_seconds=600, min_green=12)
    env.reset(np.random.default_rng(0))
    phases = []
    for k in range(14):
        env.step(np.full((1, 25), k % 5))
        phases.append(int(env.signals().phase[0, 0]))
    assert phases == [0, 0, 0, 3, 3, 3, 1, 1, 1, 4, 4, 4, 2, 2]


def test_a_training_episode_is_cut_short_in_gridlock_and_no_other(local):
    def steps(**options):
        env, rng = local(num_seconds=600, **options), np.random.default_rng(0)
        env.reset(rng)
        for step in range(1, 121):
            _, _, terminated, truncated, info = env.step(np.full((1, 25), 1))
            if truncated[0]:
                assert not terminated[0]
                return step, info["system_total_stopped"][0] + info["system_total_backlogged"][0]
        raise AssertionError("the time limit holds in any case")

    whole, stuck = steps(sumo_seed=3)
    assert whole == 120
    assert stuck > 200
    cut, beyond = steps(sumo_seed=3, gridlock=200)
    assert 40 < cut < 120
    assert 200 < beyond < 250
    assert steps(gridlock=200, draws=[0.5])[0] == 120, "an evaluation"
    with pytest.raises(ValueError, match="gridlock = 0; give at least 1 vehicle"):
        local(gridlock=0)


def test_a_constant_phase_wins_the_papers_reward_and_lets_nobody_through():
    env = make_env("atsc", 2, num_seconds=1800, draws=[0.3, 0.6])
    found = {}
    for name in ("fixed-20-10-20", "constant-1"):
        rng = np.random.default_rng(0)
        found[name] = play(env, CONTROLLERS["atsc"][name].make(env), rng, rng)
    env.close()
    fixed, constant = found.values()
    assert (constant.metric > fixed.metric).all()
    for outcome, factor in (("system_total_arrived", 0.05), ("system_total_backlogged", 2), ("mean_delay", 1.5)):
        better, worse = fixed.outcomes[outcome].mean(), constant.outcomes[outcome].mean()
        assert worse < factor * better if factor < 1 else worse > factor * better
    level = next(each for each in json.loads(LEVELS.read_text())["levels"] if each["task"] == "atsc")
    outcomes = {"system_total_arrived": np.zeros(10), "mean_delay": np.full(10, 10.0)}
    blocked = Episodes(np.zeros(10), np.zeros(10, dtype=bool), {}, 0, outcomes)
    assert normalised_score("atsc", {}, blocked) is None, "who lets nobody through has no score"
    outcomes = {"system_total_arrived": np.full(10, 3726.0), "mean_delay": np.full(10, -level["best"]["metric"])}
    assert normalised_score(
        "atsc", {}, Episodes(np.zeros(10), np.zeros(10, dtype=bool), {}, 0, outcomes)
    ) == pytest.approx(1)


def test_greedy_and_max_pressure_by_plain_loops(local):
    env, rng = local(num_seconds=900), np.random.default_rng(1)
    obs = env.reset(rng)
    rules = {
        "greedy": (atsc.greedy(env, 5), 0),
        "lanes": (atsc.greedy(env, 15, whole_lanes=True), 0),
        "pressure": (atsc.max_pressure(env, 5), 0),
    }
    ties = 0
    for _ in range(60):
        obs, *_ = env.step(rng.integers(5, size=(1, 25)))
    for _ in range(30):
        state = env.signals()
        detected, on_lane, leaving = ({}, {}, {})
        for k, lane in enumerate(env.network.incoming):
            detected[lane], on_lane[lane] = state.detected[0, k], state.on_lane[0, k]
        for k, lane in enumerate(env.network.outgoing):
            leaving[lane] = state.leaving[0, k]
        for i, signal in enumerate(env.network.signals):
            north, east, left_e, south, west, left_w = signal.incoming
            for name, count in (("greedy", detected), ("lanes", on_lane)):
                n, e, le, s, w, lw = (count[x] for x in (north, east, left_e, south, west, left_w))
                values = np.array([n + s, le + lw, e + w, e + le, w + lw])
                chosen = rules[name][0](obs, rng)[0][0, i]
                if name == "lanes" and state.time[0] % 15:
                    assert chosen == state.phase[0, i]
                else:
                    assert values[chosen] == values.max()
            values = []
            for phase in signal.phases:
                values.append(0.0)
                for link in signal.links:
                    if phase[link.index] in "Gg":
                        room = [env.network.lanes[lane] / 7.5 for lane in (link.source, link.target)]
                        values[-1] += on_lane[link.source] / room[0] - leaving[link.target] / room[1]
            chosen = rules["pressure"][0](obs, rng)[0][0, i]
            assert values[chosen] == pytest.approx(max(values), abs=1e-9)
            ties += values.count(max(values)) > 1
        obs, *_ = env.step(rng.integers(5, size=(1, 25)))
    assert ties < 700, "states that decide nothing test nothing"


def test_a_network_from_elsewhere_with_unequal_signals():
    from pettingzoo.test import parallel_api_test

    from dmpo_deep.envs.pettingzoo import ParallelTask

    env = make_env("atsc", 2, num_seconds=300, **ELSEWHERE)
    assert isinstance(env.action_space, MultiDiscrete)
    assert sorted(action_counts(env)) == [2] * 4 + [3] * 8 + [4] * 4
    assert env.graph.edges == grid(4, 4).edges
    results = {}
    for name in ("random", "fixed-20-10-20", "greedy-5", "max-pressure-5", "constant-3"):
        rng = np.random.default_rng(0)
        results[name] = play(env, CONTROLLERS["atsc"][name].make(env), rng, rng)
    arrived = {name: found.outcomes["system_total_arrived"].mean() for name, found in results.items()}
    assert min(arrived["greedy-5"], arrived["max-pressure-5"]) > max(arrived["random"], arrived["fixed-20-10-20"])
    env.reset(np.random.default_rng(0))
    bad = np.zeros((2, 16), dtype=int)
    bad[1, 3] = 2
    with pytest.raises(ValueError, match="action 2 of agent 3 in copy 1 is out of range; give integers from 0 to one"):
        env.step(bad)
    bad[1, 3] = 1
    obs = env.step(bad)[0]
    assert (obs[:, [0, 3, 12, 15], 4:] == 0).all(), "lanes that a corner does not have"
    env.close()
    adapter = ParallelTask("atsc", num_seconds=60, isolated=False, **ELSEWHERE)
    assert [adapter.action_space(f"agent_{i}") for i in (0, 1, 5)] == [Discrete(2), Discrete(3), Discrete(4)]
    parallel_api_test(adapter, num_cycles=30)
    adapter.close()


def spoiled(tmp_path, name, old, new):
    text = (GRID_NETWORK if "net" in name else GRID_DEMAND).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    return str(tmp_path / name)


def test_files_that_cannot_be_right_are_refused_before_sumo_sees_them(tmp_path):
    good, demand = str(GRID_NETWORK), str(GRID_DEMAND)
    short = spoiled(tmp_path, "short.net.xml", 'state="rrrGrGrrrGrG"', 'state="rrr"')
    cut = tmp_path / "cut.net.xml"
    cut.write_text(GRID_NETWORK.read_text()[:5000])
    dark = tmp_path / "dark.net.xml"
    dark.write_text("<net><edge id='a'/></net>")
    red = tmp_path / "red.net.xml"
    red.write_text(
        '<net><tlLogic id="x"><phase state="r"/></tlLogic>'
        '<connection from="a" to="b" fromLane="0" toLane="0" tl="x" linkIndex="0"/></net>'
    )
    lost = spoiled(tmp_path, "lost.rou.xml", 'from="t12_n24"', 'from="t99_n24"')
    empty = tmp_path / "empty.rou.xml"
    empty.write_text("<routes/>")
    for net, routes, error, message in (
        (short, demand, ValueError, "signal 'n1' has 12 links and a phase 'rrr' of 3 characters; give every phase one"),
        (str(cut), demand, ValueError, "cut.net.xml' is damaged or is no XML .*; give a network made by"),
        ("missing.net.xml", demand, FileNotFoundError, "net_file = .*missing.net.xml' does not exist; give a network"),
        (good, "missing.rou.xml", FileNotFoundError, "route_file = .*missing.rou.xml' does not exist; give a demand"),
        (demand, good, ValueError, "net_file = .* holds <routes>, not <net>"),
        (str(dark), demand, ValueError, "dark.net.xml has no traffic signals"),
        (str(red), demand, ValueError, r"signal 'x' has no green phase among \['r'\]"),
        (good, lost, ValueError, "names the road 't99_n24', which the network does not have"),
        (good, str(empty), ValueError, "empty.rou.xml has no vehicle that departs"),
    ):
        with pytest.raises(error, match=message):
            make_env("atsc", 1, net_file=net, route_file=routes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net_file": "x"}, "net_file = 'x', route_file = None; give both"),
        ({"reward_fn": "que"}, "reward_fn = 'que'; give 'queue' or 'queue_and_backlog' or 'pressure'"),
        ({"lanes": "all"}, "lanes = 'all'; give 'distinct' or 'by_link'"),
        ({"yellow_time": 5}, "yellow_time = 5, delta_time = 5, .* less yellow than lies between decisions"),
        ({"min_green": -1}, "min_green = -1"),
        ({"num_seconds": 12}, "num_seconds = 12; give a positive multiple of delta_time = 5"),
        ({"sumo_seed": -1}, "sumo_seed = -1; give 0 to"),
        ({"additional_sumo_cmd": "--seed 3"}, "additional_sumo_cmd has --seed, which is set by an option"),
        ({"additional_sumo_cmd": "lanechange"}, "'lanechange' belongs to no option"),
        ({"max_green": 3}, "unknown option of atsc 'max_green'; did you mean 'min_green'"),
        ({"delta_time": "5"}, "delta_time = '5'; this option of atsc must be of type int"),
    ],
)
def test_mistakes_name_value_and_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        make_env("atsc", 1, **options)


def test_further_options_reach_sumo(local):
    env = local(num_seconds=300, additional_sumo_cmd="--max-num-vehicles 7", sumo_seed=1)
    env.reset(np.random.default_rng(0))
    for _ in range(60):
        *_, info = env.step(np.zeros((1, 25), dtype=int))
    assert info["system_total_running"][0] <= 7
