"""Claims on Theorem 1, Remark 1 and Eq. 4: how far an extended value can be off."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dmpo_theory.bounds import BOUNDS
from dmpo_theory.claims.record import (
    FAILS,
    HOLDS,
    TIGHT,
    Claim,
    Finding,
    Scope,
    Tally,
    decided_by,
    from_checks,
    not_applicable,
)
from dmpo_theory.constructive import flooding_q_values, flooding_values
from dmpo_theory.extended import JointLaw, extended_value
from dmpo_theory.graph import named_graph, path


def eq12_signed(scope: Scope) -> Finding:
    """Eq. 12, rewards of both signs."""
    return from_checks(scope, "theorem1-printed", "theorem1-tight", ("signed",))


def eq12_one_signed(scope: Scope) -> Finding:
    """Eq. 12, rewards of one sign."""
    return from_checks(scope, "theorem1-one-signed", "theorem1-tight")


def remark1_signed(scope: Scope) -> Finding:
    """Eq. 13, rewards of both signs."""
    return from_checks(scope, "remark1-printed", "remark1-tight", ("signed",))


def remark1_one_signed(scope: Scope) -> Finding:
    """Eq. 13, rewards of one sign."""
    return from_checks(scope, "remark1-one-signed", "remark1-tight")


def corrected(scope: Scope, claim: str) -> Finding:
    """The corrected bound of Theorem 1 or Remark 1, on everything."""
    return from_checks(scope, None, f"{claim}-tight")


def matched_mean(scope: Scope) -> Finding:
    """Mean error when the reference law is the conditional of the law that the mean is taken under."""
    tally = Tally()
    for case in scope.cases:
        for law in (case.occupancy, np.full(case.mdp.n_joint_states, 1 / case.mdp.n_joint_states)):
            for kappa in scope.kappas(case):
                for i in range(case.mdp.n):
                    seen = case.mdp.graph.neighbors(i, kappa)
                    extended = extended_value(case.mdp, case.values[i], seen, JointLaw(law))
                    delay = case.setting.first_effect(case.setting.outside_distance(i, seen))
                    bound = float(case.setting.span[i]) / 2 * case.setting.discount(delay) / (1 - case.mdp.gamma)
                    error = float(law @ np.abs(case.values[i] - extended))
                    tally.add(error, float(bound), f"{case.name}, kappa {kappa}")
    return decided_by(None, tally)


def light_cone(scope: Scope, radii: tuple[tuple[int, int], ...]) -> Finding:
    """The corrected bound for given transition and policy radii, on flooding instances and on the user's."""
    tally = Tally()
    for check in scope.checks if scope.given else ():
        if check.bound == "theorem1-tight":
            tally.add(check.certain_error, check.value, check.instance)
    for family in scope.families if scope.constructive else ():
        graph = named_graph(family, scope.n, scope.seed)
        for m, p in radii:
            for kappa in range(graph.diameter + 1):
                if scope.kappa not in (None, kappa):
                    continue
                found = flooding_values(graph, kappa, scope.gamma, m=m, p=p)
                for i in found.agents:
                    # With m = 1 and p = 0 the exponent must be kappa + 1; in general it is t*, derived in its own way.
                    delay = _exponent(kappa, m, p)
                    far = np.isfinite(graph.hop_distance[i]) & (graph.hop_distance[i] > kappa)
                    bound = 2 * scope.gamma**delay / (1 - scope.gamma) if far.any() else Fraction(0)
                    tally.add(found.errors[i], bound, f"flooding on {family}({graph.n}), m={m}, p={p}, kappa {kappa}")
    return decided_by(None, tally)


def _exponent(kappa: int, m: int, p: int) -> int:
    """``t* = max(0, floor((kappa - p) / R) + 1)`` if ``kappa >= p``, else 0, with ``R = max(m, p)``."""
    return (kappa - p) // max(m, p) + 1 if kappa >= p else 0


def own_state_policies(scope: Scope) -> Finding:
    """Policies that read only the own state gain one power of gamma."""
    if scope.given and not all(case.setting.p == 0 for case in scope.given):
        radii = ", ".join(f"{case.name}: p = {case.setting.p}" for case in scope.given)
        return not_applicable(f"needs policies that read the own state only, p = 0; found {radii}")
    return light_cone(scope, ((1, 0),))


def general_radii(scope: Scope) -> Finding:
    """Any transition and policy radius."""
    return light_cone(scope, ((1, 1), (1, 0), (2, 1), (1, 2), (3, 1), (2, 2)))


def eq4_literal(scope: Scope) -> Finding:
    """Eq. 4 read literally: transitions that read N_i^kappa. Nothing decays in kappa."""
    if scope.given:
        return not_applicable("is about transitions whose radius grows with kappa; a given instance has one radius")
    printed, corrected = Tally(), Tally()
    for kappa in range(1, 6):
        found = flooding_values(path(kappa + 2), kappa, scope.gamma, m=kappa)
        where = f"flooding on path({kappa + 2}), m = kappa = {kappa}"
        printed.add(found.errors[0], scope.gamma**kappa / (1 - scope.gamma), where)
        corrected.add(found.errors[0], 2 * scope.gamma / (1 - scope.gamma), where)
    return decided_by(printed, corrected)


