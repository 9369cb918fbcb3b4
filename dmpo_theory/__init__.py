"""Exact values, gradients and bounds of factored networked Markov decision processes."""

from dmpo_theory.bounds import BOUNDS, Bound, Setting
from dmpo_theory.envelope import each_envelope
from dmpo_theory.errors import ProblemTooLarge
from dmpo_theory.exact import each_value, local_values, mean_value
from dmpo_theory.extended import JointLaw, ProductLaw, deviation, extended_value, point_law, span, uniform_law
from dmpo_theory.gradient import policy_gradient, truncated_gradient
from dmpo_theory.graph import AgentGraph, named_graph
from dmpo_theory.instance_file import load_instance, save_instance
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy, stationary
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP, to_joint
from dmpo_theory.monte_carlo import value_bounds

__all__ = [
    "BOUNDS",
    "AgentGraph",
    "Bound",
    "JointLaw",
    "LocalPolicy",
    "NetworkedMDP",
    "ProblemTooLarge",
    "ProductLaw",
    "Setting",
    "deviation",
    "each_envelope",
    "each_value",
    "extended_value",
    "load_instance",
    "local_values",
    "mean_value",
    "named_graph",
    "occupancy",
    "point_law",
    "policy_gradient",
    "random_mdp",
    "random_policy",
    "save_instance",
    "span",
    "stationary",
    "to_joint",
    "truncated_gradient",
    "uniform_law",
    "value_bounds",
]
