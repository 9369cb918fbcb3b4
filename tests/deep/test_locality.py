"""Section III: nothing outside of a neighbourhood changes what a policy sees, in the simulated tasks either."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep.envs import make_env
from dmpo_deep.nets import tensor
from dmpo_deep.policies import Actor, local_head

CARS, SIDE, LANES = 14, 5, 6


def of_car(options, width):
    """Which numbers of a frame car ``j``'s observation is made of, ``[14, width]``: speeds first, then places."""
    own = np.tile(np.eye(CARS, dtype=bool), 2)
    return own | np.roll(own, -1, axis=0) if options["observation"] == "local" else own


def of_signal(options, width):
    """The same of signal ``j``: its lanes' detectors and, fourth of their numbers, queues; phase, green, backlog."""
    signals = SIDE**2
    result, end = np.zeros((signals, width), dtype=bool), width - 11  # of the system
    for j in range(signals):
        result[j, LANES * j : LANES * (j + 1)] = True
        if options["observation"] != "wave":
            result[j, [end - signals + j, end - 2 * signals + j]] = True
        if options["observation"] == "queue_and_phase":
            result[j, 3 * signals * LANES + LANES * j : 3 * signals * LANES + LANES * (j + 1)] = True
            result[j, end - 3 * signals + j] = True
    return result


def cars_heard(options, i):
    """Whom car ``i`` hears: those ahead and behind, and the one that it meets in the crossing."""
    across = {(i + CARS // 2) % CARS} if options["graph"] == "conflict" else set()
    return {i, (i + 1) % CARS, (i - 1) % CARS} | across


def signals_heard(options, i):
    """Whom a signal hears: those one crossroads away."""
    row, column = divmod(i, SIDE)
    near = ((row, column), (row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
    return {SIDE * r + c for r, c in near if 0 <= r < SIDE and 0 <= c < SIDE}


@pytest.mark.parametrize(
    ("task", "options", "visible", "heard"),
    [
        ("eight", {"observation": "paper", "graph": "cycle"}, of_car, cars_heard),
        ("eight", {"observation": "local", "graph": "conflict"}, of_car, cars_heard),
        ("atsc", {"observation": "wave"}, of_signal, signals_heard),
        ("atsc", {"observation": "wave_and_phase", "lanes": "by_link"}, of_signal, signals_heard),
        ("atsc", {"observation": "queue_and_phase"}, of_signal, signals_heard),
    ],
)
def test_a_policy_sees_its_neighbourhood_and_nothing_else(task, options, visible, heard):
    env, rng = make_env(task, 2, **options), np.random.default_rng(0)
    width, n = env._frames.shape[1], env.graph.n
    head = local_head(env, 0.5)
    actor = Actor(env.graph, 1, *env.observation_space.shape, head, (16,), torch.Generator().manual_seed(0))
    part = visible(options, width)

    def outputs(frames):
        env._frames = frames
        with torch.no_grad():
            return actor.net(actor.net.gather(tensor(env.observe()))).numpy()

    one, other = rng.integers(5, size=(2, width)).astype(float)
    for i in range(n):
        within = part[sorted(heard(options, i))].any(axis=0)
        found = outputs(np.stack([one, np.where(within, one, other)]))
        np.testing.assert_array_equal(found[i, 0], found[i, 1])
        assert (found[:, 0] != found[:, 1]).any(), "nothing was changed"
        for j in heard(options, i):
            found = outputs(np.stack([one, one + part[j]]))
            assert (found[i, 0] != found[i, 1]).any(), f"agent {i} does not hear {j}"
