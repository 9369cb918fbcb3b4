"""Gradients against loops over states, actions and next states, and against finite differences of the return."""

from __future__ import annotations

import numpy as np
import pytest

from dmpo_theory.exact import local_values
from dmpo_theory.extended import JointLaw, extended_value, uniform_law
from dmpo_theory.gradient import policy_gradient, score_bound, truncated_gradient
from dmpo_theory.graph import path
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP
from tests.theory import brute_force


@pytest.fixture
def case() -> tuple[NetworkedMDP, LocalPolicy, np.ndarray, np.ndarray]:
    mdp = random_mdp(path(3), n_states=[2, 3, 2], n_actions=[2, 2, 3], rng=0)
    policy = random_policy(mdp, rng=1)
    return mdp, policy, local_values(mdp, policy).values, occupancy(mdp, policy).law


def test_exact_gradient(case: tuple[NetworkedMDP, LocalPolicy, np.ndarray, np.ndarray]) -> None:
    mdp, policy, values, law = case
    mean = values.mean(axis=0)
    for i, found in enumerate(policy_gradient(mdp, policy, values, law)):
        expected = brute_force.gradient(mdp, policy, i, law, mean, mean, np.full(3, 1 / 3))
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("reading", ["eq9", "theorem2"])
@pytest.mark.parametrize("reward", ["global", "neighborhood", "own"])
@pytest.mark.parametrize("kappa", [0, 1, 2])
def test_truncated_gradients(
    case: tuple[NetworkedMDP, LocalPolicy, np.ndarray, np.ndarray], reading: str, reward: str, kappa: int
) -> None:
    mdp, policy, values, law = case
    joint = JointLaw(np.random.default_rng(3).dirichlet(np.ones(mdp.n_joint_states)))
    for reference in (uniform_law(mdp), joint):
        found = truncated_gradient(
            mdp,
            policy,
            values,
            law,
            kappa,
            reference=reference,
            reading=reading,
            reward=reward,  # type: ignore[arg-type]
        )
        for i in range(3):
            members = [j for j in range(3) if abs(i - j) <= kappa]
            value = np.zeros(mdp.n_joint_states)
            for j in members:
                centre = j if reading == "eq9" else i
                seen = [k for k in range(3) if abs(centre - k) <= kappa]
                value += extended_value(mdp, values[j], seen, reference) / 3
            weights = np.zeros(3)
            if reward == "own":
                weights[i] = 1
            else:
                weights[members if reward == "neighborhood" else [0, 1, 2]] = 1 / 3
            expected = brute_force.gradient(mdp, policy, i, law, value, value, weights)
            np.testing.assert_allclose(found[i], expected, atol=1e-12)


def test_finite_differences_of_the_return(case: tuple[NetworkedMDP, LocalPolicy, np.ndarray, np.ndarray]) -> None:
    """The derivative of the mean over starts of V is the normalised gradient divided by 1 - gamma."""
    mdp, policy, values, law = case
    gradients = policy_gradient(mdp, policy, values, law)
    step = 1e-5

    def mean_return(i: int, index: tuple[int, ...], shift: float) -> float:
        logits = np.log(policy.table[i])
        logits[index] += shift
        table = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        changed = tuple(table if k == i else old for k, old in enumerate(policy.table))
        return float(local_values(mdp, LocalPolicy(mdp, changed)).values.mean())

    for i in range(3):
        for index in np.ndindex(policy.table[i].shape):
            slope = (mean_return(i, index, step) - mean_return(i, index, -step)) / (2 * step)
            assert slope * (1 - mdp.gamma) == pytest.approx(gradients[i][index], abs=2e-8)


def test_score_bound(case: tuple[NetworkedMDP, LocalPolicy, np.ndarray, np.ndarray]) -> None:
    _, policy, _, _ = case
    for i in range(3):
        rows = policy.table[i].reshape(-1, policy.table[i].shape[-1])
        norms = [np.linalg.norm(np.eye(len(row))[a] - row) for row in rows for a in range(len(row))]
        assert score_bound(policy, i) == pytest.approx(max(norms))


def test_unknown_readings(case: tuple[NetworkedMDP, LocalPolicy, np.ndarray, np.ndarray]) -> None:
    mdp, policy, values, law = case
    with pytest.raises(ValueError, match="reading = 'eq10'; choose"):
        truncated_gradient(mdp, policy, values, law, 1, reference=uniform_law(mdp), reading="eq10")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reward = 'mine'; choose"):
        truncated_gradient(mdp, policy, values, law, 1, reference=uniform_law(mdp), reward="mine")  # type: ignore[arg-type]
