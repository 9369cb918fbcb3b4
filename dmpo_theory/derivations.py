r"""Appendix, Eqs. 12-17: the algebra of the paper and of its corrections, each step proven by sympy.

What is not algebra (which terms vanish, and why) is proven in ``docs/theory.md``; the statements say what they take
from there. ``python -m dmpo_theory.derivations > docs/derivations.md`` writes the page.

>>> from dmpo_theory.symbolic import verify
>>> print(STEPS["T2.5"].statement)
The closing sum: $|L_1|+|L_2|$ is Eq. 14's bracket.
>>> verify(STEPS["T2.5"])
True
"""

from __future__ import annotations

import sys

import sympy as sp
from sympy import Derivative, Expr, Max, Rational, Subs, Sum, ceiling, exp, log, oo

from dmpo_theory.symbolic import Step, formula, gamma, share, verify, x

SECTIONS = {
    "T1": "Theorem 1: Eqs. 12 and 13",
    "E4": "Eq. 4 as printed",
    "T2": "Theorem 2 as printed: Eqs. 15, 16, 17 and 14",
    "T2i": "Theorem 2 corrected, reading (i): each neighbour on its own neighbourhood, as in Eq. 9",
    "T2ii": "Theorem 2, reading (ii): all on agent i's neighbourhood, as in its text",
    "L": "Targets, advantage and entropy: Eqs. 6, 7, 9 and 10",
    "PPO": "The policy step: PPO's surrogate and the joint policy",
}
"""Title of each section, by what its steps' names begin with."""

kappa, e, f = sp.symbols("kappa e f", integer=True, nonnegative=True)
n, n_in, n_hit, L, q, T = sp.symbols("n N n_1 L q T", integer=True, positive=True)
t, j, ell = sp.symbols("t j ell", integer=True)
r, g, span, D, beta, epsilon = sp.symbols(r"r_{\max} g_{\max} \mathrm{span} D beta epsilon", positive=True)
a, b, c, d = sp.symbols("a b c d", nonnegative=True)
V, theta, old, rho, low = sp.symbols(r"V theta \theta_{\mathrm{old}} rho F_{\min}", real=True)
distance = sp.IndexedBase("d", positive=True, integer=True)
pi = sp.Function("pi", positive=True)


def _tail(first: Expr, size: Expr) -> Expr:
    return Sum(size * gamma**t, (t, first, oo))


def _eq14(share_inside: Expr, exponent: Expr) -> Expr:
    return gamma**exponent / (1 - gamma) * (1 - (1 - gamma**2) * share_inside) * r * g


EQ12 = r * gamma**kappa / (1 - gamma)
EQ14 = _eq14(x, kappa - 1)
EQ16 = x * gamma ** (kappa + 1) * r * g
EQ17 = (1 - x) * gamma ** (kappa - 1) / (1 - gamma) * r * g
HALF = span / 2 * g * gamma ** (kappa + 1) / (1 - gamma)
WEIGHTS = 3 * gamma ** (2 * q + 1) + 4 * gamma ** (q + 1) * (1 - gamma**q) / (1 - gamma)
EXPONENT = Max(ell, kappa + 1 - ell)
FLOOR = 2 * gamma ** (2 - q) / (q + 1)
COIN = 1 / (1 + exp(-theta))
SLOPE = Derivative(-COIN * log(COIN) - (1 - COIN) * log(1 - COIN), theta)


Place = tuple[str, str]


def _identity(place: Place, sides: tuple[Expr, Expr], words: str) -> Step:
    return Step(*place, words, "identity", *sides)


def _at_most(place: Place, sides: tuple[Expr, Expr, Expr], words: str) -> Step:
    """``sides`` are left, right and slack."""
    return Step(*place, words, "inequality", *sides)


def _iff(place: Place, sides: tuple[Expr, Expr], ratio: Expr, condition: tuple[Expr, Expr], words: str) -> Step:
    return Step(*place, words, "equivalence", *sides, ratio, condition)


