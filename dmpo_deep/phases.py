"""Processor time by phase of an epoch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Processor seconds of this process by phase, since they were last taken.

    Example:
        >>> watch = Stopwatch()
        >>> with watch("update"):
        ...     pass
        >>> list(watch.take())
        ['seconds_cpu_update']
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what runs inside towards ``phase``."""
        start = time.process_time()
        try:
            yield
        finally:
            self._seconds[phase] += time.process_time() - start

    def take(self) -> dict[str, float]:
        """``seconds_cpu_PHASE`` of every phase; counting starts anew."""
        taken = {f"seconds_cpu_{phase}": seconds for phase, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken
