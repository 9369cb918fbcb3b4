"""Bounds at one joint state: certain or with the stated confidence, and told apart."""

from __future__ import annotations

import numpy as np
import pytest

from dmpo_theory import monte_carlo
from dmpo_theory.exact import local_values
from dmpo_theory.graph import named_graph, ring
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP


def instance(seed: int = 0) -> tuple[NetworkedMDP, LocalPolicy]:
    mdp = random_mdp(named_graph("random-regular", 8, 0), n_states=[2, 3, 2, 2, 3, 2, 2, 2], gamma=0.8, rng=seed)
    return mdp, random_policy(mdp, rng=seed + 1)


def test_the_envelope_serves_where_influence_decays() -> None:
    mdp = random_mdp(ring(300), rng=0)
    found = monte_carlo.value_bounds(mdp, random_policy(mdp, rng=1), 7, [0] * 300, width=0.05)
    assert (found.method, found.confidence, found.samples) == ("envelope", 1.0, 0)
    assert found.width <= 0.05


def test_simulation_takes_over_on_an_expander_and_holds_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empirical Bernstein bounds are wide of the mark: of 60 intervals at confidence 0.9 none should miss."""
    monkeypatch.setattr(monte_carlo, "_ENVELOPE_BYTES", 2000.0)
    mdp, policy = instance()
    values = local_values(mdp, policy).values.reshape(-1, *mdp.n_states)
    rng = np.random.default_rng(0)
    offsets = []
    for seed in range(60):
        i, state = seed % 8, [int(rng.integers(size)) for size in mdp.n_states]
        found = monte_carlo.value_bounds(mdp, policy, i, state, width=0.4, confidence=0.9, rng=seed)
        assert (found.method, found.confidence) == ("monte-carlo", 0.9)
        assert found.width <= 0.4
        exact = values[(i, *state)]
        assert found.lower <= exact <= found.upper
        offsets.append((exact - (found.lower + found.upper) / 2) / found.width)
    assert abs(np.mean(offsets)) < 0.1  # no bias to either side


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: intervals for another policy do not hold the value."""
    monkeypatch.setattr(monte_carlo, "_ENVELOPE_BYTES", 2000.0)
    mdp, policy = instance()
    exact = local_values(mdp, policy).values[:, 0]
    other = random_policy(mdp, rng=99)
    found = [monte_carlo.value_bounds(mdp, other, i, [0] * 8, width=0.2) for i in range(8)]
    assert any(not bounds.lower <= value <= bounds.upper for bounds, value in zip(found, exact, strict=True))


def test_samples_end_at_the_limit_and_the_narrower_interval_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp, policy = instance()
    monkeypatch.setattr(monte_carlo, "_ENVELOPE_BYTES", 2000.0)
    found = monte_carlo.value_bounds(mdp, policy, 0, [0] * 8, width=1e-6, most_samples=1000)
    assert (found.method, found.samples) == ("monte-carlo", 1000)
    monkeypatch.setattr(monte_carlo, "_ENVELOPE_BYTES", 2.0**26)
    assert monte_carlo.value_bounds(mdp, policy, 0, [0] * 8, width=1e-15, most_samples=1000).method == "envelope"


def test_bad_arguments() -> None:
    mdp, policy = instance()
    with pytest.raises(ValueError, match=r"state has shape \(3,\) and type int64; give a local state"):
        monte_carlo.value_bounds(mdp, policy, 0, [0, 0, 0], width=1.0)
    with pytest.raises(ValueError, match="width = 0 must be positive"):
        monte_carlo.value_bounds(mdp, policy, 0, [0] * 8, width=0)
    with pytest.raises(ValueError, match=r"confidence = 1 is outside \(0, 1\)"):
        monte_carlo.value_bounds(mdp, policy, 0, [0] * 8, width=1.0, confidence=1)
    with pytest.raises(ValueError, match="type float64; give a local state"):
        monte_carlo.value_bounds(mdp, policy, 0, [0.5] * 8, width=1.0)
    with pytest.raises(ValueError, match="most_samples = 1; a variance takes at least 2"):
        monte_carlo.value_bounds(mdp, policy, 0, [0] * 8, width=1.0, most_samples=1)
