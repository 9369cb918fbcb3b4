"""Conduct: resets, arrays that are handed out, saved states, refusals, ends in a model, and how far actions reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dmpo_deep.conformance.subject import Note, Row, Subject, Wrong, same_until, where
from dmpo_deep.envs import NetworkedEnv, action_counts

TRIES = 20
"""Resets of all copies until none ends with its first step."""
PROBES = (0, 7)
"""Steps in which an agent's action is changed, to see whom it reaches."""


def reset_of_some(subject: Subject) -> str:
    """Only the marked copies start anew."""
    with closing(subject.make(subject.copies)) as env:
        rng = subject.rng()
        for _ in range(TRIES):
            env.reset(rng)
            row, _ = next(iter(subject.steps_of(env, rng, 1)))
            if not row.ended.any():
                break
        else:
            return Note(f"in {TRIES} episodes of all copies some ended with the first step: nothing could be seen")
        before, marked = np.array(env.observe()), np.arange(env.batch) == 1
        mask = marked.copy()
        obs = env.reset(rng, mask)
        if not np.array_equal(mask, marked):
            raise Wrong("reset changed the mask that it was given; copy it")
        if (moved := (obs != before).any(axis=-1) & ~marked[:, None]).any():
            raise Wrong(f"reset(rng, where) of copy 1 changed the observation of {where(moved)}; leave it alone")
        if not np.array_equal(obs, env.observe()):
            raise Wrong("reset returned other observations than observe() has then")
        kept = np.array(obs)
        if not np.array_equal(env.reset(rng, np.zeros(env.batch, dtype=bool)), kept):
            raise Wrong("reset(rng, where) with no copy marked changed observations; it must do nothing")
        row, _ = next(iter(subject.steps_of(env, rng, 1, first=1)))
        if (wrong := row.info["step"] != np.where(marked, 0, 1)).any():
            copy = np.flatnonzero(wrong)[0]
            raise Wrong(
                f"after reset(rng, where) of copy 1 the next step of copy {copy} is number {row.info['step'][copy]}; "
                "marked copies begin at 0, others go on"
            )
    return "the others go on"


def arrays_of_its_own(subject: Subject) -> str:
    """Actions are not written to, and what was returned neither changes later nor leads inside."""
    with closing(subject.make(subject.copies)) as env:
        rng = subject.rng()
        env.reset(rng)
        earlier: list[tuple[np.ndarray, np.ndarray]] = []
        for t, (row, given) in enumerate(subject.steps_of(env, rng, subject.probe)):
            for array, kept in earlier:
                if not np.array_equal(array, kept, equal_nan=array.dtype.kind == "f"):
                    raise Wrong(
                        f"an array {array.shape} that step {t - 1} returned has changed by step {t}; return copies"
                    )
            earlier = [(np.asarray(x), np.array(x)) for x in given]
            if row.ended.any():
                env.reset(rng)
        env.reset(rng)
        action = row.action.copy()
        env.step(action)
        if not np.array_equal(action, row.action):
            raise Wrong(f"step changed the action that it was given, at {where(action != row.action)}; copy it first")
    with closing(subject.make(subject.copies)) as env:
        rng, rows = subject.rng(), []
        _spoil(env.reset(rng))
        for row, given in subject.steps_of(env, rng, subject.probe):
            rows.append(row)
            for array in given:
                _spoil(array)
    if (at := same_until(subject.short.rows, rows, range(subject.copies))) is not None:
        raise Wrong(f"whoever writes into a returned array changes the environment: {at}; return copies")
    return "nothing is shared with the caller"


def _spoil(array: Any) -> None:
    if isinstance(array, np.ndarray) and array.flags.writeable:
        array[...] = 1 if array.dtype.kind in "iub" else 1e3


