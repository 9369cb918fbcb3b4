"""Compiled inner loops of :mod:`dmpo_theory.compiled`: a product kernel applied depth first, and the best order for it.

All of it releases the interpreter lock, so agents are solved in parallel by threads. Two things cost a factor of ten
where they are forgotten: array offsets are unsigned, as a signed one is tested for wrap-around in every step and the
loop is not vectorised; and no array is sliced inside the recursion, as a slice is reference-counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from dmpo_theory.elimination import HISTORY, extrapolation

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Sums may be taken in any order and with fused multiply-add: the error bound of the plan allows for both.
_compiled = njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})


_LANES = 256


class Steps(NamedTuple):
    """An elimination in ``K`` steps. Step k sums out a few next states and opens the contexts that their factors read.

    A step turns ``inputs`` slabs of length ``slab`` into one slab for each of its contexts: a small matrix product
    with rows of its table. Steps run depth first, and slabs of four contexts are made at once.

    Attributes:
        tables: coefficients of all steps, one after another; of each ``[contexts opened before, contexts, inputs]``.
        inputs: number of joint next states that step k sums out, ``[K]``.
        contexts: number of joint states that step k opens, ``[K]``.
        slab: number of joint next states left after step k, ``[K]``.
        shifts: for each step and context: how far it moves the offset into the tables of all later steps and into the
            result, ``[sum_k contexts_k (K - k)]``.
        shift_at: where step k begins in ``shifts``, ``[K]``.
        work_at: where the slabs that step k makes begin in the work space, ``[K - 1]``.
        table_at: where step k begins in ``tables``, ``[K]``.
    """

    tables: Floats
    inputs: Integers
    contexts: Integers
    slab: Integers
    shifts: Integers
    shift_at: Integers
    work_at: Integers
    table_at: Integers


@_compiled
def _mix(source, s, target, t, table, c, slab, contexts, inputs):  # type: ignore[no-untyped-def]
    """``target[b, :] = sum_x table[b, x] source[x, :]`` for up to four contexts b."""
    length = np.uint64(slab)
    s0 = np.uint64(s)
    if contexts == 4 and inputs == 4:
        k = table[c : c + 16]
        c00, c01, c02, c03, c10, c11, c12, c13 = k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7]
        c20, c21, c22, c23, c30, c31, c32, c33 = k[8], k[9], k[10], k[11], k[12], k[13], k[14], k[15]
        s1, s2, s3 = s0 + length, s0 + length + length, s0 + length + length + length
        t0 = np.uint64(t)
        t1, t2, t3 = t0 + length, t0 + length + length, t0 + length + length + length
        for r in range(length):
            a0, a1, a2, a3 = source[s0 + r], source[s1 + r], source[s2 + r], source[s3 + r]
            target[t0 + r] = c00 * a0 + c01 * a1 + c02 * a2 + c03 * a3
            target[t1 + r] = c10 * a0 + c11 * a1 + c12 * a2 + c13 * a3
            target[t2 + r] = c20 * a0 + c21 * a1 + c22 * a2 + c23 * a3
            target[t3 + r] = c30 * a0 + c31 * a1 + c32 * a2 + c33 * a3
        return
    for b in range(contexts):
        t0 = np.uint64(t + b * slab)
        for r in range(length):
            target[t0 + r] = 0.0
        _add_rows(source, s, t0, target, table, c + b * inputs, 1, slab, inputs)


@_compiled
def _add_rows(source, s, t0, target, table, c, c_stride, slab, rows):  # type: ignore[no-untyped-def]
    """``target += sum_x table[x] source[x, :]``, four rows at a time."""
    length = np.uint64(slab)
    x = 0
    while x + 4 <= rows:
        s0 = np.uint64(s + x * slab)
        s1, s2, s3 = s0 + length, s0 + length + length, s0 + length + length + length
        w = c + x * c_stride
        w0, w1, w2, w3 = table[w], table[w + c_stride], table[w + 2 * c_stride], table[w + 3 * c_stride]
        for r in range(length):
            target[t0 + r] += w0 * source[s0 + r] + w1 * source[s1 + r] + w2 * source[s2 + r] + w3 * source[s3 + r]
        x += 4
    while x < rows:
        s0, w0 = np.uint64(s + x * slab), table[c + x * c_stride]
        for r in range(length):
            target[t0 + r] += w0 * source[s0 + r]
        x += 1


@_compiled
def _spread_back(source, s, target, t, table, c, slab, contexts, inputs):  # type: ignore[no-untyped-def]
    """``target[x, :] += sum_b table[b, x] source[b, :]``, the adjoint of :func:`_mix`."""
    length = np.uint64(slab)
    if contexts == 4 and inputs == 4:
        k = table[c : c + 16]
        c00, c01, c02, c03, c10, c11, c12, c13 = k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7]
        c20, c21, c22, c23, c30, c31, c32, c33 = k[8], k[9], k[10], k[11], k[12], k[13], k[14], k[15]
        s0, t0 = np.uint64(s), np.uint64(t)
        s1, s2, s3 = s0 + length, s0 + length + length, s0 + length + length + length
        t1, t2, t3 = t0 + length, t0 + length + length, t0 + length + length + length
        for r in range(length):
            a0, a1, a2, a3 = source[s0 + r], source[s1 + r], source[s2 + r], source[s3 + r]
            target[t0 + r] += c00 * a0 + c10 * a1 + c20 * a2 + c30 * a3
            target[t1 + r] += c01 * a0 + c11 * a1 + c21 * a2 + c31 * a3
            target[t2 + r] += c02 * a0 + c12 * a1 + c22 * a2 + c32 * a3
            target[t3 + r] += c03 * a0 + c13 * a1 + c23 * a2 + c33 * a3
        return
    for x in range(inputs):
        _add_rows(source, s, np.uint64(t + x * slab), target, table, c + x, inputs, slab, contexts)


@_compiled
def _products(left, s, right, t, table, c, slab, contexts, inputs):  # type: ignore[no-untyped-def]
    """``table[b, x] += <left[b, :], right[x, :]>``."""
    length = np.uint64(slab)
    for b in range(contexts):
        s0 = np.uint64(s + b * slab)
        x = 0
        while x + 4 <= inputs:
            t0 = np.uint64(t + x * slab)
            t1, t2, t3 = t0 + length, t0 + length + length, t0 + length + length + length
            w0, w1, w2, w3 = 0.0, 0.0, 0.0, 0.0
            for r in range(length):
                a = left[s0 + r]
                w0 += a * right[t0 + r]
                w1 += a * right[t1 + r]
                w2 += a * right[t2 + r]
                w3 += a * right[t3 + r]
            w = c + b * inputs + x
            table[w] += w0
            table[w + 1] += w1
            table[w + 2] += w2
            table[w + 3] += w3
            x += 4
        while x < inputs:
            t0, w0 = np.uint64(t + x * slab), 0.0
            for r in range(length):
                w0 += left[s0 + r] * right[t0 + r]
            table[c + b * inputs + x] += w0
            x += 1


@_compiled
def _dots(table, c, values, v, width, contexts, result, here, shifts, shift_at):  # type: ignore[no-untyped-def]
    """``result[here + shift[y]] = <table[y, :], values>`` for all contexts y of the last step."""
    c0, v0, length = np.uint64(c), np.uint64(v), np.uint64(width)
    y = 0
    while y + 4 <= contexts:
        c1, c2, c3 = c0 + length, c0 + length + length, c0 + length + length + length
        w0, w1, w2, w3 = 0.0, 0.0, 0.0, 0.0
        for x in range(length):
            value = values[v0 + x]
            w0 += table[c0 + x] * value
            w1 += table[c1 + x] * value
            w2 += table[c2 + x] * value
            w3 += table[c3 + x] * value
        at = shift_at + y
        result[np.uint64(here + shifts[at])] = w0
        result[np.uint64(here + shifts[at + 1])] = w1
        result[np.uint64(here + shifts[at + 2])] = w2
        result[np.uint64(here + shifts[at + 3])] = w3
        c0 = c3 + length
        y += 4
    while y < contexts:
        w0 = 0.0
        for x in range(length):
            w0 += table[c0 + x] * values[v0 + x]
        result[np.uint64(here + shifts[shift_at + y])] = w0
        c0 += length
        y += 1


@_compiled
def _gather(law, here, shifts, shift_at, contexts, table, c, width, target, t0):  # type: ignore[no-untyped-def]
    """``target += sum_y law[here + shift[y]] table[y, :]`` over all contexts y of the last step."""
    c0, length = np.uint64(c), np.uint64(width)
    y = 0
    while y + 4 <= contexts:
        at = shift_at + y
        m0, m1 = law[np.uint64(here + shifts[at])], law[np.uint64(here + shifts[at + 1])]
        m2, m3 = law[np.uint64(here + shifts[at + 2])], law[np.uint64(here + shifts[at + 3])]
        c1, c2, c3 = c0 + length, c0 + length + length, c0 + length + length + length
        for x in range(length):
            target[t0 + x] += m0 * table[c0 + x] + m1 * table[c1 + x] + m2 * table[c2 + x] + m3 * table[c3 + x]
        c0 = c3 + length
        y += 4
    while y < contexts:
        m0 = law[np.uint64(here + shifts[shift_at + y])]
        for x in range(length):
            target[t0 + x] += m0 * table[c0 + x]
        c0 += length
        y += 1


@_compiled
def _offsets(table_at):  # type: ignore[no-untyped-def]
    """``[k, j]``: where step j's table, or the result (j = K), stands once the contexts before step k are fixed."""
    last = len(table_at)
    offset = np.empty((last + 1, last + 1), np.int64)
    offset[0, :last] = table_at
    offset[0, last] = 0
    return offset


