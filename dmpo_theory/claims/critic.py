"""Claims on Eqs. 6 and 7: what a bootstrapped, truncated critic converges to."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dmpo_theory.bootstrap import settled_critic, step_targets
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
        for steps, (gain, far) in _targets(case):
            far = far / case.mdp.gamma**steps  # as printed
            value, sweeps = np.zeros_like(gain), 60
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
        law: ReferenceLaw = uniform_law(case.mdp)
        for steps, (gain, far) in _targets(case):
            for kappa in scope.kappas(case):
                for i in range(case.mdp.n):
                    seen = case.mdp.graph.neighbors(i, kappa)
                    critic = settled_critic(case.mdp, gain[i], far, seen, law)
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


def _targets(case: Case) -> list[tuple[int, tuple[Array, Array]]]:
    """Each T in :data:`STEPS` with the expected T-step target."""
    every = enumerate(step_targets(case.chain, case.mdp.gamma, max(STEPS)), start=1)
    return [(steps, target) for steps, target in every if steps in STEPS]


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