def saved_states(subject: Subject) -> str:
    """A state that is saved, loaded into another object and continued goes on bit for bit."""
    with closing(subject.make(subject.copies)) as env, closing(subject.make(subject.copies)) as twin:
        rng = subject.rng()
        env.reset(rng)
        before = subject.probe // 3
        for _ in subject.steps_of(env, rng, before):
            pass
        state = env.state_dict()
        if (odd := _not_storable(state, "state_dict()")) is not None:
            raise Wrong(f"{odd}; checkpoints hold arrays, numbers, strings, and dicts, lists and tuples of them")
        other, bits = subject.rng(7), rng.bit_generator.state
        twin.reset(other)
        for _ in subject.steps_of(env, rng, subject.probe, first=before):  # what was saved must not move with it
            pass
        other.bit_generator.state = bits
        twin.load_state_dict(state)
        other.bit_generator.state = bits
        rows = [row for row, _ in subject.steps_of(twin, other, subject.probe, first=before)]
    whole = subject.walk(before + subject.probe).rows[before:]
    if (at := same_until(whole, rows, range(subject.copies))) is not None:
        raise Wrong(
            f"a loaded state goes on otherwise than the one that was saved: {at} after it; save everything that "
            "step and reset use, generators too, in copies"
        )
    return "continued bit for bit"


def _not_storable(value: Any, path: str) -> str | None:
    if isinstance(value, Mapping):
        return next((odd for k, v in value.items() if (odd := _not_storable(v, f"{path}[{k!r}]"))), None)
    if isinstance(value, list | tuple):
        return next((odd for k, v in enumerate(value) if (odd := _not_storable(v, f"{path}[{k}]"))), None)
    if value is None or isinstance(value, str | bool | int | float):
        return None
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return None
    return f"{path} is a {type(value).__name__}" + (f" of {value.dtype}" if isinstance(value, np.ndarray) else "")


def refusals(subject: Subject) -> str:
    """Mistakes in the calling code are refused; a learner makes none, users of the environment do."""
    with closing(subject.make(subject.copies)) as env:
        rng = subject.rng()
        good = subject.action(env, 0)
        accepted = [] if _refused(env, good) else ["a step before the first reset"]
        tried = {"actions of one agent less": good[:, :-1]}
        if isinstance(env.action_space, Box):
            tried["an action that is not a number"] = np.where(np.arange(env.graph.n)[:, None] == 0, np.nan, good)
        else:
            tried["an action beyond the last one"] = good + np.array(action_counts(env))
        for name, action in tried.items():
            env.reset(rng)
            if not _refused(env, action):
                accepted.append(name)
        ended, steps = np.zeros(env.batch, dtype=bool), 0
        env.reset(rng)
        while not ended.any() and steps < subject.steps:
            ended, steps = _ended(env.step(good)), steps + 1
        if ended.any() and not _refused(env, good):
            accepted.append("a step after the end of an episode")
    if accepted:
        return Note(f"accepted without a word: {', '.join(accepted)}; dmpo_deep.envs.validate has what refuses them")
    return "wrong actions, and steps before a reset and after an end"


def _ended(returned: tuple[Any, ...]) -> np.ndarray:
    return np.asarray(returned[2] | returned[3])


def _refused(env: NetworkedEnv, action: np.ndarray) -> bool:
    try:
        env.step(action)
    except Exception:
        return True
    return False