@_compiled
def _fix(offset, k, shifts, shift):  # type: ignore[no-untyped-def]
    """Fix a context of step k, whose moves begin at ``shift``."""
    for j in range(k + 1, offset.shape[1]):
        offset[k + 1, j] = offset[k, j] + shifts[shift + j - k - 1]


@_compiled
def apply(steps, function, result, work):  # type: ignore[no-untyped-def]
    """``result(s) = sum_{s'} P(s'|s) function(s')``; ``function`` with the first agent summed out slowest."""
    tables, inputs, contexts, slab, shifts, shift_at, work_at, table_at = steps
    last = len(inputs) - 1
    offset = _offsets(table_at)
    context, slab_at = np.zeros(last + 1, np.int64), np.zeros(last + 1, np.int64)
    k = 0
    while k >= 0:
        if k == last:
            row, here, width = offset[k, k], offset[k, last + 1], inputs[k]
            if k == 0:
                _dots(tables, row, function, slab_at[k], width, contexts[k], result, here, shifts, shift_at[k])
            else:
                _dots(tables, row, work, slab_at[k], width, contexts[k], result, here, shifts, shift_at[k])
            k -= 1
            continue
        y = context[k]
        if y == contexts[k]:
            k -= 1
            continue
        if y % 4 == 0:
            row, several = offset[k, k] + y * inputs[k], min(4, contexts[k] - y)
            if k == 0:
                _mix(function, slab_at[k], work, work_at[k], tables, row, slab[k], several, inputs[k])
            else:
                _mix(work, slab_at[k], work, work_at[k], tables, row, slab[k], several, inputs[k])
        context[k] = y + 1
        _fix(offset, k, shifts, shift_at[k] + y * (last + 1 - k))
        slab_at[k + 1] = work_at[k] + (y % 4) * slab[k]
        k += 1
        context[k] = 0