_THEOREM1 = (
    _at_most(
        ("T1.1", "Theorem 1"),
        ((e + 1 + f) * q + a, a + (e + 1 + f) * q + e, e),
        r"Let $R=\max(m,p)=e+1+f$ be the larger radius, $a$ the policy's, and $\kappa=a+Rq+e$, so that "
        r"$q=\lfloor(\kappa-a)/R\rfloor$. By step $q$ the reward depends on $Rq+a\le\kappa$ hops: on nothing "
        "unseen.",
    ),
    _at_most(
        ("T1.2", "Theorem 1"),
        (a + (e + 1 + f) * q + e + 1, (e + 1 + f) * (q + 1) + a, f),
        r"One step later it depends on $\kappa+1$ hops. So the unseen first matters at "
        r"$t^*=\lfloor(\kappa-a)/R\rfloor+1$: at $\kappa$ if $m=p=1$, at $\kappa+1$ if policies read only the own "
        "state.",
    ),
    _identity(
        ("T1.3", "Eq. 12, corrected"),
        (_tail(kappa, span), span * gamma**kappa / (1 - gamma)),
        r"Expected rewards from step $\kappa$ on move by at most $\mathrm{span}=\max r_i-\min r_i$ each.",
    ),
    _identity(
        ("T1.4", "Eq. 12"),
        (_tail(kappa, 2 * r), 2 * EQ12),
        r"Rewards of both signs may have $\mathrm{span}=2r_{\max}$: twice what is printed.",
    ),
    _identity(
        ("T1.5", "Eq. 12"),
        (_tail(kappa, r), EQ12),
        r"Rewards of one sign have $\mathrm{span}\le r_{\max}$: what is printed.",
    ),
    _identity(
        ("T1.6", "Eq. 13"),
        (Sum(span * gamma**kappa / (1 - gamma) / n, (j, 1, n)), span * gamma**kappa / (1 - gamma)),
        "Remark 1 averages over agents and keeps the constant, whichever it is.",
    ),
    _at_most(
        ("T1.7", "Eq. 12, matched law"),
        (span**2 * share * (1 - share), (span / 2) ** 2, span**2 * (1 - 2 * share) ** 2 / 4),
        "A variable in an interval of length span, with its mean at a fraction $u$ of it, has at most the "
        "variance on the left, so a mean absolute deviation of at most span/2: conditional means under the law "
        r"that the error is averaged over make $r_{\max}$ enough for both signs.",
    ),
)

_EQ4 = (
    _identity(
        ("E4.1", "Eq. 4"),
        (_tail(sp.S.One, 2 * r), 2 * gamma ** (1 - kappa) * EQ12),
        r"If $p_i$ reads $N_i^\kappa$, then $R=\kappa$ and $t^*=1$ for every $\kappa\ge1$: nothing decays, and "
        "the ratio to Eq. 12 has no bound.",
    ),
)

_AS_PRINTED = (
    _identity(
        ("T2.1", "Eq. 15"),
        (COIN * Derivative(log(COIN), theta) + (1 - COIN) * Derivative(log(1 - COIN), theta), sp.S.Zero),
        "The score has mean zero, here a coin's: baselines and other agents' rewards drop out.",
    ),
    _identity(
        ("T2.2", "Eq. 16"),
        (gamma * x * _tail(kappa, r) * g, x * gamma ** (kappa + 1) / (1 - gamma) * r * g),
        r"The first line of Eq. 16 and Eq. 12 give this, with $x=|N_i^\kappa|/n$.",
    ),
    _identity(
        ("T2.3", "Eq. 16"),
        (gamma * x * _tail(kappa, r) * g, EQ16 / (1 - gamma)),
        "The second line of Eq. 16 is smaller by a factor that got lost. The closing sum has it again.",
    ),
    _identity(
        ("T2.4", "Eq. 17"),
        ((1 - x) * gamma ** (kappa - 1) * _tail(sp.S.Zero, r) * g, EQ17),
        r"What is left of a value after $\kappa-1$ steps.",
    ),
    _identity(
        ("T2.5", "Eq. 14"),
        (x * gamma ** (kappa + 1) / (1 - gamma) * r * g + EQ17, EQ14),
        "The closing sum: $|L_1|+|L_2|$ is Eq. 14's bracket.",
    ),
)

