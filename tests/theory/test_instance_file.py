"""The instance file: the examples' answers, round trips, and every way a file can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmpo_theory.graph import path
from dmpo_theory.instance_file import load_instance, save_instance
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.solution import FIELDS, solve, write_json, write_npz

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = Path(__file__).parent / "data"


def largest_difference(found: Any, expected: Any) -> float:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        return max(largest_difference(a, b) for a, b in zip(found, expected, strict=True))
    return abs(found - expected)


@pytest.mark.parametrize("method", ["dense", "compiled", "numpy"])
@pytest.mark.parametrize("name", ["01_path3", "05_path4_S3"])
def test_examples_have_the_expected_answers(name: str, method: str, tmp_path: Path) -> None:
    """Answers that were computed by brute force elsewhere, every field to 1e-9."""
    instance = load_instance(EXAMPLES / f"{name}.instance.json")
    write_json(solve(instance.mdp, instance.policy, method=method), tmp_path / "out.json")  # type: ignore[arg-type]
    found = json.loads((tmp_path / "out.json").read_text())
    expected = json.loads((EXPECTED / f"{name}.expected.json").read_text())
    for field in expected:
        assert largest_difference(found[field], expected[field]) < 1e-9, field
    assert found["residual"] <= (1 - instance.mdp.gamma) * 1e-10
    assert set(found) == set(FIELDS)


def test_npz_holds_the_same_numbers(tmp_path: Path) -> None:
    instance = load_instance(EXAMPLES / "01_path3.instance.json")
    answers = solve(instance.mdp, instance.policy)
    write_npz(answers, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["values"], answers["values"])
        np.testing.assert_array_equal(arrays["gradient/1"], answers["gradient"][1])
        found = arrays["truncated_gradient_eq9_uniform/2/1"]
        np.testing.assert_array_equal(found, answers["truncated_gradient_eq9_uniform"][2][1])


def test_round_trip(tmp_path: Path) -> None:
    mdp = random_mdp(path(3), n_states=[2, 3, 1], gamma=0.7, radius=2, rng=4)
    policy = random_policy(mdp, radius=0, rng=5)
    save_instance(tmp_path / "mine.json", mdp, policy)
    name, again, policy_again = load_instance(tmp_path / "mine.json")
    assert name == "mine"
    assert again.gamma == 0.7
    assert again.transition_parents == mdp.transition_parents
    for a, b in zip((*mdp.transition, *policy.table), (*again.transition, *policy_again.table), strict=True):
        np.testing.assert_array_equal(a, b)


def content() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((EXAMPLES / "01_path3.instance.json").read_text())
    return result


def test_rational_strings(tmp_path: Path) -> None:
    third = content() | {"gamma": "9/10"}
    third["transition"][0][0][0][0] = ["1/3", "2/3"]
    (tmp_path / "a.json").write_text(json.dumps(third))
    mdp = load_instance(tmp_path / "a.json").mdp
    assert mdp.gamma == 0.9
    assert mdp.transition[0][0, 0, 0, 0] == 1 / 3


def replace(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: c.update({key: value})


def poke(key: str, index: tuple[int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(c: dict[str, Any]) -> None:
        place = c[key]
        for k in index[:-1]:
            place = place[k]
        place[index[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poke("transition", (0, 0, 0, 0, 0), 0.5), r"transition\[0\], row \[0, 0, 0\], sums to .*divide the row"),
        (poke("policy", (2, 1, 0, 1), -0.1), r"policy\[2\]\[1, 0, 1\] = .*-0.1.* is negative"),
        (poke("transition", (1, 0, 0, 0, 0, 0), math.nan), r"transition\[1\]\[0, 0, 0, 0, 0\] is not a finite"),
        (poke("reward", (0, 1, 1), "one"), r"reward\[0\]\[1\]\[1\] = 'one' is not a number"),
        (poke("reward", (0, 1, 1), None), r"reward\[0\]\[1\]\[1\] = None is not a number"),
        (poke("reward", (1,), [[1, 2]]), r"reward\[1\] has shape \(1, 2\), expected \(2, 2\)"),
        (poke("reward", (1,), 3), r"reward\[1\] has shape \(\), expected \(2, 2\)"),
        (poke("transition", (1,), [[1, 2]]), r"transition\[1\] has shape \(1, 2\), expected \(2, 2, 2, 2, 2\)"),
        (replace("transition", 3), "transition must be a list with one table for each of the 3 agents"),
        (replace("policy", []), "policy must be a list with one table for each of the 3 agents"),
        (replace("gamma", 1), r"gamma = 1.0 is outside \[0, 1\)"),
        (replace("gamma", "1/0"), "gamma = '1/0' is not a number"),
        (replace("gamma", [0.9]), r"gamma = \[0.9\] is not a number"),
        (replace("edges", [[0, 3]]), r"edge 0, \[0, 3\], names the missing node 3"),
        (replace("edges", [[1, 1]]), "self loop"),
        (replace("edges", [0, 1]), "edges must be a list of pairs"),
        (replace("n_states", [2, 2]), "n_states has 2 entries and n_actions 3"),
        (replace("n_states", [2, 0, 2]), "n_states = .* whole numbers >= 1"),
        (replace("format", "networked-mdp/2"), "format 'networked-mdp/2' is not known; this version reads"),
        (replace("rewards", []), "unknown key 'rewards'; did you mean 'reward'"),
        (lambda c: c.pop("gamma"), "the key 'gamma' is missing"),
        (
            replace("transition_parents", [[0, 1], [0, 1, 2], [1, 9]]),
            r"transition_parents\[2\] names the missing node 9",
        ),
        (replace("transition_parents", [[0, "a"], [1], [2]]), "transition_parents must be a list of lists of agents"),
        (replace("gamma", "1e99999999"), r"gamma = inf is outside|gamma = '1e99999999' is not a number"),
        (replace("gamma", 10**400), "gamma = '?1000.*is not a number"),
        (poke("reward", (0, 0, 0), "1e999"), r"reward\[0\]\[0, 0\] is not a finite number"),
        (replace("name", [1]), r"name = \[1\] is not a text"),
        (replace("policy_parents", 4), "policy_parents must be a list of lists of agents"),
    ],
)
def test_malformed_file(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    broken = content()
    change(broken)
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=message) as error:
        load_instance(file)
    assert str(error.value).startswith(str(file))


def test_unreadable_file(tmp_path: Path) -> None:
    text = (EXAMPLES / "01_path3.instance.json").read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    with pytest.raises(
        ValueError, match=r"cut.json is not JSON: line 1, column \d+: .*; it ends too early, write it again"
    ):
        load_instance(tmp_path / "cut.json")
    (tmp_path / "comma.json").write_text(text.replace('"n_states"', ', "n_states"', 1))
    with pytest.raises(ValueError, match=r"comma.json is not JSON: line 1, column \d+: ") as error:
        load_instance(tmp_path / "comma.json")
    assert "too early" not in str(error.value)
    (tmp_path / "mark.json").write_text("\ufeff" + text)
    assert load_instance(tmp_path / "mark.json").name == "01_path3"
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object with the keys format"):
        load_instance(tmp_path / "list.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such instance file"):
        load_instance(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a text file"):
        load_instance(tmp_path / "binary.json")
