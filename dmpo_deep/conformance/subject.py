"""What is examined, and how it is made to move: rollouts under uniform actions that a seed determines."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from dmpo_deep.controllers.own import uniform
from dmpo_deep.envs import NetworkedEnv

NAMES = ("observation", "reward", "terminated", "truncated")


class Wrong(Exception):
    """What an environment does wrong: where, which value, and the remedy."""


class Note(str):
    """Not wrong, but worth knowing."""


class Row(NamedTuple):
    """One step of all copies, in copies of the arrays."""

    action: np.ndarray
    obs: np.ndarray
    """What the step led to, ``[B, n, d]``."""
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: Mapping[str, np.ndarray]

    @property
    def ended(self) -> np.ndarray:
        """Copies ``[B]`` whose episode ended."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended


class Walk(NamedTuple):
    """A rollout."""

    start: np.ndarray
    """Observations after the reset."""
    rows: Sequence[Row]
    seconds: float
    disturbed: Sequence[str]
    """Names of global generators whose state it changed."""


Change = Callable[[int, np.ndarray], np.ndarray]
"""The number of a step and its actions to the actions that are taken instead."""


@dataclass(frozen=True, eq=False)
class Subject:
    """An environment under examination."""

    make: Callable[[int], NetworkedEnv]
    copies: int
    steps: int
    seed: int
    probe: int = field(default=30)
    """Steps of the short rollouts that are compared with each other."""

    def walk(self, steps: int, seed: int = 0, change: Change | None = None) -> Walk:
        """A rollout from a fresh environment; what ends is reset.

        Args:
            steps: of each copy.
            seed: added to the subject's, of the environment's randomness; actions have the subject's always.
            change: of the actions.
        """
        with closing(self.make(self.copies)) as env:
            before, start = _global_states(), time.perf_counter()
            rng = self.rng(seed)
            obs = np.array(env.reset(rng))
            rows = [row for row, _ in self.steps_of(env, rng, steps, change)]
            seconds, after = time.perf_counter() - start, _global_states()
        return Walk(obs, rows, seconds, [name for name in before if before[name] != after[name]])

    def steps_of(
        self, env: NetworkedEnv, rng: np.random.Generator, steps: int, change: Change | None = None, first: int = 0
    ) -> Iterator[tuple[Row, tuple[np.ndarray, ...]]]:
        """Steps ``first`` .. of an environment that runs: their rows, and the very arrays that were returned."""
        for t in range(first, first + steps):
            action = self.action(env, t)
            action = action if change is None else change(t, action)
            obs, *rest, info = env.step(action.copy())
            kept = [np.array(x) for x in (obs, *rest)]
            row = Row(action, kept[0], kept[1], kept[2], kept[3], {k: np.array(x) for k, x in info.items()})
            yield row, (obs, *rest, *info.values())
            if row.ended.any():
                env.reset(rng, row.ended)

    def action(self, env: NetworkedEnv, t: int) -> np.ndarray:
        """The uniform actions of step ``t``."""
        return uniform(env)(env.observe(), np.random.default_rng((self.seed, t)))[0]

    def rng(self, seed: int = 0) -> np.random.Generator:
        """The environment's, anew."""
        return np.random.default_rng(self.seed + seed)

    @cached_property
    def long(self) -> Walk:
        """The longest rollout."""
        return self.walk(self.steps)

    @cached_property
    def short(self) -> Walk:
        """The rollout that others are compared with."""
        return self.walk(self.probe)


def differences(a: Row, b: Row) -> Iterator[tuple[str, np.ndarray]]:
    """Names of arrays that differ between two rows, and where: ``[B]`` or ``[B, n]``."""
    for name, x, y in (*zip(NAMES, a[1:5], b[1:5], strict=True), *((k, a.info[k], b.info[k]) for k in a.info)):
        apart = ~((x == y) | ((x != x) & (y != y)))
        if apart.any():
            yield name, apart.any(axis=-1) if apart.ndim == 3 else apart


def where(at: np.ndarray) -> str:
    """``copy 1`` or ``agent 3 in copy 1``, of the first place marked."""
    copy, *agent = np.argwhere(at)[0].tolist()
    return f"agent {agent[0]} in copy {copy}" if agent else f"copy {copy}"


def same_until(a: Sequence[Row], b: Sequence[Row], copies: Sequence[int]) -> str | None:
    """The first place in which the given copies of two rollouts differ; None if there is none."""
    for t, (x, y) in enumerate(zip(a, b, strict=False)):
        for name, apart in differences(x, y):
            kept = np.zeros_like(apart)
            kept[list(copies)] = apart[list(copies)]
            if kept.any():
                return f"{name} of {where(kept)} at step {t}"
    return None


def _global_states() -> dict[str, bytes]:
    found = {"random": repr(random.getstate()), "numpy.random": repr(_whole(np.random.get_state()))}  # noqa: NPY002
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = repr(torch.random.get_rng_state().numpy().tobytes())
    return {name: state.encode() for name, state in found.items()}


def _whole(state: Any) -> Any:
    return [x.tobytes() if isinstance(x, np.ndarray) else x for x in state]
