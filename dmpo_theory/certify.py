"""The practical question behind Theorems 1 and 2: the smallest kappa whose error is certified to be small enough.

Every bound here holds for every reference law, and for the gradient (Eq. 9) for every law of the state, so that the
smallest of them, agent by agent, is a certificate:

* value: Theorem 1 in its tight form, the local bound of :mod:`dmpo_theory.local_bounds`, and the envelope of
  :mod:`dmpo_theory.envelope` where its tables are small enough;
* gradient: Theorem 2 in its tight form, reading (i), and the local bound.

None of them needs the joint space, nor a table of all distances: all agents of a graph of 10,000 take seconds. At
kappa = diameter nothing is unseen and the error is 0, so that there always is an answer.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.envelope import envelope, envelope_bytes
from dmpo_theory.errors import GIB, ProblemTooLarge
from dmpo_theory.files import whole
from dmpo_theory.local_bounds import gradient_error_bound, local_quantities, value_error_bound
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP

Quantity = Literal["value", "gradient"]
BLOCK = 4
"""How many kappas are tried at a time."""
ENVELOPE_GIB = 0.005
"""Memory for the envelopes' tables, all agents together, and so a limit on the time they take."""
_ENVELOPE_AGENTS = 500
_EXACT_BALLS = 1_000


@dataclass(frozen=True)
class Row:
    """What is certified at one kappa.

    Attributes:
        kappa: radius of the truncation.
        seen: largest ``|N_i^kappa|``, how many agents' states the worst-off agent must hear.
        mean_seen: mean ``|N_i^kappa|``.
        errors: each bound's largest error over agents; a bound that was left out is missing.
        error: the certified error: the largest over agents of the smallest bound.
        agent: the agent that it belongs to.
        bound: the bound that is smallest there.
        certified: how many agents' errors are within the tolerance.
    """

    kappa: int
    seen: int
    mean_seen: float
    errors: dict[str, float]
    error: float
    agent: int
    bound: str
    certified: int


@dataclass(frozen=True)
class Certificate:
    """The smallest certified kappa and the way to it.

    Attributes:
        quantity: ``"value"`` or ``"gradient"``.
        tolerance: the error that was asked for.
        bounds: keys of the bounds that were tried.
        rows: one for each ``kappa = 0 .. kappa``; the last is the answer.
        notes: which bounds were left out where, and why.
        seconds: wall time.
    """

    quantity: str
    tolerance: float
    bounds: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def kappa(self) -> int:
        """The smallest kappa at which every agent's error is certified to be at most the tolerance."""
        return self.rows[-1].kappa


