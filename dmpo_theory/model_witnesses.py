"""Eqs. 3 and 5, Section IV: exact instances about learned models, what a wrong neighbour costs and a hop buys."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

from dmpo_theory.constructive import SIGNED
from dmpo_theory.graph import path
from dmpo_theory.rational import Action, JointState, LocalState, RationalMDP, rational_values

ONE, HALF = Fraction(1), Fraction(1, 2)


def local_penalty_gap(gamma: Fraction) -> Fraction:
    """``V_0`` in a model minus ``V_0`` in truth, on two agents, where agent 0's own model is exact.

    Agent 0 plays agent 1's bit and is paid 1 or -1 for it. In truth the bit becomes 0, in agent 1's model it becomes 1:
    the gap is ``2 gamma / (1 - gamma)``, and no penalty on agent 0's own model sees it.

    Example:
        >>> local_penalty_gap(Fraction(9, 10))
        Fraction(18, 1)
    """

    def bit_becomes(bit: int) -> RationalMDP:
        def transition(i: int, seen: JointState, action: Action) -> dict[LocalState, Fraction]:
            return {bit if i == 1 else 0: ONE}

        def policy(i: int, seen: JointState) -> dict[Action, Fraction]:
            return {seen[1] if i == 0 else 0: ONE}

        def reward(i: int, state: LocalState, action: Action) -> Fraction:
            return SIGNED[int(action == 1)] if i == 0 else Fraction(0)

        return RationalMDP(path(2), gamma, transition, policy, reward, (SIGNED, SIGNED))

    start: JointState = (0, 0)
    truth, model = (rational_values(bit_becomes(bit), [start])[start][0] for bit in (0, 1))
    return model - truth


def model_tv(heads: Sequence[Fraction], truth: Callable[[tuple[int, ...]], Fraction]) -> list[Fraction]:
    """Mean total variation of the best model that hears the first ``kappa`` bits, for ``kappa = 0 .. len(heads)``.

    Args:
        heads: probability that each bit, one hop farther each, is 1; they are independent.
        truth: probability of the binary next state 1, given all bits.
    """
    bits = list(itertools.product((0, 1), repeat=len(heads)))
    law = {b: _probability(b, heads) for b in bits}
    result = []
    for kappa in range(len(heads) + 1):
        total = Fraction(0)
        for seen in itertools.product((0, 1), repeat=kappa):
            block = [b for b in bits if b[:kappa] == seen]
            mass = sum((law[b] for b in block), Fraction(0))
            if mass:
                model = sum((law[b] * truth(b) for b in block), Fraction(0)) / mass
                total += sum((law[b] * abs(truth(b) - model) for b in block), Fraction(0))
        result.append(total)
    return result


def nonmonotone_tv() -> list[Fraction]:
    """A next state for which hearing one hop more makes the best model worse in total variation.

    Example:
        >>> [str(tv) for tv in nonmonotone_tv()]
        ['1/20', '9/100', '0']
    """
    return model_tv([HALF, Fraction(1, 10)], lambda bits: HALF if bits[1] == 0 else Fraction(bits[0]))


def parity_tv(radius: int) -> list[Fraction]:
    """The parity of ``radius`` fair bits: no gain from any hop but the last.

    Example:
        >>> [str(tv) for tv in parity_tv(3)]
        ['1/2', '1/2', '1/2', '0']
    """
    return model_tv([HALF] * radius, lambda bits: Fraction(sum(bits) % 2))


def _probability(bits: tuple[int, ...], heads: Sequence[Fraction]) -> Fraction:
    result = ONE
    for bit, p in zip(bits, heads, strict=True):
        result *= p if bit else 1 - p
    return result
