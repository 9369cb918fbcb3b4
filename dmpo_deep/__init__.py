"""Decentralised model-based policy optimisation and its baselines. Submodules other than ``cli`` need torch."""

DEFAULT_PRESET = "tuned"
EVAL_EVERY = 1200
"""Environment steps between evaluations by default."""
