"""Claims on bounds from local quantities: Dobrushin coefficients, their gradient form, and the envelope."""

from __future__ import annotations

import numpy as np

from dmpo_theory.claims.record import HOLDS, Case, Claim, Finding, Scope, Tally, decided_by
from dmpo_theory.envelope import envelope
from dmpo_theory.extended import span, uniform_law
from dmpo_theory.gradient import state_gradient, truncated_state_gradient
from dmpo_theory.local_bounds import gradient_error_bound, local_quantities, value_error_bound
from dmpo_theory.mdp import Array


def dobrushin_value(scope: Scope) -> Finding:
    """D1: the capped Dobrushin recursion bounds the worst error over all reference laws."""
    tally = Tally()
    for case in scope.cases:
        kappas = scope.kappas(case)
        worst = span(case.mdp, case.values)
        bound = value_error_bound(local_quantities(case.mdp, case.policy), kappas)
        for column, kappa in enumerate(kappas):
            for i in range(case.mdp.n):
                tally.add(float(worst[i, kappa]), float(bound[i, column]), f"{case.name}, agent {i}, kappa {kappa}")
    return decided_by(None, tally)


def policy_split(scope: Scope) -> Finding:
    """D1: an agent's coefficient is at most the kernel's own plus the action's effect times the policy's."""
    tally = Tally()
    for case in scope.cases:
        whole = local_quantities(case.mdp, case.policy)
        for k in range(case.mdp.n):
            for j in whole.coupling[[k]].nonzero()[1]:
                split = _largest_change(case, k, int(j))
                tally.add(float(whole.coupling[k, j]), split, f"{case.name}, agents {k}, {j}")
    return decided_by(None, tally)


def dobrushin_gradient(scope: Scope) -> Finding:
    """D2: the gradient's error at the worst state, with the uniform reference law."""
    tally = Tally()
    for case in scope.cases:
        mdp, policy, kappas = case.mdp, case.policy, scope.kappas(case)
        bound = gradient_error_bound(local_quantities(mdp, policy), kappas)
        for i in range(mdp.n):
            exact = state_gradient(mdp, policy, i, case.values.mean(axis=0), np.full(mdp.n, 1 / mdp.n))
            for column, kappa in enumerate(kappas):
                found = truncated_state_gradient(mdp, policy, i, case.values, kappa, reference=uniform_law(mdp))
                error = float(np.linalg.norm(exact - found, axis=1).max())
                tally.add(error, float(bound[i, column]), f"{case.name}, agent {i}, kappa {kappa}")
    return decided_by(None, tally)


def robust_envelope(scope: Scope) -> Finding:
    """D3: what an adversary outside could do bounds what the agents outside do."""
    tally = Tally()
    for case in scope.cases:
        worst = span(case.mdp, case.values)
        for i in range(case.mdp.n):
            for kappa in scope.kappas(case):
                bound = envelope(case.chain, case.mdp.graph, case.mdp.gamma, i, kappa).errors()[-1]
                tally.add(float(worst[i, kappa]), float(bound), f"{case.name}, agent {i}, kappa {kappa}")
    return decided_by(None, tally)


def _largest_change(case: Case, k: int, j: int) -> float:
    """``E_kj + K_k Pi_kj``: variation of ``p_k`` in ``s_j``, plus that in ``a_k`` times that of ``pi_k`` in ``s_j``."""
    mdp, policy = case.mdp, case.policy
    kernel = 0.0
    if j in mdp.transition_parents[k]:
        kernel = _variation(np.moveaxis(mdp.transition[k], mdp.transition_parents[k].index(j), 0))
    reaction = 0.0
    if j in policy.parents[k]:
        reaction = _variation(np.moveaxis(policy.table[k], policy.parents[k].index(j), 0))
    return kernel + _variation(np.moveaxis(mdp.transition[k], -2, 0)) * reaction


def _variation(table: Array) -> float:
    """Largest total variation between two entries of the first axis, all other conditions equal."""
    return max(float(np.abs(a - b).sum(axis=-1).max()) / 2 for a in table for b in table)


CLAIMS = (
    Claim(
        "D1",
        "Theorem 1, instance-dependent",
        "capped Dobrushin bound",
        r"|V_i-V_i(s_{N_i^\kappa})|\le\sum_t\gamma^t\min(\mathrm{span}_i,(b\,m^t)_i),\;m^{t+1}=\min(\tau,Cm^t)",
        "any reference law; C, b, tau from single factors",
        HOLDS,
        r"C_{kl}",
        dobrushin_value,
    ),
    Claim(
        "D1s",
        "Theorem 1, instance-dependent",
        "policy split of a coefficient",
        r"C_{kl}\le E_{kl}+K_k\Pi_{kl}",
        "E: transitions at fixed action; K: effect of the action; Pi: policy",
        HOLDS,
        r"E+K\Pi",
        policy_split,
    ),
    Claim(
        "D2",
        "Theorem 2, instance-dependent",
        "Dobrushin bound on the gradient",
        r"\|g_i-\tilde g_i\|\le\frac{\gamma K_ig_{\max}}n\Big[\tfrac12\sum_{j\notin N_i^\kappa}\mathrm{osc}_i(V_j)"
        r"+\sum_{j\in N_i^\kappa}\mathrm{osc}_{V\setminus N_j^\kappa}(V_j)\Big]",
        "Eq. 9, any reference law and law of the state",
        HOLDS,
        r"K_i",
        dobrushin_gradient,
    ),
    Claim(
        "D3",
        "Theorem 1, instance-dependent",
        "robust envelope",
        r"V^{lo}(s_{N_i^\kappa})\le V_i(s)\le V^{up}(s_{N_i^\kappa})",
        "an adversary chooses the states outside in every step",
        HOLDS,
        r"V^{up}-V^{lo}",
        robust_envelope,
    ),
)
