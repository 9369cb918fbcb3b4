"""Errors shared by both packages: every one names what is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProblemTooLarge(MemoryError):
    """A problem that would not fit in memory, refused before anything is allocated."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in a registry: suggests the nearest one and lists them all."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
