"""Claims on Theorem 2: how far a truncated policy gradient can be off, in every reading of the text."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dmpo_theory.bounds import BOUNDS, theorem2_tight
from dmpo_theory.claims.record import (
    FAILS,
    HOLDS,
    TIGHT,
    Case,
    Claim,
    Finding,
    Scope,
    Tally,
    decided_by,
    from_checks,
)
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.constructive import (
    NON_NEGATIVE,
    SIGNED,
    flooding_gradient,
    walker,
    walker_return_gradient,
    wrong_sign,
    wrong_sign_gradients,
)
from dmpo_theory.extended import JointLaw, extended_value, uniform_law
from dmpo_theory.gradient import (
    Reward,
    expected_gradient,
    policy_gradient,
    score_bound,
    state_gradient,
    truncated_gradient,
    truncated_state_gradient,
)
from dmpo_theory.graph import path
from dmpo_theory.laws import stationary
from dmpo_theory.mdp import Array, LocalPolicy
from dmpo_theory.rational import tabulate
from dmpo_theory.routes import push_law

NINETY_NINE = Fraction(99, 100)


def score_identities(scope: Scope) -> Finding:
    """Baselines and other agents' rewards have no effect; global and neighbourhood rewards agree."""
    tally = Tally()
    for case in scope.cases:
        mdp, policy = case.mdp, case.policy
        for i in range(mdp.n):
            others = np.ones(mdp.n)
            others[i] = 0
            effect = state_gradient(mdp, policy, i, np.zeros(mdp.n_joint_states), others)
            tally.add(float(np.abs(effect).max()), 0.0, f"{case.name}, agent {i}: rewards of others")
            for kappa in scope.kappas(case):
                a, b = (_truncated_by_state(case, i, kappa, reward) for reward in ("global", "neighborhood"))
                where = f"{case.name}, agent {i}, kappa {kappa}: global against neighbourhood reward"
                tally.add(float(np.abs(a - b).max()), 0.0, where)
    return decided_by(None, tally)


def eq14_signed(scope: Scope) -> Finding:
    """Eq. 14 in reading (i), rewards of both signs."""
    return from_checks(scope, "theorem2-printed", "theorem2-tight", ("signed",))


def eq14_one_signed(scope: Scope) -> Finding:
    """Eq. 14 in reading (i), rewards of one sign."""
    return from_checks(scope, "theorem2-one-signed", "theorem2-tight")


def eq14_matched(scope: Scope) -> Finding:
    """Eq. 14 in reading (i) with conditional expectations under the law of the next state itself."""
    printed, corrected = Tally(), Tally()
    for case in scope.cases:
        mdp, policy = case.mdp, case.policy
        if max(case.setting.m, case.setting.p) > 1:
            continue
        matched = JointLaw(push_law(closed_loop(mdp, policy), case.occupancy))
        exact = policy_gradient(mdp, policy, case.values, case.occupancy)
        for kappa in scope.kappas(case):
            found = truncated_gradient(mdp, policy, case.values, case.occupancy, kappa, reference=matched)
            bounds = BOUNDS["theorem2-printed"].value(case.setting, kappa)
            for i in range(mdp.n):
                error = float(np.linalg.norm(exact[i] - found[i]))
                half = float(max(case.setting.span)) / 2 * score_bound(policy, i)
                where = f"{case.name}, agent {i}, kappa {kappa}"
                printed.add(error, float(bounds[i]), where)
                corrected.add(error, half * mdp.gamma ** (kappa + 1) / (1 - mdp.gamma), where)
    return decided_by(printed, corrected)


def eq14_text(scope: Scope) -> Finding:
    """Eq. 14 in reading (ii), Theorem 2's own wording: the factor grows with kappa."""
    if scope.given:
        return from_checks(scope, "theorem2ii-printed", "theorem2ii-tight")
    printed, corrected = Tally(), Tally()
    for kappa in range(2, 11, 2):
        found = flooding_gradient(path(kappa + 2), 0, kappa, Fraction(1, 2), "theorem2")
        where = f"flooding on path({kappa + 2}), gamma 1/2, kappa {kappa}"
        printed.add(found.errors[0], BOUNDS["theorem2ii-printed"].value(found.setting, kappa)[0], where)
        corrected.add(found.errors[0], BOUNDS["theorem2ii-tight"].value(found.setting, kappa)[0], where)
    return decided_by(printed, corrected)


