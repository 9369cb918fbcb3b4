"""Threads for work that releases the interpreter lock: compiled kernels and large numpy operations."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in the order of the items, at most ``2 threads`` of them ahead of the caller.

    BLAS is held to one thread meanwhile: its own would get in the way of these.
    """
    with _blas().limit(limits=1, user_api="blas"):
        if threads == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[Result]] = deque()
            try:  # twice as many as are at work, so that nobody waits for the caller
                left = iter(items)
                waiting.extend(pool.submit(work, item) for item in itertools.islice(left, 2 * threads))
                while waiting:
                    result = waiting.popleft().result()
                    waiting.extend(pool.submit(work, item) for item in itertools.islice(left, 1))
                    yield result
            finally:
                for future in waiting:
                    future.cancel()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
