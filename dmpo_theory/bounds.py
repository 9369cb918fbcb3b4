r"""Eqs. 12-14: the bounds of Theorem 1, Remark 1 and Theorem 2, as printed and in their tight form.

The tight forms rest on the light cone. With transition radius ``m`` and policy radius ``p``, the law of
``(s_i(t), a_i(t))`` depends on the states within ``max(m, p) t + p`` hops of agent i at time 0, and on no others.
So a state at distance ``d`` first matters to agent i's reward at

    tau(d) = min {t >= 0 : max(m, p) t + p >= d},

which is ``d - 1`` for ``m = p = 1``. Write ``span_j = max r_j - min r_j`` and ``o_j`` for the distance from agent j
to the nearest agent outside the set ``U_j`` that ``V_j`` is conditioned on (infinite if there is none).

* Theorem 1:  ``|V_i(s) - V_i(s_{N_i^kappa})| <= span_i gamma^{tau(o_i)} / (1 - gamma)`` for every reference law.
* Remark 1:   the mean of these over agents.
* Theorem 2:  ``|g_i - g~_i| <= g_max gamma / (2 n (1 - gamma)) (sum_{j not in N_i^kappa} span_j gamma^{tau(d(i,j))}
  + sum_{j in N_i^kappa} 2 span_j gamma^{max(tau(o_j), tau(d(i,j)))})`` for a reference law that does not depend on
  what is seen; for one that may, one of the two terms ``gamma^max`` becomes ``gamma^{tau(o_j)}``. In reading (i),
  Eq. 9, both are equal. Holds for every law of the state.

A value moves by at most its span from the time on at which it can move at all; that is the whole proof of the first,
and the score function's zero mean gives the factor 1/2 of the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dmpo_theory.gradient import Reading, conditioning_sets, score_bound
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP


@dataclass(frozen=True)
class Hypothesis:
    """A condition under which a bound is claimed, and the function that decides it."""

    text: str
    holds: Callable[[NetworkedMDP, LocalPolicy], bool]


@dataclass(frozen=True)
class Bound:
    """A bound on an error of truncation.

    Attributes:
        key: short name.
        source: where it stands in the paper.
        statement: the claim in LaTeX.
        hypotheses: what it needs, as data.
        value: the bound for agents ``0 .. n-1`` at a kappa, ``[n]``.
    """

    key: str
    source: str
    statement: str
    hypotheses: tuple[Hypothesis, ...]
    value: Callable[[NetworkedMDP, LocalPolicy, int], Array]

    def applies(self, mdp: NetworkedMDP, policy: LocalPolicy) -> bool:
        """Whether every hypothesis holds."""
        return all(hypothesis.holds(mdp, policy) for hypothesis in self.hypotheses)


def reward_span(mdp: NetworkedMDP) -> Array:
    """``max r_i - min r_i`` of every agent, ``[n]``."""
    return np.array([table.max() - table.min() for table in mdp.reward])


def reward_size(mdp: NetworkedMDP) -> float:
    """``r_max``: the largest absolute reward of any agent."""
    return float(max(np.abs(table).max() for table in mdp.reward))


def first_effect(distance: float, m: int, p: int) -> float:
    """``tau(d)``: the first step at which a state ``distance`` hops away can matter to an agent's reward.

    Example:
        >>> [first_effect(d, m=1, p=1) for d in (0, 1, 2, 3)]
        [0, 0, 1, 2]
        >>> first_effect(2, m=1, p=0), first_effect(math.inf, 1, 1), first_effect(1, 0, 0)
        (2, inf, inf)
    """
    if distance <= p:
        return 0
    speed = max(m, p)
    return math.inf if speed == 0 or math.isinf(distance) else math.ceil((distance - p) / speed)


def outside_distance(mdp: NetworkedMDP, j: int, seen: tuple[int, ...]) -> float:
    """``o_j``: hops from agent j to the nearest agent not in ``seen``; infinite if all are seen or unreachable."""
    unseen = [k for k in range(mdp.n) if k not in seen]
    return float(mdp.graph.hop_distance[j, unseen].min(initial=math.inf))


def theorem1_tight(mdp: NetworkedMDP, policy: LocalPolicy, kappa: int) -> Array:
    """Theorem 1, tight: equality is attained on every graph that has an agent ``kappa + 1`` hops away."""
    delay = [
        first_effect(outside_distance(mdp, i, mdp.graph.neighbors(i, kappa)), mdp.radius, policy.radius)
        for i in range(mdp.n)
    ]
    return np.asarray(reward_span(mdp) * mdp.gamma ** np.array(delay) / (1 - mdp.gamma))


def remark1_tight(mdp: NetworkedMDP, policy: LocalPolicy, kappa: int) -> Array:
    """Remark 1, tight: the mean of Theorem 1's over agents, repeated ``[n]``."""
    return np.full(mdp.n, theorem1_tight(mdp, policy, kappa).mean())


