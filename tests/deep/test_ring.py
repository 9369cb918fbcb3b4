"""Section VI-B: the ring against SUMO, against published returns, and against its own equations."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from dmpo_deep.envs import make_env
from dmpo_deep.envs.ring import (
    CAR_LENGTH,
    CARS,
    DT,
    HORIZON,
    HUMAN,
    JUNCTIONS,
    SAFE,
    advance,
    equilibrium_speed,
    idm,
    placed,
)

RING = {"beyond_limit": "clip"}


def returns(rule, length, **options):
    """Sum of rewards of one episode; ``rule(speed [22], rng)`` gives accelerations ``[22]``."""
    env, rng = make_env("ring", 1, length=length, **RING, **options), np.random.default_rng(0)
    env.reset(rng)
    return sum(
        env.step(rule(env.traffic().speed[0], rng)[None, :, None].astype(float))[4]["metric"][0] for _ in range(HORIZON)
    )


def proportional(gain, v_eq):
    return lambda v, rng: gain * (v_eq - v)


LEVELS = {
    "zero": (lambda length: lambda v, rng: 0 * v, (0, 0, 0)),
    "constant 0.05": (lambda length: lambda v, rng: 0 * v + 0.05, (604, 1114, 1611)),
    "constant 0.1": (lambda length: lambda v, rng: 0 * v + 0.1, (103, 637, 1181)),
    "constant 1": (lambda length: lambda v, rng: 0 * v + 1, (-10550, -9890, -9241)),
    "gaussian 0.607": (lambda length: lambda v, rng: rng.normal(0, 0.607, CARS), (-5687, -5652, -5624)),
    "proportional 0.1": (lambda length: proportional(0.1, equilibrium_speed(length, SAFE)), (1202, 1809, 2418)),
    "proportional 0.3": (lambda length: proportional(0.3, equilibrium_speed(length, SAFE)), (1020, 1636, 2240)),
}


@pytest.mark.parametrize("name", LEVELS)
def test_returns_of_simple_rules_from_a_bunched_start_are_the_published_ones(name):
    rule, published = LEVELS[name]
    for length, wanted in zip((220.0, 245.0, 270.0), published, strict=True):
        tolerance = 40 if "gaussian" in name else 1.0
        assert returns(rule(length), length, start="bunched") == pytest.approx(wanted, abs=tolerance)


def test_the_original_permutation_of_actions_ruins_a_good_controller():
    v_eq = equilibrium_speed(245.0, SAFE)
    permuted = returns(proportional(0.1, v_eq), 245.0, start="bunched", actions="original")
    assert permuted == pytest.approx(-1411, rel=0.01)
    env = make_env("ring", 1, length=245.0, actions="original")
    env.reset(np.random.default_rng(0))
    action = np.zeros((1, CARS, 1))
    action[0, 2] = 1.0
    _, reward, *_ = env.step(action)
    moved = np.flatnonzero(env.traffic().speed[0])
    assert moved.tolist() == [10], "agent 2 drives the third car of 0, 1, 10, 11, .."
    assert reward[0].argmin() == 2, "and pays for it itself"


def test_one_step_by_hand():
    """The update rule again, car by car with plain floats."""
    env = make_env("ring", 2, humans=5, noise=0.0, warmup=300, start="bunched")
    rng = np.random.default_rng(4)
    env.reset(rng)
    assert len(env.learning) == env.graph.n == 17
    before = env.traffic()
    action = rng.uniform(-1, 1, (2, 17, 1))
    _, reward, _, _, info = env.step(action)
    for copy in range(2):
        expected = []
        for car in range(CARS):
            v, gap = float(before.speed[copy, car]), float(before.headway[copy, car])
            ahead = float(before.speed[copy, (car + 1) % CARS])
            a, b, s0 = SAFE if car in env.learning else HUMAN
            s = s0 + max(0.0, v + v * (v - ahead) / (2 * (a * b) ** 0.5))
            highest = v + DT * a * (1 - (v / 30) ** 4 - (s / gap) ** 2)
            wanted = v + DT * action[copy, env.learning.tolist().index(car), 0] if car in env.learning else highest
            expected.append(max(0.0, min(highest if highest >= 1e-5 else 0.0, wanted)))
        np.testing.assert_allclose(env.traffic().speed[copy], expected, rtol=0, atol=1e-13)
        credit = np.zeros(17)
        for car, v in enumerate(expected):
            agent = min((i for i, mine in enumerate(env.learning) if mine >= car), default=0)
            credit[agent] += 4 * (20 - abs(20 - v)) / (20 * CARS)
        np.testing.assert_allclose(reward[copy], credit - 4 * np.abs(action[copy, :, 0]) / CARS, atol=1e-13)
        total = 4 * np.mean(expected) / 20 - 4 * np.abs(action[copy]).sum() / CARS
        assert info["metric"][copy] == pytest.approx(total, abs=1e-13)


def test_cars_keep_their_order_and_the_ring_its_length():
    env, rng = make_env("ring", 64, humans=7, limit=np.inf), np.random.default_rng(1)
    env.reset(rng)
    smallest = np.inf
    for _ in range(1500):
        env.step(rng.normal(0, 20, (64, 15, 1)))
        cars = env.traffic()
        smallest = min(smallest, cars.headway.min())
    assert smallest > 0
    np.testing.assert_allclose(cars.headway.sum(axis=1) + CARS * CAR_LENGTH, env.length + JUNCTIONS, atol=1e-9)
    gap = np.roll(cars.position, -1, axis=1) - cars.position - CAR_LENGTH
    gap = np.where(gap < -CAR_LENGTH, gap + env.length[:, None] + JUNCTIONS, gap)
    np.testing.assert_allclose(gap, cars.headway, atol=1e-8)
    assert set(env.length) <= set(range(220, 271))


def test_lengths_are_drawn_for_each_episode_and_hidden_only_from_the_papers_observation():
    env = make_env("ring", 500)
    env.reset(np.random.default_rng(0))
    assert (env.length.min(), env.length.max()) == (220, 270)
    before = env.length.copy()
    where = np.arange(500) < 250
    env.reset(np.random.default_rng(1), where)
    assert (env.length[~where] == before[~where]).all()
    assert (env.length[where] != before[where]).any()
    fixed = make_env("ring", 1, length=300, observation="local")
    obs = fixed.reset(np.random.default_rng(0))
    np.testing.assert_allclose(obs[0, :, 1], (300.4 / 22 - 5) / 20, rtol=1e-6)
    assert make_env("ring", 1).reset(np.random.default_rng(0)).shape == (1, CARS, 2)


def test_exploring_starts_are_at_one_speed_up_to_the_equilibrium_and_not_in_evaluations():
    env = make_env("ring", 4000, exploring_starts=0.25, observation="local")
    obs = env.reset(np.random.default_rng(0))
    speed, most = env.traffic().speed, equilibrium_speed(env.length, SAFE)
    assert (speed == speed[:, :1]).all()
    np.testing.assert_array_equal(env.traffic().leader_speed, speed)
    np.testing.assert_allclose(obs[..., 0], obs[..., 2])
    moves = speed[:, 0] > 0
    assert moves.mean() == pytest.approx(0.25, abs=0.03)
    share = (speed[:, 0] / most)[moves]
    assert share.max() < 1
    assert np.quantile(share, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)
    reached = [env.step(np.zeros((4000, CARS, 1)))[4]["speed"] for _ in range(100)][-1]
    np.testing.assert_allclose(reached, speed[:, 0], rtol=1e-9)  # below the equilibrium nothing slows them down
    published = make_env("ring", 1, exploring_starts=1.0, draws=[0.5])
    published.reset(np.random.default_rng(0))
    assert not published.traffic().speed.any()


def test_humans_are_spread_evenly_and_the_graph_links_learning_cars():
    for humans, diameter in ((0, 11), (11, 5), (20, 1), (21, 0)):
        env = make_env("ring", 1, humans=humans)
        assert (env.graph.n, env.graph.diameter) == (CARS - humans, diameter)
        gaps = np.diff(np.append(env.learning, CARS))
        assert gaps.max() - gaps.min() <= 1


def test_state_restores_bit_for_bit_noise_included():
    env, rng = make_env("ring", 3, humans=10, warmup=20), np.random.default_rng(7)
    env.reset(rng)
    actions = [rng.uniform(-1, 1, (3, 12, 1)) for _ in range(40)]
    for action in actions[:20]:
        env.step(action)
    state = env.state_dict()
    first = [env.step(action)[4]["speed"] for action in actions[20:]]
    other = make_env("ring", 3, humans=10, warmup=20)
    other.reset(np.random.default_rng(99))
    other.load_state_dict(state)
    np.testing.assert_array_equal(first, [other.step(action)[4]["speed"] for action in actions[20:]])


def test_steps_of_the_warm_up_count_as_environment_steps():
    pytest.importorskip("torch")
    from dmpo_deep.controllers.ring import zero
    from dmpo_deep.rollout import Collector

    env = make_env("ring", 2, humans=21, warmup=30)
    collector = Collector(env, np.random.default_rng(0), stagger=False)
    assert collector.env_steps == 2 * 30
    collector.collect(zero(env), HORIZON - 1)
    assert collector.env_steps == 2 * (30 + HORIZON - 1)
    collector.collect(zero(env), 1)
    assert collector.env_steps == 2 * (30 + HORIZON + 30)


def waves(step, steps=3750, last=1500):
    """Mean speed, its deviation over time and over cars, and the mean of the highest speed, over the last steps."""
    speeds = np.array([step() for _ in range(steps)])[-last:]
    return speeds.mean(), speeds.std(axis=0).mean(), speeds.std(axis=1).mean(), speeds.max(axis=1).mean()


def human_waves(circumference, noise=0.0):
    state, rng = [placed(np.array([[circumference]]), 20.0)], np.random.default_rng(0)

    def step():
        nudge = noise * DT**1.5 * rng.standard_normal((1, CARS))
        state[0] = advance(state[0], np.array([[circumference]]), HUMAN, nudge=nudge)
        return state[0].speed[0]

    return waves(step)


PUBLISHED_WAVES = {230: (2.409, 2.927, 2.934, 8.41), 260: (3.305, 3.567, 3.576, 10.15)}


@pytest.mark.parametrize("length", PUBLISHED_WAVES)
def test_stop_and_go_waves_of_human_cars_are_the_published_ones(length):
    for noise in (0.0, 0.2):
        np.testing.assert_allclose(human_waves(length + JUNCTIONS, noise), PUBLISHED_WAVES[length], rtol=0.01)


def test_simulator_agrees_on_random_actions():
    """Every 0.1 s of 3,000 steps: learning cars alone, and among SUMO's own drivers."""
    pytest.importorskip("libsumo")
    for options in (
        {"length": 220.0},
        {"length": 263.0, "start": "bunched"},
        {"length": 230.0, "start": "bunched", "humans": 21, "noise": 0.0, "warmup": 750},
        {"length": 245.0, "start": "bunched", "humans": 9, "noise": 0.0, "limit": np.inf},
    ):
        mine, simulator = make_env("ring", 1, **options), make_env("ring", 1, backend="sumo", **options)
        rng = np.random.default_rng(2)
        mine.reset(rng), simulator.reset(rng)
        for _ in range(3000):
            action = rng.uniform(-1, 1, (1, len(mine.learning), 1))
            step, check = mine.step(action), simulator.step(action)
            a, b = mine.traffic(), simulator.traffic()
            np.testing.assert_allclose(a.speed, b.speed, rtol=0, atol=1e-6)
            np.testing.assert_allclose(a.headway, b.headway, rtol=0, atol=1e-6)
            np.testing.assert_allclose(step[1], check[1], rtol=0, atol=1e-6)
        apart = np.abs(a.position - b.position)
        assert np.minimum(apart, options["length"] + JUNCTIONS - apart).max() < 1e-5
        del simulator