_READING_I = (
    _at_most(
        ("T2i.1", "after Eq. 15"),
        ((span * share - span / 2) ** 2, (span / 2) ** 2, span**2 * share * (1 - share)),
        "The score does not see a constant: subtract the mid-range, and at most half the oscillation is left. "
        r"Hence the score lemma, $\|E[f(s')\nabla\log\pi_i\mid s]\|\le\frac12\mathrm{osc}_i(f)\,g_{\max}$.",
    ),
    _identity(
        ("T2i.2", "after Eq. 15"),
        (
            Subs((low + span) * Derivative(COIN, theta) - low * Derivative(COIN, theta), theta, 0),
            span / 2 * Rational(1, 2),
        ),
        r"$\pi\nabla\log\pi=\nabla\pi$: a fair coin, whose scores are $\pm\frac12$, so that $g_{\max}=\frac12$, "
        "attains it.",
    ),
    _identity(
        ("T2i.3", "Eq. 17, corrected"),
        (
            Sum(gamma * span * gamma ** (distance[j] - 1) / (2 * n * (1 - gamma)) * g, (j, 1, n_hit)),
            span * g / (2 * n * (1 - gamma)) * Sum(gamma ** distance[j], (j, 1, n_hit)),
        ),
        r"The value of an agent at $d_j$ hops feels $s_i'$ from step $d_j-1$ on. Times $\gamma$, over $n$ and "
        r"halved by the score lemma, each agent outside has its own weight $\gamma^{d(i,j)}$.",
    ),
    _at_most(
        ("T2i.4", "Eq. 17, corrected"),
        (gamma ** (kappa + 1 + e), gamma ** (kappa + 1), gamma ** (kappa + 1) * (1 - gamma**e)),
        r"Agents outside are at $d=\kappa+1+e$ hops: at most $\gamma^{\kappa+1}$ each.",
    ),
    _identity(
        ("T2i.5", "Eq. 17, corrected"),
        (EQ17, (1 - x) * HALF.subs(span, 2 * r) / gamma**2),
        "So the printed Eq. 17 is loose by this factor: nothing is felt before step $d$, which is later than "
        r"$\kappa-2$.",
    ),
    _identity(
        ("T2i.6", "Eq. 16, corrected"),
        (gamma * x * _tail(kappa, 2 * span) / 2 * g, 2 * x * HALF),
        r"Inside, $V_j$ and its extension both move, by $2\,\mathrm{span}$ together, from step $\kappa$ on.",
    ),
    _identity(
        ("T2i.7", "Eq. 14, corrected"),
        ((1 - x) * HALF + 2 * x * HALF, HALF * (1 + x)),
        "The corrected sum.",
    ),
    _iff(
        ("T2i.8", "Eq. 14, both signs"),
        ((1 + x) * gamma**2, 1 - (1 - gamma**2) * x),
        sp.S.One,
        (x, 1 - gamma**2),
        r"Divide both bounds by $r_{\max}g_{\max}\gamma^{\kappa-1}/(1-\gamma)$, with $\mathrm{span}=2r_{\max}$: "
        "Eq. 14 covers the corrected sum where, and only where, few agents are inside.",
    ),
    _iff(
        ("T2i.9", "Eq. 14, both signs"),
        (gamma ** (kappa + 1) / (1 - gamma) * r * g * (2 * n_hit + D) / n, _eq14(n_in / n, kappa - 1)),
        gamma ** (kappa - 1) / (n * (1 - gamma)) * r * g,
        (gamma**2 * (2 * n_hit + D), n - (1 - gamma**2) * n_in),
        r"The same with every distance: $N=|N_i^\kappa|$, of which $n_1$ do not see everything, and "
        r"$D=\sum_{j\notin N_i^\kappa}\gamma^{d(i,j)-\kappa-1}$. The left is attained, so this decides Eq. 14.",
    ),
    _iff(
        ("T2i.10", "Eq. 14, one sign"),
        (gamma**2 * (1 + x) / 2, 1 - (1 - gamma**2) * x),
        Rational(1, 2),
        (gamma**2 * (1 - x), 2 * (1 - x)),
        r"With $\mathrm{span}=r_{\max}$ the corrected sum is half of that.",
    ),
    _at_most(
        ("T2i.11", "Eq. 14, one sign"),
        (gamma**2 * (1 + x) / 2, 1 - (1 - gamma**2) * x, (1 - x) * (2 - gamma**2) / 2),
        "Eq. 14 always covers that: it holds for rewards of one sign.",
    ),
    _at_most(
        ("T2i.12", "Eq. 14, matched law"),
        ((1 - x) * gamma**2 + x * gamma**2, 1 - (1 - gamma**2) * x, (1 - gamma**2) * (1 - x)),
        "With conditional means under the law of $s'$ the inner part is halved too (T1.7): Eq. 14 holds for both "
        "signs.",
    ),
    _identity(
        ("T2i.13", "Eq. 14, stars"),
        (
            Sum(gamma * 2 * 2 * r * gamma / (1 - gamma) / (2 * (L + 1)) * g, (j, 1, L)),
            2 * L / (L + 1) * Subs(EQ14, (x, kappa), (1, 1)),
        ),
        r"The centre of a star with $L\ge2$ leaves, $\kappa=1$: all agents are inside, $x=1$, and all but the "
        r"centre miss something. Two leaves give $4/3$, whatever $\gamma$ is.",
    ),
    _at_most(
        ("T2i.14", "Eq. 14, stars"),
        (2 * L / (L + 1), sp.Integer(2), 2 / (L + 1)),
        "More leaves give more, up to 2.",
    ),
    _identity(
        ("T2i.15", "Theorem 2, law of the state"),
        (_tail(sp.S.Zero, sp.S.One), 1 / (1 - gamma)),
        r"The gradient of Eq. 1 sums over time with weights $\gamma^t$, where Theorem 2 has a mean: unnormalised, "
        "every bound needs this factor more.",
    ),
)

