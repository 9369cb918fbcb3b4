"""Every algorithm on every kind of task: exact continuation of what it keeps."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from dmpo_deep.checkpoint import load, save
from dmpo_deep.envs import make_env
from dmpo_deep.nets import one_thread
from dmpo_deep.presets import PRESETS, get_preset
from dmpo_deep.train import ALGORITHMS

TINY = {"copies": 2, "rollout_steps": 20, "hidden": (8,), "minibatches": 2, "updates": 2}
TINY |= {
    "warmup_steps": 20,
    "branches": 8,
    "model_horizon": 5,
    "model_steps": 4,
    "model_batch": 16,
    "hidden_model": (8,),
}


def learner(task, algo, seed=3):
    preset = get_preset(task, algo)
    preset = replace(preset, **{name: value for name, value in TINY.items() if hasattr(preset, name)})
    return ALGORITHMS[algo](make_env(task, preset.copies, gamma=preset.gamma, **preset.environment), preset, seed)


def assert_same(a, b, where="state"):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{k}]")
    elif isinstance(a, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=where)
    else:
        assert a == b, where


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
        assert straight.epoch() == resumed.epoch()
    save(tmp_path / "a", straight.state_dict())
    save(tmp_path / "b", resumed.state_dict())
    assert_same(load(tmp_path / "a"), load(tmp_path / "b"))
    assert straight.collector.env_steps > 0
