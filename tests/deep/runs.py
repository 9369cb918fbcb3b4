"""Small runs on catch-up, and how to compare two."""

import csv

import numpy as np
import torch

from dmpo_deep import log
from dmpo_deep.train import train

SMALL = {
    "dmpo": ("rollout_steps=50", "warmup_steps=50", "branches=16", "model_horizon=5", "model_steps=5", "hidden=8"),
    "dppo": ("rollout_steps=50", "hidden=8", "updates=2"),
    "cppo": ("rollout_steps=50", "hidden=8", "updates=2"),
    "dmpo-true-model": ("rollout_steps=50", "branches=16", "model_horizon=5", "hidden=8", "updates=2"),
    "ic3net": ("copies=4", "rollout_steps=50", "width=8"),
    "ia2c": ("copies=4", "rollout_steps=50", "hidden=8"),
}


def files(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def small(algo, out, steps=1200, **options):
    defaults = {"seed": 3, "overrides": SMALL[algo], "eval_every": 400, "progress": False}
    return train("catchup", algo, steps=steps, out=out, **(defaults | options))


def timeless(run):
    """The record without its wall times."""
    with (run / log.PROGRESS).open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in csv.DictReader(file)]


def assert_same(a, b, where="state"):
    """Nested states are equal to the last bit, wall times aside."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds"}:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{k}]")
    elif isinstance(a, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=where)
    else:
        assert a == b, where
