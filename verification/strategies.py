"""Hypothesis strategies: small networked MDPs of every kind, with their policies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from dmpo_theory.graph import AgentGraph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP

RANGES = {"signed": (-1.0, 1.0), "non-negative": (0.0, 1.0), "non-positive": (-1.0, 0.0)}


class Case(NamedTuple):
    """An MDP with its policy and what is known of it."""

    mdp: NetworkedMDP
    policy: LocalPolicy
    rewards: str
    rng: np.random.Generator


@st.composite
def cases(draw: st.DrawFn, *, rewards: tuple[str, ...] = tuple(RANGES), radii: tuple[int, ...] = (0, 1, 2)) -> Case:
    """Any graph of up to five agents, connected or not; two or three local states and actions; any radii."""
    n = draw(st.integers(1, 5))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sign = draw(st.sampled_from(rewards))
    coupling = draw(st.sampled_from([0.0, 0.3, 1.0]))
    concentration = draw(st.sampled_from([0.02, 0.3, 1.0]))
    mdp = random_mdp(
        AgentGraph.from_edges(n, edges),
        n_states=draw(st.lists(st.integers(2, 3), min_size=n, max_size=n)),
        n_actions=draw(st.lists(st.integers(2, 3), min_size=n, max_size=n)),
        gamma=draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])),
        reward_range=RANGES[sign],
        coupling=coupling,
        concentration=concentration,
        radius=draw(st.sampled_from(radii)),
        rng=rng,
    )
    policy = random_policy(
        mdp, coupling=coupling, concentration=concentration, radius=draw(st.sampled_from(radii)), rng=rng
    )
    return Case(mdp, policy, sign, rng)
