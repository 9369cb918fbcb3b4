"""What ``dmpo solve`` computes and writes: exact answers about one MDP under one policy, as JSON or npz.

Index order is that of :mod:`dmpo_theory.mdp`; ``kappa`` runs over ``0 .. n-1``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dmpo_theory.errors import unknown_name
from dmpo_theory.exact import Values, each_value, local_values
from dmpo_theory.extended import agent_deviation, agent_span, deviation, span, uniform_law
from dmpo_theory.files import whole, write_text
from dmpo_theory.gradient import Reading, policy_gradient, truncated_gradient
from dmpo_theory.laws import StateLaw, occupancy
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.routes import Method


class Solution:
    """Exact answers, each computed when first asked for; values are held only if ``keep_values``."""

    def __init__(
        self, mdp: NetworkedMDP, policy: LocalPolicy, method: Method, tolerance: float | None, keep_values: bool
    ) -> None:
        self.mdp, self.policy, self.method, self.tolerance = mdp, policy, method, tolerance
        self.keep_values = keep_values

    @cached_property
    def values(self) -> Array:
        """``V_i(x)``, ``[n, X]``."""
        return self._local_values.values

    @cached_property
    def _local_values(self) -> Values:
        return local_values(self.mdp, self.policy, method=self.method, tolerance=self.tolerance)

    def residual(self) -> float:
        """The largest ``max_x |r_i + gamma P V_i - V_i|``."""
        return float(self._local_values.residual.max()) if self.keep_values else self._by_agent[2]

    def spans(self) -> Array:
        """Worst errors of extended values over all reference laws, ``[n, n]``."""
        return span(self.mdp, self.values) if self.keep_values else self._by_agent[0]

    def deviations(self) -> Array:
        """Errors of the uniform extended values, ``[n, n]``."""
        return deviation(self.mdp, self.values, uniform_law(self.mdp)) if self.keep_values else self._by_agent[1]

    @cached_property
    def _by_agent(self) -> tuple[Array, Array, float]:
        """Spans, deviations and the largest residual, from one agent's value at a time."""
        mdp, uniform = self.mdp, uniform_law(self.mdp)
        each = each_value(mdp, self.policy, method=self.method, tolerance=self.tolerance)
        found = [
            (agent_span(mdp, v.values, v.agent), agent_deviation(mdp, v.values, v.agent, uniform), v.residual)
            for v in each
        ]
        spans, deviations, residuals = (np.array(column) for column in zip(*found, strict=True))
        return spans, deviations, float(residuals.max())

    @cached_property
    def occupancy(self) -> StateLaw:
        """Normalised discounted occupancy from a uniform start."""
        return occupancy(self.mdp, self.policy, method=self.method, tolerance=self.tolerance or 1e-10)

    def gradient(self) -> list[Array]:
        """``g_i`` in softmax logits under the occupancy."""
        return list(policy_gradient(self.mdp, self.policy, self.values, self.occupancy.law))

    def truncated_gradients(self, reading: Reading) -> list[list[Array]]:
        """The truncated gradient ``[i][kappa]`` under the occupancy, for the uniform reference law."""
        uniform = uniform_law(self.mdp)
        by_kappa = [
            truncated_gradient(
                self.mdp,
                self.policy,
                self.values,
                self.occupancy.law,
                kappa,
                reference=uniform,
                reading=reading,
            )
            for kappa in range(self.mdp.graph.diameter + 1)
        ]
        by_kappa += by_kappa[-1:] * (self.mdp.n - len(by_kappa))  # nothing is left to see
        return [[gradients[i] for gradients in by_kappa] for i in range(self.mdp.n)]


FIELDS: dict[str, Callable[[Solution], Any]] = {
    "values": lambda s: s.values,
    "occupancy_uniform_start": lambda s: s.occupancy.law,
    "gradient": lambda s: s.gradient(),
    "span": lambda s: s.spans(),
    "deviation_uniform": lambda s: s.deviations(),
    "truncated_gradient_thm2_uniform": lambda s: s.truncated_gradients("theorem2"),
    "truncated_gradient_eq9_uniform": lambda s: s.truncated_gradients("eq9"),
    "residual": lambda s: s.residual(),
}
"""Everything that can be asked for, by name."""
_STREAMED = {"occupancy_uniform_start", "span", "deviation_uniform", "residual"}
"""What needs no more than one agent's values at a time."""


def solve(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    fields: Sequence[str] = tuple(FIELDS),
    method: Method = "auto",
    tolerance: float | None = None,
) -> dict[str, Any]:
    """The named fields of :data:`FIELDS`, in that order; ``residual`` is always among them.

    Raises:
        ValueError: a field is not known; the message suggests the nearest.
        ProblemTooLarge, ArithmeticError: as :func:`dmpo_theory.exact.local_values`.
    """
    for field in fields:
        if field not in FIELDS:
            raise unknown_name("field", field, FIELDS)
    solution = Solution(mdp, policy, method, tolerance, keep_values=not set(fields) <= _STREAMED)
    return {field: FIELDS[field](solution) for field in dict.fromkeys([*fields, "residual"])}


def write_json(answers: dict[str, Any], path: Path) -> None:
    """Nested lists, numbers in full."""
    write_text(path, json.dumps(answers, default=lambda array: np.asarray(array).tolist()))


def write_npz(answers: dict[str, Any], path: Path) -> None:
    """One array a field, or ``field/i`` and ``field/i/kappa`` where agents' shapes may differ."""
    arrays: dict[str, Array] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, list):
            for k, item in enumerate(value):
                collect(f"{name}/{k}", item)
        else:
            arrays[name] = np.asarray(value)

    for field, value in answers.items():
        collect(field, value)
    with whole(path, binary=True) as file:  # given a name, numpy would append .npz to it
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