def corrected(scope: Scope, claim: str) -> Finding:
    """The corrected bound in either reading, for every law of the state."""
    return from_checks(scope, None, f"{claim}-tight")


def own_reward(scope: Scope) -> Finding:
    """Eq. 14 for the advantage as printed after Eq. 9: the own reward at weight 1."""
    printed = Tally()
    for case in scope.given:
        exact = policy_gradient(case.mdp, case.policy, case.values, case.occupancy)
        for kappa in scope.kappas(case):
            found, bounds = _truncated(case, kappa, "own"), BOUNDS["theorem2-printed"].value(case.setting, kappa)
            for i in range(case.mdp.n):
                error = float(np.linalg.norm(exact[i] - found[i]))
                printed.add(error, float(bounds[i]), f"{case.name}, agent {i}, kappa {kappa}")
    if scope.constructive:
        exact_gradient, printed_gradient = wrong_sign_gradients(scope.gamma)
        setting = wrong_sign(scope.gamma).setting()
        for kappa in (2**power for power in range(1, 20)):
            bound = BOUNDS["theorem2-printed"].value(setting, kappa)[0]
            where = f"star of 4, kappa {kappa}: g = {exact_gradient}, printed advantage gives {printed_gradient}"
            printed.add(abs(exact_gradient - printed_gradient), bound, where)
            if printed.violated:  # the error stays and the bound falls: from here on always
                break
    return decided_by(printed)


def return_gradient(scope: Scope) -> Finding:
    """Eq. 14 for the gradient of Eq. 1, which adds up over time, instead of a mean over one law of the state."""
    printed = Tally()
    for case in scope.given:
        exact = policy_gradient(case.mdp, case.policy, case.values, case.occupancy)
        for kappa in scope.kappas(case):
            found, bounds = _truncated(case, kappa, "global"), BOUNDS["theorem2-printed"].value(case.setting, kappa)
            for i in range(case.mdp.n):
                error = float(np.linalg.norm(exact[i] - found[i])) / (1 - case.mdp.gamma)
                printed.add(error, float(bounds[i]), f"{case.name}, agent {i}, kappa {kappa}")
    for positions, ends, sign in ((8, SIGNED, "signed"), (10, NON_NEGATIVE, "non-negative")):
        if scope.constructive:
            slope = walker_return_gradient(positions, NINETY_NINE, ends)
            bound = BOUNDS["theorem2-printed"].value(walker(positions, NINETY_NINE, ends).setting(), 0)[0]
            printed.add(slope, bound, f"walker, 2 agents, {2 * positions} states, {sign}, gamma 99/100, kappa 0")
    return decided_by(printed)


def martingale(scope: Scope) -> Finding:
    """Under occupancy or stationary law, each agent outside contributes only ``1/sqrt(1 - gamma)``."""
    tally = Tally()
    cases = list(scope.cases)
    if scope.constructive:
        for gamma in (Fraction(1, 2), scope.gamma, NINETY_NINE):
            cases.append(_walker_case(8, gamma))
    for case in cases:
        mdp, policy, setting = case.mdp, case.policy, case.setting
        for law in (case.occupancy, stationary(mdp, policy).law):
            for i in range(mdp.n):
                for j in range(mdp.n):
                    if i == j or np.isinf(mdp.graph.hop_distance[i, j]):
                        continue
                    by_state = state_gradient(mdp, policy, i, case.values[j], np.zeros(mdp.n))
                    error = float(np.linalg.norm(expected_gradient(mdp, policy, i, by_state, law)))
                    decay = setting.discount(1 + setting.first_effect(mdp.graph.hop_distance[i, j]))
                    scale = float(setting.span[j]) / 2 * np.sqrt((1 + mdp.gamma) / (1 - mdp.gamma))
                    bound = float(decay) * scale * score_bound(policy, i)
                    tally.add(error, bound, f"{case.name}, gamma {mdp.gamma:g}, agents {i}, {j}")
    return decided_by(None, tally)


