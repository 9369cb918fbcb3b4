"""Checkpoints: nested states come back as they were; broken files say what they are."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import save_file

from dmpo_deep.checkpoint import CheckpointError, load, restoring, save

STATE = {
    "nested": {"list": [1, 2.5, None, True], "tuple": (1, "a"), 3: "integer key"},
    "tensor": torch.arange(6.0).reshape(2, 3).T,
    "array": np.array([[True, False]]),
    "scalar": torch.tensor(3),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "generator": np.random.default_rng(0).bit_generator.state,
    "infinite": math.inf,
}


def test_round_trip_keeps_types_keys_and_numbers(tmp_path):
    save(tmp_path / "c", STATE)
    back = load(tmp_path / "c")
    assert back["nested"] == STATE["nested"]
    assert back["generator"] == STATE["generator"]
    assert back["infinite"] == math.inf
    assert torch.equal(back["tensor"], STATE["tensor"])
    assert back["scalar"].shape == ()
    for name in ("array", "empty"):
        assert isinstance(back[name], np.ndarray)
        assert back[name].dtype == STATE[name].dtype
        np.testing.assert_array_equal(back[name], STATE[name])


def test_optimiser_state_survives(tmp_path):
    def build():
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, torch.optim.Adam([weight], lr=0.1)

    (weight, optimizer), (other, restored) = build(), build()
    (weight**2).sum().backward()
    optimizer.step()
    save(tmp_path / "c", {"weight": weight, "optimizer": optimizer.state_dict()})
    state = load(tmp_path / "c")
    with torch.no_grad():
        other.copy_(state["weight"])
    restored.load_state_dict(state["optimizer"])
    for w, o in ((weight, optimizer), (other, restored)):
        o.zero_grad()
        (w**3).sum().backward()
        o.step()
    assert torch.equal(weight, other)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_file_is_named(tmp_path, kept):
    path = tmp_path / "c.safetensors"
    save(path, STATE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"c\.safetensors is truncated or is no checkpoint"):
        load(path)


def test_other_versions_and_other_files_are_refused(tmp_path):
    path = tmp_path / "c"
    save_file({"x": np.zeros(1)}, path, metadata={"format": "dmpo-checkpoint/99", "tree": json.dumps({})})
    with pytest.raises(CheckpointError, match="'dmpo-checkpoint/99', and this version reads 'dmpo-checkpoint/2'"):
        load(path)
    save_file({"x": np.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="format None"):
        load(path)
    path.write_text("not a checkpoint at all, only text")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "missing")


@pytest.mark.parametrize("tree", [None, "", "{", '{"tensor": "99999"}', '{"a": 1, "b": 2}', '{"dict": [1]}'])
def test_a_broken_tree_is_named(tmp_path, tree):
    path = tmp_path / "c"
    save_file(
        {"x": np.zeros(1)},
        path,
        metadata={"format": "dmpo-checkpoint/1"} | ({} if tree is None else {"tree": tree}),
    )
    with pytest.raises(CheckpointError, match="c is damaged or does not fit its run"):
        load(path)


def test_a_single_bit_that_is_not_as_written_is_refused(tmp_path):
    """All bits of the header in turn, and of the numbers: safetensors alone would load most of them."""
    path = tmp_path / "c.safetensors"
    save(path, {"weights": torch.arange(50.0), "format": "sha256", "nested": ["0" * 64]})
    data = path.read_bytes()
    assert load(path)["nested"] == ["0" * 64]
    for bit in range(0, 8 * len(data), 3):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"c\.safetensors"):
            load(path)


def test_checkpoints_from_before_there_were_digests_load(tmp_path):
    tree = json.dumps({"dict": [["x", {"array": "0"}]]})
    save_file({"0": np.arange(3)}, tmp_path / "c", metadata={"format": "dmpo-checkpoint/1", "tree": tree})
    np.testing.assert_array_equal(load(tmp_path / "c")["x"], [0, 1, 2])
    save_file({"0": np.arange(3)}, tmp_path / "c", metadata={"format": "dmpo-checkpoint/2", "tree": tree})
    with pytest.raises(CheckpointError, match="its bytes are not those that were written"):
        load(tmp_path / "c")


def test_a_foreign_checkpoint_is_refused(tmp_path):
    save(tmp_path / "c", {"task": "catchup", "seed": 1})
    assert load(tmp_path / "c", {"seed": 1})["task"] == "catchup"
    with pytest.raises(CheckpointError, match="c is of another run: its seed is 1, and the run's is 2"):
        load(tmp_path / "c", {"seed": 2})
    save(tmp_path / "c", [1])
    with pytest.raises(CheckpointError, match="of another run"):
        load(tmp_path / "c", {"seed": 2})


@pytest.mark.parametrize("error", [KeyError, IndexError, RuntimeError, ValueError])
def test_what_does_not_fit_is_named(tmp_path, error):
    with pytest.raises(CheckpointError, match=f"does not fit its run \\({error.__name__}: "), restoring(tmp_path):
        raise error("x")


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path / "c", {"x": 1})
    with pytest.raises(TypeError, match="cannot store object"):
        save(tmp_path / "c", {"x": object()})
    assert load(tmp_path / "c") == {"x": 1}
