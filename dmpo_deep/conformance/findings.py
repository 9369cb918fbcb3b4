"""The checks in their order, and what comes of each: nothing is looked at that rests on what is broken."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmpo_deep.conformance import behaviour, chance, shape
from dmpo_deep.conformance.subject import Note, Subject, Wrong

OK, NOTE, FAILED, SKIPPED = "ok", "note", "FAILED", "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check came to."""

    check: str
    verdict: str
    """``ok``, ``note`` (worth knowing), ``FAILED``, or ``skipped`` because of an earlier failure."""
    said: str


FIRST: Mapping[str, Callable[[Subject], str]] = {
    "members": shape.members,
    "spaces": shape.spaces,
    "graph": shape.graph,
    "shapes and types": shape.arrays,
}
"""What everything else rests on."""
THEN: Mapping[str, Callable[[Subject], str]] = {
    "numbers": shape.numbers,
    "episodes": shape.episodes,
    "determinism": chance.determinism,
    "global randomness": chance.global_randomness,
    "copies apart": chance.copies_apart,
    "reset of some copies": behaviour.reset_of_some,
    "arrays of its own": behaviour.arrays_of_its_own,
    "saved states": behaviour.saved_states,
    "refusals": behaviour.refusals,
    "termination()": behaviour.termination,
    "reach of actions": behaviour.reach,
    "scale": shape.scale,
}
CHECKS = (*FIRST, *THEN)


def examine(
    make: Callable[[int], Any], *, copies: int = 4, steps: int = 1000, seed: int = 0, without: Collection[str] = ()
) -> Iterator[Finding]:
    """Check an environment; findings come as they are made.

    Args:
        make: makes it, from a number of copies.
        copies: to check it with, at least 2.
        steps: of each copy in the longest rollout; time limits beyond it are not seen.
        seed: of the environment's randomness and of the actions.
        without: names of checks to leave out.

    Raises:
        ValueError: a number too small, or a check that does not exist.
    """
    for name, number, least in (("copies", copies, 2), ("steps", steps, 1), ("seed", seed, 0)):
        if number < least:
            raise ValueError(f"{name} = {number}; it must be at least {least}")
    if odd := set(without) - set(CHECKS):
        raise ValueError(f"no check {min(odd)!r} to leave out; there are {', '.join(CHECKS)}")
    subject, broken = Subject(make, copies, steps, seed), ""
    for name, check in {**FIRST, **THEN}.items():
        if broken:
            yield Finding(name, SKIPPED, f"mend {broken} first")
        elif name not in without:
            finding = _finding(name, check, subject)
            broken = name if finding.verdict == FAILED and name in FIRST else ""
            yield finding


def _finding(name: str, check: Callable[[Subject], str], subject: Subject) -> Finding:
    try:
        said = check(subject)
    except Wrong as wrong:
        return Finding(name, FAILED, str(wrong))
    except Exception as error:  # whatever a user's environment may raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
        return Finding(name, FAILED, f"it raised {type(error).__name__}: {error} ({place}); mend it")
    return Finding(name, NOTE if isinstance(said, Note) else OK, said)
