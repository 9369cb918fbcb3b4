"""Chance: one seed makes one trajectory, nothing global is touched, and copies do not feel each other."""

from __future__ import annotations

import random

import numpy as np

from dmpo_deep.conformance.subject import Note, Subject, Wrong, same_until


def determinism(subject: Subject) -> str:
    """The same seed and actions make the same trajectory whatever the global generators say; another seed another."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(subject.seed + 12345)
        np.random.seed(12345)  # noqa: NPY002
        again = subject.walk(len(subject.short.rows))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    remedy = "draw everything from the generator that reset is given, and let nothing outlive a reset"
    if not np.array_equal(subject.short.start, again.start):
        raise Wrong(f"two resets with one seed differ; {remedy}")
    if (at := same_until(subject.short.rows, again.rows, range(subject.copies))) is not None:
        raise Wrong(f"two rollouts with one seed and the same actions differ: {at}; {remedy}")
    other = subject.walk(len(subject.short.rows), seed=1)
    alike = np.array_equal(subject.short.start, other.start)
    if alike and same_until(subject.short.rows, other.rows, range(subject.copies)) is None:
        return Note(f"the same trajectory for two seeds in {subject.probe} steps; fine if nothing is random in it")
    return "one seed, one trajectory; another seed, another"


def global_randomness(subject: Subject) -> str:
    """Generators that belong to everybody are left alone."""
    if subject.long.disturbed:
        raise Wrong(
            f"a rollout drew from the global generator of {', '.join(subject.long.disturbed)}; draw from the generator "
            "that reset is given"
        )
    return "untouched"


def copies_apart(subject: Subject) -> str:
    """What a copy does changes nothing in another one, until an episode ends: resets may share the generator."""
    base = subject.short.rows
    for copy in (0, subject.copies - 1):

        def others_change(t: int, action: np.ndarray, copy: int = copy) -> np.ndarray:
            """The actions of all copies but one in another order."""
            changed = np.roll(action, 1, axis=1)[::-1].copy() if _alike(action) else action[::-1].copy()
            changed[copy] = action[copy]
            return changed

        varied = subject.walk(subject.probe, change=others_change).rows
        ends = (t + 1 for t, (a, b) in enumerate(zip(base, varied, strict=True)) if (a.ended | b.ended).any())
        until = next(ends, len(base))
        if (at := same_until(base[:until], varied[:until], [copy])) is not None:
            raise Wrong(f"{at} depends on what other copies did; keep every copy's state and numbers apart")
    return f"copies 0 and {subject.copies - 1} are what they are whatever the others do"


def _alike(action: np.ndarray) -> bool:
    """Whether all copies act alike, so that exchanging them would change nothing."""
    return bool((action == action[0]).all())
