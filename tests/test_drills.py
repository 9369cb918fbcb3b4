"""Drills in small: what fails on the way to a file, and input that is wrong; benchmarks/drills holds them at length."""

from __future__ import annotations

import ast
import errno
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from benchmarks.drills.instances import SOURCES, verdict
from benchmarks.drills.mutations import MUTATIONS, mutated
from dmpo_deep import cli
from dmpo_theory import audit, files
from dmpo_theory.claims import CLAIMS
from dmpo_theory.claims.record import Scope
from dmpo_theory.files import vacant, whole, write_text
from dmpo_theory.instance_file import load_instance

ROOT = Path(__file__).parents[1]
EXAMPLE = str(ROOT / "examples" / "01_path3.instance.json")
UNSAFE = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "joblib.load", "marshal.load", "marshal.loads"),
    *("shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "yaml.load", "eval", "exec"),
    *("pandas.read_pickle", "numpy.load", "np.load", "np.fromfile", "ast.parse", "compile"),
}
"""Calls that may run what a file says, or that can be asked to."""
ALLOWED = {("dmpo_deep/envs/workers.py", "pickle.loads")}
"""Between processes of our own: the pipe has no name, and both of its ends are ours."""


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file by its full name, whatever modules and functions are imported as."""
    tree, named = ast.parse(file.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield named.get(first, first) + dot + rest, node


def unsafe(root: Path) -> set[tuple[str, str]]:
    """Which unsafe calls which files of the packages have; ``allow_pickle=True`` is one anywhere."""
    found = set()
    for file in (path for package in ("dmpo_theory", "dmpo_deep") for path in (root / package).rglob("*.py")):
        for name, call in calls(file):
            pickles = any(word.arg == "allow_pickle" for word in call.keywords)
            if name in UNSAFE or pickles:
                found.add((str(file.relative_to(root)), name))
    return found


def test_nothing_is_unpickled_or_executed_but_between_our_own_processes() -> None:
    assert unsafe(ROOT) == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "import torch as t\nt.load('x')",
        "from pickle import loads as read\nread(b'')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
    ],
)
def test_an_unsafe_load_would_be_seen(line: str, tmp_path: Path) -> None:
    (tmp_path / "dmpo_deep").mkdir()
    (tmp_path / "dmpo_deep" / "new.py").write_text(line)
    assert unsafe(tmp_path)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when what was written has to get there."""

    def fsync(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.usefixtures("full")
def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(OSError, match=r"a\.csv: No space left on device; free some space"):
        write_text(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "old")]


def _fail(path: Path, error: type[BaseException]) -> None:
    with whole(path) as file:
        file.write("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(error):
        _fail(path, error)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "command",
    [
        ("solve", EXAMPLE, "--fields", "values", "--overwrite", "--out"),
        ("solve", EXAMPLE, "--fields", "values", "--overwrite", "--npz", "--out"),
        ("kappa", EXAMPLE, "--tolerance", "1", "--overwrite", "--out"),
    ],
)
def test_a_full_disk_is_one_line_and_no_loss(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "precious"
    path.write_text("years of work")
    assert cli.main([*command, str(path)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dmpo: ")]
    assert len(said) == 1
    assert said[0].startswith(f"dmpo: error: {path}: No space left on device; free some space there, or give a path")
    assert path.read_text() == "years of work"


SCOPE = Scope(("path",), 3, Fraction(1, 2), 1, 0)
SETTINGS = {"n": 3}


def audited(folder: Path) -> str:
    """The record of an audit of one quick claim, begun or gone on with."""
    audit.run([CLAIMS["F3a"]], SCOPE, SETTINGS, folder)
    return (folder / audit.RECORD).read_text()


def test_an_audit_that_was_killed_before_its_first_line_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # figures take long
    command = ["audit", "--n", "3", "--graphs", "path", "--instances", "1", "--claim", "F3a", "--out", str(tmp_path)]
    (tmp_path / f"{audit.RECORD}.part").write_text('{"cla')
    assert vacant(tmp_path)
    assert cli.main(command) == 0
    assert not vacant(tmp_path)
    assert cli.main(command) == 2


def test_a_resumed_audit_loses_nothing_when_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = audited(tmp_path)

    def replace(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(OSError, match=r"progress\.jsonl: No space left; free some space"):
        audited(tmp_path)
    assert (tmp_path / audit.RECORD).read_text() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is empty; audit anew"),
        (lambda text: text.replace('"id": ', '"idd": '), "line 2 is no row of an audit; restore it"),
        (lambda text: text.replace('"F3a"', '"Z9"'), "line 2 is no row of an audit; restore it"),
        (lambda text: text.replace('"F3a"', "\x00"), "line 2 is no row of an audit; restore it"),
        (lambda text: "[1]\n" + text, "line 1 is no row of an audit; restore it"),
    ],
)
def test_a_damaged_record_of_an_audit_is_named(damage: Callable[[str], str], message: str, tmp_path: Path) -> None:
    (tmp_path / audit.RECORD).write_text(damage(audited(tmp_path)))
    with pytest.raises(ValueError, match=rf"progress\.jsonl.* {message}"):
        audited(tmp_path)


def test_mutated_instance_files_are_answered_rightly_or_refused(tmp_path: Path) -> None:
    """Some seeds of each mutation; ``python -m benchmarks.drills --only instances`` has 10,000."""
    path, seen = tmp_path / "mutated.json", dict.fromkeys(MUTATIONS, 0)
    said = []
    for seed in range(400):
        name, data = mutated(SOURCES[seed % len(SOURCES)], seed)
        if "," in name or seen[name] == 5 or name == "other sizes":
            continue
        seen[name] += 1
        path.write_bytes(data)
        said.append(verdict(path))
        assert not said[-1].startswith("WRONG"), (seed, name, said[-1])
    assert {"solved", "refused"} <= set(said)
    assert min(count for name, count in seen.items() if name != "other sizes") == 5


DEEP = json.loads("[" * 300 + "1" + "]" * 300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [DEEP] * 3}, "reward has lists too deep within lists"),
        ({"edges": [[0, DEEP]]}, "names the missing node [[["),
        ({"name": "a\nb"}, r"name = 'a\nb' is not a text of one line"),
        ({"name": "\ud800"}, r"name = '\ud800' is not a text of one line"),
        ({"n_states": [[0.5] * 50] * 50}, "must be a list of whole numbers"),
        ({"x" * 9999: 1}, "unknown key 'xxx"),
        ({"gamma": "9" * 9999 + "/7"}, "gamma = '999"),
    ],
)
def test_errors_of_mutated_files_are_short_lines(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(json.loads(Path(EXAMPLE).read_text()) | change))
    assert verdict(path) == "refused"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_instance(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"gamma": 0.5, "gamma": 0.9}', "the key 'gamma' stands there twice; keep the one that is meant"),
        ("[" * 5000 + "]" * 5000, "has lists too deep within lists"),
    ],
)
def test_json_with_two_meanings_or_too_deep_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_instance(tmp_path / "bad.json")


def test_more_agents_than_arrays_have_axes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = 70
    tree = {
        **{"format": "networked-mdp/1", "gamma": 0.9, "edges": [], "n_states": [1] * n, "n_actions": [1] * n},
        **{"transition": [[[[1]]]] * n, "policy": [[[1]]] * n, "reward": [[[1]]] * n},
    }
    (tmp_path / "many.json").write_text(json.dumps(tree))
    assert cli.main(["solve", str(tmp_path / "many.json"), "--out", str(tmp_path / "out")]) == 2
    assert "70 agents need more array axes than numpy has" in capsys.readouterr().err