def gae(scope: Scope) -> Finding:
    """Generalised advantages from truncated critics: only the part of the agents inside shrinks with lambda."""
    tally = Tally()
    for case in scope.cases:
        mdp, policy, gamma = case.mdp, case.policy, case.mdp.gamma
        matrix = case.chain.matrix
        rewards = case.chain.reward_functions()
        tight = theorem2_tight("eq9")
        for kappa in scope.kappas(case):
            limit = tight(case.setting, kappa)
            for i in range(mdp.n):
                members = list(mdp.graph.neighbors(i, kappa))
                seen = {j: mdp.graph.neighbors(j, kappa) for j in members}
                critic = (
                    np.sum([extended_value(mdp, case.values[j], seen[j], uniform_law(mdp)) for j in members], axis=0)
                    / mdp.n
                )
                outside = _outside_part(case, i, members)
                weights = np.zeros(mdp.n)
                weights[members] = 1 / mdp.n
                exact = state_gradient(mdp, policy, i, case.values.mean(axis=0), np.full(mdp.n, 1 / mdp.n))
                for lam in (0.0, 0.5, 0.95):
                    residual = rewards[members].sum(axis=0) / mdp.n + gamma * matrix @ critic - critic
                    later = np.linalg.solve(np.eye(len(matrix)) - gamma * lam * matrix, residual)
                    found = state_gradient(mdp, policy, i, critic + lam * later, weights)
                    error = float(np.linalg.norm(exact - found, axis=1).max())
                    shrink = (1 - lam) / (1 - gamma * lam)
                    bound = outside + (float(limit[i]) - outside) * shrink
                    tally.add(error, bound, f"{case.name}, agent {i}, kappa {kappa}, lambda {lam}")
    return decided_by(None, tally)


def _outside_part(case: Case, i: int, members: list[int]) -> float:
    """The corrected bound's first sum, over agents outside."""
    setting = case.setting
    total = sum(
        setting.span[j] * setting.discount(setting.first_effect(case.mdp.graph.hop_distance[i, j]))
        for j in range(case.mdp.n)
        if j not in members
    )
    scale = score_bound(case.policy, i) * case.mdp.gamma / (2 * case.mdp.n * (1 - case.mdp.gamma))
    return float(total) * scale


def _truncated(case: Case, kappa: int, reward: Reward) -> tuple[Array, ...]:
    return truncated_gradient(
        case.mdp,
        case.policy,
        case.values,
        case.occupancy,
        kappa,
        reference=uniform_law(case.mdp),
        reward=reward,
    )


def _truncated_by_state(case: Case, i: int, kappa: int, reward: Reward) -> Array:
    uniform = uniform_law(case.mdp)
    return truncated_state_gradient(case.mdp, case.policy, i, case.values, kappa, reference=uniform, reward=reward)


def _walker_case(positions: int, gamma: Fraction) -> Case:
    """The walker as tables, with one logit for all states: the policy reads nothing."""
    mdp, _ = tabulate(walker(positions, gamma), [[0, 1], list(range(positions))], [2, 1])
    coin, idle = np.array([0.5, 0.5]), np.array([1.0])
    return Case(f"walker, {2 * positions} states", mdp, LocalPolicy(mdp, (coin, idle), ((), ())))


_EQ14 = (
    r"\|g_i-\tilde g_i\|\le\frac{\gamma^{\kappa-1}}{1-\gamma}"
    r"\left[1-(1-\gamma^2)\frac{|N_i^\kappa|}{n}\right]r_{\max}g_{\max}"
)
_TIGHT = BOUNDS["theorem2-tight"].statement
_SIMPLE = r"\tfrac12\,\mathrm{span}\,g_{\max}\frac{\gamma^{\kappa+1}}{1-\gamma}\left(1+\frac{|N_i^\kappa|}{n}\right)"

