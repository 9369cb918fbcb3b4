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

Bounds are plain formulas of a :class:`Setting`, so that they are floats for a float MDP and exact fractions for a
rational one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from dmpo_theory.gradient import Reading, conditioning_sets, score_bound
from dmpo_theory.graph import AgentGraph, check_kappa
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP

Number = float | Fraction


@dataclass(frozen=True)
class Setting:
    """All that the bounds depend on.

    Attributes:
        graph: the agents' graph.
        gamma: discount factor.
        m: transition radius.
        p: policy radius.
        reward_range: lowest and highest reward of each agent, ``[n]``.
        g_max: largest norm of each agent's score ``grad log pi_i``, ``[n]``.
    """

    graph: AgentGraph
    gamma: Number
    m: int
    p: int
    reward_range: tuple[tuple[Number, Number], ...]
    g_max: tuple[Number, ...]

    @classmethod
    def of(cls, mdp: NetworkedMDP, policy: LocalPolicy) -> Setting:
        """The setting of an MDP and a policy; scores in softmax logits, 2-norm."""
        ranges = tuple((float(table.min()), float(table.max())) for table in mdp.reward)
        scores = tuple(score_bound(policy, i) for i in range(mdp.n))
        return cls(mdp.graph, mdp.gamma, mdp.radius, policy.radius, ranges, scores)

    @property
    def span(self) -> tuple[Number, ...]:
        """``max r_i - min r_i`` of each agent."""
        return tuple(high - low for low, high in self.reward_range)

    @property
    def r_max(self) -> Number:
        """Largest absolute reward of any agent."""
        return max(max(-low, high) for low, high in self.reward_range)

    def discount(self, steps: float) -> Number:
        """``gamma^steps``; 0 for infinitely many."""
        return 0 if math.isinf(steps) else self.gamma ** int(steps)

    def first_effect(self, distance: float) -> float:
        """``tau(d)``: the first step at which a state ``distance`` hops away can matter to an agent's reward."""
        if distance <= self.p:
            return 0
        speed = max(self.m, self.p)
        return math.inf if speed == 0 or math.isinf(distance) else math.ceil((distance - self.p) / speed)

    def outside_distance(self, j: int, seen: tuple[int, ...]) -> float:
        """``o_j``: hops from agent j to the nearest agent not in ``seen``; infinite if none can be reached."""
        unseen = [k for k in range(self.graph.n) if k not in seen]
        return float(self.graph.hop_distance[j, unseen].min(initial=math.inf))


@dataclass(frozen=True)
class Hypothesis:
    """A condition under which a bound is claimed, and the function that decides it."""

    text: str
    holds: Callable[[Setting], bool]


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
    value: Callable[[Setting, int], list[Number]]

    def applies(self, setting: Setting) -> bool:
        """Whether every hypothesis holds."""
        return all(hypothesis.holds(setting) for hypothesis in self.hypotheses)


def theorem1_tight(setting: Setting, kappa: int) -> list[Number]:
    """Theorem 1, tight: equality is attained on every graph that has an agent ``kappa + 1`` hops away."""
    graph = setting.graph
    hidden = [setting.first_effect(setting.outside_distance(i, graph.neighbors(i, kappa))) for i in range(graph.n)]
    return [setting.span[i] * setting.discount(hidden[i]) / (1 - setting.gamma) for i in range(graph.n)]


def remark1_tight(setting: Setting, kappa: int) -> list[Number]:
    """Remark 1, tight: the mean of Theorem 1's over agents, the same for each agent."""
    n = setting.graph.n
    return [sum(theorem1_tight(setting, kappa)) / n] * n


def theorem2_tight(reading: Reading, *, product: bool = True) -> Callable[[Setting, int], list[Number]]:
    """Theorem 2, tight, in the given reading; ``product`` reference laws do not depend on what is seen."""

    def value(setting: Setting, kappa: int) -> list[Number]:
        graph, tau = setting.graph, setting.first_effect
        result: list[Number] = []
        for i in range(graph.n):
            seen = conditioning_sets(graph, i, kappa, reading)
            total: Number = 0
            for j in range(graph.n):
                reach = tau(graph.hop_distance[i, j])
                if j in seen:
                    hidden = tau(setting.outside_distance(j, seen[j]))
                    both = max(hidden, reach)
                    decay = setting.discount(both) + setting.discount(both if product else hidden)
                else:
                    decay = setting.discount(reach)
                total += setting.span[j] * decay
            result.append(setting.g_max[i] * setting.gamma * total / (2 * graph.n * (1 - setting.gamma)))
        return result

    return value


def _theorem1_printed(setting: Setting, kappa: int) -> list[Number]:
    check_kappa(kappa)
    bound: Number = setting.r_max * setting.discount(kappa) / (1 - setting.gamma)
    return [bound] * setting.graph.n


def _theorem2_printed(setting: Setting, kappa: int) -> list[Number]:
    gamma, n = setting.gamma, setting.graph.n
    result: list[Number] = []
    for i in range(n):
        share = Fraction(len(setting.graph.neighbors(i, kappa)), n)
        size = setting.r_max * setting.g_max[i] / (1 - gamma)
        # gamma^(kappa - 1) [1 - (1 - gamma^2) share], with the bracket split; at gamma = kappa = 0 it is infinite
        outside = (1 - share) * gamma ** (kappa - 1) if gamma > 0 or kappa > 0 else math.inf
        inside = share * gamma ** (kappa + 1)
        result.append(size * inside if share == 1 else size * (outside + inside) if size > 0 else 0)
    return result


RADIUS_ONE = Hypothesis("transitions and policies read N_i (m, p <= 1)", lambda s: max(s.m, s.p) <= 1)
ONE_SIGNED = Hypothesis(
    "rewards of one sign",
    lambda s: all(low >= 0 for low, _ in s.reward_range) or all(high <= 0 for _, high in s.reward_range),
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
