r"""Elimination compiled: depth first, two agents at a time, in the order with the fewest multiplications.

Summed out breadth first, all contexts at once, the intermediate tables of
:class:`~dmpo_theory.elimination.Elimination` have ``S^(n + pathwidth)`` entries. Here the contexts of a step, the joint
states that its factors are the first to read, are gone through one after another: with them fixed a step maps slabs of
contiguous numbers to slabs,

    T_{k+1}[r] = sum_x C_k(x | context) T_k[x, r],

and the next step follows at once. The multiplications are the same, but all slabs together take little more room than
the function itself, and those of the late steps, where the work is, stay in the cache. A step sums out agents with at
most four joint states, the last one up to 64.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dmpo_theory import kernels
from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.elimination import OFF_CENTRE, TABLE_NUMBERS, greedy_order, read_outside
from dmpo_theory.mdp import Array, contract

_BEST_ORDER_UP_TO = 22
"""Agents up to which the best order of all is found; beyond, a greedy one."""
_HEAD_STATES = 4
_TAIL_STATES = 64


@dataclass(frozen=True)
class _Step:
    """Agents summed out together: ``old`` contexts are set by earlier steps, ``new`` ones are opened by this one."""

    agents: tuple[int, ...]
    old: tuple[int, ...]
    new: tuple[int, ...]


class CompiledElimination:
    """The compiled route; see :class:`dmpo_theory.elimination.Operator` for its attributes and methods.

    ``apply``, ``push`` and ``factor_gradients`` may run in several threads at once.
    """

    def __init__(self, chain: ClosedLoop, inside: Collection[int] | None = None) -> None:
        self.chain = chain
        members = range(chain.n) if inside is None else inside
        self.inside = _order(chain, members)
        self.outside = (*self.inside, *sorted(read_outside(chain, members)))
        self._plan = _plan(chain, self.inside, self.outside)
        sizes = chain.n_states
        inputs, contexts, slabs = ([int(x) for x in column] for column in _shapes(self._plan, sizes))
        opened = np.cumprod([float(count) for count in contexts])
        self.multiplications = float(sum(o * x * length for o, x, length in zip(opened, inputs, slabs, strict=True)))
        self._steps = _steps(chain, self._plan, self.outside, inputs, contexts, slabs)
        self._work = sum(min(4, y) * length for y, length in list(zip(contexts, slabs, strict=True))[:-1])
        self.roundings = sum(x + len(step.agents) - 1 for x, step in zip(inputs, self._plan, strict=True))
        self._n_inside = math.prod(sizes[i] for i in self.inside)
        self._n_outside = math.prod(sizes[j] for j in self.outside)

    def apply(self, function: Array) -> Array:
        """As :meth:`~dmpo_theory.elimination.Operator.apply`."""
        result = _aligned(self._n_outside)
        kernels.apply(self._steps, function, result, _aligned(self._work))
        return result

    def sweeps(
        self, value: Array, reward: Array, changes: Array, gamma: float, width: float, most: int
    ) -> tuple[float, float, int]:
        """As :meth:`~dmpo_theory.elimination.Operator.sweeps`."""
        work = _aligned(self._work)
        low, high, done = kernels.sweeps(self._steps, value, reward, changes, gamma, width, most, OFF_CENTRE, work)
        return float(low), float(high), int(done)

    def extrapolate(self, function: Array, changes: Array) -> None:
        """As :meth:`~dmpo_theory.elimination.Operator.extrapolate`."""
        kernels.extrapolate(function, changes)

    def push(self, law: Array) -> Array:
        """As :meth:`~dmpo_theory.elimination.Operator.push`."""
        return self._reverse(law, None)[0]

    def factor_gradients(self, law: Array, function: Array) -> dict[int, Array]:
        """As :meth:`~dmpo_theory.elimination.Operator.factor_gradients`, all of them in one pass."""
        _, by_table = self._reverse(law, function)
        gradients, at = dict[int, Array](), 0
        for step in self._plan:
            axes = [*step.old, *step.new, *(self.chain.n + i for i in step.agents)]
            shape = [self.chain.n_states[axis % self.chain.n] for axis in axes]
            block = by_table[at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
            gradients |= _by_factor(self.chain, block, axes, step.agents)
        return gradients

    def _reverse(self, law: Array, function: Array | None) -> tuple[Array, Array]:
        factors = function is not None
        pushed, by_table = np.empty(self._n_inside), np.zeros(len(self._steps.tables) if factors else 0)
        source = function if function is not None else np.empty(0)
        work = _aligned(self._work if factors else 0)
        kernels.reverse(self._steps, law, source, pushed, by_table, work, _aligned(self._work), factors)
        return pushed, by_table


def _order(chain: ClosedLoop, members: Collection[int]) -> tuple[int, ...]:
    agents = sorted(members)
    if not 1 < len(agents) <= _BEST_ORDER_UP_TO or read_outside(chain, agents):
        return greedy_order(chain, agents)
    place = {j: k for k, j in enumerate(agents)}
    reads = tuple(sum(1 << place[j] for j in chain.parents[i]) for i in agents)
    return tuple(agents[k] for k in _best_order(reads, tuple(float(chain.n_states[i]) for i in agents)))


@lru_cache(maxsize=64)  # the same for all kernels on one graph
def _best_order(reads: tuple[int, ...], sizes: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in kernels.best_order(np.array(reads), np.array(sizes)))


def _factor(chain: ClosedLoop, i: int) -> tuple[Array, list[int]]:
    """``P_i`` with its axes: ``j`` for ``s_j``, ``n + j`` for ``s_j'``."""
    return chain.kernels[i], [*chain.parents[i], chain.n + i]