CLAIMS = (
    Claim(
        "C0",
        "Appendix B",
        "score identities",
        r"E[b(s)\nabla\log\pi_i]=0,\; E[r_j\nabla\log\pi_i\mid s]=0\;(j\ne i)",
        "none",
        HOLDS,
        "0",
        score_identities,
    ),
    Claim(
        "C1",
        "Theorem 2, Eq. 14",
        "Eq. 14, reading (i), rewards of both signs",
        _EQ14,
        "V_j conditioned on N_j^kappa (Eq. 9), any reference law and law of the state",
        FAILS,
        _SIMPLE,
        eq14_signed,
    ),
    Claim(
        "C1'",
        "Theorem 2, corrected",
        "corrected bound, Theorem 2, reading (i)",
        _TIGHT,
        "any law of the state",
        TIGHT,
        _SIMPLE,
        lambda scope: corrected(scope, "theorem2"),
    ),
    Claim(
        "C2",
        "Theorem 2, Eq. 14",
        "Eq. 14, reading (i), rewards of one sign",
        _EQ14,
        "as C1, rewards of one sign",
        HOLDS,
        _SIMPLE,
        eq14_one_signed,
    ),
    Claim(
        "C2'",
        "Theorem 2, Eq. 14",
        "Eq. 14, reading (i), matched law",
        _EQ14,
        "extended values are conditional means under the law of s'",
        HOLDS,
        r"\tfrac12\,\mathrm{span}\,g_{\max}\frac{\gamma^{\kappa+1}}{1-\gamma}",
        eq14_matched,
    ),
    Claim(
        "C3",
        "Theorem 2, Eq. 14",
        "Eq. 14, reading (ii)",
        _EQ14,
        "V_j conditioned on N_i^kappa (text of Theorem 2)",
        FAILS,
        r"\gamma^{\lceil(\kappa+1)/2\rceil}",
        eq14_text,
    ),
    Claim(
        "C3'",
        "Theorem 2, corrected",
        "corrected bound, Theorem 2, reading (ii)",
        BOUNDS["theorem2ii-tight"].statement,
        "product reference law, any law of the state",
        TIGHT,
        r"\gamma^{\lceil(\kappa+1)/2\rceil}",
        lambda scope: corrected(scope, "theorem2ii"),
    ),
    Claim(
        "C4",
        "after Eq. 9",
        "advantage with the own reward at weight 1",
        _EQ14,
        "A_i = r_i + gamma V~_i(s') - V~_i(s)",
        FAILS,
        r"(1-\tfrac1n)\tfrac12\mathrm{span}\,g_{\max}",
        own_reward,
    ),
    Claim(
        "C5",
        "Eq. 1, Theorem 2",
        "Eq. 14 for the gradient of the return",
        _EQ14,
        "E is the unnormalised sum over time",
        FAILS,
        r"\text{an extra }\tfrac1{1-\gamma}",
        return_gradient,
    ),
    Claim(
        "C6",
        "Theorem 2, sharper",
        "martingale bound",
        r"\|\gamma E[V_j(s')\nabla\log\pi_i]\|\le"
        r"\gamma^{d(i,j)}g_{\max}\tfrac{\mathrm{span}}2\sqrt{\tfrac{1+\gamma}{1-\gamma}}",
        "normalised occupancy or stationary law",
        HOLDS,
        r"\text{order sharp}",
        martingale,
    ),
    Claim(
        "C7",
        "Eqs. 7, 9",
        "generalised advantages",
        r"\|g_i-\tilde g_i^\lambda\|\le L_1+\frac{1-\lambda}{1-\gamma\lambda}L_2",
        "rewards of the neighbourhood, reading (i)",
        HOLDS,
        r"\tfrac{1-\lambda}{1-\gamma\lambda}",
        gae,
    ),
)
