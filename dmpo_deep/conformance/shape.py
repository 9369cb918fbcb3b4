"""Form: members, spaces, graph, shapes and types of arrays, numbers in range, and how episodes are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.conformance.subject import Note, Subject, Wrong, where
from dmpo_deep.envs.own import require_members

INFO = ("metric", "step", "collided")
"""What every step must say."""
LARGE = 10.0
"""Observations beyond this make networks learn slowly; so do targets of critics a hundred times as large or small."""


def members(subject: Subject) -> str:
    """All of :class:`dmpo_deep.envs.NetworkedEnv` is there, and is what it must be."""
    env = subject.make(subject.copies)
    try:
        require_members(env, "the factory")
    except ValueError as error:
        raise Wrong(str(error)) from None
    with closing(env):
        if env.batch != subject.copies:
            raise Wrong(f"batch = {env.batch} for {subject.copies} copies; keep the number that the factory is given")
        if not (env.horizon >= 1 and (env.horizon == math.inf or env.horizon % 1 == 0)):
            raise Wrong(f"horizon = {env.horizon}; give the steps of the longest episode, at least 1")
        if env.warmup_steps < 0:
            raise Wrong(f"warmup_steps = {env.warmup_steps}; give 0 or the steps that every reset spends")
        for name in ("measures", "outcomes"):
            if odd := [x for x in getattr(env, name) if not isinstance(x, str)]:
                raise Wrong(f"{name} holds {odd[0]!r}; give names of info entries")
        return f"horizon {env.horizon}, warm-up {env.warmup_steps}"


def spaces(subject: Subject) -> str:
    """Vectors of numbers to see; one of a number of actions, or a vector of numbers, to do."""
    with closing(subject.make(subject.copies)) as env:
        seen, acts, n = env.observation_space, env.action_space, env.graph.n
        if len(seen.shape) != 1 or not seen.shape[0]:
            raise Wrong(f"observation_space has shape {seen.shape}; it is of one agent, so flatten it to (d,)")
        if seen.dtype != np.float32:
            raise Wrong(f"observation_space has type {seen.dtype}; make it, and observations, float32")
        if isinstance(acts, Discrete) and acts.start != 0:
            raise Wrong(f"action_space starts at {acts.start}; actions are indices from 0 on")
        if isinstance(acts, MultiDiscrete) and acts.nvec.shape != (n,):
            raise Wrong(f"action_space has {acts.nvec.shape} numbers of actions; give one for each of {n} agents")
        if isinstance(acts, Box) and (len(acts.shape) != 1 or acts.dtype.kind != "f"):
            raise Wrong(f"action_space is {acts}; it is of one agent, so make it a vector (k,) of floating point")
        d = seen.shape[0]
        if env.period is not None and (env.period.shape != (d,) or not (env.period > 0).all()):
            raise Wrong(f"period is {env.period}; give {d} positive numbers, inf where a feature never comes round")
        if env.n_states is not None and (len(env.n_states) != n or max(env.n_states) != d):
            raise Wrong(f"n_states = {env.n_states} with {n} agents that see {d} numbers; one-hot codes are as wide")
        return f"sees {d} numbers, does {acts}"


def graph(subject: Subject) -> str:
    """Who is linked to whom."""
    with closing(subject.make(subject.copies)) as env:
        found = env.graph
        parts, said = len(set(found.components.tolist())), f"{found.n} agents, {len(found.edges)} edges"
        if parts > 1:
            return Note(f"{said}, {parts} parts that cannot hear each other at any radius")
        return f"{said}, diameter {found.diameter}"


def arrays(subject: Subject) -> str:
    """Shapes and types of what ``reset``, ``observe`` and ``step`` return."""
    with closing(subject.make(subject.copies)) as env:
        rng = subject.rng()
        for name, obs in (("reset", env.reset(rng)), ("observe", env.observe())):
            _require_array(f"what {name} returned", obs, (env.batch, env.graph.n, *env.observation_space.shape), "f4")
        returned = env.step(subject.action(env, 0))
        if not (isinstance(returned, tuple) and len(returned) == 5):
            raise Wrong(f"step returned {type(returned).__name__}; give (obs, reward, terminated, truncated, info)")
        *given, info = returned
        shape = env.batch, env.graph.n
        for name, array, wanted, kind in zip(
            ("the observations", "the rewards", "terminated", "truncated"),
            given,
            ((*shape, *env.observation_space.shape), shape, shape[:1], shape[:1]),
            ("f4", "f", "b", "b"),
            strict=True,
        ):
            _require_array(f"{name} of a step", array, wanted, kind)
        if not isinstance(info, Mapping):
            raise Wrong(f"info is a {type(info).__name__}; give a dict of arrays")
        for name in dict.fromkeys((*INFO, *env.measures, *env.outcomes)):
            if name in env.outcomes and name not in info:
                continue  # only the last step of an episode has to say
            if name not in info:
                raise Wrong(f"info has no {name!r}; add it for every copy, [B] (it has {', '.join(info) or 'nothing'})")
            _require_array(f"info[{name!r}]", info[name], shape[:1], {"step": "iu", "collided": "b"}.get(name, "fiub"))
        if not np.array_equal(env.observe(), given[0]):
            raise Wrong("observe() after a step is not what the step returned; it must be, until the next reset")
        return f"observations {tuple(given[0].shape)}, rewards {given[1].dtype}, info {', '.join(info)}"


def numbers(subject: Subject) -> str:
    """Everything is finite, and observations lie in their space."""
    with closing(subject.make(subject.copies)) as env:
        low, high, measured = env.observation_space.low, env.observation_space.high, tuple(env.measures)
    walk = subject.long
    for t, obs in enumerate([walk.start, *(row.obs for row in walk.rows)]):
        for said, bad in (
            ("not finite", ~np.isfinite(obs)),
            ("outside of observation_space", (obs < low) | (obs > high)),
        ):
            if bad.any():
                feature, place = np.argwhere(bad)[0][-1], where(np.asarray(bad.any(axis=-1)))
                raise Wrong(
                    f"observation {obs[bad][0]} of {place}, feature {feature}, after {t} steps is {said} ["
                    f"{low[feature]:g}, {high[feature]:g}]; clip it, or widen the space"
                )
    for t, row in enumerate(walk.rows):
        for name, values in (
            ("reward", row.reward),
            *((k, row.info[k]) for k in ("metric", *measured) if k in row.info),
        ):
            if (bad := ~np.isfinite(values.astype(float))).any():
                raise Wrong(
                    f"{name} {values[bad][0]} of {where(bad)} at step {t} is not finite; no learner survives it"
                )
    rate = len(walk.rows) * subject.copies / walk.seconds
    return f"{len(walk.rows)} steps of {subject.copies} copies, {rate:,.0f} steps a second"


def episodes(subject: Subject) -> str:
    """Ends are ends of the task or of time, never both; steps are counted from 0; none is longer than ``horizon``."""
    with closing(subject.make(subject.copies)) as env:
        horizon = env.horizon
    count, ends, limits = np.zeros(subject.copies, dtype=int), 0, 0
    for t, row in enumerate(subject.long.rows):
        if (both := row.terminated & row.truncated).any():
            raise Wrong(
                f"{where(both)} is both terminated and truncated at step {t}; what the task ended is not truncated"
            )
        if (row.info["step"] != count).any():
            copy = np.flatnonzero(row.info["step"] != count)[0]
            raise Wrong(
                f"info['step'] of copy {copy} is {row.info['step'][copy]} in step {count[copy]} of its episode; it is "
                "the 0-based index of the step just made, and 0 again after a reset"
            )
        count += 1
        late = np.array([c >= horizon and not over for c, over in zip(count, row.ended, strict=True)])
        if late.any():
            raise Wrong(f"{where(late)} goes on after {horizon} steps, its horizon; set truncated there")
        ends, limits = ends + int(row.terminated.sum()), limits + int(row.truncated.sum())
        count[row.ended] = 0
    if not ends + limits:
        return Note(f"no episode ended within {subject.steps} steps; --steps {horizon} sees the time limit")
    return f"{ends} ended by the task, {limits} by the limit"


def scale(subject: Subject) -> str:
    """How large numbers are, for networks that see them as they are and critics that learn discounted sums."""
    walk = subject.long
    seen = np.abs(np.stack([row.obs for row in walk.rows])).mean(axis=(0, 1, 2))
    reward = np.stack([row.reward for row in walk.rows])
    size = float(np.abs(reward).mean())
    said = f"observations up to {seen.max():.2g}, rewards {reward.mean():.3g} (sd {reward.std():.2g}) under random play"
    if seen.max() > LARGE:
        return Note(f"{said}; feature {seen.argmax()} is large: scale what agents see to about 1")
    fitting = 1.0 / size if size > 0 else 1.0
    if not 0.01 < size < 10:
        return Note(
            f"{said}; train with --set reward_scale={0.1 * fitting:.1g}, so that critics learn numbers around 10"
        )
    return said


def _require_array(name: str, array: Any, shape: tuple[int, ...], kind: str) -> None:
    wanted = {"f4": "float32", "f": "floating point", "b": "bool", "iu": "integer"}.get(kind, "number")
    if not isinstance(array, np.ndarray):
        raise Wrong(f"{name} is a {type(array).__name__}; give a numpy array {shape} of {wanted}")
    if array.shape != shape:
        raise Wrong(f"{name}: shape {array.shape}; it must be {shape}, copies first, then agents")
    if not (array.dtype == np.float32 if kind == "f4" else array.dtype.kind in kind):
        raise Wrong(f"{name}: type {array.dtype}; make it {wanted}")
