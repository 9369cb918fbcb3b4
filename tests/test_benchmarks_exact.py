"""benchmarks/exact.py: its peers agree with ours, nothing is skipped without a reason, table and figure come out."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.exact import local_values
from dmpo_theory.graph import ring
from dmpo_theory.instances import random_mdp, random_policy

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    "dense LU", "dense MacQueen", "sparse MacQueen", "quantecon", "pymdptoolbox", "mdpsolver", "storm",
)  # fmt: skip


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("exact")


@pytest.mark.filterwarnings("default")  # what peers warn of is their own affair
@pytest.mark.parametrize("name", NAMES)
def test_peers_agree_with_ours(benchmark: ModuleType, name: str) -> None:
    assert set(benchmark.PEERS) == set(NAMES)
    peer = benchmark.PEERS[name]
    if not peer.installed:
        pytest.skip(f"{peer.package} is not installed")
    mdp = random_mdp(ring(4), n_states=(2, 3, 2, 1), rng=0)
    policy = random_policy(mdp, rng=1)
    blocks = list(peer.solve(closed_loop(mdp, policy), mdp.gamma, 1e-10))
    assert blocks[0].shape == (0, 12)
    np.testing.assert_allclose(np.concatenate(blocks), local_values(mdp, policy).values, rtol=0, atol=1e-10)


def test_run_resume_and_report(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = [
        "--families",
        "ring",
        "--n",
        "8",
        "--small",
        "0",
        "--gradients",
        "10",
        "--largest",
        "10",
        "--threads",
        "1",
        "--solvers",
    ]
    arguments += ["dense LU", "--out", str(tmp_path)]
    benchmark.main(arguments)
    results = (tmp_path / "results.csv").read_text()
    rows = benchmark.Results(tmp_path / "results.csv").rows
    assert [(*key, row.status) for key, row in rows.items()] == [
        ("dmpo", "ring", 8, "ok"),
        ("dense LU", "ring", 8, "ok"),
        ("dmpo", "ring", 10, "ok"),
        ("dmpo", "ring", 11, "skipped"),
    ]
    assert 0 < rows["dense LU", "ring", 8].seconds < 1
    assert rows["dense LU", "ring", 8].difference < 1e-10
    assert rows["dmpo", "ring", 10].peak_mib > 0
    assert 0 < rows["dmpo", "ring", 10].gradient_seconds < rows["dmpo", "ring", 10].whole_gradient_seconds
    table = (tmp_path / "table.md").read_text()
    assert "| ring | 8 |" in table
    assert "## Gradients" in table
    assert "time: --largest 10" in table
    for name in ("scaling.png", "scaling.pdf"):
        assert (tmp_path / name).stat().st_size > 1000
    benchmark.main(arguments)
    assert (tmp_path / "results.csv").read_text() == results
    with pytest.raises(SystemExit, match="gamma"):
        benchmark.main([*arguments, "--gamma", "0.5"])
    capsys.readouterr()


def test_every_obstacle_has_its_reason(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = benchmark.parse(["--threads", "1", "--families", "ring", "path", "--time-limit", "50"])
    results = benchmark.Results(tmp_path / "results.csv")

    def measured(**changes: Any) -> None:
        row = benchmark.Row(solver="dense LU", family="ring", n=10, seconds=1.0, built_seconds=0.5, block_seconds=0.5)
        for name, value in changes.items():
            setattr(row, name, value)
        results.add(row)

    def reason(solver: str, family: str, n: int) -> str:
        return str(benchmark.obstacle(solver, family, n, results, options))

    measured()
    assert reason("dense LU", "ring", 12) == ""  # 16 * .5 + 64 * .5 = 40 s
    assert "about 288 s foretold from n = 10" in reason("dense LU", "ring", 13)  # 64 * .5 + 512 * .5
    assert "memory: about 32 GiB" in reason("dense LU", "path", 16)
    measured(n=12, seconds=40.0)
    measured(family="path")
    assert "every graph: 40 s on ring" in reason("dense LU", "path", 12)
    measured(n=12, status="stopped", seconds=None)
    assert "stopped at n = 12" in reason("dense LU", "ring", 14)
    monkeypatch.setitem(
        benchmark.PEERS, "storm", benchmark.PEERS["storm"].__class__(lambda *_: None, "stormpy", ("no",))
    )
    assert reason("storm", "ring", 4) == "not installed: pip install stormpy"
    reread = benchmark.Results(tmp_path / "results.csv")
    assert reread.rows == results.rows


def test_scaled_times_are_marked(benchmark: ModuleType) -> None:
    rows = [
        benchmark.Row(solver="dmpo", family="ring", n=20, seconds=9.0, peak_mib=1.0, route="compiled"),
        benchmark.Row(solver="dmpo", family="ring", n=22, seconds=70.0, peak_mib=1.0, route="compiled"),
        benchmark.Row(solver="dmpo", family="ring", n=4, seconds=0.5, peak_mib=1.0, route="dense"),
        benchmark.Row(solver="storm", family="ring", n=4, seconds=60.0, scaled=True, peak_mib=20.0, solved=1),
        benchmark.Row(solver="mdpsolver", family="ring", n=4, status="skipped", reason="memory: about 20 GiB"),
    ]
    about = {"processor": "", "cores": 2, "memory_gib": 1, "threads": 2, "gamma": 0.9, "tolerance": 1e-10, "python": ""}
    about |= {"multiply_adds_per_second": {"1": 1e9}, "versions": {}, "limits": {"seconds": 60}}
    table = importlib.import_module("report").markdown(rows, about)
    assert "| ring | 4 | 0.5 | 120 (storm) | - | 60\\* (120) |" in table
    assert "| mdpsolver | ring | 4 | skipped | memory: about 20 GiB |" in table
    assert "- ring: n = 20 in 9 s; then n = 22 took 70 s" in table
