"""Section VI-B: the figure eight against published levels, SUMO's own collisions, and its equations by hand."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("libsumo")

from dmpo_deep.controllers import CONTROLLERS, eight
from dmpo_deep.envs import make_env
from dmpo_deep.envs.eight_road import (
    AGENT,
    CARS,
    DT,
    IDM,
    KRAUSS,
    centers,
    demand,
    drawn_shift,
    edge_lengths,
    lap_length,
    network,
    start_positions,
)
from dmpo_deep.envs.sumo import Session
from dmpo_deep.episodes import play
from tests.deep.simulations import one_at_a_time


@pytest.fixture
def local():
    with one_at_a_time("eight") as make:
        yield make


def score(env, acceleration):
    """Sum of the metric and mean speed over an episode from a fixed start, and the step at which it ended."""
    env.reset(np.random.default_rng(0))
    total, speeds = 0.0, []
    while True:
        _, _, terminated, truncated, info = env.step(np.full((1, CARS, 1), acceleration))
        total += info["metric"][0]
        speeds.append(info["speed"][0])
        if terminated[0] or truncated[0]:
            return total, np.mean(speeds), len(speeds)


@pytest.mark.parametrize(
    ("options", "driver", "total", "speed"),
    [
        ({"right_of_way": "inside"}, AGENT, 339, 5.63),
        ({"right_of_way": "rules"}, AGENT, 311, 5.96),
        ({}, IDM, 289, 4.78),
        ({}, KRAUSS, 451, 8.03),
    ],
)
def test_published_levels_of_the_original(local, options, driver, total, speed):
    """Full throttle under two rules of priority, and SUMO's own drivers, from the original's start."""
    env = local(shift=0.0, **options)
    env.hand_over(driver)
    found = score(env, 3.0)
    assert found[0] == pytest.approx(total, rel=0.005)
    assert found[1] == pytest.approx(speed, rel=0.002)
    assert found[2] == 1500


def test_by_default_full_throttle_ends_in_the_crossing_unless_collisions_are_ignored(local):
    env = local(shift=0.0)
    total, _, steps = score(env, 3.0)
    assert steps <= 21
    assert total < 5
    env = local(shift=0.0, collision_rule="ignore")
    total, _, steps = score(env, 3.0)
    assert steps == 1500
    assert total > 1200, "the loophole"


def test_geometry(local):
    assert lap_length(30) == pytest.approx(421.94, abs=0.005)
    for radius in (15.0, 30.0, 47.0):
        north, west = centers(radius)
        assert west - north == pytest.approx(lap_length(radius) / 2)
        env = local(radius=radius)
        for seed in np.linspace(0, 1, 97, endpoint=False):
            places = start_positions(radius, drawn_shift(radius, seed))
            assert not env.collides(places[None])[0]
            order = np.sort(places)
            gaps = np.diff(np.append(order, order[0] + env.lap))
            assert gaps.min() == pytest.approx(edge_lengths(radius).sum() / CARS)
            assert gaps.max() < gaps.min() + 9.6
    shifts = [drawn_shift(30.0, seed) for seed in np.linspace(0, 1, 200, endpoint=False)]
    assert np.ptp(shifts) > 25


def test_collisions_are_where_bodies_overlap_in_the_square(local):
    env = local()
    north, west = env.crossing()
    for a in np.arange(-2, 8, 0.25):
        for b in np.arange(-2, 8, 0.25):
            places = np.linspace(50, 150, CARS)
            places[3], places[10] = north + a, west + b
            overlaps = [front > -0.9 and front - 5 < 0.9 for front in (a, b)]
            assert env.collides(places[None])[0] == all(overlaps)


def test_simulator_sees_the_same_collisions_only_later(local, tmp_path):
    """SUMO's detection at junctions, on random cruising speeds; it never sees one that this rule does not."""
    session, env, rng = Session(), local(), np.random.default_rng(1)
    (tmp_path / "net.xml").write_text(network(30))
    late, cars = [], [str(car) for car in range(CARS)]
    for _ in range(25):
        places = start_positions(30, drawn_shift(30, rng.random()))
        (tmp_path / "cars.xml").write_text(demand(30, places, AGENT))
        files = {"net-file": tmp_path / "net.xml", "route-files": tmp_path / "cars.xml", "step-length": DT}
        flags = {"collision.check-junctions": True, "collision.action": "warn", "insertion-checks": "none"}
        session.load({**files, **flags, "time-to-teleport": -1})
        session.step()
        vehicle, speed, wanted = session.api.vehicle, np.zeros(CARS), rng.uniform(1, 12, CARS)
        for car in cars:
            vehicle.setSpeedMode(car, 33)
        mine = None
        for step in range(400):
            for car, v in zip(cars, np.maximum(speed + DT * np.clip(wanted - speed, -3, 3), 0), strict=True):
                vehicle.slowDown(car, float(v), 1e-3)
            session.step()
            speed = np.array([vehicle.getSpeed(car) for car in cars])
            x = (places + np.array([vehicle.getDistance(car) for car in cars])) % env.lap
            if mine is None and env.collides(x[None])[0]:
                mine = step
            if session.api.simulation.getCollidingVehiclesNumber():
                assert mine is not None, "SUMO sees a collision where there is none by the rule"
                late.append(step - mine)
                break
    session.close()
    assert len(late) >= 15
    assert np.mean(np.array(late) <= 2) > 0.8