def q_exponent(scope: Scope, power: int | None) -> Finding:
    """Q-functions with policies that read neighbours: exponent ``kappa + power``, or ``max(kappa, 1)`` if None."""
    if scope.given:
        return not_applicable("is decided by constructive instances; use A1 or A5 for values on a given one")
    tally = Tally()
    # The smallest graph on which kappa + 1 and max(kappa, 1) differ comes first: some families have none.
    graphs = {"path(3)": path(3)} | {f"{f}({scope.n})": named_graph(f, scope.n, scope.seed) for f in scope.families}
    for name, graph in graphs.items():
        for kappa in range(graph.diameter + 1):
            found = flooding_q_values(graph, kappa, scope.gamma)
            exponent = max(kappa, 1) if power is None else kappa + power
            for agent, error in zip(found.agents, found.errors, strict=True):
                if error:
                    bound = 2 * scope.gamma**exponent / (1 - scope.gamma)
                    tally.add(error, bound, f"flooding on {name}, agent {agent}, kappa {kappa}")
    return decided_by(tally) if power else decided_by(None, tally)


_EQ12 = r"|V_i(s)-V_i(s_{N_i^\kappa})|\le\frac{r_{\max}}{1-\gamma}\gamma^\kappa"
_EQ13 = r"|V(s)-\tfrac1n\sum_i V_i(s_{N_i^\kappa})|\le\frac{r_{\max}}{1-\gamma}\gamma^\kappa"
_SPAN = r"\frac{\mathrm{span}_i}{1-\gamma}\gamma^\kappa"
_ANY = "any reference law"

CLAIMS = (
    Claim(
        "A1",
        "Theorem 1, Eq. 12",
        "Eq. 12, rewards of both signs",
        _EQ12,
        f"|r| <= r_max, {_ANY}",
        FAILS,
        _SPAN,
        eq12_signed,
    ),
    Claim(
        "A1'",
        "Theorem 1, corrected",
        "corrected bound, Theorem 1",
        BOUNDS["theorem1-tight"].statement,
        _ANY,
        TIGHT,
        _SPAN,
        lambda scope: corrected(scope, "theorem1"),
    ),
    Claim(
        "A2",
        "Theorem 1, Eq. 12",
        "Eq. 12, rewards of one sign",
        _EQ12,
        f"rewards of one sign, {_ANY}",
        TIGHT,
        r"\frac{r_{\max}}{1-\gamma}\gamma^\kappa",
        eq12_one_signed,
    ),
    Claim(
        "A3",
        "Theorem 1",
        "Eq. 12 on average, matched law",
        r"E_d|V_i(s)-E_d[V_i\mid s_{N_i^\kappa}]|\le\frac{\mathrm{span}_i}{2(1-\gamma)}\gamma^\kappa",
        "reference law = conditional of the averaging law d",
        HOLDS,
        r"\mathrm{span}/2",
        matched_mean,
    ),
    Claim(
        "A4",
        "Theorem 1",
        "own-state policies",
        r"|V_i(s)-V_i(s_{N_i^\kappa})|\le\frac{\mathrm{span}_i}{1-\gamma}\gamma^{\kappa+1}",
        "m = 1, p = 0",
        TIGHT,
        r"\gamma^{\kappa+1}",
        own_state_policies,
    ),
    Claim(
        "A5",
        "Theorem 1, corrected",
        "any radii m, p",
        r"|V_i(s)-V_i(s_{N_i^\kappa})|\le\frac{\mathrm{span}_i}{1-\gamma}\gamma^{t^*}",
        f"radii m, p; {_ANY}",
        TIGHT,
        r"t^*=\lfloor(\kappa-p)/\max(m,p)\rfloor+1",
        general_radii,
    ),
    Claim(
        "R1",
        "Remark 1, Eq. 13",
        "Eq. 13, rewards of both signs",
        _EQ13,
        f"|r| <= r_max, {_ANY}",
        FAILS,
        _SPAN,
        remark1_signed,
    ),
    Claim(
        "R1'",
        "Remark 1, corrected",
        "corrected bound, Remark 1",
        BOUNDS["remark1-tight"].statement,
        _ANY,
        TIGHT,
        _SPAN,
        lambda scope: corrected(scope, "remark1"),
    ),
    Claim(
        "R2",
        "Remark 1, Eq. 13",
        "Eq. 13, rewards of one sign",
        _EQ13,
        f"rewards of one sign, {_ANY}",
        TIGHT,
        r"r_{\max}",
        remark1_one_signed,
    ),
    Claim(
        "B",
        "Eq. 4",
        "Eq. 4 read literally",
        _EQ12,
        "p_i reads N_i^kappa",
        FAILS,
        r"\frac{\mathrm{span}}{1-\gamma}\gamma,\text{ no decay}",
        eq4_literal,
    ),
    Claim(
        "Q1",
        "Appendix A",
        "Q-functions decay as kappa + 1",
        r"|Q_i(s,a)-Q_i(s',a')|\le\frac{\mathrm{span}_i}{1-\gamma}\gamma^{\kappa+1}",
        "policies read neighbours; (s, a), (s', a') agree on N_i^kappa",
        FAILS,
        r"\gamma^{\max(\kappa,1)}",
        lambda scope: q_exponent(scope, 1),
    ),
    Claim(
        "Q2",
        "Appendix A",
        "Q-functions decay as max(kappa, 1)",
        r"|Q_i(s,a)-Q_i(s',a')|\le\frac{\mathrm{span}_i}{1-\gamma}\gamma^{\max(\kappa,1)}",
        "policies read neighbours; (s, a), (s', a') agree on N_i^kappa",
        TIGHT,
        r"\gamma^{\max(\kappa,1)}",
        lambda scope: q_exponent(scope, None),
    ),
)
