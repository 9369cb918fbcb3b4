r"""Theorems 1 and 2 under attack: an optimiser brings an instance's error of truncation as near to a bound as it can.

Every table of a networked MDP and of its policy is free: softmax rows of logits, rewards squashed into their range.
A truncated Newton method climbs the exact error (:mod:`dmpo_theory.truncation_error`) from random starting points.
Where the climb ends, part of the logits are drawn anew and it starts again. Nothing is taken from a known instance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.optimize import minimize

from dmpo_theory.bounds import BOUNDS, Setting
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.truncation_error import N_ACTIONS, Family, Tables, first_row, theorem1_error, theorem2_error

FAIR_COIN = math.sqrt(0.5)
"""``g_max`` of an agent that acts at random between two actions, the least it can be."""
HOPS, ENOUGH = 60, 0.999
"""How often a start climbs again at most, and the share of the supremum that makes it stop."""
REDRAWN, REACH = 0.3, 2.0
"""The share of logits that is drawn anew to climb again, and the size that the others are clipped to."""
ROUNDING = 1e-9
"""An error may exceed a corrected bound by this fraction, no more."""
CERTAIN = 40.0
"""A logit that makes an outcome certain: what others are left with is below rounding, and becomes 0."""


@dataclass(frozen=True)
class Attack:
    """The worst instance that was found, and how near it comes to the supremum.

    Attributes:
        claim: ``"theorem1"`` or ``"theorem2"``, the latter in reading (i).
        agent: whose value or gradient is truncated.
        kappa: radius of the truncation.
        mdp: the instance.
        policy: its policy.
        state: the joint state at which the error is taken.
        reference: what unseen states are taken to be, one for every agent.
        error: the error of truncation there, by the search's own solver.
        ratio: the error over the printed bound.
        limit: the corrected bound over the printed one.
        supremum: the largest ``limit`` there is: rewards fill their range.
        seed: of the best starting point.
        ratios: what each starting point led to, by seed.
        seconds: wall time of the search.
    """

    claim: str
    agent: int
    kappa: int
    mdp: NetworkedMDP
    policy: LocalPolicy
    state: tuple[int, ...]
    reference: tuple[int, ...]
    error: float
    ratio: float
    limit: float
    supremum: float
    seed: int
    ratios: dict[int, float]
    seconds: float

    @property
    def fraction(self) -> float:
        """How much of the supremum was reached."""
        return self.ratio / self.supremum


class BoundExceeded(ArithmeticError):
    """A corrected bound was exceeded: it is wrong, or the code is. ``found`` is the attack that did it."""

    def __init__(self, found: Attack) -> None:
        super().__init__(
            f"{found.claim}: the error is {found.ratio!r} of the printed bound, more than the {found.limit!r} that the "
            "corrected bound allows; keep found.mdp and found.policy of this exception with save_instance, and check "
            "them with check_instance"
        )
        self.found = found


def search_theorem1(
    graph: AgentGraph,
    agent: int,
    kappa: int,
    gamma: float = 0.9,
    *,
    signed: bool = True,
    n_states: int | Sequence[int] = 2,
    starts: int = 20,
    rng: np.random.Generator | int = 0,
) -> Attack:
    """Search for the largest ``|V_i(s) - V_i(s_{N_i^kappa})|`` over the bound of Eq. 12.

    Args:
        graph: the agents' graph.
        agent: whose value is truncated.
        kappa: radius of the truncation.
        gamma: discount factor.
        signed: rewards in [-1, 1]; otherwise in [0, 1].
        n_states: ``S_i``, one number for all agents or one each.
        starts: number of random starting points.
        rng: generator or seed.

    Raises:
        ValueError: the corrected bound is 0, so that there is nothing to find, or a number is out of range.
        BoundExceeded: the corrected bound is exceeded.

    Example:
        >>> from dmpo_theory.graph import path
        >>> found = search_theorem1(path(3), agent=0, kappa=1, starts=4)
        >>> found.supremum, bool(found.fraction > 0.99)
        (2.0, True)
    """
    family = Family.of(graph, gamma, n_states, signed)
    return _search("theorem1", family, partial(theorem1_error, family, agent, kappa), agent, kappa, starts, rng)


def search_theorem2(
    graph: AgentGraph,
    agent: int,
    kappa: int,
    gamma: float = 0.9,
    *,
    signed: bool = True,
    n_states: int | Sequence[int] | None = None,
    starts: int = 20,
    rng: np.random.Generator | int = 0,
) -> Attack:
    """Search for the largest ``|g_i - g~_i|`` over the bound of Eq. 14, in reading (i).

    Arguments and errors as :func:`search_theorem1`; by default the agent has 4 local states and each other one 3.
    """
    sizes = [4 if j == agent else 3 for j in range(graph.n)] if n_states is None else n_states
    family = Family.of(graph, gamma, sizes, signed)
    return _search("theorem2", family, partial(theorem2_error, family, agent, kappa), agent, kappa, starts, rng)


Error = Callable[[Tables], tuple[float, Tables]]


def _search(
    claim: str, family: Family, error: Error, agent: int, kappa: int, starts: int, rng: np.random.Generator | int
) -> Attack:
    began, graph, n = time.perf_counter(), family.graph, family.graph.n
    graph.neighbors(agent, kappa)  # complains of an agent or a kappa that does not exist
    if starts < 1:
        raise ValueError(f"starts = {starts}; give at least one starting point")
    printed, tight = (BOUNDS[f"{claim}-{form}"].value for form in ("printed", "tight"))
    ideal = Setting(graph, family.gamma, 1, 1, (family.reward_range,) * n, (FAIR_COIN,) * n)
    most = float(tight(ideal, kappa)[agent])
    if most == 0:
        raise ValueError(f"the corrected bound of agent {agent} at kappa = {kappa} is 0: lower kappa, or raise gamma")
    supremum = most / float(printed(ideal, kappa)[agent])
    found: dict[int, Attack] = {}
    for seed in np.random.default_rng(rng).integers(2**32, size=starts).tolist():
        theta = _hop(family, error, most, np.random.default_rng(seed))
        if claim == "theorem2":
            _, theta = _climb(family, error, most, _decided(family, theta, agent))
        tables = family.tables(theta)
        mdp, policy = family.instance(tables)
        setting, reached = Setting.of(mdp, policy), abs(error(tables)[0])
        unit, limit = float(printed(setting, kappa)[agent]), float(tight(setting, kappa)[agent])
        where, figures = ((0,) * n, (1,) * n), (reached, reached / unit, limit / unit, supremum)
        found[seed] = Attack(claim, agent, kappa, mdp, policy, *where, *figures, seed, {}, 0.0)
        if reached > limit * (1 + ROUNDING):
            raise BoundExceeded(found[seed])
    best = max(found.values(), key=lambda attack: attack.ratio)
    ratios = {seed: attack.ratio for seed, attack in found.items()}
    return replace(best, ratios=ratios, seconds=time.perf_counter() - began)


def _climb(family: Family, error: Error, most: float, theta: Array) -> tuple[float, Array]:
    """The local maximum of the error over ``most`` that truncated Newton steps reach from ``theta``.

    L-BFGS-B does as well, but on busy cores scipy's spends ten times as long in the threads of its linear algebra.
    """

    def descend(parameters: Array) -> tuple[float, Array]:
        tables = family.tables(parameters)
        value, by_table = error(tables)
        return -value / most, -family.pull_back(tables, by_table) / most

    result = minimize(descend, theta, jac=True, method="TNC")
    return -float(result.fun), np.asarray(result.x)


def _hop(family: Family, error: Error, most: float, rng: np.random.Generator) -> Array:
    """Climb from a random point, then from where that led with part of the logits drawn anew, and so on."""
    size = sum(math.prod(shape) for shape in family.shapes)
    best, theta = _climb(family, error, most, rng.normal(size=size))
    for _ in range(HOPS):
        if best >= ENOUGH:
            break
        anew = np.where(rng.random(size) < REDRAWN, rng.normal(size=size), np.clip(theta, -REACH, REACH))
        value, parameters = _climb(family, error, most, anew)
        if value >= best:
            best, theta = value, parameters
    return theta


def _decided(family: Family, theta: Array, agent: int) -> Array:
    """The agent takes its likelier action for sure, but flips its coin: elsewhere a score would only raise g_max."""
    theta = theta.copy()
    logits = family.split(theta)[family.graph.n + agent]
    coin = first_row(logits, 1).copy()
    logits[:] = CERTAIN * np.eye(N_ACTIONS)[logits.argmax(axis=-1)]
    first_row(logits, 1)[:] = coin
    return theta