def _table(chain: ClosedLoop, agents: Sequence[int], contexts: Sequence[int]) -> tuple[Array, list[int]]:
    """The product of the agents' factors, with its axes: those of ``contexts`` that they read, then the next states."""
    if len(agents) == 1:
        return _factor(chain, agents[0])
    middle = len(agents) // 2  # by halves: einsum is slow on many operands at once, and where the last axis is short
    left, rows = _table(chain, agents[:middle], contexts)
    right, columns = _table(chain, agents[middle:], contexts)
    axes = [*(j for j in contexts if j in rows or j in columns), *(chain.n + i for i in agents)]
    return contract(left, rows, right, columns, axes), axes


def _by_factor(chain: ClosedLoop, by_table: Array, axes: Sequence[int], agents: Sequence[int]) -> dict[int, Array]:
    """From the derivative in the product of the agents' factors to those in the factors, ``{i: shaped as P_i}``.

    A factor's derivative is weighed by the product of all others, and their next states summed out: first those of one
    half of the agents, for all of the other half at once, then within either half.
    """
    if len(agents) == 1:
        return {i: contract(by_table, axes, _factor(chain, i)[1]) for i in agents}
    middle, contexts = len(agents) // 2, [axis for axis in axes if axis < chain.n]
    gradients = dict[int, Array]()
    for mine, others in ((agents[:middle], agents[middle:]), (agents[middle:], agents[:middle])):
        needed = set[int]().union(*(_factor(chain, i)[1] for i in mine))
        kept = [axis for axis in axes if axis in needed]
        weighed = contract(by_table, axes, *_table(chain, others, contexts), kept)
        gradients |= _by_factor(chain, weighed, kept, mine)
    return gradients


