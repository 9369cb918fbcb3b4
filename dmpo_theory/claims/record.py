"""What a claim is, what a check of it finds, and the instances it is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from dmpo_theory.bounds import BOUNDS, Number, Setting
from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.exact import local_values
from dmpo_theory.graph import FAMILIES, named_graph
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP
from dmpo_theory.sweep import REWARDS, Check, check_instance, constructive_jobs, rewards_sign

HOLDS, TIGHT, FAILS, NOT_APPLICABLE = "holds", "holds, tight", "fails", "not applicable"
ROUNDING, ABSOLUTE = 1e-9, 1e-10
"""A float error may exceed its bound by this fraction of it, plus this much, before it counts as a violation."""


@dataclass(frozen=True)
class Finding:
    """What a check computed.

    Attributes:
        verdict: "holds", "holds, tight", "fails" or "not applicable".
        checks: number of comparisons it rests on.
        printed: largest ratio of error to the bound as printed, if the claim has one.
        corrected: largest ratio of error to the corrected bound, if there is one.
        witness: the instance that decides, in words.
    """

    verdict: str
    checks: int
    printed: Number | None
    corrected: Number | None
    witness: str


@dataclass(frozen=True)
class Case:
    """An MDP with its policy; everything exact about it is computed once, when first asked for."""

    name: str
    mdp: NetworkedMDP
    policy: LocalPolicy

    @cached_property
    def values(self) -> Array:
        """``V_i(x)``, ``[n, X]``."""
        return local_values(self.mdp, self.policy).values

    @cached_property
    def occupancy(self) -> Array:
        """Normalised discounted occupancy from a uniform start, ``[X]``."""
        return occupancy(self.mdp, self.policy).law

    @cached_property
    def chain(self) -> ClosedLoop:
        """The closed loop in factors."""
        return closed_loop(self.mdp, self.policy)

    @cached_property
    def setting(self) -> Setting:
        """What the bounds depend on."""
        return Setting.of(self.mdp, self.policy)

    @property
    def rewards(self) -> str:
        """Sign of the rewards."""
        return rewards_sign(self.mdp)

    @property
    def kappas(self) -> range:
        """Every kappa up to the diameter."""
        return range(self.mdp.graph.diameter + 1)


@dataclass(frozen=True, eq=False)
class Scope:
    """What an audit looks at.

    Attributes:
        families: graph families, each with random and flooding instances.
        n: number of agents.
        gamma: discount factor; exact instances use the fraction.
        instances: random instances for each family.
        seed: of the random instances.
        kappa: the only kappa to check; all up to the diameter by default.
        given: instances of the user's own; where there are any, nothing else is checked.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    n: int = 5
    gamma: Fraction = Fraction(9, 10)
    instances: int = 2
    seed: int = 0
    kappa: int | None = None
    given: tuple[Case, ...] = field(default=())

    @property
    def narrowed(self) -> bool:
        """Whether a claim may find nothing to check: on the user's own instances, or at one kappa."""
        return bool(self.given) or self.kappa is not None

    @property
    def constructive(self) -> bool:
        """Whether constructive instances take part: not when the user's own are asked about."""
        return not self.given

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """The user's instances, or random ones of every family, of both coupling strengths and signs in turn."""
        return self.given or tuple(self._random_cases())

    def _random_cases(self) -> Iterable[Case]:
        kinds = [(coupling, sign) for coupling in (1.0, 0.3) for sign in REWARDS]
        for position, family in enumerate(self.families):
            for k in range(self.instances):
                rng = np.random.default_rng([self.seed, position, k])
                coupling, sign = kinds[(position + k) % len(kinds)]
                low, high = (float(end) for end in REWARDS[sign])
                mdp = random_mdp(
                    named_graph(family, self.n, rng),
                    gamma=float(self.gamma),
                    reward_range=(low, high),
                    coupling=coupling,
                    concentration=0.3,
                    rng=rng,
                )
                policy = random_policy(mdp, coupling=coupling, concentration=0.3, rng=rng)
                yield Case(f"random {family}({self.n}) #{k}, {sign}", mdp, policy)

    def kappas(self, case: Case) -> Sequence[int]:
        """The kappas to check on a case."""
        return [kappa for kappa in case.kappas if self.kappa in (None, kappa)]

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """Theorem 1, Remark 1 and Theorem 2 on all cases and, exactly, on the constructive instances."""
        found: list[Check] = []
        for case in self.cases:
            found += check_instance(case.name, case.rewards, case.mdp, case.policy)
        if self.constructive:
            kappas = range(4) if self.kappa is None else (self.kappa,)
            for job in constructive_jobs(self.families, self.n, self.gamma, kappas):
                found += job()
        return tuple(check for check in found if self.kappa in (None, check.kappa))


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, or about it, and the function that decides it.

    Attributes:
        id: short name.
        source: where in the paper.
        title: the claim in a few words.
        statement: the claim in LaTeX.
        hypotheses: what it assumes, in words.
        expected: the verdict that is expected; no check reads it.
        constant: the tight constant or what takes the claim's place, in LaTeX.
        check: computes the verdict.
    """

    id: str
    source: str
    title: str
    statement: str
    hypotheses: str
    expected: str
    constant: str
    check: Callable[[Scope], Finding]


class Tally:
    """Collects comparisons of an error with a bound, and keeps the worst of them and the first violation."""

    def __init__(self) -> None:
        self.checks = 0
        self.worst: Number = 0
        self.attained = False
        self._worst_at = ""
        self._broken_at = ""

    def add(self, error: Number, bound: Number, where: str) -> None:
        """One comparison; fractions are compared exactly, floats up to rounding. Smaller instances come first."""
        self.checks += 1
        exact = isinstance(error, Fraction) and isinstance(bound, Fraction | int)
        allowed = bound if exact else bound * (1 + ROUNDING) + ABSOLUTE
        ratio: Number = error / bound if bound else (0 if error <= allowed else float("inf"))
        if not exact and error <= ABSOLUTE:
            ratio = min(ratio, 1.0)
        if error > allowed and not self._broken_at:
            self._broken_at = f"{where}: ratio {as_text(ratio)}"
        self.attained |= exact and bound > 0 and error == bound
        if ratio > self.worst or not self._worst_at:
            self.worst, self._worst_at = ratio, where

    @property
    def violated(self) -> bool:
        """Whether any error exceeded its bound."""
        return bool(self._broken_at)

    @property
    def witness(self) -> str:
        """The first violation, or else the worst comparison."""
        return self._broken_at or self._worst_at

    @property
    def verdict(self) -> str:
        """The verdict on the bound."""
        if not self.checks:
            return NOT_APPLICABLE
        return FAILS if self.violated else TIGHT if self.attained else HOLDS


def decided_by(printed: Tally | None, corrected: Tally | None = None) -> Finding:
    """The finding on a printed bound, with its correction beside it; on the correction if nothing is printed."""
    main = printed if printed is not None else corrected
    if main is None or not main.checks:
        return not_applicable("no instance meets the hypotheses")
    return Finding(
        main.verdict,
        main.checks,
        None if printed is None else printed.worst,
        None if corrected is None or not corrected.checks else corrected.worst,
        main.witness,
    )


def not_applicable(reason: str) -> Finding:
    """The finding where hypotheses are not met; ``reason`` says which and why."""
    return Finding(NOT_APPLICABLE, 0, None, None, reason)


def from_checks(scope: Scope, printed: str | None, corrected: str, signs: Sequence[str] = tuple(REWARDS)) -> Finding:
    """The finding on one of :data:`dmpo_theory.bounds.BOUNDS`, from the scope's checks.

    Args:
        scope: what was checked.
        printed: key of the printed bound; None decides the corrected one.
        corrected: key of the corrected bound.
        signs: which rewards the claim speaks of; a bound's own hypotheses hold on all its checks.
    """
    tallies = {key: Tally() for key in (printed, corrected) if key}
    # Smallest instances first, so that the witness of equal ratios is the smallest.
    for check in sorted(scope.checks, key=lambda check: check.n):
        if check.bound in tallies and check.rewards in signs:
            tallies[check.bound].add(check.certain_error, check.value, f"{check.instance}, kappa {check.kappa}")
    if not tallies[printed or corrected].checks:
        needed = "; ".join(hypothesis.text for hypothesis in BOUNDS[printed or corrected].hypotheses)
        rewards = "" if len(signs) == len(REWARDS) else f"rewards {' or '.join(signs)}; "
        found = ", ".join(f"{c.name}: {c.rewards}, m = {c.setting.m}, p = {c.setting.p}" for c in scope.cases)
        return not_applicable(f"needs {rewards}{needed}; found {found}")
    return decided_by(tallies[printed] if printed else None, tallies[corrected])


def as_text(ratio: Number | None) -> str:
    """A ratio: a short fraction as it is, anything else with four digits."""
    if ratio is None:
        return ""
    if isinstance(ratio, Fraction) and max(ratio.numerator, ratio.denominator) < 10_000:
        return str(ratio)
    return f"{float(ratio):.4g}"
