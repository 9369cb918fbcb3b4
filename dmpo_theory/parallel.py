"""Threads for work that releases the interpreter lock: compiled kernels and large numpy operations."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """A number of threads; by default one for each processor."""
    if threads is not None and threads < 1:
        raise ValueError(f"threads = {threads!r}; at least one is needed")
    return threads or available_threads()


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in the order of the items, at most ``2 threads`` of them ahead of the caller.

    BLAS is held to one thread meanwhile: its own would get in the way of these.
    """
    with _one_blas_thread():
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


_blas_lock = threading.Lock()
_blas_limits: list[contextlib.AbstractContextManager[object]] = []
_blas_users = 0


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Overlapping users share one limit: the first sets it, and the last lifts it."""
    global _blas_users
    with _blas_lock:
        if _blas_users == 0:
            limit = _blas().limit(limits=1, user_api="blas")
            limit.__enter__()
            _blas_limits.append(limit)
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limits.pop().__exit__(None, None, None)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
