"""Reference controllers by their published formulas, the search that finds them, and the scale they span."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from dmpo_deep.controllers import (
    CONTROLLERS,
    DATA,
    FAMILIES,
    LEVELS,
    cacc,
    from_search,
    normalised_score,
    random_score,
    ring,
)
from dmpo_deep.controllers.search import best, search, write
from dmpo_deep.envs import make_env
from dmpo_deep.envs.ring import DT, HUMAN, equilibrium_speed
from dmpo_deep.envs.traffic import EVALUATION_DRAWS, Traffic
from dmpo_deep.episodes import Episodes
from dmpo_deep.evaluate import evaluate, evaluate_controller


def one_step(make, speed, headway, leader_speed, **options):
    """Accelerations of the 22 cars of a ring in a given state."""
    env = make_env("ring", 1, length=245.0, limit=np.inf, **options)
    obs = env.reset(np.random.default_rng(0))
    full = [np.broadcast_to(np.asarray(x, dtype=float), (1, 22)).copy() for x in (speed, headway, leader_speed)]
    env.traffic = lambda: Traffic(np.zeros((1, 22)), *full)
    return make(env)(obs, np.random.default_rng(0))[0][0, :, 0]


def test_follower_stopper_has_its_four_regions():
    v_eq = float(equilibrium_speed(245.0, HUMAN))
    options = {"humans": 1}
    for headway, speed, lead in ((4.0, 2.0, 2.0), (5.0, 2.0, 1.0), (5.5, 2.0, 1.5), (5.9, 3.0, 3.0), (30.0, 1.0, 9.0)):
        closing = min(lead - speed, 0.0)
        x1, x2, x3 = (x + closing**2 / (2 * d) for x, d in ((4.5, 1.5), (5.25, 1.0), (6.0, 0.5)))
        top, adapted = 0.5 * v_eq, min(max(lead, 0), 0.5 * v_eq)
        if headway <= x1:
            command = 0.0
        elif headway <= x2:
            command = adapted * (headway - x1) / (x2 - x1)
        elif headway <= x3:
            command = adapted + (top - adapted) * (headway - x2) / (x3 - x2)
        else:
            command = top
        found = one_step(lambda env: ring.follower_stopper(env, 0.5), speed, headway, lead, **options)
        np.testing.assert_allclose(found, (command - speed) / DT, atol=1e-12)


def test_pi_with_saturation_by_plain_loops():
    env = make_env("ring", 1, length=245.0, limit=np.inf)
    obs, rng = env.reset(np.random.default_rng(0)), np.random.default_rng(5)
    policy, past, command = ring.pi_saturation(env), [], None
    for _ in range(500):
        v, gap, lead = rng.uniform(0, 8), rng.uniform(1, 40), rng.uniform(0, 8)
        state = Traffic(np.zeros((1, 22)), *(np.full((1, 22), x) for x in (v, gap, lead)))
        env.traffic = lambda state=state: state
        past.append(v)
        target = sum(past[-380:]) / len(past[-380:]) + min(max((gap - 7) / 23, 0), 1)
        alpha = min(max((gap - max(2 * (lead - v), 4)) / 2, 0), 1)
        beta = 1 - alpha / 2
        command = beta * (alpha * target + (1 - alpha) * lead) + (1 - beta) * (v if command is None else command)
        np.testing.assert_allclose(policy(obs, rng)[0], (command - v) / DT, atol=1e-9)


def test_human_controller_drives_as_human_cars_do():
    alone = make_env("ring", 1, length=230.0, humans=21, noise=0.0, start="bunched", limit=np.inf)
    obs = alone.reset(np.random.default_rng(0))
    policy = ring.human(alone)
    for _ in range(600):
        action = policy(obs, np.random.default_rng(0))[0]
        cars = alone.traffic()
        obs = alone.step(action)[0]
    v, gap, lead = cars.speed[0, 0], cars.headway[0, 0], cars.leader_speed[0, 0]
    wanted = 2 + max(0.0, v + v * (v - lead) / (2 * 1.5**0.5))
    assert action[0, 0, 0] == pytest.approx(1 - (v / 30) ** 4 - (wanted / gap) ** 2)


def test_a_mixture_has_the_frequencies_of_its_weights():
    weights = np.log([[0.1, 0.2, 0.3, 0.4]]) / 5
    action, log_prob = cacc.mixture(None, weights)(np.zeros((5000, 8, 5)), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(action.ravel()) / action.size, [0.1, 0.2, 0.3, 0.4], atol=0.01)
    np.testing.assert_allclose(log_prob, np.log([0.1, 0.2, 0.3, 0.4])[action], rtol=1e-6)


def test_linear_rules_one_for_all_or_one_a_copy():
    rng = np.random.default_rng(0)
    weights, obs = rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 8, 5)).astype(np.float32)
    each = cacc.linear(None, weights)(obs, rng)[0]
    for copy in range(3):
        np.testing.assert_array_equal(each[copy], cacc.linear(None, weights[copy])(obs, rng)[0][copy])
        scores = [weights[copy] @ [1, *obs[copy, car]] for car in range(8)]
        np.testing.assert_array_equal(each[copy], np.argmax(scores, axis=1))


def test_gains_that_are_no_action_are_refused():
    with pytest.raises(ValueError, match=r"gains \(0\.3, 0\.5\) are no action"):
        cacc.always(None, 0.3, 0.5)


REACHED = {("catchup", "linear"): -30.0, ("slowdown", "linear"): -280.0}


@pytest.mark.parametrize("task", ["catchup", "slowdown"])
def test_searched_controllers_beat_the_levels_they_must(task):
    results = evaluate(task)
    assert results["linear"].mean >= REACHED[task, "linear"]
    assert results["linear"].mean > results["mixture"].mean > results["always"].mean > results["random"].mean
    assert results["linear"].collisions == results["mixture"].collisions == results["always"].collisions == 0
    assert results["always"].score == pytest.approx(0, abs=1e-9)
    assert results["linear"].score == pytest.approx(1, abs=1e-9)


def test_levels_of_the_ring_from_an_even_start():
    """Within 3 % of those of an independent implementation; the searched rule is better than its counterpart there."""
    for length, p1, p3, linear in ((220, 1359, 1391, 1300), (245, 1972, 2019, 1891), (270, 2585, 2632, 2482)):
        found = {
            name: evaluate_controller("ring", CONTROLLERS["ring"][name], {"length": length}).mean
            for name in ("proportional-0.1", "proportional-0.3", "linear")
        }
        assert found["proportional-0.1"] == pytest.approx(p1, rel=0.03)
        assert found["proportional-0.3"] == pytest.approx(p3, rel=0.03)
        assert found["linear"] > linear


def test_one_car_among_humans_can_dissolve_their_waves():
    options = {"humans": 21, "start": "bunched", "warmup": 750, "length": 230}
    waves, calm = (evaluate_controller("ring", CONTROLLERS["ring"][k], options, skip=1500) for k in ("idm", "pi"))
    assert waves.measures["speed"].mean() == pytest.approx(2.43, rel=0.01)
    assert calm.measures["speed"].mean() == pytest.approx(3.41, rel=0.01)
    assert waves.measures["speed_sd"].mean() > 2.8
    assert calm.measures["speed_sd"].mean() < 0.1
    assert waves.env_steps == 20 * 3750


def of(metric):
    """Two episodes with a metric and nothing else."""
    return Episodes(np.full(2, metric), np.zeros(2, dtype=bool), {}, 0)


def test_the_scale_is_what_its_controllers_score_now():
    stored = json.loads(LEVELS.read_text())
    assert stored["command"] == "python benchmarks/levels.py --write"
    for level in stored["levels"]:
        if level["task"] in ("catchup", "slowdown") or level["options"] == {"length": 245}:  # simulators take too long
            for end, score in (("trivial", 0.0), ("best", 1.0)):
                known = CONTROLLERS[level["task"]][level[end]["controller"]]
                found = evaluate_controller(level["task"], known, level["options"])
                assert found.mean == pytest.approx(level[end]["metric"], rel=1e-9)
                assert found.score == pytest.approx(score, abs=1e-9)
    assert normalised_score("catchup", {"collision": "freeze", "collision_scale": 0.2}, of(-72.9)) is not None
    assert normalised_score("ring", {"length": 300}, of(0.0)) is None
    assert (
        normalised_score("ring", {"start": "even", "humans": 0}, of(0.0)) == normalised_score("ring", {}, of(0.0)) == 0
    )
    assert random_score("slowdown", {}) < 0


def test_a_search_improves_on_training_draws_and_repeats(tmp_path):
    settings = {"seed": 3, "population": 40, "draws": 3, "iterations": 5, "restarts": 2}
    history = list(search("catchup", "linear", **settings))
    assert [(found.restart, found.iteration) for found in history] == [(r, i) for r in (1, 2) for i in range(1, 6)]
    assert [found.validation is not None for found in history] == [False, False, False, False, True] * 2
    assert all(history[i].metric > history[i - 4].metric + 20 for i in (4, 9))
    assert history[-1].env_steps < 2 * (5 * 40 * 3 + 200) * 600
    assert best(history) is max(history[4], history[9], key=lambda found: found.validation)
    assert best(history[:3]) is history[2]
    again = list(search("catchup", "linear", **settings))
    np.testing.assert_array_equal(again[-1].weights, history[-1].weights)
    assert (next(search("catchup", "linear", **(settings | {"seed": 4}))).weights != history[0].weights).any()
    path = tmp_path / "found.json"
    write(path, "catchup", "linear", {"collision": "end"}, settings, history)
    record = json.loads(path.read_text())
    assert record["command"] == (
        "dmpo search catchup --controller linear --set collision=end --seed 3 --population 40 --draws 3 --iterations 5 "
        "--restarts 2"
    )
    assert record["weights"] == best(history).weights.tolist()
    assert evaluate("catchup", str(path))[str(path)].collisions == 0
    with pytest.raises(ValueError, match="was found on catchup, not on slowdown; search there"):
        from_search(path, "slowdown")
    path.write_text('{"task": "catchup"}')
    with pytest.raises(ValueError, match="is no file that dmpo search wrote"):
        from_search(path, "catchup")


def test_searches_never_see_the_evaluation_draws(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "dmpo_deep.controllers.search.make_env",
        lambda *a, draws, **k: seen.append(draws) or make_env(*a, draws=draws, **k),
    )
    for seed in range(3):
        next(search("catchup", "mixture", seed=seed, population=20, draws=16, iterations=1))
    assert not np.isin(np.concatenate(seen), EVALUATION_DRAWS).any()
    monkeypatch.setattr("dmpo_deep.controllers.search.EVALUATION_DRAWS", tuple(np.random.default_rng(5).random(1)))
    with pytest.raises(ValueError, match="seed = 5 gives training draws that are evaluation draws; give another seed"):
        search("catchup", "mixture", seed=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("catchupp", "linear"), "did you mean 'catchup'"),
        (("catchup", "liner"), "unknown searchable controller 'liner'; did you mean 'linear'"),
        (("ring", "mixture"), "unknown searchable controller 'mixture'"),
    ],
)
def test_search_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        search(*arguments)
    for name, value in (("population", 5), ("draws", 0), ("iterations", 0), ("restarts", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name} = {value}; give at least"):
            search("catchup", "linear", **{name: value})


def test_stored_weights_name_the_command_that_found_them():
    for path in DATA.glob("*-*.json"):
        record = json.loads(path.read_text())
        assert record["command"].startswith(f"dmpo search {record['task']} --controller {record['controller']}")
        assert np.shape(record["weights"]) == FAMILIES[record["task"]][record["controller"]].shape
