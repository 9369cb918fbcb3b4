"""Mutated instance files: each is solved, and then rightly, or refused with one line; nothing else may happen.

What is solved is solved again by another reader and plain linear algebra: probabilities, values, their residual and
their range.
"""

from __future__ import annotations

import json
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.drills.harness import Drill, Finding, forked, shown
from benchmarks.drills.mutations import BASES, mutated
from dmpo_theory.errors import ProblemTooLarge
from dmpo_theory.instance_file import load_instance
from dmpo_theory.solution import FIELDS, solve

ROOT = Path(__file__).parents[2]
SOURCES = (*BASES.values(), *((ROOT / path).read_text() for path in (
    "examples/01_path3.instance.json", "tests/data/unequal.instance.json",
)))  # fmt: skip
LIMIT = 20
"""Seconds of processor time for one file."""
LONGEST = 500
"""Characters of an error."""
DENSE = 512
"""Joint states up to which an answer is checked by solving again."""


class Hang(BaseException):
    """A file took too long."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise :class:`Hang` after that much processor time, however busy the machine is."""

    def stop(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def verdict(path: Path) -> str:
    """``solved``, ``refused`` or ``too large``; anything else says what went wrong."""
    try:
        with limited(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                instance = load_instance(path)
            except ValueError as error:
                return _clear(str(error), "refused", str(path))
            try:
                answers = solve(instance.mdp, instance.policy, list(FIELDS))
            except (ProblemTooLarge, ArithmeticError) as error:
                return _clear(str(error), "too large" if isinstance(error, ProblemTooLarge) else "beyond float64")
    except Hang:
        return f"WRONG: no answer in {LIMIT} s"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"[:LONGEST]
    return checked(path, answers)


def _clear(message: str, kind: str, start: str = "") -> str:
    if "\n" in message or not message.startswith(start) or not 10 < len(message.removeprefix(start)) < LONGEST:
        return f"WRONG: no clear line: {shown(message)}"
    return kind


def checked(path: Path, answers: dict[str, Any]) -> str:
    """``solved`` if the answers are those of the file, by another reader and another solver."""
    content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    read = {key: [_table(table) for table in content[key]] for key in ("transition", "policy", "reward")}
    gamma, n, sizes = float(_number(content["gamma"])), len(content["n_states"]), content["n_states"]
    for key in ("transition", "policy"):
        for table in read[key]:
            if (table < 0).any() or abs(table.sum(axis=-1) - 1).max() > 1e-11:
                return f"WRONG: accepted a {key} that is no distribution"
    if not 0 <= gamma < 1:
        return f"WRONG: accepted gamma = {gamma}"
    values = np.asarray(answers["values"])
    low, high = (np.array([pick(r) for r in read["reward"]]) / (1 - gamma) for pick in (np.min, np.max))
    slack = 1e-9 * np.maximum(1, np.maximum(abs(low), abs(high)))
    if not np.isfinite(values).all() or not all(np.isfinite(np.asarray(x)).all() for x in _arrays(answers)):
        return "WRONG: an answer is not finite"
    if ((values.min(axis=1) < low - slack) | (values.max(axis=1) > high + slack)).any():
        return "WRONG: values beyond what rewards allow"
    if np.prod(sizes, dtype=float) > DENSE:
        return "solved"
    heard = _heard(content, n, "transition_parents"), _heard(content, n, "policy_parents")
    states = list(np.ndindex(*sizes))
    kernel, reward = np.empty((len(states),) * 2), np.empty((n, len(states)))
    for x, s in enumerate(states):
        row = np.ones(1)
        for i in range(n):
            choice = read["policy"][i][tuple(s[j] for j in heard[1][i])]
            row = np.multiply.outer(row, choice @ read["transition"][i][tuple(s[j] for j in heard[0][i])]).ravel()
            reward[i, x] = choice @ read["reward"][i][s[i]]
        kernel[x] = row
    again = np.linalg.solve(np.eye(len(states)) - gamma * kernel, reward.T).T
    scale = max(1.0, float(abs(again).max()))
    worst = float(abs(again - values).max()) / scale
    residual = float(abs(reward + gamma * values @ kernel.T - values).max()) / scale
    if worst > 1e-13 / (1 - gamma) + 1e-10 or residual > 1e-10:
        return f"WRONG: values off by {worst:.1e} of their size, residual {residual:.1e}"
    return "solved"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise AssertionError("a key twice was accepted")
    return dict(pairs)


def _number(value: Any) -> Fraction:
    return Fraction(value) if isinstance(value, str | int) else Fraction(*float(value).as_integer_ratio())


def _table(table: Any) -> np.ndarray:
    return np.vectorize(lambda x: float(_number(x)), otypes=[float])(np.array(table, dtype=object))


def _arrays(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, list | dict):
            yield from _arrays(item)
        else:
            yield item


def _heard(content: dict[str, Any], n: int, key: str) -> list[list[int]]:
    near = [{i} | {j for edge in content["edges"] for j in edge if i in edge} for i in range(n)]
    return content.get(key) or [sorted(members) for members in near]


def judge_range(start: int, stop: int) -> list[tuple[int, str, str]]:
    """Seed, mutation and verdict of the files of some seeds."""
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)
    found = []
    with TemporaryDirectory(prefix="dmpo-drill-") as folder:
        path = Path(folder) / "mutated.json"
        for seed in range(start, stop):
            name, data = mutated(SOURCES[seed % len(SOURCES)], seed)
            path.write_bytes(data)
            try:
                said = verdict(path)
            except Exception as error:  # the check itself found the file unreadable: it should have been refused
                said = f"WRONG: accepted what cannot be read again: {type(error).__name__}: {error}"[:LONGEST]
            found.append((seed, name, said))
    return found


def mutated_files(drill: Drill, count: int = 10_000, at_once: int = 250) -> Iterator[Finding]:
    """Mutated instance files, each read and solved: answered rightly or refused with a line, within its time."""
    for start in drill.missing(range(0, count, at_once)):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(judge_range, start, start + at_once).result(3600)
        wrong = [f"seed {seed} ({name}): {said}" for seed, name, said in found if said.startswith("WRONG")]
        tally = Counter("WRONG" if said.startswith("WRONG") else said for *_, said in found)
        yield Finding(str(start), not wrong, {"files": len(found), **tally}, "; ".join(wrong)[:4000])


def through_the_command(drill: Drill, count: int = 200) -> Iterator[Finding]:
    """A sample of the same files through ``dmpo solve`` itself: status 0, or 2 and one line of error."""
    for seed in drill.missing(range(0, 50 * count, 50)):
        name, data = mutated(SOURCES[seed % len(SOURCES)], seed)
        with TemporaryDirectory(prefix="dmpo-drill-") as folder:
            path, out = Path(folder) / "mutated.json", Path(folder) / "out.json"
            path.write_bytes(data)
            done = forked("solve", path, "--out", out)
            said = done.stderr.strip()
            fine = done.returncode == 0 and out.exists() if not said else (
                done.returncode == 2 and said.startswith("dmpo: error: ") and len(said.splitlines()) == 1
                and not out.exists()
            )  # fmt: skip
            left = sorted(p.name for p in Path(folder).iterdir() if p not in (path, out))
        status = "solved" if done.returncode == 0 else "refused"
        yield Finding(str(seed), fine and not left, {"files": 1, status: 1}, "" if fine else f"{name}: {shown(said)}")