def _plan(chain: ClosedLoop, order: Sequence[int], outside: Sequence[int]) -> list[_Step]:
    """Group the agents in steps. A state that nobody reads is opened by its own agent's step."""
    sizes, split = chain.n_states, len(order) - 1
    unread = set(order).difference(*(chain.parents[i] for i in order))

    def reads(group: Sequence[int]) -> set[int]:
        return set[int]().union(*(chain.parents[i] for i in group)) | (unread & set(group))

    def states(group: Sequence[int]) -> int:
        return math.prod(sizes[i] for i in group)

    def numbers(group: Sequence[int]) -> int:
        return states(group) * math.prod(sizes[j] for j in reads(group))

    while split > 0 and states(order[split - 1 :]) <= _TAIL_STATES and numbers(order[split - 1 :]) <= TABLE_NUMBERS:
        split -= 1
    if split % 2 and split + 1 < len(order) and states(order[split - 1 : split + 1]) <= _HEAD_STATES:
        split += 1  # an even number of agents before the last step can be summed out in pairs
    groups: list[list[int]] = []
    for i in order[:split]:
        wider = [*groups[-1], i] if groups else [i]
        apart = sum(numbers([j]) for j in wider)
        if groups and states(wider) <= _HEAD_STATES and numbers(wider) <= max(TABLE_NUMBERS, 2 * apart):
            groups[-1] = wider
        else:
            groups.append([i])
    groups.append(list(order[split:]))
    steps, seen = list[_Step](), set[int]()
    for group in groups:
        read = reads(group)
        new = [j for j in outside if j in read - seen]
        steps.append(_Step(tuple(group), tuple(sorted(read & seen)), tuple(new)))
        seen |= read
    return steps


def _shapes(plan: Sequence[_Step], sizes: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    inputs = [math.prod(sizes[i] for i in step.agents) for step in plan]
    contexts = [math.prod(sizes[j] for j in step.new) for step in plan]
    slabs = [math.prod(inputs[k + 1 :]) for k in range(len(plan))]
    return inputs, contexts, slabs


def _steps(
    chain: ClosedLoop,
    plan: Sequence[_Step],
    outside: Sequence[int],
    inputs: Sequence[int],
    contexts: Sequence[int],
    slabs: Sequence[int],
) -> kernels.Steps:
    sizes, last = chain.n_states, len(plan) - 1
    tables, strides = [], []
    for step, width in zip(plan, inputs, strict=True):
        axes = [*step.old, *step.new]
        table, present = _table(chain, step.agents, axes)
        ends = [*axes, *(chain.n + i for i in step.agents)]
        if present != ends:
            ignored = [part for j in axes if j not in present for part in (np.ones(sizes[j]), [j])]
            table = contract(table, present, *ignored, ends)
        tables.append(table.reshape(-1))
        strides.append(_strides(axes, sizes, width))
    strides.append(_strides(outside, sizes, 1))
    shifts = []
    for k, step in enumerate(plan):
        states = np.indices([sizes[j] for j in step.new]).reshape(len(step.new), contexts[k])
        moves = np.array([[strides[later].get(j, 0) for j in step.new] for later in range(k + 1, last + 2)])
        shifts.append((moves.reshape(last + 1 - k, len(step.new)) @ states).T.reshape(-1))
    room = [min(4, y) * length for y, length in zip(contexts[:-1], slabs[:-1], strict=True)]
    return kernels.Steps(
        tables=np.concatenate(tables, out=_aligned(sum(map(len, tables)))),
        inputs=np.array(inputs, dtype=np.int64),
        contexts=np.array(contexts, dtype=np.int64),
        slab=np.array(slabs, dtype=np.int64),
        shifts=np.concatenate(shifts).astype(np.int64),
        shift_at=_starts([len(part) for part in shifts]),
        work_at=_starts(room),
        table_at=_starts([len(table) for table in tables]),
    )


def _strides(axes: Sequence[int], sizes: Sequence[int], least: int) -> dict[int, int]:
    strides, stride = {}, least
    for j in reversed(axes):
        strides[j] = stride
        stride *= sizes[j]
    return strides


def _starts(lengths: Sequence[int]) -> kernels.Integers:
    return np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)]


def _aligned(size: int) -> Array:
    """An array that starts where a cache line does: vectors that straddle two take a fifth longer."""
    room = np.empty(size + 8)
    start = -(room.ctypes.data // room.itemsize) % 8
    return room[start : start + size]
