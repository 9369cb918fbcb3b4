"""Exact values, gradients and bounds of factored networked Markov decision processes."""
