"""The command line: what it writes, and that every mistake gets a message, exit status 2 and no traceback."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dmpo_deep import cli
from dmpo_theory.claims import CLAIMS

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = str(Path(__file__).parents[1] / "examples" / "01_path3.instance.json")


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in cli.COMMANDS)


def test_solve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "answers.json"
    assert run("solve", EXAMPLE, "--out", out, "--fields", "values,span") == 0
    assert set(json.loads(out.read_text())) == {"values", "span", "residual"}
    assert str(out) in capsys.readouterr().out.splitlines()[-1]
    assert run("solve", EXAMPLE, "--out", out) == 2
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert run("solve", EXAMPLE, "--out", out, "--overwrite", "--fields", "values") == 0


def test_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bounds"
    assert run("bounds", "--out", out, "--families", "path,star", "--n", 4) == 0
    text = capsys.readouterr().out
    assert "theorem2-printed     Eq. 14, reading (i)        fails" in text
    assert str(out) in text.splitlines()[-1]
    with (out / "verdicts.csv").open() as file:
        found = {row["bound"]: row["verdict"] for row in csv.DictReader(file)}
    assert found["theorem1-printed"] == "fails"
    assert found["theorem1-tight"] == "holds, tight"
    with (out / "checks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(row["exact_ratio"] == "4/3" for row in rows if row["instance"] == "star of 3 agents, 12 states")
    if importlib.util.find_spec("matplotlib"):
        assert (out / "bounds.png").stat().st_size > 10_000
    assert run("bounds", "--out", out) == 2
    assert "exists; give another --out" in capsys.readouterr().err


def test_bounds_of_given_instances_say_nothing_of_others(tmp_path: Path) -> None:
    assert run("bounds", "--out", tmp_path / "b", "--instance", EXAMPLE) == 0
    with (tmp_path / "b" / "checks.csv").open() as file:
        assert {row["instance"] for row in csv.DictReader(file)} == {"01_path3"}


def test_npz_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    precious = tmp_path / "answers.npz"
    precious.write_text("precious")
    assert run("solve", EXAMPLE, "--out", tmp_path / "answers", "--npz", "--fields", "values") == 0
    assert precious.read_text() == "precious"
    assert (tmp_path / "answers").read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("solve", "missing.json", "--out", "{tmp}/a"), "missing.json: no such instance file"),
        (
            ("solve", EXAMPLE, "--out", "{tmp}/a", "--fields", "valeus"),
            "unknown field 'valeus'; did you mean 'values'?",
        ),
        (("solve", EXAMPLE, "--out", "{tmp}/a", "--method", "fast"), 'choose "auto", "dense", "compiled" or "numpy"'),
        (("evaluate", "catchup", "--controller", "always", "--picture", "{tmp}/a.foo"), "has no suffix of a picture"),
        (("bounds", "--out", "{tmp}/b", "--families", "rnig"), "unknown graph family 'rnig'; did you mean 'ring'?"),
        (("bounds", "--out", "{tmp}/b", "--gamma", "x"), "--gamma x is not a number; write 0.9 or 9/10"),
        (("bounds", "--out", "{tmp}/b", "--gamma", "1"), "--gamma 1 is outside [0, 1)"),
        (("bounds", "--out", "{tmp}/b", "--couplings", "2"), "coupling = 2.0 is outside [0, 1]"),
        (("bounds", "--out", "{tmp}/b", "--n", "40"), "GiB"),
        (("bounds", "--out", "{tmp}/b", "--n", "0"), "--n 0 is too small; it must be at least 1"),
        (("bounds", "--out", "{tmp}/b", "--n", "2", "--families", "random-regular"), "random-regular(2): "),
        (("bounds", "--out", "{tmp}/b", "--families", "star", "--n", "40"), "GiB"),
        (("bounds", "--out", "{tmp}/b", "--gamma", "1e99999999"), "--gamma 1e99999999 is not a number"),
        (("solve", EXAMPLE, "--out", "{tmp}"), "is a folder; give a file"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_unknown_option_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, hint in ((("solve", EXAMPLE, "--ouput", "a"), "--out"), (("boudns",), "bounds")):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 2
        assert hint in capsys.readouterr().err


def test_deep_commands_name_the_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments in (
        ("train", "catchup", "--out", tmp_path / "r"),
        ("evaluate", "catchup"),
        ("plot", "r", "--out", "f"),
    ):
        assert run(*arguments) == 2
        assert "torch is not installed; pip install 'dmpo[deep]'" in capsys.readouterr().err


def test_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit"
    arguments = ("--out", out, "--claim", "A1", "F5c", "--n", 3, "--graphs", "path", "--instances", 1)
    assert run("audit", *arguments) == 0
    text = capsys.readouterr().out
    assert "A1     Eq. 12, rewards of both signs" in text
    assert str(out) in text.splitlines()[-1]
    rows = json.loads((out / "audit.json").read_text())["rows"]
    assert [(row["id"], row["verdict"], row["printed"]) for row in rows] == [
        ("A1", "fails", "2"),
        ("F5c", "fails", "9/5"),
    ]
    assert "<math" in (out / "audit.html").read_text()
    assert run("audit", *arguments) == 2
    assert "exists; give another --out, or --resume to continue it" in capsys.readouterr().err
    assert run("audit", *arguments, "--resume") == 0
    assert run("audit", *arguments, "--resume", "--seed", 1) == 2
    assert "holds an audit with seed = 0, not 1" in capsys.readouterr().err


def test_audit_of_a_given_instance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", "--out", tmp_path / "mine", "--instance", EXAMPLE, "--claim", "A1", "A2", "A4") == 0
    text = capsys.readouterr().out
    assert "needs policies that read the own state only, p = 0; found 01_path3: p = 1" in text
    assert "needs rewards signed; transitions and policies read N_i (m, p <= 1); found 01_path3: non-negative" in text


def test_an_unexpected_verdict_shows_in_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CLAIMS, "F6c", replace(CLAIMS["F6c"], expected="holds"))
    assert run("audit", "--out", tmp_path / "a", "--claim", "F6c", "--n", 3, "--graphs", "path") == 1
    captured = capsys.readouterr()
    assert "fails (!)" in captured.out
    assert "1 verdicts are not the expected ones: F6c" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--claim", "A11"), "unknown claim 'A11'; did you mean 'A1'?"),
        (("--gamma", "0"), "--gamma 0 is outside (0, 1)"),
        (("--n", "1"), "--n 1 is too small; it must be at least 2"),
        (("--kappa", "-1"), "kappa = -1 is negative"),
        (("--graphs", "rnig"), "did you mean 'ring'?"),
        (("--resume",), "holds no audit to resume"),
        (("--instance", "missing.json"), "no such instance file"),
    ],
)
def test_audit_mistakes(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("audit", "--out", tmp_path / "a", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_kappa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "kappa.csv"
    for quantity, bound in (("value", "theorem1"), ("gradient", "theorem2")):
        options = ("--tolerance", 1e-6, "--quantity", quantity, "--out", out, "--overwrite")
        assert run("kappa", EXAMPLE, *options) == 0
        text = capsys.readouterr().out
        assert f"kappa = 2 is the smallest certified: every {quantity} error is at most 0 <= 1e-06" in text
        assert str(out) in text.splitlines()[-1]
        with out.open() as file:
            rows = list(csv.DictReader(file))
        assert [row["kappa"] for row in rows] == ["0", "1", "2"]
        assert float(rows[0]["certified_error"]) <= float(rows[0][bound])
    assert run("kappa", EXAMPLE, "--tolerance", 1e6) == 0
    assert "kappa = 0 is the smallest certified" in capsys.readouterr().out
    assert run("kappa", EXAMPLE, "--tolerance", 1, "--out", out) == 2
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EXAMPLE, "--tolerance", "0"), "tolerance = 0.0 must be positive"),
        ((EXAMPLE, "--tolerance", "-1"), "tolerance = -1.0 must be positive"),
        ((EXAMPLE, "--tolerance", "1", "--quantity", "q"), 'quantity = \'q\'; choose "value" or "gradient"'),
        (("missing.json", "--tolerance", "1"), "missing.json: no such instance file"),
    ],
)
def test_kappa_mistakes(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("kappa", *arguments, "--out", tmp_path / "a") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_envs_lists_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium")
    from dmpo_deep.controllers import CONTROLLERS
    from dmpo_deep.envs import ENVIRONMENTS

    assert run("envs") == 0
    lines = capsys.readouterr().out.splitlines()
    for task in ENVIRONMENTS:
        assert any(line.startswith(task) for line in lines)
        for name, known in CONTROLLERS[task].items():
            assert any(
                re.fullmatch(rf"{task} +{name} +{re.escape(known.label)} +{known.knows}", line) for line in lines
            )
        assert (DOCS / "environments" / f"{task}.md").is_file(), "every task has a card"
    ring = next(line for line in lines if line.startswith("ring"))
    for part in ("22, diameter 11", "Box(-1.0, 1.0, (1,), float64)", "2 numbers", "3000", "backend=sumo"):
        assert part in ring


def test_evaluate_a_controller_with_options_to_csv_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "pi.csv", tmp_path / "pi.png"
    arguments = (
        "ring",
        "--controller",
        "pi",
        "--set",
        "humans=21",
        "warmup=20",
        "--set",
        "length=230.0",
        "--skip",
        100,
    )
    assert run("evaluate", *arguments, "--out", out, "--picture", picture) == 0
    text = capsys.readouterr().out
    assert re.match(r"pi: \d+\.\d+ \(sd .*; 0 of 20 collided; mean speed \d\.\d+ \(sd", text)
    assert text.splitlines()[-1] == f"Results: {out} {picture}"
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert list(rows[0]) == ["policy", "draw", "metric", "collided", "speed", "speed_sd", "headway", "headway_sd"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 20_000
    assert run("evaluate", *arguments, "--picture", picture) == 2
    assert "exists; give another file" in capsys.readouterr().err


def test_search_writes_what_evaluate_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "weights.json"
    small = ("--population", 20, "--draws", 2, "--iterations", 2, "--restarts", 2)
    assert run("search", "slowdown", "--controller", "mixture", "--out", out, *small) == 0
    assert str(out) in capsys.readouterr().out.splitlines()[-1]
    assert run("evaluate", "slowdown", "--controller", out) == 0
    assert f"{out}: -" in capsys.readouterr().out
    assert run("search", "slowdown", "--controller", "mixture", "--out", out, *small) == 2
    assert "exists; give another file" in capsys.readouterr().err


def test_check_writes_its_tables_and_a_bug_is_status_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    small = ("path", "--set", "n=3", "--kappas", 1, "--copies", 400)
    assert run("check", *small, "--out", tmp_path / "ok") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Results: {tmp_path / 'ok'} (findings.csv")
    names = ("findings.csv", "critics.csv", "gradients.csv", "rollouts.csv", "check.png", "check.pdf")
    assert sorted(path.name for path in (tmp_path / "ok").iterdir()) == sorted(names)
    with (tmp_path / "ok" / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["passed"] for row in rows} == {"1"}
    assert run("check", *small, "--out", tmp_path / "ok") == 2
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert run("check", *small, "--out", tmp_path / "bug", "--bug", "own-advantage") == 1
    shown = capsys.readouterr()
    assert "FAILS" in shown.out
    assert "checks failed: policy gradient" in shown.err
    assert run("check", *small, "--algo", "ia2c", "--out", tmp_path / "ia2c") == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("(findings.csv, critics.csv, gradients.csv, check.png, check.pdf)")
    )
    assert run("check", "--bug", "list") == 0
    assert "matrix-power" in capsys.readouterr().out


def test_a_study_of_the_gap_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    out = tmp_path / "gap"
    small = ("--graphs", "path:2", "--algos", "dppo", "--seeds", 1, "--steps", 400, "--out", out)
    assert run("gap", *small) == 0
    assert "gap of dppo" in capsys.readouterr().out
    kept = out / "path-2-dppo-s0.json"
    kept.write_text(kept.read_text().replace("400", "401"))
    (out / "path-2-levels.json").unlink()
    assert run("gap", *small) == 0
    assert (out / "path-2-levels.json").is_file()
    with (out / "gap.csv").open() as file:
        assert any(row["step"] == "401" for row in csv.DictReader(file)), "a finished part was done again"
    assert run("gap", *small[:-3], 800, "--out", out) == 2
    assert "holds no study with these settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "rign", "--out", "{tmp}/r"), "mdp = 'rign' is no instance file, nor a graph family"),
        (("check", "--bug", "own-rewrd", "--out", "{tmp}/r"), "unknown bug 'own-rewrd'; did you mean 'own-reward'?"),
        (("check", "--kappas", "0,x", "--out", "{tmp}/r"), "--kappas '0,x' is no list of whole numbers"),
        (
            ("check", "--copies", "5", "--out", "{tmp}/r"),
            "5 copies of 20 steps are too few data to judge anything; give at least 2",
        ),
        (("check", "--algo", "ic3net", "--out", "{tmp}/r"), "policies of ic3net remember"),
        (("check", "--algo", "cppo", "--kappas", "1", "--out", "{tmp}/r"), "critics of this algorithm hear everybody"),
        (("check", "--algo", "ia2c", "--bug", "leak", "--out", "{tmp}/r"), "mistakes are put into dmpo"),
        (("check", "--level", "0", "--out", "{tmp}/r"), "level = 0.0 is no probability between 0 and 1"),
        (("check", "--set", "n=16", "--out", "{tmp}/r"), "the chain on 65536 joint states needs 256 GiB"),
        (("gap", "--graphs", "ring", "--out", "{tmp}/r"), "--graphs 'ring' is not FAMILY:N; give for example ring:6"),
        (("gap", "--algos", "dmpo,ppo", "--out", "{tmp}/r"), "unknown algorithm 'ppo'"),
        (("train", "tabular:none", "--out", "{tmp}/r"), "mdp = 'none' is no instance file, nor a graph family"),
        (("train", "tabular:star", "--set", "gamma=1.5", "--out", "{tmp}/r"), "gamma = 1.5 is out of range"),
        (
            ("train", "tabular:star", "--set", "environment.horizon=inf", "--out", "{tmp}/r"),
            "have no end to be measured",
        ),
        (("evaluate", "tabular:star", "--set", "horizon=inf"), "have no end to be measured at; give horizon=1000"),
        (("evaluate", "rnig"), "unknown task (and no run directory) 'rnig'; did you mean 'ring'?"),
        (
            ("evaluate", "ring", "--controller", "pie"),
            "unknown controller of ring (and no file) 'pie'; did you mean 'pi'?",
        ),
        (("evaluate", "ring", "--set", "human=3"), "unknown option of ring 'human'; did you mean 'humans'?"),
        (("evaluate", "ring", "--set", "length=100"), "length = 100 m is too short for 22 cars of 5 m"),
        (("evaluate", "ring", "--set", "draws=1"), "draws is not yours to set"),
        (("evaluate", "ring", "--set", "humans"), "override 'humans' is not KEY=VALUE"),
        (("evaluate", "ring", "--controller", "zero", "--skip", "3000"), "skip = 3000; give 0 to 2999"),
        (("evaluate", "catchup", "--picture", "{tmp}/a.png"), "choose it with --controller"),
        (
            ("evaluate", "catchup", "--controller", "always", "--picture", "{tmp}/b/a.png"),
            "is no folder to write a.png in",
        ),
        (("search", "ring", "--controller", "pi", "--out", "{tmp}/a"), "unknown searchable controller 'pi'"),
        (("search", "rnig", "--controller", "linear", "--out", "{tmp}/a"), "unknown task 'rnig'; did you mean 'ring'?"),
        (
            ("search", "ring", "--controller", "linear", "--out", "{tmp}/a", "--draws", "0"),
            "draws = 0; give at least 1",
        ),
    ],
)
def test_mistakes_with_tasks(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert run(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"