_READING_II = (
    _at_most(
        ("T2ii.1", "Eq. 14, reading (ii)"),
        ((kappa + 1) / 2, EXPONENT, sp.Abs(2 * ell - kappa - 1) / 2),
        r"An agent $\ell$ hops away has $\kappa+1-\ell$ to the unseen, and exponent $\max(\ell,\kappa+1-\ell)$. That "
        r"is an integer, so at least $\lceil(\kappa+1)/2\rceil$.",
    ),
    _identity(
        ("T2ii.2", "Eq. 14, reading (ii)"),
        (Subs(EXPONENT, (kappa, ell), (2 * q, q)), Subs(ceiling((kappa + 1) / 2), kappa, 2 * q)),
        r"For even $\kappa$ this is attained.",
    ),
    _identity(
        ("T2ii.3", "Eq. 14, reading (ii)"),
        (Subs(EXPONENT, (kappa, ell), (2 * q + 1, q + 1)), Subs(ceiling((kappa + 1) / 2), kappa, 2 * q + 1)),
        r"For odd $\kappa$ too: $\min_\ell\max(\ell,\kappa+1-\ell)=\lceil(\kappa+1)/2\rceil$. Reading (i) has "
        r"$\kappa+1$.",
    ),
    _identity(
        ("T2ii.4", "Eq. 14, reading (ii)"),
        (
            3 * gamma ** (2 * q + 1)
            + Sum(2 * gamma ** (2 * q + 1 - ell), (ell, 1, q))
            + Sum(2 * gamma**ell, (ell, q + 1, 2 * q)),
            WEIGHTS,
        ),
        r"At the end of a path of $\kappa+2=2q+2$ agents, these are the weights of the one outside and, twice "
        r"each, of those inside at $\ell=0,\dots,2q$.",
    ),
    _identity(
        ("T2ii.5", "Eq. 14, reading (ii)"),
        (
            r * g / (1 - gamma) / (2 * q + 2) * WEIGHTS / _eq14((2 * q + 1) / (2 * q + 2), 2 * q - 1),
            WEIGHTS / (gamma ** (2 * q - 1) * (1 + gamma**2 * (2 * q + 1))),
        ),
        r"The ratio to Eq. 14 for both signs; $11/7, 3, 59/11, 251/15$ for $\gamma=1/2$, $\kappa=2,4,6,10$.",
    ),
    _at_most(
        ("T2ii.6", "Eq. 14, reading (ii)"),
        (
            4 * gamma ** (e + 2),
            WEIGHTS.subs(q, e + 1),
            3 * gamma ** (2 * e + 3) + 4 * gamma ** (e + 3) * (1 - gamma**e) / (1 - gamma),
        ),
        r"With $q=e+1$: its numerator is at least $4\gamma^{q+1}$.",
    ),
    _at_most(
        ("T2ii.7", "Eq. 14, reading (ii)"),
        (1 + gamma**2 * (2 * q + 1), 2 * (q + 1), (1 - gamma**2) * (2 * q + 1)),
        r"The bracket in its denominator is at most $2(q+1)$: the ratio is at least $2\gamma^{2-q}/(q+1)$.",
    ),
    _identity(
        ("T2ii.8", "Eq. 14, reading (ii)"),
        (FLOOR.subs(q, q + 1) / FLOOR, (q + 1) / (gamma * (q + 2))),
        r"That grows by a factor which tends to $1/\gamma>1$: without bound.",
    ),
)