@pytest.mark.parametrize("length", [230, 260])
def test_simulator_has_the_same_waves(length):
    pytest.importorskip("libsumo")
    from dmpo_deep.envs.ring_sumo import SumoRing

    road, none = SumoRing(np.ones(CARS, dtype=bool)), np.array([], dtype=int)
    circumference = length + JUNCTIONS
    road.start(circumference, placed(np.array([[circumference]]), 20.0).position[0])
    theirs = waves(lambda: road.advance(none, none).speed[0])
    np.testing.assert_allclose(human_waves(circumference), theirs, rtol=0.01)
    np.testing.assert_allclose(theirs, PUBLISHED_WAVES[length], rtol=0.01)


def test_simulator_is_one_to_a_process_and_has_no_noise():
    pytest.importorskip("libsumo")
    first = make_env("ring", 1, backend="sumo")
    first.reset(np.random.default_rng(0))
    first.reset(np.random.default_rng(1))
    with pytest.raises(RuntimeError, match="another simulation runs in this process"):
        make_env("ring", 1, backend="sumo").reset(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="use backend='numpy'"):
        first.state_dict()
    del first
    make_env("ring", 1, backend="sumo").reset(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"batch = 2; SUMO has room for one ring"):
        make_env("ring", 2, backend="sumo")
    with pytest.raises(ValueError, match=r"noise = 0\.2; SUMO's own drivers have none"):
        make_env("ring", 1, backend="sumo", humans=1)


