"""When a training run is evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Schedule = int | tuple[int, ...]
"""Environment steps between evaluations, or all steps at which one is due, for tasks where they are dear."""


def schedule(numbers: int | Sequence[int]) -> Schedule:
    """What one number, or several, say.

    Raises:
        ValueError: no positive integers below 2^63, or several that do not rise.

    Example:
        >>> schedule(1000), schedule([1000]), schedule([1000, 10_000])
        (1000, 1000, (1000, 10000))
    """
    marks = tuple(numbers) if isinstance(numbers, Sequence) else (numbers,)
    for mark in marks:
        if type(mark) is not int or not 1 <= mark < 2**63:
            raise ValueError(f"eval_every = {mark!r}; it must be an integer, at least 1 and below 2^63")
    if not marks or any(late <= early for early, late in itertools.pairwise(marks)):
        raise ValueError(f"eval_every = {list(marks)}; give one number, or several that rise")
    return marks if len(marks) > 1 else marks[0]


def due(before: int, now: int, when: Schedule) -> bool:
    """Whether an evaluation is due on the way from step ``before``, where none is any more, to ``now``."""
    if isinstance(when, int):
        return now // when > before // when
    return any(before < mark <= now for mark in when)
