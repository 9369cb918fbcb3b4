"""Claims on Eqs. 3, 5 and Section IV: learned local models, short rollouts in them, and their radius."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

from dmpo_theory.claims.record import FAILS, HOLDS, Case, Claim, Finding, Scope, Tally, decided_by, not_applicable
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.exact import local_values
from dmpo_theory.extended import JointLaw, extended_value, uniform_law
from dmpo_theory.mdp import Array, NetworkedMDP, on_joint_states
from dmpo_theory.model_witnesses import local_penalty_gap, nonmonotone_tv, parity_tv
from dmpo_theory.routes import apply_kernel

ROLLOUTS = (0, 1, 2, 5, 10)


def local_penalty(scope: Scope) -> Finding:
    """Eqs. 3 and 5 with a penalty that depends on the own model only: it is 0 where the own model is exact."""
    if scope.given:
        return not_applicable("is decided by a constructive instance")
    tally = Tally()
    tally.add(local_penalty_gap(scope.gamma), Fraction(0), "2 agents: own model exact, neighbour's wrong")
    return decided_by(tally)


def simulation_lemma(scope: Scope, closed_form: bool) -> Finding:
    """``|V_j^p - V_j^p^|`` by each model's own error and how much its agent matters to j."""
    tally = Tally()
    for case, model, errors in _wrong_models(scope):
        modelled = local_values(model, case.policy).values
        for j in range(case.mdp.n):
            gap = float(np.abs(case.values[j] - modelled[j]).max())
            bound = case.mdp.gamma / (1 - case.mdp.gamma) * errors @ _influence(case, j, closed_form)
            tally.add(gap, float(bound), f"{case.name}, agent {j}")
    return decided_by(None, tally)


def rollout_target(scope: Scope) -> Finding:
    """A T-step target in the model, closed with an inexact critic."""
    tally = Tally()
    for case, model, errors in _wrong_models(scope):
        chain = closed_loop(model, case.policy)
        gamma = case.mdp.gamma
        for j in range(case.mdp.n):
            seen = case.mdp.graph.neighbors(j, 0)
            critic = extended_value(case.mdp, case.values[j], seen, uniform_law(case.mdp))
            critic_error = float(np.abs(critic - case.values[j]).max())
            model_error = float(errors @ _influence(case, j, False))
            rewards = case.chain.reward_functions()[j]
            for steps in ROLLOUTS:
                target = critic
                for _ in range(steps):
                    target = rewards + gamma * apply_kernel(chain, target)
                bound = gamma**steps * critic_error + gamma * (1 - gamma**steps) / (1 - gamma) * model_error
                error = float(np.abs(target - case.values[j]).max())
                tally.add(error, bound, f"{case.name}, agent {j}, T = {steps}")
    return decided_by(None, tally)


def larger_kappa_better_model(scope: Scope, measure: str) -> Finding:
    """Error of the best model that hears ``N_i^kappa``, at kappa + 1 against kappa, on data from the occupancy."""
    tally = Tally()
    for case in scope.cases:
        for i in range(case.mdp.n):
            truth, law = _next_state_table(case, i)
            found = []
            for kappa in case.kappas:
                seen = case.mdp.graph.neighbors(i, kappa)
                model = np.stack(
                    [
                        [
                            extended_value(case.mdp, truth[:, a, s], seen, JointLaw(law[:, a]))
                            for s in range(truth.shape[2])
                        ]
                        for a in range(truth.shape[1])
                    ]
                ).transpose(2, 0, 1)
                found.append(_model_error(truth, model, law, measure))
            for kappa, (before, after) in enumerate(pairwise(found)):
                if scope.kappa in (None, kappa):
                    tally.add(after, before, f"{case.name}, agent {i}, kappa {kappa} to {kappa + 1}")
    return decided_by(None, tally)


def tv_monotone(scope: Scope) -> Finding:
    """Total variation of the best kappa-hop model need not fall with kappa."""
    if scope.given:
        return larger_kappa_better_model(scope, "tv")
    tally, errors = Tally(), nonmonotone_tv()
    for kappa, (before, after) in enumerate(pairwise(errors)):
        tally.add(after, before, f"path of 3: TV {', '.join(map(str, errors))} at kappa 0, 1, 2; step {kappa}")
    return decided_by(tally)


def gradual_gain(scope: Scope) -> Finding:
    """A model that hears one hop more need not be any better, up to the true radius: parity."""
    if scope.given:
        return not_applicable("is decided by a constructive instance")
    tally = Tally()
    errors = parity_tv(4)
    for kappa, (before, after) in enumerate(pairwise(errors)):
        if before:
            tally.add(
                after / before, Fraction(99, 100), f"parity of 4 hops: TV {', '.join(map(str, errors))}, step {kappa}"
            )
    return decided_by(tally)


def _wrong_models(scope: Scope) -> list[tuple[Case, NetworkedMDP, Array]]:
    """Each case with a model whose every factor is off by its own amount, and those total variations, ``[n]``."""
    result = []
    for position, case in enumerate(scope.cases):
        rng = np.random.default_rng([scope.seed, 7, position])
        tables, errors = [], []
        for table in case.mdp.transition:
            weight = rng.choice([0.0, 0.01, 0.2])
            wrong = (1 - weight) * table + weight * rng.dirichlet(np.ones(table.shape[-1]), table.shape[:-1])
            wrong = wrong / wrong.sum(axis=-1, keepdims=True)
            tables.append(wrong)
            errors.append(np.abs(wrong - table).sum(axis=-1).max() / 2)
        mdp = case.mdp
        model = NetworkedMDP(mdp.graph, mdp.gamma, tuple(tables), mdp.reward, mdp.transition_parents)
        result.append((case, model, np.array(errors)))
    return result


