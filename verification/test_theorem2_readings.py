"""Theorem 2's readings: which law of state, reference law and reward the statement survives."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from dmpo_theory.bounds import BOUNDS, Setting, theorem2_tight
from dmpo_theory.claims.record import ROUNDING
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.exact import local_values
from dmpo_theory.extended import JointLaw, ReferenceLaw, extended_value, point_law, uniform_law
from dmpo_theory.gradient import (
    policy_gradient,
    score_bound,
    state_gradient,
    truncated_gradient,
    truncated_state_gradient,
)
from dmpo_theory.laws import occupancy
from dmpo_theory.routes import push_law
from verification.strategies import Case, cases


def _norm(difference: list[np.ndarray]) -> np.ndarray:
    return np.array([np.linalg.norm(block) for block in difference])


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_corrected_bounds_hold_for_every_reference_law_at_every_state(case: Case) -> None:
    """Point laws do not depend on what is seen; a random joint law does. The worst state is the worst state law."""
    mdp, policy, _, rng = case
    setting = Setting.of(mdp, policy)
    values = local_values(mdp, policy).values
    weights = np.full(mdp.n, 1 / mdp.n)
    point = point_law(mdp, [int(rng.integers(size)) for size in mdp.n_states])
    joint = JointLaw(rng.dirichlet(np.full(mdp.n_joint_states, 0.05)))
    laws: list[tuple[ReferenceLaw, bool]] = [(point, True), (joint, False)]
    for kappa in range(mdp.graph.diameter + 1):
        for law, product in laws:
            for reading in ("eq9", "theorem2"):
                bound = theorem2_tight(reading, product=product)(setting, kappa)  # type: ignore[arg-type]
                for i in range(mdp.n):
                    exact = state_gradient(mdp, policy, i, values.mean(axis=0), weights)
                    truncated = truncated_state_gradient(
                        mdp,
                        policy,
                        i,
                        values,
                        kappa,
                        reference=law,
                        reading=reading,  # type: ignore[arg-type]
                    )
                    error = np.linalg.norm(exact - truncated, axis=1).max()
                    assert error <= float(bound[i]) * (1 + ROUNDING) + 1e-11, (kappa, reading, i, law)


@settings(max_examples=40, deadline=None)
@given(case=cases(radii=(0, 1)))
def test_matched_law_rescues_theorem2_for_signed_rewards(case: Case) -> None:
    """Extended values that are conditional means under the law of s' itself: half the corrected bound is enough."""
    mdp, policy, _, _ = case
    values = local_values(mdp, policy).values
    law = occupancy(mdp, policy).law
    matched = JointLaw(push_law(closed_loop(mdp, policy), law))
    exact = policy_gradient(mdp, policy, values, law)
    setting = Setting.of(mdp, policy)
    for kappa in range(mdp.graph.diameter + 1):
        truncated = truncated_gradient(mdp, policy, values, law, kappa, reference=matched)
        errors = _norm([a - b for a, b in zip(exact, truncated, strict=True)])
        limit = [
            float(max(setting.span)) / 2 * score_bound(policy, i) * mdp.gamma ** (kappa + 1) / (1 - mdp.gamma)
            for i in range(mdp.n)
        ]
        assert (errors <= np.array(limit) * (1 + ROUNDING) + 1e-11).all()
        printed = [float(b) for b in BOUNDS["theorem2-printed"].value(setting, kappa)]
        assert (errors <= np.array(printed) * (1 + ROUNDING) + 1e-11).all()


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_matched_law_halves_theorem1_on_average(case: Case) -> None:
    """E_d |V_i - E_d[V_i | s_{N_i^kappa}]| is at most half of Theorem 1's corrected bound, for signed rewards too."""
    mdp, policy, _, rng = case
    values = local_values(mdp, policy).values
    law = rng.dirichlet(np.full(mdp.n_joint_states, 0.3))
    setting = Setting.of(mdp, policy)
    for kappa in range(mdp.graph.diameter + 1):
        bound = BOUNDS["theorem1-tight"].value(setting, kappa)
        for i in range(mdp.n):
            extended = extended_value(mdp, values[i], mdp.graph.neighbors(i, kappa), JointLaw(law))
            assert law @ np.abs(values[i] - extended) <= float(bound[i]) / 2 * (1 + ROUNDING) + 1e-11


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_global_and_neighborhood_rewards_agree_in_expectation(case: Case) -> None:
    """Readings (a) and (b): rewards of other agents have no effect on the expected gradient."""
    mdp, policy, _, _ = case
    values = local_values(mdp, policy).values
    law = occupancy(mdp, policy).law
    for reading in ("eq9", "theorem2"):
        a, b = (
            truncated_gradient(
                mdp,
                policy,
                values,
                law,
                1,
                reference=uniform_law(mdp),
                reading=reading,
                reward=reward,  # type: ignore[arg-type]
            )
            for reward in ("global", "neighborhood")
        )
        assert _norm([x - y for x, y in zip(a, b, strict=True)]).max() < 1e-10


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_own_reward_with_weight_one_is_wrong_at_every_kappa(case: Case) -> None:
    """Reading (c), printed after Eq. 9: with exact values it is off by exactly (1 - 1/n) E[r_i grad log pi_i]."""
    mdp, policy, _, _ = case
    values = local_values(mdp, policy).values
    law = occupancy(mdp, policy).law
    exact = policy_gradient(mdp, policy, values, law)
    printed = truncated_gradient(mdp, policy, values, law, np.inf, reference=uniform_law(mdp), reward="own")
    connected = np.isfinite(mdp.graph.hop_distance).all()
    for i in range(mdp.n if connected else 0):
        own = np.zeros(mdp.n)
        own[i] = 1 - 1 / mdp.n
        by_state = state_gradient(mdp, policy, i, np.zeros(mdp.n_joint_states), own)
        unread = tuple(j for j in range(mdp.n) if j not in policy.parents[i])
        gap = (law[:, None] * by_state).reshape(*mdp.n_states, -1).sum(axis=unread)
        np.testing.assert_allclose(printed[i] - exact[i], gap, atol=1e-10)