def termination(subject: Subject) -> str:
    """``termination`` is pure, and says of real steps what they said themselves: model rollouts end by it."""
    rows: list[Row] = list(subject.long.rows)
    with closing(subject.make(subject.copies)) as env:
        env.reset(subject.rng())
        seen, said, right, priced = np.array(env.observe()), [], 0, 0
        for row in rows:
            obs, step = row.obs.copy(), row.info["step"].copy()
            over, charge = env.termination(obs, step)
            for name, array, kinds in (("terminated", over, "b"), ("charge", charge, "fi")):
                if not isinstance(array, np.ndarray) or array.shape != step.shape or array.dtype.kind not in kinds:
                    raise Wrong(f"termination() returned {name} as {array!r}; give an array of shape {step.shape}")
            if not (np.array_equal(obs, row.obs) and np.array_equal(step, row.info["step"])):
                raise Wrong("termination() changed the arrays that it was given; it must be a pure function")
            both = over & row.terminated
            right += int((over == row.terminated).sum())
            priced += int(np.isclose(row.reward[both], charge[both][:, None], rtol=1e-4, atol=1e-6).all(axis=1).sum())
            said.append(over)
        if not np.array_equal(env.observe(), seen):
            raise Wrong("termination() changed the environment; it must be a pure function")
    claimed, real = np.array(said), np.array([row.terminated for row in rows])
    text = f"as {right} of {real.size} real steps, {int((claimed & real).sum())} of {int(real.sum())} ends"
    if real.any() and not (claimed & real).any():
        return Note(f"{text}: rollouts in a learned model, dmpo's, never end; say from next_obs when the task is over")
    if right < real.size:
        return Note(f"{text}; rollouts in a learned model end otherwise than real ones")
    if priced < int((claimed & real).sum()):
        return Note(f"{text}, but only {priced} rewards; what it charges is what every agent receives at the end")
    return text


def reach(subject: Subject) -> str:
    """Whose observation and reward an agent's action changes in one step, in hops; held against a claimed ``reach``."""
    with closing(subject.make(subject.copies)) as env:
        distance, n, claim = env.graph.hop_distance, env.graph.n, getattr(env, "reach", None)
        counts = None if isinstance(env.action_space, Box) else action_counts(env)
        bounds = None if not isinstance(env.action_space, Box) else (env.action_space.low, env.action_space.high)
    farthest = {"observation": (-1.0, ""), "reward": (-1.0, "")}
    base = subject.walk(max(PROBES) + 1).rows
    for t in PROBES:
        if any(row.ended.any() for row in base[:t]):
            continue
        for first in range(0, n, subject.copies):
            agents = range(first, min(first + subject.copies, n))

            def perturbed(now: int, action: np.ndarray, t: int = t, agents: range = agents) -> np.ndarray:
                """In copy ``k`` another action of one agent, once."""
                if now != t:
                    return action
                changed = action.copy()
                for copy, i in enumerate(agents):
                    changed[copy, i] = _another(changed[copy, i], i, counts, bounds)
                return changed

            row = subject.walk(t + 1, change=perturbed).rows[t]
            for name, x, y in (("observation", row.obs, base[t].obs), ("reward", row.reward, base[t].reward)):
                for copy, i in enumerate(agents):
                    apart = x[copy] != y[copy]
                    for j in np.flatnonzero(apart.any(axis=-1) if apart.ndim == 2 else apart).tolist():
                        if distance[i, j] > farthest[name][0]:
                            said = f"{name} of agent {j} changes with the action of agent {i} in step {t}"
                            farthest[name] = float(distance[i, j]), said
    if claim is not None:
        for far, said in farthest.values():
            if far > claim:
                raise Wrong(f"{said}, {_hops(far)}, and reach = {claim}; mend the dynamics, the graph or the claim")
    hops = ", ".join(f"{name}s {_hops(far)}" for name, (far, _) in farthest.items())
    return f"in one step an action reaches {hops}" + (f", as claimed: {claim}" if claim is not None else "")


def _hops(far: float) -> str:
    return "of nobody" if far < 0 else "of agents that no path leads to" if far == math.inf else f"{far:.0f} hops away"


def _another(action: Any, i: int, counts: tuple[int, ...] | None, bounds: tuple[np.ndarray, np.ndarray] | None) -> Any:
    if counts is not None:
        return (action + 1) % counts[i]
    assert bounds is not None
    low, high = (np.nan_to_num(bound, posinf=1.0, neginf=-1.0) for bound in bounds)
    return np.where(action - low > high - action, low, high)
