"""Section I's motive: how many numbers an agent receives from others, per agent and real environment step.

Counted is what the algorithm needs and no more: an observation that was heard once is remembered, so that a critic only
pays for those beyond its policy's radius. Means over agents. Values at the next step of the data are those of the step
after, so that they cost nothing; the last one of a rollout is neglected.
"""

from __future__ import annotations

import math

from dmpo_theory.graph import AgentGraph


def others(graph: AgentGraph, kappa: float) -> float:
    """Mean number of other agents within ``kappa`` hops.

    Example:
        >>> from dmpo_theory.graph import path
        >>> others(path(4), 1), others(path(4), math.inf)
        (1.5, 3.0)
    """
    if kappa == math.inf:
        return float(graph.n - 1)
    sizes = graph.neighborhood_sizes
    return float(sizes[:, min(int(kappa), sizes.shape[1] - 1)].mean() - 1)


def acting(graph: AgentGraph, features: int, kappa_policy: float) -> float:
    """Observations that policies hear in a step."""
    return others(graph, kappa_policy) * features


def judging(graph: AgentGraph, features: int, kappa_critic: float, heard: float, shares: bool = True) -> float:
    """Observations that critics hear of a step beyond those within ``heard`` hops, and advantages that are shared."""
    beyond = others(graph, max(kappa_critic, heard)) - others(graph, heard)
    return beyond * features + (others(graph, kappa_critic) if shares else 0.0)


def modelling(
    graph: AgentGraph, features: int, kappa_model: float, kappa_policy: float, imagined: float, actions: int = 0
) -> float:
    """What local models hear of a real step beyond their policies, and of ``imagined`` model steps per real one.

    In an imagined step every prediction is broadcast as far as models and policies hear; ``actions`` numbers of each
    agent within ``kappa_model`` go with it, where models hear them.
    """
    widest = others(graph, max(kappa_model, kappa_policy)) * features
    heard_actions = others(graph, kappa_model) * actions
    return widest - acting(graph, features, kappa_policy) + heard_actions + imagined * (widest + heard_actions)