def _influence(case: Case, j: int, closed_form: bool) -> Array:
    """``osc_k(V_j)`` of every agent k, exact, or its bound ``span_j gamma^tau(d(j, k)) / (1 - gamma)``; ``[n]``."""
    if closed_form:
        setting = case.setting
        reach = [setting.first_effect(distance) for distance in case.mdp.graph.hop_distance[j]]
        return np.array([float(setting.span[j] * setting.discount(t)) for t in reach]) / (1 - case.mdp.gamma)
    value = case.values[j].reshape(case.mdp.n_states)
    return np.array([np.ptp(value, axis=k).max() for k in range(case.mdp.n)])


def _next_state_table(case: Case, i: int) -> tuple[Array, Array]:
    """``p_i(s_i' | x, a)`` on joint states ``[X, A, S]`` and the joint law of (x, a_i) ``[X, A]``."""
    mdp, policy = case.mdp, case.policy
    truth = on_joint_states(mdp.transition[i], mdp.transition_parents[i], mdp.n_states)
    acts = on_joint_states(policy.table[i], policy.parents[i], mdp.n_states)
    return truth, case.occupancy[:, None] * acts


def _model_error(truth: Array, model: Array, law: Array, measure: str) -> float:
    if measure == "log":
        gain = np.where(truth > 0, truth * np.log(np.where(model > 0, model, 1.0)), 0.0)
        return float(-(law[..., None] * gain).sum())
    difference = truth - model
    if measure == "squared":
        return float((law[..., None] * difference**2).sum())
    return float((law[..., None] * np.abs(difference)).sum() / 2)


CLAIMS = (
    Claim(
        "F3a",
        "Eqs. 3, 5",
        "penalty on the own model only",
        r"V_i^{\pi,p}\ge V_i^{\pi,\hat p}-D(\hat p_i,\pi_i)",
        "D(p^_i) = 0 where p^_i is exact; any alpha",
        FAILS,
        r"\tfrac{2\gamma}{1-\gamma}\text{ off}",
        local_penalty,
    ),
    Claim(
        "F3b",
        "Eqs. 3, 5, corrected",
        "localised simulation lemma",
        r"|V_j^p-V_j^{\hat p}|\le\frac\gamma{1-\gamma}\sum_k\varepsilon_k\,\mathrm{osc}_k(V_j)",
        "eps_k = sup TV(p_k, p^_k)",
        HOLDS,
        r"\mathrm{osc}_k(V_j)",
        lambda scope: simulation_lemma(scope, False),
    ),
    Claim(
        "F3c",
        "Eqs. 3, 5, corrected",
        "the same, by hop distance",
        r"|V_j^p-V_j^{\hat p}|\le\frac{\gamma\,\mathrm{span}_j}{(1-\gamma)^2}\sum_k\varepsilon_k\gamma^{\tau(d(j,k))}",
        "eps_k = sup TV(p_k, p^_k)",
        HOLDS,
        r"\gamma^{\tau(d(j,k))}",
        lambda scope: simulation_lemma(scope, True),
    ),
    Claim(
        "F4",
        "Eq. 7, Section IV-C",
        "T-step target in the model",
        r"\gamma^T\varepsilon_V+\gamma\frac{1-\gamma^T}{1-\gamma}\sum_k\varepsilon_k\,\mathrm{osc}_k(V_j)",
        "critic error eps_V, model errors eps_k",
        HOLDS,
        r"\text{attained at }T=0",
        rollout_target,
    ),
    Claim(
        "F5a",
        "Section IV-A",
        "larger kappa, smaller log-loss",
        r"\mathcal L_{\kappa+1}\le\mathcal L_\kappa",
        "best conditional model of N_i^kappa under the data's law",
        HOLDS,
        r"1",
        lambda scope: larger_kappa_better_model(scope, "log"),
    ),
    Claim(
        "F5b",
        "Section IV-A, Eq. 11",
        "larger kappa, smaller squared error",
        r"\mathcal L_{\kappa+1}\le\mathcal L_\kappa",
        "best conditional model of N_i^kappa under the data's law",
        HOLDS,
        r"1",
        lambda scope: larger_kappa_better_model(scope, "squared"),
    ),
    Claim(
        "F5c",
        "Section IV-A",
        "larger kappa, smaller total variation",
        r"\mathrm{TV}_{\kappa+1}\le\mathrm{TV}_\kappa",
        "best conditional model of N_i^kappa under the data's law",
        FAILS,
        r"\text{none}",
        tv_monotone,
    ),
    Claim(
        "F5d",
        "Section IV-A",
        "larger kappa, better model, step by step",
        r"\mathrm{TV}_{\kappa+1}<\mathrm{TV}_\kappa\text{ while }\mathrm{TV}_\kappa>0",
        "none",
        FAILS,
        r"\text{no gain before the true radius}",
        gradual_gain,
    ),
)
