"""Which way to compute with a closed loop's kernel: dense, compiled or numpy, by what each would cost.

*dense* forms ``P``, which pays for a few hundred joint states; *compiled* eliminates agents in numba
(:mod:`dmpo_theory.compiled`); *numpy* does so in numpy (:mod:`dmpo_theory.elimination`), for machines without numba.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.elimination import (
    TABLE_NUMBERS,
    Elimination,
    Operator,
    elimination_cost,
    greedy_order,
    read_outside,
)
from dmpo_theory.errors import FITS_ANYWHERE, GIB, MOST_AXES, ProblemTooLarge, memory_limit, too_many_axes
from dmpo_theory.mdp import Array

Method = Literal["auto", "dense", "compiled", "numpy"]
Route = Literal["dense", "compiled", "numpy"]

_PER_SECOND = {"compiled": 8e9, "numpy": 5e8}
"""Multiply-adds of one thread, on a common processor; only used to choose a route and to foretell time."""
_PER_SWEEP = {"compiled": 6e-6, "numpy": 2e-5}
_SETUP = {"compiled": 1e-3, "numpy": 2e-4}
_TYPICAL_SWEEPS = 25
_COMPILED_FROM = 2**9
_SMALL = 2**8
"""Joint states up to which the dense route is taken unseen."""
_VECTORS = 18
"""Functions of the joint state that a thread works with where a chain hardly mixes; else nine."""


def has_numba() -> bool:
    """Whether the compiled route is there."""
    return importlib.util.find_spec("numba") is not None


def choose_route(
    chain: ClosedLoop,
    method: Method,
    functions: int,
    threads: int = 1,
    limit_gib: float | None = None,
    solved: int | None = None,
) -> Route:
    """The cheapest route that fits in memory, or the one asked for.

    Args:
        chain: the closed loop.
        method: a route, or ``"auto"``.
        functions: how many functions of the joint state are held at once, besides the working memory.
        threads: how many are worked on at once.
        limit_gib: refuse what needs more; by default 90 % of the memory available.
        solved: how many functions are solved for in all; by default as many as are held.

    Raises:
        ProblemTooLarge: before any allocation, with the GiB of the routes there are and the number of agents that would
            fit.
        ValueError: the method is not known, or is ``"compiled"`` where numba is missing.
    """
    if method not in ("auto", "dense", "compiled", "numpy"):
        raise ValueError(f'method = {method!r}; choose "auto", "dense", "compiled" or "numpy"')
    if method == "compiled" and not has_numba():
        raise ValueError('method = "compiled" needs numba, which is missing; install it, or use "numpy"')
    if chain.n >= MOST_AXES and chain.size <= 2**40:  # one is for the agents; larger ones need too much memory anyway
        raise too_many_axes(f"{chain.n} agents")
    if method in ("auto", "dense") and chain.size <= _SMALL and limit_gib is None:
        return "dense"
    eliminating: Route = "numpy" if method == "numpy" or not has_numba() else "compiled"
    wanted = [eliminating, "dense"] if method == "auto" else [method]
    needs = {route: memory_needed(chain, route, functions, threads) for route in ("dense", eliminating)}
    seconds = {route: predicted_seconds(chain, route, solved or functions) for route in needs}
    fastest = min(wanted, key=lambda route: seconds[route])
    if limit_gib is None and needs[fastest] <= FITS_ANYWHERE:
        return fastest
    limit = memory_limit(limit_gib)
    fitting = [route for route in wanted if needs[route] <= limit * GIB]
    if not fitting:
        listed = ", ".join(f"{route} {needed / GIB:.3g} GiB" for route, needed in needs.items())
        fits = _agents_that_fit(chain, wanted[0], functions, threads, limit)
        raise ProblemTooLarge(
            f"a joint space of {_text(chain.size)} states ({chain.n} agents) needs too much memory: {listed}; "
            f"the limit is {limit:.3g} GiB, in which {fits} such agents would fit; use fewer agents or local states"
            + (', or method="auto"' if method == "dense" and needs[eliminating] <= limit * GIB else "")
        )
    return min(fitting, key=lambda route: seconds[route])


def memory_needed(chain: ClosedLoop, route: str, functions: int, threads: int) -> float:
    """Bytes that a route takes at its peak."""
    size = float(min(chain.size, 2**1000))
    if route == "dense":
        return 8.0 * (3 * size**2 + 4 * functions * size) if size < 1e150 else math.inf
    held = 8.0 * size * (functions + _VECTORS * threads)
    if size > 2**40:
        return held
    if route == "numpy":
        return held + 8.0 * _cost(chain)[1]
    # A step's table is made and joined to the others; each of its rows says where all later steps start.
    numbers = chain.n * TABLE_NUMBERS + 2 * sum(kernel.size for kernel in chain.kernels)
    return held + 8.0 * numbers * (2 + chain.n / 4)


def predicted_seconds(chain: ClosedLoop, route: str, functions: int, sweeps: float = _TYPICAL_SWEEPS) -> float:
    """Time in one thread for so many functions of the joint state, at so many applications of the kernel each."""
    size = float(min(chain.size, 2**1000))
    if route == "dense":
        return 2e-4 + 3e-9 * size**2 + 4e-11 * size**3 if size < 1e90 else math.inf
    if size > 2**40:
        return math.inf
    one = _cost(chain)[0] / _PER_SECOND[route] + _PER_SWEEP[route]
    return _SETUP[route] + functions * sweeps * one


@lru_cache(maxsize=1)
def _cost(chain: ClosedLoop) -> tuple[float, float]:
    return elimination_cost(chain, greedy_order(chain, range(chain.n)))


def operator(chain: ClosedLoop, route: Route | None = None, inside: Collection[int] | None = None) -> Operator:
    """The closed loop's kernel as an operator on functions of the next states of ``inside``, by default of all agents.

    Args:
        chain: the closed loop.
        route: ``"compiled"`` or ``"numpy"``; by default compiled where numba is there and its planning pays.
        inside: the agents whose next states are summed out.
    """
    members = tuple(range(chain.n)) if inside is None else tuple(sorted(inside))
    large = math.prod(chain.n_states[i] for i in members) >= _COMPILED_FROM
    compiled = route == "compiled" or (route is None and large and has_numba())
    if read_outside(chain, members):
        return _build(chain, members, compiled)
    return _kept(chain, members, compiled)


def _build(chain: ClosedLoop, members: tuple[int, ...], compiled: bool) -> Operator:
    if compiled:
        from dmpo_theory.compiled import CompiledElimination

        return CompiledElimination(chain, members)
    return Elimination(chain, members)


_kept = lru_cache(maxsize=4)(_build)  # values, occupancy and gradients of an instance follow one another


def apply_kernel(chain: ClosedLoop, function: Array) -> Array:
    """``E[f(s') | s]`` on all joint states, ``[X]``, agent 0 slowest."""
    kernel, everybody = operator(chain), range(chain.n)
    following = kernel.apply(reorder(function, chain.n_states, everybody, kernel.inside))
    return reorder(following, chain.n_states, kernel.outside, everybody)


def push_law(chain: ClosedLoop, law: Array) -> Array:
    """The law of ``s'`` when ``s`` has the given law, ``[X]``, agent 0 slowest."""
    kernel, everybody = operator(chain), range(chain.n)
    following = kernel.push(reorder(law, chain.n_states, everybody, kernel.outside))
    return reorder(following, chain.n_states, kernel.inside, everybody)


def reorder(function: Array, n_states: Sequence[int], old: Sequence[int], new: Sequence[int]) -> Array:
    """A function of the states of agents ``old``, first slowest, as one of ``new``, a superset in another order."""
    place = {j: k for k, j in enumerate(new)}
    axes = sorted(range(len(old)), key=lambda axis: place[old[axis]])
    tensor = function.reshape([n_states[j] for j in old]).transpose(axes)
    known = set(old)
    tensor = tensor.reshape([n_states[j] if j in known else 1 for j in new])
    return np.broadcast_to(tensor, [n_states[j] for j in new]).reshape(-1)


def _agents_that_fit(chain: ClosedLoop, route: str, functions: int, threads: int, limit_gib: float) -> int:
    """If all agents had as many states as these have on (geometric) average."""
    bits = sum(math.log2(size) for size in chain.n_states) / chain.n
    fits = 0
    while bits > 0 and fits < chain.n:
        size, held = 2.0 ** (bits * (fits + 1)), min(functions, fits + 1)
        needed = 3 * size**2 + 4 * held * size if route == "dense" else size * (held + _VECTORS * threads)
        if 8.0 * needed > limit_gib * GIB:
            break
        fits += 1
    return fits


def _text(size: int) -> str:
    return f"{float(size):.6g}" if size < 2**1000 else f"2^{size.bit_length() - 1}"