def theorem2_tight(reading: Reading, *, product: bool = True) -> Callable[[NetworkedMDP, LocalPolicy, int], Array]:
    """Theorem 2, tight, in the given reading; ``product`` reference laws do not depend on what is seen."""

    def value(mdp: NetworkedMDP, policy: LocalPolicy, kappa: int) -> Array:
        m, p, gamma, spans = mdp.radius, policy.radius, mdp.gamma, reward_span(mdp)
        result = np.zeros(mdp.n)
        for i in range(mdp.n):
            seen = conditioning_sets(mdp, i, kappa, reading)
            for j in range(mdp.n):
                reach = first_effect(mdp.graph.hop_distance[i, j], m, p)
                if j not in seen:
                    result[i] += spans[j] * gamma**reach
                    continue
                hidden = first_effect(outside_distance(mdp, j, seen[j]), m, p)
                both = max(hidden, reach)
                result[i] += spans[j] * (gamma**both + gamma ** (both if product else hidden))
            result[i] *= score_bound(policy, i) * gamma / (2 * mdp.n * (1 - gamma))
        return result

    return value


def _theorem1_printed(mdp: NetworkedMDP, policy: LocalPolicy, kappa: int) -> Array:
    return np.full(mdp.n, reward_size(mdp) * mdp.gamma**kappa / (1 - mdp.gamma))


def _theorem2_printed(mdp: NetworkedMDP, policy: LocalPolicy, kappa: int) -> Array:
    gamma, size = mdp.gamma, reward_size(mdp)
    share = mdp.graph.mask(kappa).sum(axis=1) / mdp.n
    scores = np.array([score_bound(policy, i) for i in range(mdp.n)])
    # gamma^(kappa - 1) is infinite at gamma = kappa = 0; the bracket is then 1 - share.
    power = gamma ** (kappa - 1) if gamma > 0 or kappa >= 1 else math.inf
    bracket = 1 - (1 - gamma**2) * share
    return np.where(bracket > 0, power * bracket, 0.0) / (1 - gamma) * size * scores


RADIUS_ONE = Hypothesis(
    "transitions and policies read N_i (m, p <= 1)", lambda mdp, policy: max(mdp.radius, policy.radius) <= 1
)
ONE_SIGNED = Hypothesis(
    "rewards of one sign",
    lambda mdp, policy: all((t >= 0).all() for t in mdp.reward) or all((t <= 0).all() for t in mdp.reward),
)

_THEOREM1 = r"|V_i(s) - V_i(s_{N_i^\kappa})| \le \frac{r_{\max}}{1-\gamma}\gamma^\kappa"
_REMARK1 = r"|V(s) - \frac1n\sum_i V_i(s_{N_i^\kappa})| \le \frac{r_{\max}}{1-\gamma}\gamma^\kappa"
_THEOREM2 = (
    r"\|g_i-\tilde g_i\| \le \frac{\gamma^{\kappa-1}}{1-\gamma}"
    r"\left[1-(1-\gamma^2)\frac{|N_i^\kappa|}{n}\right] r_{\max} g_{\max}"
)
_THEOREM1_TIGHT = r"|V_i(s) - V_i(s_{N_i^\kappa})| \le \frac{\mathrm{span}_i}{1-\gamma}\gamma^{\tau(o_i)}"
_REMARK1_TIGHT = (
    r"|V(s) - \frac1n\sum_i V_i(s_{N_i^\kappa})| \le \frac1n\sum_i\frac{\mathrm{span}_i}{1-\gamma}\gamma^{\tau(o_i)}"
)
_THEOREM2_TIGHT = (
    r"\|g_i-\tilde g_i\| \le \frac{\gamma g_{\max}}{2n(1-\gamma)}\Big[\sum_{j\notin N_i^\kappa}"
    r"\mathrm{span}_j\gamma^{\tau(d_{ij})}"
    r" + \sum_{j\in N_i^\kappa} 2\,\mathrm{span}_j\gamma^{\max(\tau(o_j),\tau(d_{ij}))}\Big]"
)

BOUNDS: dict[str, Bound] = {
    bound.key: bound
    for bound in (
        Bound("theorem1-printed", "Eq. 12", _THEOREM1, (RADIUS_ONE,), _theorem1_printed),
        Bound("theorem1-one-signed", "Eq. 12", _THEOREM1, (RADIUS_ONE, ONE_SIGNED), _theorem1_printed),
        Bound("theorem1-tight", "Theorem 1, corrected", _THEOREM1_TIGHT, (), theorem1_tight),
        Bound("remark1-printed", "Eq. 13", _REMARK1, (RADIUS_ONE,), _theorem1_printed),
        Bound("remark1-one-signed", "Eq. 13", _REMARK1, (RADIUS_ONE, ONE_SIGNED), _theorem1_printed),
        Bound("remark1-tight", "Remark 1, corrected", _REMARK1_TIGHT, (), remark1_tight),
        Bound("theorem2-printed", "Eq. 14, reading (i)", _THEOREM2, (RADIUS_ONE,), _theorem2_printed),
        Bound("theorem2-one-signed", "Eq. 14, reading (i)", _THEOREM2, (RADIUS_ONE, ONE_SIGNED), _theorem2_printed),
        Bound("theorem2-tight", "Theorem 2, corrected (i)", _THEOREM2_TIGHT, (), theorem2_tight("eq9")),
        Bound("theorem2ii-printed", "Eq. 14, reading (ii)", _THEOREM2, (RADIUS_ONE,), _theorem2_printed),
        Bound("theorem2ii-tight", "Theorem 2, corrected (ii)", _THEOREM2_TIGHT, (), theorem2_tight("theorem2")),
    )
}
"""Every bound by key. ``-one-signed`` is the printed bound under the hypothesis that makes it true."""