@_compiled
def reverse(steps, law, function, pushed, by_table, work, adjoint, factors):  # type: ignore[no-untyped-def]
    """``pushed(s') = sum_s law(s) P(s'|s)``; with ``factors`` also ``by_table``, d <law, P function> / d tables."""
    tables, inputs, contexts, slab, shifts, shift_at, work_at, table_at = steps
    last = len(inputs) - 1
    offset = _offsets(table_at)
    context, slab_at = np.zeros(last + 1, np.int64), np.zeros(last + 1, np.int64)
    turned = np.empty(4 * inputs.max())  # the coefficients of up to four contexts, next states first
    k = 0
    while k >= 0:
        target = pushed if k == 0 else adjoint
        source = function if k == 0 else work
        if k == last:
            row, here, width = offset[k, k], offset[k, last + 1], inputs[k]
            t0 = np.uint64(slab_at[k])
            for x in range(np.uint64(width)):
                target[t0 + x] = 0.0
            _gather(law, here, shifts, shift_at[k], contexts[k], tables, row, width, target, t0)
            if factors:
                for y in range(contexts[k]):
                    mass, c0 = law[np.uint64(here + shifts[shift_at[k] + y])], np.uint64(row)
                    for x in range(np.uint64(width)):
                        by_table[c0 + x] += mass * source[t0 + x]
                    row += width
            k -= 1
            continue
        y = context[k]
        if y > 0 and (y % 4 == 0 or y == contexts[k]):  # the adjoints of a block of contexts are complete
            first = (y - 1) // 4 * 4
            row, several = offset[k, k] + first * inputs[k], y - first
            if first == 0:  # what is there is of another context
                for b in range(several):
                    for x in range(inputs[k]):
                        turned[x * several + b] = tables[row + b * inputs[k] + x]
                _mix(adjoint, work_at[k], target, slab_at[k], turned, 0, slab[k], inputs[k], several)
            else:
                _spread_back(adjoint, work_at[k], target, slab_at[k], tables, row, slab[k], several, inputs[k])
            if factors:
                _products(adjoint, work_at[k], source, slab_at[k], by_table, row, slab[k], several, inputs[k])
        if y == contexts[k]:
            k -= 1
            continue
        if factors and y % 4 == 0:
            row, several = offset[k, k] + y * inputs[k], min(4, contexts[k] - y)
            _mix(source, slab_at[k], work, work_at[k], tables, row, slab[k], several, inputs[k])
        context[k] = y + 1
        _fix(offset, k, shifts, shift_at[k] + y * (last + 1 - k))
        slab_at[k + 1] = work_at[k] + (y % 4) * slab[k]
        k += 1
        context[k] = 0


@njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})  # in order: the change is that of what is kept
def _advance(change, value, reward, gamma):  # type: ignore[no-untyped-def]
    """From ``P V`` in ``change`` to ``r + gamma P V`` in ``value``, less V in ``change``; its least and largest."""
    lows, highs, lanes = np.full(_LANES, np.inf), np.full(_LANES, -np.inf), np.uint64(_LANES)
    start, size = np.uint64(0), np.uint64(len(value))
    while start < size:
        for lane in range(min(lanes, size - start)):  # a running extreme of each lane: that of all is not vectorised
            x = start + lane
            following = reward[x] + gamma * change[x]
            difference = following - value[x]
            value[x], change[x] = following, difference
            lows[lane], highs[lane] = min(lows[lane], difference), max(highs[lane], difference)
        start += lanes
    return lows.min(), highs.max()


_extrapolation = _compiled(extrapolation)


@_compiled
def extrapolate(function, changes):  # type: ignore[no-untyped-def]
    """See :meth:`dmpo_theory.elimination.Operator.extrapolate`: one pass for all products of four changes."""
    a, b, c, d = changes[0], changes[1], changes[2], changes[3]
    a0, b0, c0, d0 = a.mean(), b.mean(), c.mean(), d.mean()
    aa, ab, ac, ad, bb, bc, bd, cc, cd, dd = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for x in range(np.uint64(len(function))):
        ax, bx, cx, dx = a[x] - a0, b[x] - b0, c[x] - c0, d[x] - d0
        aa, ab, ac, ad = aa + ax * ax, ab + ax * bx, ac + ax * cx, ad + ax * dx
        bb, bc, bd, cc, cd, dd = bb + bx * bx, bc + bx * cx, bd + bx * dx, cc + cx * cx, cd + cx * dx, dd + dx * dx
    weights = _extrapolation(np.array([[aa, ab, ac, ad], [ab, bb, bc, bd], [ac, bc, cc, cd], [ad, bd, cd, dd]]))
    wb, wc, wd = weights[0], weights[1], weights[2]
    for x in range(np.uint64(len(function))):
        function[x] -= wb * (b[x] - b0) + wc * (c[x] - c0) + wd * (d[x] - d0)


@_compiled
def sweeps(steps, value, reward, changes, gamma, width, most, off_centre, work):  # type: ignore[no-untyped-def]
    """See :meth:`dmpo_theory.elimination.Operator.sweeps`."""
    low, high, done, rows = 0.0, np.inf, 0, len(changes)
    while done < most:
        if abs(low + high) > off_centre * max(high - low, width):
            shift = gamma / (1 - gamma) * (low + high) / 2
            for x in range(np.uint64(len(value))):
                value[x] += shift
        elif high - low <= width:
            break
        elif done > 0 and rows == HISTORY and done % rows == 0:
            extrapolate(value, changes)
        change = changes[done % rows]
        apply(steps, value, change, work)
        low, high = _advance(change, value, reward, gamma)
        done += 1
    return low, high, done


@_compiled
def best_order(reads, sizes):  # type: ignore[no-untyped-def]
    """The order of elimination with the fewest multiplications, by dynamic programming over all sets of agents.

    Summing out agent i last of a set E costs ``S_i prod_{N[E]} S prod_{not E} S``, whatever the order within E.
    """
    n = len(sizes)
    full = (1 << n) - 1
    half = n // 2
    low, high = np.ones(1 << half), np.ones(1 << (n - half))  # products of sizes over subsets of either half
    for i in range(half):
        for mask in range(1 << i):
            low[(1 << i) | mask] = sizes[i] * low[mask]
    for i in range(n - half):
        for mask in range(1 << i):
            high[(1 << i) | mask] = sizes[half + i] * high[mask]
    lower = (1 << half) - 1
    cost = np.empty(1 << n)
    read = np.zeros(1 << n, np.int32)
    final = np.zeros(1 << n, np.int8)
    cost[0] = 0.0
    for gone in range(1, 1 << n):
        least = gone & -gone
        i = 0
        while (least >> i) > 1:
            i += 1
        read[gone] = read[gone ^ least] | reads[i]
        left = full ^ gone
        volume = low[read[gone] & lower] * high[read[gone] >> half] * low[left & lower] * high[left >> half]
        best, choice = np.inf, 0
        for i in range(n):
            if (gone >> i) & 1:
                total = cost[gone ^ (1 << i)] + sizes[i] * volume
                if total < best:
                    best, choice = total, i
        cost[gone], final[gone] = best, choice
    order = np.empty(n, np.int64)
    gone = full
    for position in range(n - 1, -1, -1):
        order[position] = final[gone]
        gone ^= 1 << final[gone]
    return order
