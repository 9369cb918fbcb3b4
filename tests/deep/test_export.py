"""Exported policies say what the trained ones say: by the card's own code, in ONNX, and with the same locality."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors import safe_open

from dmpo_deep import cli, export_onnx
from dmpo_deep.export import CARD, ONNX, WEIGHTS, export, policies
from dmpo_deep.policies import Categorical
from dmpo_deep.train import train
from tests.deep.test_tabular import UNEQUAL

RUNS = {
    "discrete": ("catchup", "ia2c", ("kappa_policy=2", "hidden=8,4")),
    "unequal": (f"tabular:{UNEQUAL}", "dppo", ("hidden=8", "environment.horizon=20")),
    "continuous": (f"{__file__}:pumps", "dppo", ("hidden=8",)),
    "memory": (f"{__file__}:pumps", "ic3net", ("width=6", "minibatches=1")),
}


def pumps(batch):
    """Continuous actions on a star, in a range that is not centred."""
    import networkx as nx
    from gymnasium.spaces import Box

    from dmpo_theory.graph import AgentGraph
    from tests.deep.test_check_env import Heat

    class Pumps(Heat):
        graph = AgentGraph.from_networkx(nx.star_graph(3))
        action_space = Box(np.array([0.0, -2.0], dtype=np.float32), np.array([1.0, 6.0], dtype=np.float32))

        def step(self, action):
            return super().step((action[..., 0] > 0.5).astype(int))

    return Pumps(batch)


pumps.evaluations = 2


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    task, algo, overrides = RUNS[request.param]
    out = tmp_path_factory.mktemp("export") / "run"
    given = (*overrides, "copies=2", "rollout_steps=25")
    given += () if algo in ("ic3net", "ia2c") else ("minibatches=1",)
    return train(task, algo, 0, 50, out, overrides=given, eval_every=10**6, progress=False)


def by_the_card(folder):
    """What the card's own code makes, and what it has read."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)
    space = {}
    exec(code.replace('"policies.safetensors"', repr(str(folder / WEIGHTS))), space)
    return space


def test_the_cards_code_says_what_the_policies_say(run, tmp_path):
    files, deviation = export(run, tmp_path / "out")
    assert deviation is None
    assert [file.name for file in files] == [WEIGHTS, CARD]
    given, card = policies(run), by_the_card(tmp_path / "out")
    inputs = [x[0].numpy() for x in export_onnx.random_inputs(given, 1)]
    with torch.no_grad():
        tensors = [torch.from_numpy(x)[None] for x in inputs]
        if len(inputs) == 1:
            wanted = given.net.net(given.net.net.gather(tensors[0]))[:, 0]
        else:
            memory = (x.transpose(0, 1) for x in tensors[1:])
            said, after = given.net(tensors[0], export_onnx.Memory(*memory))
            wanted = said.outputs[:, 0]
    for i in range(given.graph.n):
        made = card["outputs"](i, *inputs)
        if len(inputs) > 1:
            made, gate, hidden, cell = made
            for x, y in ((gate, said.gate), (hidden, after.hidden), (cell, after.cell)):
                np.testing.assert_allclose(x, y[i, 0], atol=1e-5)
        np.testing.assert_allclose(made, wanted[i], atol=1e-5)
    about = card["about"]
    if isinstance(given.head, Categorical):
        counts = json.loads(about["actions"])
        assert counts == (~given.head.missing[:, 0]).sum(-1).tolist()
    else:
        center, unit, low, high = (np.array(json.loads(about[k])) for k in ("center", "unit", "low", "high"))
        np.testing.assert_allclose((center, unit, low, high), [[0.5, 2], [0.5, 4], [0, -2], [1, 6]], atol=1e-5)
        np.testing.assert_allclose(card["weights"]["agent.1.sd"], unit * 0.5, rtol=0.1)


def test_the_card_has_the_facts(run, tmp_path):
    export(run, tmp_path / "out")
    card, given = (tmp_path / "out" / CARD).read_text(), policies(run)
    config = json.loads((run / "config.json").read_text())
    for fact in (config["task"], f"(`{config['algo']}`)", "| seed | 0 |", config["versions"]["torch"], "copies=2"):
        assert fact in card
    for i, heard in enumerate(given.hears):
        assert f"| {i} | {', '.join(map(str, heard))} |" in card
    sampled = float((run / "progress.csv").read_text().splitlines()[-1].split(",")[3])
    assert f"| return, sampled | {sampled:.4g} |" in card
    with safe_open(tmp_path / "out" / WEIGHTS, framework="numpy") as file:
        assert file.metadata()["format"] == "dmpo-policies/1"


def test_onnx_says_the_same_and_hears_nobody_else(run, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, deviation = export(run, tmp_path / "out", onnx=True)
    assert deviation < 1e-5
    assert f"at most {deviation:.1e} from" in (tmp_path / "out" / CARD).read_text()
    model, given = (tmp_path / "out" / ONNX).read_bytes(), policies(run)
    for batch in (1, 5):
        inputs = [x.numpy() for x in export_onnx.random_inputs(given, batch, seed=3)]
        base = export_onnx.run_model(model, given, inputs)
        assert all(x.shape[:2] == (batch, given.graph.n) for x in base)
    names = export_onnx.names(given)[1]
    idle = np.flatnonzero((~given.head.missing[:, 0]).sum(-1) == 1) if isinstance(given.head, Categorical) else ()
    for j in range(given.graph.n):
        spoilt = [x.copy() for x in inputs]
        for x in spoilt:
            x[:, j] = 1 - x[:, j]  # opens or closes a gate, too
        for name, before, after in zip(names, base, export_onnx.run_model(model, given, spoilt), strict=True):
            for i in range(given.graph.n):
                changed = not np.array_equal(before[:, i], after[:, i])
                assert not changed or j in given.hears[i], f"{name} of agent {i} depends on agent {j}"
                if i == j and name != "sd" and given.head.outputs > 1 and i not in idle:
                    assert changed


@pytest.mark.parametrize("run", ["discrete"], indirect=True)
def test_a_model_that_disagrees_is_not_written(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    original = export_onnx.run_model
    monkeypatch.setattr(export_onnx, "run_model", lambda *a: [x + 1e-3 for x in original(*a)])
    with pytest.raises(ValueError, match=r"deviates by 0\.001.* from the policies.*nothing is written"):
        export(run, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["discrete"], indirect=True)
def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Results: {out} (policies.safetensors, README.md)\n"
    assert cli.main(["export", str(run), "--out", str(out)]) == 2
    assert "exists; give a new or empty folder" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "b")]) == 2
    assert "no run directory" in capsys.readouterr().err
