"""Claims on Eqs. 6 and 7: what a bootstrapped, truncated critic converges to."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dmpo_theory.claims.record import FAILS, HOLDS, Case, Claim, Finding, Scope, Tally, decided_by
from dmpo_theory.extended import ReferenceLaw, extended_value, uniform_law
from dmpo_theory.mdp import Array

STEPS = (1, 2, 5)
"""Rollout lengths T that are checked."""


def printed_target(scope: Scope) -> Finding:
    """Eq. 7 as printed: iterate ``V <- sum_{l<T} gamma^l P^l r + P^T V`` and compare its growth with a fixed point's.

    A convergent iteration has steps that shrink. Here each sweep adds ``rho (1 - gamma^T) / (1 - gamma)`` for ever,
    with rho the mean reward in the long run; the ratio is the last step over the first one's contraction by gamma^T.
    """
    tally = Tally()
    for case in scope.cases:
        rewards, matrix = case.chain.reward_functions(), case.chain.matrix
        for steps in STEPS:
            gain, far = _discounted(case, rewards, matrix, steps)
            value, sweeps = np.zeros_like(rewards), 60
            for _ in range(sweeps):
                step = gain + value @ far.T - value
                value = value + step
            first, last = float(np.abs(gain).max()), float(np.abs(step).max())
            tally.add(last, first * case.mdp.gamma ** (steps * (sweeps - 1)), f"{case.name}, T = {steps}")
    return decided_by(tally)


def bootstrapped(scope: Scope, against: str) -> Finding:
    """The fixed point of the corrected target with truncated critics, against ``V_i`` or its extension."""
    tally = Tally()
    for case in scope.cases:
        rewards, matrix = case.chain.reward_functions(), case.chain.matrix
        law: ReferenceLaw = uniform_law(case.mdp)
        for steps in STEPS:
            gain, far = _discounted(case, rewards, matrix, steps)
            for kappa in scope.kappas(case):
                for i in range(case.mdp.n):
                    seen = case.mdp.graph.neighbors(i, kappa)
                    critic = _fixed_point(case, gain[i], case.mdp.gamma**steps * far, seen, law)
                    delay = case.setting.first_effect(case.setting.outside_distance(i, seen))
                    if against == "value":
                        error = np.abs(critic - case.values[i]).max()
                    else:
                        error = np.abs(critic - extended_value(case.mdp, case.values[i], seen, law)).max()
                        delay += steps
                    bound = float(case.setting.span[i] * case.setting.discount(delay)) / (1 - case.mdp.gamma)
                    tally.add(float(error), bound, f"{case.name}, agent {i}, kappa {kappa}, T = {steps}")
    return decided_by(None, tally)


def printed_return(scope: Scope) -> Finding:
    """Eq. 6 as printed: the undiscounted sum over longer and longer horizons, against ``r_max / (1 - gamma)``."""
    tally = Tally()
    constant = Fraction(1)  # a reward of 1 for ever, whatever is done
    for multiple in (2, 10, 100):
        horizon = multiple * math.ceil(1 / (1 - scope.gamma))
        tally.add(horizon * constant, constant / (1 - scope.gamma), f"constant reward 1, first {horizon} steps")
    return decided_by(tally)


def _discounted(case: Case, rewards: Array, matrix: Array, steps: int) -> tuple[Array, Array]:
    """``sum_{l<T} gamma^l P^l r_i``, ``[n, X]``, and ``P^T``."""
    gain, term = np.zeros_like(rewards), rewards
    for _ in range(steps):
        gain = gain + term
        term = case.mdp.gamma * term @ matrix.T
    far: Array = np.linalg.matrix_power(matrix, steps)
    return gain, far


def _fixed_point(case: Case, gain: Array, far: Array, seen: tuple[int, ...], law: ReferenceLaw) -> Array:
    """Solve ``V = Pi (gain + far V)``, with Pi the extension of what is seen; ``[X]``."""
    columns = np.eye(len(gain))
    project = np.stack([extended_value(case.mdp, column, seen, law) for column in columns], axis=1)
    return np.asarray(np.linalg.solve(columns - project @ far, project @ gain), dtype=np.float64)


CLAIMS = (
    Claim(
        "F1a",
        "Eq. 6",
        "return without discount",
        r"V_i(s_{N_i^\kappa})=E[\sum_{t\ge0}r_i^t]<\infty",
        "none",
        FAILS,
        r"\sum_t\gamma^t r_i^t",
        printed_return,
    ),
    Claim(
        "F1b",
        "Eq. 7",
        "target without discount on the last value",
        r"V\leftarrow\sum_{l<T}\gamma^lP^lr+P^TV"
        r"\text{ converges}",
        "long-run mean reward not 0",
        FAILS,
        r"\gamma^{T-t}V(s^T)",
        printed_target,
    ),
    Claim(
        "F2a",
        "Eqs. 6-8",
        "bootstrapped critic against the value",
        r"|V^\phi-V_i|\le\frac{\mathrm{span}_i}{1-\gamma}\gamma^\kappa",
        "product reference law, any T >= 1",
        HOLDS,
        r"\text{no amplification}",
        lambda scope: bootstrapped(scope, "value"),
    ),
    Claim(
        "F2b",
        "Eqs. 6-8",
        "bootstrapped critic against the extended value",
        r"|V^\phi-V_i(s_{N_i^\kappa})|\le\frac{\mathrm{span}_i}{1-\gamma}\gamma^{\kappa+T}",
        "product reference law",
        HOLDS,
        r"\gamma^{\kappa+T}",
        lambda scope: bootstrapped(scope, "extension"),
    ),
)
