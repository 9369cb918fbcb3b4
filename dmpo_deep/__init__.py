"""Decentralised model-based policy optimisation and its baselines. Submodules other than ``cli`` need torch."""