def test_one_step_by_hand(local):
    env, rng = local(observation="local", right_of_way="inside"), np.random.default_rng(4)
    env.reset(rng)
    for _ in range(30):
        before, action = env.traffic(), rng.uniform(-3, 3, (1, CARS, 1))
        obs, reward, _, _, info = env.step(action)
        after = env.traffic()
        short = 0.0
        for car in range(CARS):
            v, x = before.speed[0, car], before.position[0, car]
            wanted = max(0.0, v + 0.1 * action[0, car, 0])
            assert after.speed[0, car] <= wanted + 1e-9
            moved = (after.position[0, car] - x) % env.lap
            assert moved == pytest.approx(0.1 * after.speed[0, car], abs=1e-9)
            assert reward[0, car] == pytest.approx((20 - abs(20 - after.speed[0, car])) / 20)
            short += (20 - after.speed[0, car]) ** 2
            gap = (after.position[0, (car + 1) % CARS] - after.position[0, car]) % env.lap - 5
            expected = [after.speed[0, car] / 30, after.position[0, car] / env.lap, gap / 20]
            np.testing.assert_allclose(obs[0, car, :3], expected, rtol=1e-6)
            assert obs[0, car, 3] == np.float32(after.speed[0, (car + 1) % CARS] / 30)
        assert info["metric"][0] == pytest.approx(1 - np.sqrt(short) / (20 * np.sqrt(CARS)))
    assert (np.abs(after.speed - before.speed) > 0.1).any()


def test_learned_rollouts_end_by_the_same_rule(local):
    env, rng = local(), np.random.default_rng(0)
    env.reset(rng)
    ends = 0
    for _ in range(600):
        obs, reward, terminated, truncated, info = env.step(rng.uniform(0, 3, (1, CARS, 1)))
        predicted, price = env.termination(obs, info["step"])
        assert predicted[0] == terminated[0]
        if terminated[0]:
            ends += 1
            assert (reward == price[:, None]).all()
            assert info["metric"][0] == 0
        if terminated[0] or truncated[0]:
            env.reset(rng)
    assert ends > 3


def test_warm_up_counts_and_lets_humans_drive(local):
    from dmpo_deep.rollout import Collector

    env = local(warmup=100, right_of_way="inside")
    collector = Collector(env, np.random.default_rng(0), stagger=False)
    assert collector.env_steps == 100
    assert env.traffic().speed.mean() > 2
    assert env.time[0] == 0
    before = env.traffic().speed
    env.step(np.full((1, CARS, 1), -3.0))
    np.testing.assert_allclose(env.traffic().speed, np.maximum(before - 0.3, 0), atol=1e-9)


def test_state_restores_bit_for_bit():
    env, rng = make_env("eight", 2), np.random.default_rng(7)
    env.reset(rng)
    actions = [rng.uniform(-0.5, 0.5, (2, CARS, 1)) for _ in range(60)]
    for action in actions[:30]:
        env.step(action)
    state = env.state_dict()
    first = [env.step(action)[0] for action in actions[30:]]
    env.load_state_dict(state)
    np.testing.assert_array_equal(first, [env.step(action)[0] for action in actions[30:]])
    env.close()


def test_a_timetable_passes_the_crossing_at_speed_and_humans_queue(local):
    env = local(draws=[0.02, 0.5, 0.97])
    rng = np.random.default_rng(0)
    fast = play(env, eight.timetable(env), rng, rng, rounds=3)
    assert fast.collisions == 0
    assert (fast.metric > 1290).all()
    slow = play(env, eight.humans(env), rng, rng)
    assert 285 < slow.mean < 300


def test_every_agent_of_the_conflict_graph_hears_whom_it_meets(local):
    env = local(graph="conflict")
    assert env.graph.neighbors(3) == (2, 3, 4, 10)
    assert len(env.graph.edges) == 21
    assert len(local().graph.edges) == CARS
    assert set(CONTROLLERS["eight"]) >= {"idm", "krauss", "constant-7", "timetable", "random"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"right_of_way": "mine"}, "right_of_way = 'mine'; give 'none' or 'inside' or 'rules'"),
        ({"collision_rule": "warn"}, "collision_rule = 'warn'; give 'end' or 'ignore'"),
        ({"graph": "ring"}, "graph = 'ring'; give 'cycle' or 'conflict'"),
        ({"backend": "gui"}, "backend = 'gui'; give 'libsumo' or 'traci' or 'sumo-gui'"),
        ({"radius": 5.0}, r"radius = 5\.0, .* give a radius of at least 15 m"),
        ({"warmup": -1}, "warmup = -1"),
        ({"limit": 0.0}, r"limit = 0\.0"),
        ({"shift": -1.0}, r"shift = -1\.0 m; give a distance of at least 0"),
        ({"collision": "end"}, "unknown option of eight 'collision'; did you mean 'collision_rule'"),
        ({"draws": [0.5, 1.5]}, r"draw 1\.5 is out of range"),
    ],
)
def test_mistakes_name_value_and_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        make_env("eight", 1, **options)