def test_without_the_simulator_the_task_works_and_says_how_to_get_it():
    code = (
        "import sys; sys.modules['libsumo'] = None\n"
        "import numpy as np\n"
        "from dmpo_deep.envs import make_env\n"
        "make_env('ring', 2).reset(np.random.default_rng(0))\n"
        "make_env('ring', 1, backend='sumo')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ImportError: libsumo is not installed; pip install 'dmpo[sumo]'" in result.stderr
    assert "the task works without it" in result.stderr


def test_equilibrium_is_where_nobody_accelerates():
    for driver in (SAFE, HUMAN):
        speed = equilibrium_speed(250.0, driver)
        gap = (250 + JUNCTIONS) / CARS - CAR_LENGTH
        assert abs(idm(driver, speed, gap, speed)) < 1e-9
    assert equilibrium_speed(np.array([230.0, 260.0]), HUMAN) == pytest.approx([3.47, 4.83], abs=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 150}, r"length = 150 m is too short for 22 cars .* give at least 164\.6 m"),
        ({"length": 200, "start": "bunched"}, r"give at least 214\.6 m"),
        ({"length": float("nan")}, "length = nan m is too short"),
        ({"length": "long"}, "this option of ring must be of type float"),
        ({"humans": 22}, "humans = 22; give 0 to 21"),
        ({"humans": -1}, "humans = -1; give 0 to 21"),
        ({"noise": -1.0}, r"noise = -1\.0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"exploring_starts": 1.5}, r"exploring_starts = 1\.5; give a share"),
        ({"exploring_starts": 0.5, "backend": "sumo"}, "exploring_starts with backend = 'sumo'"),
        ({"limit": 0.0}, r"limit = 0\.0"),
        ({"observation": "global"}, "observation = 'global'; give 'paper' or 'local'"),
        ({"actions": "sorted"}, "give 'aligned' or 'original'"),
        ({"start": "random"}, "give 'even' or 'bunched'"),
        ({"backend": "traci"}, "give 'numpy' or 'sumo'"),
        ({"human": 3}, "did you mean 'humans'"),
        ({"draws": [1.5]}, r"draw 1\.5 is out of range"),
    ],
)
def test_mistakes_name_value_and_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        make_env("ring", 1, **options)