_LEARNING = (
    _identity(
        ("L.1", "Eq. 6"),
        (Sum(r, (t, 0, T - 1)), T * r),
        r"Without $\gamma^t$ a constant reward adds up for ever, in Theorem 1's definitions as well.",
    ),
    _identity(
        ("L.2", "Eq. 7"),
        (Sum(gamma**t * rho, (t, 0, T - 1)) + V - V, rho * (1 - gamma**T) / (1 - gamma)),
        r"One sweep of Eq. 7 as printed, $V\leftarrow\sum_{l<T}\gamma^l\rho+V$, for a constant reward $\rho$ (in "
        "general: the long-run mean reward, for the stationary mean of $V$): it adds this every time.",
    ),
    _iff(
        ("L.3", "Eq. 7"),
        (rho * (1 - gamma**T) / (1 - gamma) + V, V),
        (1 - gamma**T) / (1 - gamma),
        (rho, sp.S.Zero),
        r"So the target is above $V$, or below, as $\rho$ is above 0 or below: no fixed point unless "
        r"$\rho=0$.",
    ),
    _identity(
        ("L.4", "Eq. 7, corrected"),
        (Sum(gamma**t * rho, (t, 0, T - 1)) + gamma**T * rho / (1 - gamma), rho / (1 - gamma)),
        r"With $\gamma^{T-t}$ on the last value the fixed point is the discounted value.",
    ),
    _identity(
        ("L.5", "after Eq. 9"),
        (rho - rho / n, rho * (1 - 1 / n)),
        r"The own reward at weight 1 against values at $1/n$ leaves this multiple of $\rho=E[r_i\nabla\log\pi_i]$ "
        r"with exact critics, whatever $\kappa$ is.",
    ),
    _identity(
        ("L.6", "Eq. 10"),
        (SLOPE, -theta * COIN * (1 - COIN)),
        r"The entropy of a coin falls as its logit $\theta$ leaves 0.",
    ),
    _at_most(
        ("L.7", "Eq. 10"),
        (SLOPE * (-beta * SLOPE), sp.S.Zero, beta * theta**2 * COIN**2 * (1 - COIN) ** 2),
        r"Descent on a loss with $+\beta H$ changes the entropy at the rate $-\beta\|\nabla H\|^2$, here the "
        r"coin's: it lowers it. A bonus is $-\beta H$.",
    ),
)

_PPO = (
    _identity(
        ("PPO.1", "after Eq. 10"),
        (Subs(Derivative(pi(theta) / pi(old), theta), theta, old), Subs(Derivative(log(pi(theta)), theta), theta, old)),
        r"At the old policy the ratio is 1, inside the clip range, and has the gradient of $\log\pi$: the "
        "surrogate's gradient is the policy gradient there.",
    ),
    _at_most(
        ("PPO.2", "after Eq. 10"),
        (a * c, (a + b) * (c + d), a * d + b * c + b * d),
        "Of two agents' probabilities let $a$, $c$ be the smaller of old and new: both joint probabilities are "
        r"at least $ac$. So overlaps multiply, $1-\mathrm{TV}(\pi',\pi)\ge\prod_i(1-\mathrm{TV}_i)$.",
    ),
    _at_most(
        ("PPO.3", "after Eq. 10"),
        (1 - (1 - a) * (1 - b), a + c + b, c + a * b),
        "If $a$ is the product form for the agents so far, $a+c$ their sum, $b$ the next one: "
        r"$1-\prod_i(1-\mathrm{TV}_i)\le\sum_i\mathrm{TV}_i$.",
    ),
    _at_most(
        ("PPO.4", "after Eq. 10"),
        (1 + (n + 1) * epsilon, (1 + n * epsilon) * (1 + epsilon), n * epsilon**2),
        r"Each agent at its clip gives $(1+\varepsilon)^n\ge1+n\varepsilon$, by induction: the joint ratio is not "
        r"clipped at $1+\varepsilon$.",
    ),
)

STEPS: dict[str, Step] = {
    step.id: step
    for section in (_THEOREM1, _EQ4, _AS_PRINTED, _READING_I, _READING_II, _LEARNING, _PPO)
    for step in section
}
"""Every step by name, in order."""

_HEAD = r"""# Derivations

*Written by `python -m dmpo_theory.derivations`, which proves every line with sympy before it prints it. Do not edit.*

An inequality comes with its slack, right side less left side; that it is not negative can be seen. Everywhere
$0<\gamma<1$ and $0\le x,u\le1$, with $x=|N_i^\kappa|/n$; $\kappa,e,f$ are integers from 0 on, $n,n_1,N,L,q,T$ from
1 on. Transitions and policies read neighbours, $m=p=1$, where nothing else is said. What is not algebra is proven in
`theory.md`.
"""


def render() -> str:
    """The derivations as a page; only what is proven is printed.

    Raises:
        ValueError: a step is not proven; the message names it.
    """
    lines = [_HEAD]
    for section, title in SECTIONS.items():
        lines.append(f"## {title}\n")
        for step in STEPS.values():
            if step.id.split(".")[0] != section:
                continue
            if not verify(step):
                raise ValueError(f"step {step.id} is not proven: {step.statement} Correct its sides or its slack")
            lines.append(f"**{step.id}** ({step.source}). {step.statement}\n\n$$\n{formula(step)}\n$$\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render())
