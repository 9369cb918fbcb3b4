"""Errors shared by both packages: every one names what is wrong and what to do about it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

import psutil

GIB = 2.0**30
FITS_ANYWHERE = 2.0**26
"""Bytes for which nobody asks how much memory there is."""

MOST_AXES = 64
"""Of an array."""


class ProblemTooLarge(MemoryError):
    """A problem that would not fit in memory, refused before anything is allocated."""


def memory_limit(limit_gib: float | None = None) -> float:
    """``limit_gib``, by default 90 % of the memory now available, in GiB."""
    return 0.9 * psutil.virtual_memory().available / GIB if limit_gib is None else limit_gib


def require_memory(needed_bytes: float, what: str, remedy: str, limit_gib: float | None = None) -> None:
    """Refuse what needs more than ``limit_gib`` GiB, by default 90 % of the memory now available.

    Raises:
        ProblemTooLarge: naming ``what``, the GiB it would need, the limit, and the ``remedy``.
    """
    if limit_gib is None and needed_bytes < FITS_ANYWHERE:
        return
    limit = memory_limit(limit_gib)
    if needed_bytes > limit * GIB:
        raise ProblemTooLarge(f"{what} needs {needed_bytes / GIB:.3g} GiB, the limit is {limit:.3g} GiB; {remedy}")


def too_many_axes(what: str) -> ProblemTooLarge:
    """The error for a problem of few numbers that spread over more axes than numpy's arrays have."""
    return ProblemTooLarge(
        f"{what} need more array axes than numpy has, few as their joint states are; leave out agents that have one "
        "state only"
    )


def shown(value: object) -> str:
    """``value`` for an error: short, however large it is.

    Example:
        >>> shown([0, 3]), shown([[0.5] * 9] * 9)
        ('[0, 3]', '[[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...], [0.5, 0.5, 0.5, 0.5, 0...')
    """
    text = reprlib.repr(value)  # neither deep nor wide, so that it is quickly made
    return text if len(text) <= 60 else f"{text[:60]}..."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in a registry: suggests the nearest one and lists them all."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    told = repr(name) if len(name) < 60 else shown(name)
    return ValueError(f"unknown {kind} {told}{hint} (known: {', '.join(names)})")
