r"""Eqs. 1-2: exact local values of a networked MDP under a local policy, with a certificate.

Small joint spaces are solved densely: form ``P`` and solve ``(I - gamma P) V = r`` by LU. Others never form ``P``: it
is applied by elimination (:mod:`dmpo_theory.elimination`) in a discounted series (:mod:`dmpo_theory.series`), one
agent's value after another, in as many threads as there are processors. :mod:`dmpo_theory.routes` chooses by predicted
cost. As ``E[r_i(t)|s(0)]`` depends on the states within about t hops of agent i only, the first terms of the series are
functions of few agents: on a large graph they cost next to nothing.

Every value comes with an enclosure that counts all rounding (:mod:`dmpo_theory.certificate`), from the residual of what
is returned.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs
from tqdm import tqdm

from dmpo_theory.certificate import UNIT_ROUNDOFF, Certificate
from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.elimination import Operator
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.parallel import checked_threads, in_threads
from dmpo_theory.routes import (
    Method,
    Route,
    choose_route,
    operator,
    predicted_seconds,
    reorder,
)
from dmpo_theory.series import fixed_point

TOLERANCE = 1e-11
"""Largest error in value unless asked otherwise, where float64 can certify it."""
_LIGHT_CONE_FROM = 2**17
"""Joint states from which a smaller kernel for each of the first sweeps pays for its planning."""
_LONG = 600.0
_BLOCK = 64


@dataclass(frozen=True)
class LocalValue:
    """One agent's value on all joint states.

    Attributes:
        agent: i.
        values: ``V_i(x)``, ``[X]``.
        lower: ``values + lower <= V_i`` on all joint states, rounding counted.
        upper: ``V_i <= values + upper``, likewise.
        residual: ``max_x |r_i + gamma P V_i - V_i|`` is at most this, but for rounding.
        sweeps: applications of the kernel; 0 for the dense route.
    """

    agent: int
    values: Array
    lower: float
    upper: float
    residual: float
    sweeps: int

    @property
    def error_bound(self) -> float:
        """``|V_i(x) - values[x]|`` is at most this."""
        return max(-self.lower, self.upper)


@dataclass(frozen=True)
class Values:
    """Local values of all agents on all joint states.

    Attributes:
        values: ``V_i(x)``, ``[n, X]``.
        lower: ``values[i] + lower[i] <= V_i`` on all joint states, rounding counted, ``[n]``.
        upper: ``V_i <= values[i] + upper[i]``, likewise, ``[n]``.
        residual: ``max_x |r_i + gamma P V_i - V_i|`` is at most this, but for rounding, ``[n]``.
        method: the route taken, see :mod:`dmpo_theory.routes`.
        sweeps: applications of the kernel, those on a light cone included, all agents together; 0 if dense.
        seconds: wall time.
    """

    values: Array
    lower: Array
    upper: Array
    residual: Array
    method: Route
    sweeps: int
    seconds: float

    @property
    def error_bound(self) -> float:
        """``|V_i(x) - values[i, x]|`` is at most this for every agent and joint state."""
        return float(max(-self.lower.min(), self.upper.max()))


def local_values(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    threads: int | None = None,
    memory_limit_gib: float | None = None,
) -> Values:
    """All local values ``V_i(x) = E[sum_t gamma^t r_i(t) | s(0) = x]`` on all joint states.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        method: a route of :mod:`dmpo_theory.routes`; by default the one predicted to be fastest.
        tolerance: largest error in value, rounding counted. By default 1e-11, or what float64 can certify where gamma
            is so near 1, or rewards are so large, that it cannot certify that; ``error_bound`` says what was reached.
        threads: agents solved at once; by default one for each processor.
        memory_limit_gib: refuse what needs more; by default 90 % of the memory available.

    Raises:
        ProblemTooLarge: before any allocation, with the GiB it would take.
        ArithmeticError: float64 cannot certify the tolerance; the message says which it can.

    Example:
        >>> from dmpo_theory.graph import ring
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(ring(4), rng=0)
        >>> result = local_values(mdp, random_policy(mdp, rng=1))
        >>> result.values.shape, result.error_bound < 1e-11
        ((4, 16), True)
    """
    started = time.perf_counter()
    chain = closed_loop(mdp, policy)
    threads = checked_threads(threads)
    route = choose_route(chain, method, chain.n, threads, memory_limit_gib)
    if route == "dense":
        solved = _dense_values(chain, mdp.gamma, chain.reward_functions(), tolerance)
        return Values(*solved, route, 0, time.perf_counter() - started)
    values = np.empty((chain.n, chain.size))
    found = []
    for value in _each_value(chain, mdp.gamma, range(chain.n), route, tolerance, threads):
        values[value.agent] = value.values
        found.append(replace(value, values=values[value.agent]))  # its own array would be a second copy
    return Values(
        values,
        np.array([value.lower for value in found]),
        np.array([value.upper for value in found]),
        np.array([value.residual for value in found]),
        route,
        sum(value.sweeps for value in found),
        time.perf_counter() - started,
    )


def each_value(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    agents: Sequence[int] | None = None,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    threads: int | None = None,
    memory_limit_gib: float | None = None,
) -> Iterator[LocalValue]:
    """Local values one agent after another, in their order, holding no more than ``2 threads`` of them.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        agents: whose values; by default everybody's.
        method: as in :func:`local_values`.
        tolerance: as in :func:`local_values`.
        threads: as in :func:`local_values`.
        memory_limit_gib: as in :func:`local_values`.
    """
    chain = closed_loop(mdp, policy)
    threads = checked_threads(threads)
    wanted = range(chain.n) if agents is None else list(agents)
    if not all(0 <= i < chain.n for i in wanted):
        raise ValueError(f"agents = {wanted!r} names a missing one; agents are 0 .. {chain.n - 1}")
    route = choose_route(chain, method, 2 * threads, threads, memory_limit_gib, solved=len(wanted))
    return _each_value(chain, mdp.gamma, wanted, route, tolerance, threads)


def mean_value(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    memory_limit_gib: float | None = None,
) -> LocalValue:
    """The value of the global reward, ``V = (1/n) sum_i V_i``, in one solve; arguments as :func:`local_values`.

    Components of a disconnected graph are solved by themselves. Its ``agent`` is -1.
    """
    chain = closed_loop(mdp, policy)
    route = choose_route(chain, method, 2, 1, memory_limit_gib)
    if route == "dense":
        rewards = chain.reward_functions().sum(axis=0, keepdims=True) / chain.n
        return next(_one_by_one([-1], *_dense_values(chain, mdp.gamma, rewards, tolerance)))
    if len(chain.components) > 1:
        with contextlib.suppress(ArithmeticError):  # where they cancel, float64 may certify their mean alone
            found = _mean_by_components(chain, mdp.gamma, route, tolerance)
            if tolerance is None or found.error_bound <= tolerance:
                return found
    return _mean_of(chain, mdp.gamma, route, tolerance, range(chain.n))


def _mean_by_components(chain: ClosedLoop, gamma: float, route: Route, tolerance: float | None) -> LocalValue:
    """The mean value, each component to half of the tolerance: the other half is for what the mean of them rounds."""
    values, size, width, residual, sweeps = np.zeros(chain.size), 0.0, 0.0, 0.0, 0
    for members in chain.components:
        found = _mean_of(chain, gamma, route, tolerance, members, portion=0.5)
        share, sweeps = len(members) / chain.n, sweeps + found.sweeps
        values += share * found.values
        size += share * float(np.abs(found.values).max())
        width, residual = width + share * found.error_bound, residual + share * found.residual
    width += 2 * (len(chain.components) + 2) * UNIT_ROUNDOFF * (size + width)  # of the shares, products and sums
    return LocalValue(-1, values, -width, width, residual, sweeps)


def _mean_of(
    chain: ClosedLoop, gamma: float, route: Route, tolerance: float | None, members: Sequence[int], portion: float = 1.0
) -> LocalValue:
    """The mean value of some agents that no others affect."""
    order = operator(chain, route, members).inside
    nearby = sorted(members, key=order.index)  # their axes are next to each other
    reward = _sum_of_rewards(chain, nearby, order) / len(members)
    size = sum(chain.reward_sizes[i] for i in members) / len(members)
    return _solve(chain, gamma, route, tolerance, -1, order, reward, size, portion=portion)


def _sum_of_rewards(chain: ClosedLoop, agents: Sequence[int], readers: Sequence[int]) -> Array:
    """``sum_i E[r_i | s]`` over some agents, as a function of the states of ``readers``: that of either half first."""
    sizes = chain.n_states

    def of(some: Sequence[int]) -> Array:  # states that none of them read keep an axis of length 1
        if len(some) > 1:
            total: Array = of(some[: len(some) // 2]) + of(some[len(some) // 2 :])
            return total
        reads = chain.reward_parents[some[0]]
        table = reorder(chain.rewards[some[0]].reshape(-1), sizes, reads, [j for j in readers if j in reads])
        return table.reshape([sizes[j] if j in reads else 1 for j in readers])

    return np.broadcast_to(of(agents), [sizes[j] for j in readers]).reshape(-1)


def _each_value(
    chain: ClosedLoop, gamma: float, agents: Sequence[int], route: Route, tolerance: float | None, threads: int
) -> Iterator[LocalValue]:
    if not agents:
        return
    if route == "dense":
        rewards = chain.reward_functions()[list(agents)]
        yield from _one_by_one(agents, *_dense_values(chain, gamma, rewards, tolerance))
        return
    seconds = predicted_seconds(chain, route, len(agents)) / threads
    bar = tqdm(total=len(agents), desc="exact values", unit="agent") if seconds >= _LONG else None
    if bar:
        most = math.log(1e12) / -math.log(gamma) if gamma > 0 else 1
        slow = predicted_seconds(chain, route, len(agents), most) / threads
        tqdm.write(
            f"Exact values of {len(agents)} agents on {chain.size:.6g} joint states: about {seconds / 60:.0f} minutes, "
            f"up to {slow / 60:.0f} if the chain hardly mixes.",
            sys.stderr,
        )

    def certain() -> float:  # for all of them: each has a kernel of its own, and a certificate
        certificates = (_kernel(chain, gamma, route, chain.reward_parents[i])[1] for i in agents)
        return max(one.reachable(chain.reward_sizes[i]) for i, one in zip(agents, certificates, strict=True))

    def solve(i: int) -> LocalValue:
        reward, size = chain.rewards[i].reshape(-1), chain.reward_sizes[i]
        return _solve(chain, gamma, route, tolerance, i, chain.reward_parents[i], reward, size, certain)

    _kernel(chain, gamma, route, chain.reward_parents[agents[0]])  # kept; threads would all plan it at once
    with bar or contextlib.nullcontext():
        for value in in_threads(solve, agents, threads if len(agents) > 1 else 1):
            if bar:
                bar.update()
            yield value


def _kernel(chain: ClosedLoop, gamma: float, route: Route, members: Sequence[int]) -> tuple[Operator, Certificate]:
    """The kernel of all agents that ever matter to the states of ``members``, and its certificate."""
    kernel = operator(chain, route, set[int]().union(*(chain.ancestors[j] for j in members)))
    return kernel, Certificate(chain, gamma, kernel.inside, kernel.roundings)


def _solve(
    chain: ClosedLoop,
    gamma: float,
    route: Route,
    tolerance: float | None,
    agent: int,
    members: Sequence[int],
    reward: Array,
    size: float,
    certain: Callable[[], float] = lambda: 0.0,
    portion: float = 1.0,
) -> LocalValue:
    """The value of a reward of a size that depends on the states of ``members``, on all agents' states.

    To a portion of the tolerance. A refusal names what is certain to be certified here, and for others too.
    """
    sizes, (kernel, certificate) = chain.n_states, _kernel(chain, gamma, route, members)
    agents, reachable = kernel.inside, certificate.reachable(size)
    wanted = _tolerance(tolerance, reachable, portion)
    if wanted <= certificate.out_of_reach(size):
        raise _beyond_float64(wanted, max(reachable, certain()), gamma, size)
    full = reorder(reward, sizes, members, agents)
    values, sweeps = full.copy(), 0
    if chain.size >= _LIGHT_CONE_FROM:
        values, sweeps = _along_the_light_cone(chain, gamma, route, kernel, members, reward)
    half_width = max(wanted - reachable / 2, wanted / 2)
    for _ in range(3):  # should rounding take more than its share, less is left for the bounds
        low, high, more = fixed_point(kernel, full, values, gamma, half_width)
        sweeps += more
        width, middle = certificate.centred(low, high, size, max(float(values.max()), -float(values.min())))
        values += middle  # also where it is not enough: the next sweep changes less
        if width <= wanted:
            spread = reorder(values, sizes, agents, range(chain.n))
            return LocalValue(agent, spread, -width, width, gamma * (high - low) / 2, sweeps)
        half_width /= 8
    raise _beyond_float64(wanted, max(3 * width, reachable, certain()), gamma, size)


def _along_the_light_cone(
    chain: ClosedLoop, gamma: float, route: Route, kernel: Operator, members: Sequence[int], reward: Array
) -> tuple[Array, int]:
    """The first sweeps of :func:`fixed_point`, of functions of the few agents that they depend on."""
    sizes, values, reads, sweeps = chain.n_states, reward, members, 0
    while len(reads) < len(kernel.inside):
        cone = operator(chain, route, reads)
        values = gamma * cone.apply(reorder(values, sizes, reads, cone.inside))
        values += reorder(reward, sizes, members, cone.outside)
        reads, sweeps = cone.outside, sweeps + 1
    return reorder(values, sizes, reads, kernel.inside).copy(), sweeps


def _dense_values(
    chain: ClosedLoop, gamma: float, rewards: Array, tolerance: float | None
) -> tuple[Array, Array, Array, Array]:
    """Values ``[c, X]`` of rewards ``[c, X]``; the lower and the upper ends of their enclosures, their residuals."""
    kernel, size = chain.matrix, max(chain.reward_sizes)
    roundings = chain.n + min(chain.size, _BLOCK) + -(-chain.size // _BLOCK)
    certificate = Certificate(chain, gamma, range(chain.n), roundings)
    reachable = certificate.reachable(size)
    wanted = _tolerance(tolerance, reachable)
    if wanted <= certificate.out_of_reach(size):
        raise _beyond_float64(wanted, reachable, gamma, size)
    system = kernel * -gamma
    system.reshape(-1)[:: chain.size + 1] += 1
    factors, pivots, _ = dgetrf(system.T, overwrite_a=True)  # LAPACK wants columns; I - gamma P is never singular
    values: Array = dgetrs(factors, pivots, rewards.T, trans=1)[0].T
    for attempt in range(3):
        residuals = _by_blocks(kernel, values)
        residuals *= gamma
        residuals += rewards
        residuals -= values
        error = certificate.rounding(size, max(float(values.max()), -float(values.min())))
        lowest, highest = residuals.min(axis=1), residuals.max(axis=1)
        lower, upper = certificate.enclosure(lowest, highest, error)
        reached = float(max(-lower.min(), upper.max()))
        if reached <= wanted:
            return values, lower, upper, np.maximum(-lowest, highest)
        if attempt < 2:
            values = values + dgetrs(factors, pivots, residuals.T, trans=1)[0].T
    raise _beyond_float64(wanted, max(3 * reached, reachable), gamma, size)


def _one_by_one(
    agents: Sequence[int], values: Array, lower: Array, upper: Array, residual: Array
) -> Iterator[LocalValue]:
    for row, i in enumerate(agents):
        yield LocalValue(i, values[row], float(lower[row]), float(upper[row]), float(residual[row]), 0)


def _by_blocks(kernel: Array, values: Array) -> Array:
    """``P V`` summed block by block, which rounds less often than one long sum."""
    total: Array = values[:, :_BLOCK] @ kernel[:, :_BLOCK].T
    for at in range(_BLOCK, len(kernel), _BLOCK):
        total += values[:, at : at + _BLOCK] @ kernel[:, at : at + _BLOCK].T
    return total


def _tolerance(tolerance: float | None, reachable: float, portion: float = 1.0) -> float:
    """A portion of the tolerance asked for, or of the default one if that is reachable."""
    if tolerance is None:
        return max(portion * TOLERANCE, reachable)
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance!r} must be a positive number, in units of value")
    return portion * tolerance


def _beyond_float64(wanted: float, reachable: float, gamma: float, size: float) -> ArithmeticError:
    return ArithmeticError(
        f"float64 cannot certify values to tolerance = {wanted:g} at gamma = {gamma:g} and rewards of size {size:.3g}; "
        f"ask for tolerance = {1.05 * reachable:.2g} or more"  # two digits may be as much as 1 / 21 too few
    )
