"""Check Theorem 1, Remark 1 and Theorem 2 on many instances, and draw a verdict from what was found.

Random instances show how far typical errors lie below the bounds; they have no power to refute Theorem 2. Constructive
ones, in exact fractions, attain the tight bounds and break the printed ones. A verdict says what both found.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from dmpo_theory.bounds import BOUNDS, Number, Setting
from dmpo_theory.constructive import (
    NON_NEGATIVE,
    NON_POSITIVE,
    SIGNED,
    Witness,
    flooding_gradient,
    flooding_values,
    shift_register_witness,
    three_agent_star_witness,
)
from dmpo_theory.errors import require_memory
from dmpo_theory.exact import local_values
from dmpo_theory.extended import extended_value, mean_span, span, uniform_law
from dmpo_theory.files import whole
from dmpo_theory.gradient import Reading, largest_state_gradient
from dmpo_theory.graph import FAMILIES, AgentGraph, named_graph, path, ring
from dmpo_theory.instance_file import Instance
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.mdp import ROW_SUM_TOLERANCE, Array, LocalPolicy, NetworkedMDP
from dmpo_theory.parallel import available_threads, in_threads

REWARDS = {"signed": SIGNED, "non-negative": NON_NEGATIVE, "non-positive": NON_POSITIVE}
_THREADS_FROM = 2**12
_FLOODED = 8
"""Agents whose gradient a flooding instance attains the bound for, evenly spaced: exact fractions take their time."""


@dataclass(frozen=True)
class Check:
    """One bound held against one exact error.

    Attributes:
        bound: key in :data:`dmpo_theory.bounds.BOUNDS`.
        instance: what was checked.
        n: its number of agents.
        rewards: sign of the rewards.
        gamma: discount factor.
        kappa: radius of the truncation.
        agent: the agent whose ratio is worst.
        error: the exact error of truncation, the worst over states and, for Theorem 1 and Remark 1, reference laws.
        value: the bound.
        unit: ``r_max / (1 - gamma)``, for Theorem 2 times ``g_max``: what makes instances comparable in a figure.
        rounding: how far the error may be off, 0 for exact fractions.
    """

    bound: str
    instance: str
    n: int
    rewards: str
    gamma: float
    kappa: int
    agent: int
    error: Number
    value: Number
    unit: float
    rounding: float = 0

    @property
    def certain_error(self) -> Number:
        """What the error is at least, rounding allowed for."""
        return max(self.error - self.rounding, 0)

    @property
    def ratio(self) -> Number:
        """Error, rounding allowed for, over bound; 0 where both vanish."""
        if self.value == 0:
            return 0 if self.certain_error == 0 else float("inf")
        return self.certain_error / self.value

    @property
    def slack(self) -> Number:
        """Bound minus error; negative where the bound is violated."""
        return self.value - self.certain_error

    @property
    def violated(self) -> bool:
        """Whether the error certainly exceeds the bound."""
        return self.slack < 0

    @property
    def attained(self) -> bool:
        """Whether error and bound are equal fractions."""
        return isinstance(self.ratio, Fraction) and self.ratio == 1


@dataclass(frozen=True)
class Verdict:
    """What all checks of one bound say.

    Attributes:
        bound: key in :data:`dmpo_theory.bounds.BOUNDS`.
        verdict: "fails", "holds" or "holds, tight".
        checks: number of comparisons on instances that meet its hypotheses.
        violations: on how many of them the error exceeds the bound.
        worst: the check with the largest ratio.
        witness: what the verdict rests on: an instance with the fewest agents that violates the bound; else one that
            attains it; else the worst.
    """

    bound: str
    verdict: str
    checks: int
    violations: int
    worst: Check
    witness: Check

    @property
    def because(self) -> str:
        """The witness in words."""
        c = self.witness
        ratio = str(c.ratio) if isinstance(c.ratio, Fraction) and len(str(c.ratio)) < 8 else f"{float(c.ratio):.3f}"
        return f"{c.instance}, {c.rewards}, kappa {c.kappa}: ratio {ratio}"


def check_instance(name: str, rewards: str, mdp: NetworkedMDP, policy: LocalPolicy) -> Iterator[Check]:
    """Every bound whose hypotheses hold, for every kappa up to the diameter; for each the worst agent.

    Theorem 2 takes the worst joint state, hence the worst law of the state, and the uniform reference law.
    """
    setting = Setting.of(mdp, policy)
    solved = local_values(mdp, policy)
    values = solved.values
    # Errors are differences of two values; tables' rows may be off by the tolerance with which they were accepted.
    rounding = 2 * solved.error_bound + ROW_SUM_TOLERANCE * float(setting.r_max) / (1 - mdp.gamma)
    spans, mean_spans = span(mdp, values), mean_span(mdp, values)
    for kappa in range(mdp.graph.diameter + 1):
        errors: dict[str, Sequence[float] | Array] = {
            "theorem1": spans[:, kappa],
            "remark1": np.full(mdp.n, mean_spans[kappa]),
            "theorem2": _gradient_errors(mdp, policy, values, kappa, "eq9"),
            "theorem2ii": _gradient_errors(mdp, policy, values, kappa, "theorem2"),
        }
        for key, bound in BOUNDS.items():
            if bound.applies(setting):
                found = [float(error) for error in errors[key.split("-")[0]]]
                yield _worst_agent(key, name, rewards, kappa, range(mdp.n), found, setting, rounding)


def check_witness(witness: Witness, rewards: str, claim: str) -> Iterator[Check]:
    """Every bound of a claim, such as ``"theorem1"``, against an exact error, where its hypotheses hold."""
    for key, bound in BOUNDS.items():
        if key.split("-")[0] == claim and bound.applies(witness.setting):
            yield _worst_agent(
                key, witness.name, rewards, witness.kappa, witness.agents, witness.errors, witness.setting
            )


Job = Callable[[], list[Check]]
"""A piece of work that takes from milliseconds to seconds; pickles, so that it can run anywhere."""


def instance_jobs(instances: Iterable[Instance]) -> list[Job]:
    """One job for each instance."""
    return [partial(_check_loaded, instance) for instance in instances]


def random_jobs(
    families: Sequence[str], n: int, gamma: float, couplings: Sequence[float], seeds: Sequence[int]
) -> list[Job]:
    """One job a random instance: every family, coupling, sign of rewards and seed."""
    return [
        partial(_check_random, family, n, gamma, coupling, rewards, seed)
        for family, coupling, rewards, seed in itertools.product(families, couplings, REWARDS, seeds)
    ]


def constructive_jobs(families: Sequence[str], n: int, gamma: Fraction, kappas: Sequence[int] = range(4)) -> list[Job]:
    """Small counterexamples at each of ``kappas``, then the flooding instances of every family, in exact fractions."""
    small = [partial(_check_small, gamma, rewards, kappas) for rewards in REWARDS]
    return [*small, *(partial(_check_flooding, f, n, gamma, r) for f, r in itertools.product(families, REWARDS))]


def rewards_sign(mdp: NetworkedMDP) -> str:
    """One of the keys of ``REWARDS``."""
    low = min(float(table.min()) for table in mdp.reward)
    high = max(float(table.max()) for table in mdp.reward)
    return "non-negative" if low >= 0 else "non-positive" if high <= 0 else "signed"


def _check_loaded(instance: Instance) -> list[Check]:
    return list(check_instance(instance.name, rewards_sign(instance.mdp), instance.mdp, instance.policy))


def _check_random(family: str, n: int, gamma: float, coupling: float, rewards: str, seed: int) -> list[Check]:
    low, high = (float(end) for end in REWARDS[rewards])
    graph = _family_graph(family, n, seed)
    require_memory(64.0 * n * 2.0**n, f"exact values of {n} agents with two states each", "use fewer agents")
    rng = np.random.default_rng([seed, n])
    mdp = random_mdp(graph, gamma=gamma, reward_range=(low, high), coupling=coupling, concentration=0.3, rng=rng)
    policy = random_policy(mdp, coupling=coupling, concentration=0.3, rng=rng)
    return list(check_instance(f"random {family}({n}), coupling {coupling:g}, seed {seed}", rewards, mdp, policy))


def _check_small(gamma: Fraction, rewards: str, kappas: Sequence[int]) -> list[Check]:
    """At each kappa an instance that breaks the printed bound for every gamma, if any does and rewards are signed."""
    ends, found = REWARDS[rewards], list[Check]()
    found += check_witness(three_agent_star_witness(gamma, ends), rewards, "theorem2")
    for kappa in kappas:
        found += check_witness(shift_register_witness(kappa, gamma, ends), rewards, "theorem1")
        blind = ring(2 * kappa + 3) if kappa else path(2)  # every agent misses somebody
        name = f"flooding on {'ring' if kappa else 'path'}({blind.n})"
        values = flooding_values(blind, kappa, gamma, ends, name=name)
        found += check_witness(values.mean(), rewards, "remark1")
        # The centre of a path sees all, everybody else does not; at kappa = 0 two agents will do if gamma^2 > 1/2.
        size = max(2 * kappa + 1, 2)
        name = f"flooding on path({size})"
        centre = flooding_gradient(path(size), kappa, kappa, gamma, "eq9", ends, name=name)
        found += check_witness(centre, rewards, "theorem2")
        name = f"flooding on path({kappa + 2})"
        end = flooding_gradient(path(kappa + 2), 0, kappa, gamma, "theorem2", ends, name=name)
        found += check_witness(end, rewards, "theorem2ii")
    return found


def _check_flooding(family: str, n: int, gamma: Fraction, rewards: str) -> list[Check]:
    graph, ends, name = _family_graph(family, n, 0), REWARDS[rewards], f"flooding on {family}({n})"
    found: list[Check] = []
    for kappa in range(graph.diameter + 1):
        values = flooding_values(graph, kappa, gamma, ends, name=name)
        found += [*check_witness(values, rewards, "theorem1"), *check_witness(values.mean(), rewards, "remark1")]
        for i in range(0, n, -(-n // _FLOODED)):
            eq9 = flooding_gradient(graph, i, kappa, gamma, "eq9", ends, name=name)
            text = flooding_gradient(graph, i, kappa, gamma, "theorem2", ends, name=name)
            found += [*check_witness(eq9, rewards, "theorem2"), *check_witness(text, rewards, "theorem2ii")]
    return found


def verdicts(checks: Iterable[Check]) -> list[Verdict]:
    """One verdict for each bound that was checked, in the order of :data:`dmpo_theory.bounds.BOUNDS`."""
    by_key: dict[str, list[Check]] = {key: [] for key in BOUNDS}
    for check in checks:
        by_key[check.bound].append(check)
    result = []
    for key, found in by_key.items():
        if not found:
            continue
        worst = max(found, key=lambda check: float(check.ratio))
        broken = [check for check in found if check.violated]
        attained = [check for check in found if check.attained]
        word = "fails" if broken else "holds, tight" if attained else "holds"
        witness = min(broken or attained or [worst], key=lambda check: check.n)
        result.append(Verdict(key, word, len(found), len(broken), worst, witness))
    return result


COLUMNS = (
    *("bound", "instance", "n", "rewards", "gamma", "kappa", "agent"),
    *("error", "value", "slack", "ratio", "unit", "exact_ratio"),
)


def write_checks(checks: Iterable[Check], file_path: Path) -> None:
    """One row a check; ``exact_ratio`` is a fraction for exact instances and empty for float ones."""
    with whole(file_path) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for c in checks:
            exact = str(c.ratio) if isinstance(c.ratio, Fraction) else ""
            numbers = [repr(float(x)) for x in (c.error, c.value, c.slack, c.ratio, c.unit)]
            writer.writerow([c.bound, c.instance, c.n, c.rewards, c.gamma, c.kappa, c.agent, *numbers, exact])


def write_verdicts(found: Iterable[Verdict], file_path: Path) -> None:
    """One row a bound."""
    with whole(file_path) as file:
        writer = csv.writer(file)
        writer.writerow(("bound", "source", "hypotheses", "verdict", "checks", "violations", "worst_ratio", "witness"))
        for v in found:
            bound = BOUNDS[v.bound]
            hypotheses = "; ".join(hypothesis.text for hypothesis in bound.hypotheses)
            ratio = repr(float(v.worst.ratio))
            writer.writerow([v.bound, bound.source, hypotheses, v.verdict, v.checks, v.violations, ratio, v.because])


def _family_graph(family: str, n: int, seed: int) -> AgentGraph:
    return named_graph(family, n, np.random.default_rng([seed, list(FAMILIES).index(family), n]))


def _gradient_errors(
    mdp: NetworkedMDP, policy: LocalPolicy, values: Array, kappa: int, reading: Reading
) -> list[float]:
    """``max_s |g_i - truncated g_i|`` of every agent: of either only the continuations differ, by a function of s'."""
    mean, uniform = values.mean(axis=0), uniform_law(mdp)
    balls = [mdp.graph.neighbors(i, kappa) for i in range(mdp.n)]
    if reading == "eq9":
        extended = [extended_value(mdp, value, ball, uniform) for value, ball in zip(values, balls, strict=True)]

    def error(i: int) -> float:
        if all(len(balls[j]) == mdp.n for j in balls[i]):
            return 0.0  # nothing is left out
        if reading == "eq9":
            seen = sum(extended[j] for j in balls[i])
        else:
            seen = extended_value(mdp, values[list(balls[i])].sum(axis=0), balls[i], uniform)
        return largest_state_gradient(mdp, policy, i, mean - seen / mdp.n)

    threads = available_threads() if mdp.n_joint_states >= _THREADS_FROM else 1
    return list(in_threads(error, range(mdp.n), threads))


def _worst_agent(
    key: str,
    name: str,
    rewards: str,
    kappa: int,
    agents: Sequence[int],
    errors: Sequence[Number],
    setting: Setting,
    rounding: float = 0,
) -> Check:
    bound = BOUNDS[key].value(setting, kappa)
    checks = []
    for agent, error in zip(agents, errors, strict=True):
        unit = setting.r_max / (1 - setting.gamma) * (setting.g_max[agent] if key.startswith("theorem2") else 1)
        checks.append(
            Check(
                key,
                name,
                setting.graph.n,
                rewards,
                float(setting.gamma),
                kappa,
                agent,
                error,
                bound[agent],
                float(unit),
                rounding,
            )
        )
    return max(checks, key=lambda check: float(check.ratio))