def certify(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    tolerance: float,
    quantity: Quantity = "value",
    *,
    envelope_gib: float = ENVELOPE_GIB,
    progress: Callable[[int], None] = lambda kappa: None,
) -> Certificate:
    """The smallest kappa at which the truncation error of every agent is certified to be at most ``tolerance``.

    Args:
        mdp: the networked MDP.
        policy: a local policy of it.
        tolerance: largest error wanted, in units of the value, or of the gradient's 2-norm in softmax logits.
        quantity: ``"value"``, ``|V_i(s) - V_i(s_{N_i^kappa})|``, or ``"gradient"``, ``|g_i - g~_i|`` in Eq. 9.
        envelope_gib: memory for the envelopes; 0 leaves them out.
        progress: called with each kappa before it is tried.

    Raises:
        ValueError: a tolerance that is not positive, or an unknown quantity.

    Example:
        >>> from dmpo_theory.graph import ring
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(ring(20), coupling=0.2)
        >>> found = certify(mdp, random_policy(mdp, coupling=0.2), tolerance=0.05)
        >>> found.kappa, found.rows[-1].seen, found.rows[-1].bound
        (1, 3, 'envelope')
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(
            f"tolerance = {tolerance!r} must be positive; an error of 0 is certain only at kappa = the diameter"
        )
    if quantity not in ("value", "gradient"):
        raise ValueError(f'quantity = {quantity!r}; choose "value" or "gradient"')
    started = time.perf_counter()
    search = _Search(mdp, policy, quantity, envelope_gib)
    rows: list[Row] = []
    while not rows or rows[-1].error > tolerance:
        progress(len(rows))
        rows.append(search.row(len(rows), tolerance))
    notes = tuple(search.notes)
    return Certificate(quantity, tolerance, search.bounds, tuple(rows), notes, time.perf_counter() - started)


def write_rows(certificate: Certificate, path: Path) -> None:
    """One row a kappa; a bound that was left out is empty."""
    with whole(path) as file:
        writer = csv.writer(file)
        writer.writerow(
            ("kappa", "seen", "mean_seen", *certificate.bounds, "certified_error", "bound", "agent", "agents_certified")
        )
        for row in certificate.rows:
            errors = [repr(row.errors[key]) if key in row.errors else "" for key in certificate.bounds]
            last = (repr(row.error), row.bound, row.agent, row.certified)
            writer.writerow((row.kappa, row.seen, repr(row.mean_seen), *errors, *last))


class _Search:
    """All bounds of one quantity, a few kappas at a time."""

    def __init__(self, mdp: NetworkedMDP, policy: LocalPolicy, quantity: Quantity, envelope_gib: float) -> None:
        self.local = local_quantities(mdp, policy)
        self.quantity = quantity
        self.bounds = ("theorem1", "local", "envelope") if quantity == "value" else ("theorem2", "local")
        self.notes: list[str] = []
        self.local_until = sys.maxsize  # the first kappa at which it does not fit
        self.span = np.array(self.local.setting.span, dtype=np.float64)
        graph = self.local.graph
        self.component = np.bincount(graph.components, np.ones(graph.n))[graph.components]
        self.whole = np.bincount(graph.components, self.span)[graph.components]
        self._sum_balls(math.inf if graph.n <= _EXACT_BALLS else 64)
        self.envelopes = self._envelopes(mdp, policy, envelope_gib) if quantity == "value" else np.zeros((graph.n, 0))
        self.block: dict[str, Array] = {}

    def row(self, kappa: int, tolerance: float) -> Row:
        if kappa % BLOCK == 0:
            self._next_block(range(kappa, kappa + BLOCK))
        errors = {key: e[:, kappa % BLOCK] for key, e in self.block.items() if kappa % BLOCK < e.shape[1]}
        if kappa < self.envelopes.shape[1]:
            errors["envelope"] = self.envelopes[:, kappa]
        by_agent = np.minimum.reduce(list(errors.values()))
        agent, seen = int(by_agent.argmax()), self._balls(kappa, 0)
        return Row(
            kappa=kappa,
            seen=int(seen.max()),
            mean_seen=float(seen.mean()),
            errors={key: float(error.max()) for key, error in errors.items()},
            error=float(by_agent[agent]),
            agent=agent,
            bound=min(errors, key=lambda key: float(errors[key][agent])),
            certified=int((by_agent <= tolerance).sum()),
        )

    def _next_block(self, kappas: range) -> None:
        tight = self._theorem1 if self.quantity == "value" else self._theorem2
        local = value_error_bound if self.quantity == "value" else gradient_error_bound
        self.block = {self.bounds[0]: np.stack([tight(kappa) for kappa in kappas], axis=1)}
        for last in range(min(kappas.stop, self.local_until), kappas.start, -1):
            try:
                self.block["local"] = local(self.local, range(kappas.start, last))
                return
            except ProblemTooLarge as error:
                self.local_until = last - 1
                self.notes = [note for note in self.notes if not note.startswith("the local")]
                self.notes.append(f"the local bound is left out from kappa = {last - 1} on: {error}")

    def _sum_balls(self, radius: float) -> None:
        """Sizes of all balls and sums of spans over them, up to a radius or until they stop growing."""
        self.sums = self.local.graph.ball_sums(np.stack([np.ones(len(self.span)), self.span], axis=1), radius)
        self.complete = self.sums.shape[1] <= radius

    def _balls(self, kappa: int, column: int) -> Array:
        while kappa >= self.sums.shape[1] and not self.complete:
            self._sum_balls(2 * kappa)
        return np.asarray(self.sums[:, min(kappa, self.sums.shape[1] - 1), column])

    def _open(self, kappa: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self._balls(kappa, 0) < self.component)

    def _decay(self, hops: int) -> float:
        setting = self.local.setting
        return float(setting.discount(setting.first_effect(hops))) / (1 - self.local.gamma)

    def _theorem1(self, kappa: int) -> Array:
        """As :func:`dmpo_theory.bounds.theorem1_tight`: the nearest unseen agent is ``kappa + 1`` hops away."""
        return np.asarray(np.where(self._open(kappa), self.span * self._decay(kappa + 1), 0.0))

    def _theorem2(self, kappa: int) -> Array:
        """As :func:`dmpo_theory.bounds.theorem2_tight` in reading (i), by distances from agent i.

        In a large and wide graph all agents beyond the balls that were summed count as just beyond them.
        """
        graph, setting, unseen = self.local.graph, self.local.setting, self._open(kappa)
        within = self._balls(kappa, 1)  # may widen the balls
        last = self.sums.shape[1] - 1
        shells = np.diff(self.sums[:, min(kappa, last) :, 1], axis=1)
        outside = shells @ np.array([self._decay(d) for d in range(kappa + 1, last + 1)])
        if not self.complete:
            outside = outside + np.maximum(self.whole - self.sums[:, last, 1], 0.0) * self._decay(last + 1)
        if not unseen.all():
            within = graph.ball_sums((self.span * unseen)[:, None], kappa)[:, -1, 0]
        total = np.where(unseen, outside, 0.0) + 2 * self._decay(kappa + 1) * within
        return np.asarray(np.array(setting.g_max, dtype=np.float64) * self.local.gamma * total / (2 * graph.n))

    def _envelopes(self, mdp: NetworkedMDP, policy: LocalPolicy, limit_gib: float) -> Array:
        """Envelopes of all agents at the largest radius at which their tables fit together, ``[n, radius + 1]``."""
        graph, chain = mdp.graph, closed_loop(mdp, policy)
        radius, why = -1, f"{graph.n} agents are too many, at most {_ENVELOPE_AGENTS} are tried"
        while graph.n <= _ENVELOPE_AGENTS:
            members = [graph.neighbors(i, radius + 1) for i in range(graph.n)]
            least = 32.0 * sum(math.prod(float(mdp.n_states[j]) for j in ball) for ball in members)
            needed = least
            if least <= limit_gib * GIB:
                needed = sum(envelope_bytes(chain, ball, i) for i, ball in enumerate(members))
            if needed > limit_gib * GIB:
                why = f"its tables would take {needed / GIB:.3g} GiB, the limit is {limit_gib:.3g} GiB"
                break
            radius += 1
            if not self._open(radius).any():
                break
        if self._open(max(radius, 0)).any():
            self.notes.append(f"the envelope is left out from kappa = {radius + 1} on: {why}")
        found = np.zeros((graph.n, radius + 1))
        for i in range(graph.n if radius >= 0 else 0):
            errors = envelope(chain, graph, mdp.gamma, i, radius).errors()
            found[i] = np.pad(errors, (0, radius + 1 - len(errors)), mode="edge")
        return found
