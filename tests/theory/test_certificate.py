"""Enclosures of exact values against exact rational values of the same float tables, at every joint state."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from flint import fmpq, fmpz_mat

from dmpo_theory.certificate import Certificate
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.exact import Values, local_values, mean_value
from dmpo_theory.graph import AgentGraph, path
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP
from tests.theory.dense_truth import Array, random_tables

ROUTES = ("dense", "compiled", "numpy")
GAMMAS = (0.5, 7 / 8, 0.9, 15 / 16)
PARTS, EACH = 8, 25


def dyadic(seed: int) -> tuple[NetworkedMDP, LocalPolicy]:
    """Tables in multiples of a power of two, rows summing to exactly 1: the float instance is the rational one."""
    rng = np.random.default_rng([seed, 4])
    mdp, policy = floating(seed)
    bits = int(rng.integers(2, 12))

    def rows(table: Array) -> Array:
        drawn = rng.multinomial(2**bits, table / table.sum(axis=-1, keepdims=True)) / 2.0**bits
        assert (drawn.sum(axis=-1) == 1).all()
        return drawn

    reward = tuple(np.round(table * 2.0**bits) / 2.0**bits for table in mdp.reward)
    transition = tuple(rows(table) for table in mdp.transition)
    exact = NetworkedMDP(mdp.graph, mdp.gamma, transition, reward, mdp.transition_parents)
    return exact, LocalPolicy(exact, tuple(rows(table) for table in policy.table), policy.parents)


def floating(seed: int) -> tuple[NetworkedMDP, LocalPolicy]:
    """Any tables: rows sum to 1 up to rounding, and the float numbers are taken as what they are."""
    rng = np.random.default_rng([seed, 5])
    n = int(rng.integers(1, 6))
    sizes = [2] * n
    if n <= 3:
        sizes = [int(s) for s in rng.integers(1, 4, n)]
    pairs = [(i, j) for i in range(n) for j in range(i)]
    graph = AgentGraph.from_edges(n, [pair for pair in pairs if rng.random() < 0.6])
    return random_tables(
        graph,
        sizes,
        [int(a) for a in rng.integers(1, 4, n)],
        GAMMAS[seed % len(GAMMAS)],
        rng,
        radii=(int(rng.integers(3)), int(rng.integers(3))),
        concentration=float(rng.choice([0.1, 0.5, 1.0])),
        thinned=float(rng.choice([0.0, 0.3])),
    )


def whole(numbers: Array) -> tuple[Array, int]:
    """Whole numbers and ``b`` such that the floats are exactly these over ``2^b``."""
    bits = max((Fraction(float(x)).denominator.bit_length() - 1 for x in numbers.flat), default=0)
    scaled = [int(Fraction(float(x)) * 2**bits) for x in numbers.flat]
    return np.array([*scaled, 0], dtype=object)[:-1].reshape(numbers.shape), bits


def rational_values_of_tables(mdp: NetworkedMDP, policy: LocalPolicy) -> list[list[fmpq]]:
    """``V_i(x)`` of the float tables and gamma as the exact numbers that they hold: ``[n][X]``."""
    states = np.indices(mdp.n_states).reshape(mdp.n, -1)
    size = states.shape[1]
    kernel, kernel_bits = np.array([[1]] * size, dtype=object), 0
    rewards, reward_bits = [], []
    for i in range(mdp.n):
        p, p_bits = whole(mdp.transition[i])
        pi, pi_bits = whole(policy.table[i])
        r, r_bits = whole(mdp.reward[i])
        tail = p.shape[-2:]
        p = np.broadcast_to(p[tuple(states[j] for j in mdp.transition_parents[i])], (size, *tail))
        pi = np.broadcast_to(pi[tuple(states[j] for j in policy.parents[i])], (size, tail[0]))
        factor = (pi[:, :, None] * p).sum(axis=1)
        kernel = (kernel[:, :, None] * factor[:, None, :]).reshape(size, -1)
        kernel_bits += p_bits + pi_bits
        rewards.append((pi * r[states[i]]).sum(axis=1))
        reward_bits.append(pi_bits + r_bits)
    gamma = Fraction(mdp.gamma)
    unit = gamma.denominator * 2**kernel_bits
    system = np.diag(np.array([unit] * size, dtype=object)) - gamma.numerator * kernel
    most = max(reward_bits)
    right = [
        [int(column[x]) * unit * 2 ** (most - bits) for column, bits in zip(rewards, reward_bits, strict=True)]
        for x in range(size)
    ]
    solved = fmpz_mat([[int(entry) for entry in row] for row in system]).solve(fmpz_mat(right))
    return [[solved[x, i] / 2**most for x in range(size)] for i in range(mdp.n)]


def exactly(number: float) -> fmpq:
    return fmpq(*float(number).as_integer_ratio())


def contains(result: Values, exact: list[list[fmpq]]) -> bool:
    """Whether ``values + lower <= V <= values + upper`` everywhere, in exact arithmetic."""
    return all(
        exactly(lower) <= v - exactly(found) <= exactly(upper)
        for row, values, lower, upper in zip(exact, result.values, result.lower, result.upper, strict=True)
        for v, found in zip(row, values, strict=True)
    )


def solved(mdp: NetworkedMDP, policy: LocalPolicy, route: str, tolerance: float | None = None) -> Values:
    return local_values(mdp, policy, method=route, tolerance=tolerance, threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", range(PARTS))
def test_two_hundred_enclosures_hold_exactly(part: int) -> None:
    """Four in five instances are dyadic, the others any float tables."""
    for seed in range(EACH * part, EACH * part + EACH):
        mdp, policy = (floating if seed % 5 == 4 else dyadic)(seed)
        exact = rational_values_of_tables(mdp, policy)
        for route in ROUTES:
            result = solved(mdp, policy, route)
            assert contains(result, exact), (seed, route)
            assert result.error_bound <= 1e-11, (seed, route)


def test_a_single_state_by_hand() -> None:
    """``V = (r_0 + r_1) / 2 / (1 - gamma)``: the exact solver that the enclosures are held against is right."""
    mdp = NetworkedMDP(path(1), 0.75, (np.ones((1, 2, 1)),), (np.array([[1.0, 2.0]]),))
    policy = LocalPolicy(mdp, (np.array([[0.5, 0.5]]),))
    assert rational_values_of_tables(mdp, policy) == [[fmpq(6)]]


def test_the_exact_solver_solves_bellmans_equation() -> None:
    """``V = r + gamma P V`` in fractions, on two agents, the joint kernel by loops over actions."""
    mdp, policy = next(found for found in map(dyadic, range(100)) if found[0].n == 2 and found[0].n_joint_states >= 6)
    values = rational_values_of_tables(mdp, policy)
    states = [tuple(s) for s in np.ndindex(*mdp.n_states)]
    for x, s in enumerate(states):
        for i in range(2):
            total = fmpq(0)
            for a in np.ndindex(*mdp.n_actions):
                weight = fmpq(1)
                for j in range(2):
                    weight *= exactly(policy.table[j][(*(s[k] for k in policy.parents[j]), a[j])])
                following = fmpq(0)
                for y, t in enumerate(states):
                    probability = fmpq(1)
                    for j in range(2):
                        read = tuple(s[k] for k in mdp.transition_parents[j])
                        probability *= exactly(mdp.transition[j][(*read, a[j], t[j])])
                    following += probability * values[i][y]
                total += weight * (exactly(mdp.reward[i][s[i], a[i]]) + exactly(mdp.gamma) * following)
            assert total == values[i][x]


def hard(seed: int) -> tuple[NetworkedMDP, LocalPolicy]:
    """A discount at which float64 certifies little, or none at all."""
    mdp, policy = floating(seed)
    gamma = (0.0, 0.99, 0.999)[seed % 3]
    mdp = NetworkedMDP(mdp.graph, gamma, mdp.transition, mdp.reward, mdp.transition_parents)
    return mdp, LocalPolicy(mdp, policy.table, policy.parents)


def refusal(mdp: NetworkedMDP, policy: LocalPolicy, route: str, tolerance: float) -> float | None:
    """The tolerance that an error names in place of one that float64 cannot certify."""
    try:
        solved(mdp, policy, route, tolerance)
    except ArithmeticError as error:
        return float(str(error).partition("ask for tolerance = ")[2].split()[0])
    return None


@pytest.mark.parametrize("route", ROUTES)
def test_enclosures_hold_as_tight_as_float64_certifies(route: str) -> None:
    """At the tightest tolerance rounding is most of the half-width, and at gamma near 1 it matters most."""
    for seed in range(12):
        mdp, policy = hard(seed)
        tolerance = 1e-17
        while named := refusal(mdp, policy, route, tolerance):
            tolerance = max(named, 1.2 * tolerance)
        result = solved(mdp, policy, route, tolerance)
        assert contains(result, rational_values_of_tables(mdp, policy)), seed


@pytest.mark.parametrize("route", ROUTES)
def test_the_tolerance_that_a_refusal_names_is_certified(route: str) -> None:
    for seed in range(12):
        mdp, policy = hard(seed)
        named = refusal(mdp, policy, route, 1e-17)
        assert named is None or refusal(mdp, policy, route, named) is None, seed


def beside_a_lonely_agent(gamma: float) -> tuple[NetworkedMDP, LocalPolicy]:
    """Agent 0 on its own, whose kernel hardly rounds; the others of one reward, so that values are the largest ones."""
    graph = AgentGraph.from_edges(4, [(1, 2), (2, 3)])
    sizes = [1, 4, 4, 4]
    mdp, policy = random_tables(graph, sizes, [1] * 4, gamma, np.random.default_rng(0), radii=(1, 1))
    constant = tuple(np.ones((size, 1)) for size in sizes)
    mdp = NetworkedMDP(graph, gamma, mdp.transition, constant, mdp.transition_parents)
    return mdp, LocalPolicy(mdp, policy.table, policy.parents)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.999])
def test_the_tolerance_that_is_named_is_certified_for_every_agent(route: str, gamma: float) -> None:
    """A kernel of many agents rounds more often than that of the agent which is refused first."""
    mdp, policy = beside_a_lonely_agent(gamma)
    named = refusal(mdp, policy, route, 1e-17)
    assert named is not None
    assert refusal(mdp, policy, route, named) is None


@pytest.mark.parametrize("route", ["compiled", "numpy"])
def test_any_tolerance_however_large(route: str) -> None:
    for gamma in (0.0, 0.9):
        mdp, policy = beside_a_lonely_agent(gamma)
        for tolerance in (3.0, 1e300, float("inf")):
            result = solved(mdp, policy, route, tolerance)
            assert result.error_bound <= min(tolerance, 10.0)
            assert np.abs(result.values - 1 / (1 - gamma)).max() <= result.error_bound


@pytest.mark.parametrize("route", ["compiled", "numpy"])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99])
def test_the_mean_of_components_reaches_every_tolerance(route: str, gamma: float) -> None:
    """Also one that float64 certifies for none of them: rewards of a thousand that cancel, in agents of one state."""
    edges = AgentGraph.from_edges(4, [(2, 3)])
    sizes = [1, 1, 2, 3]
    mdp, policy = random_tables(edges, sizes, [1] * 4, gamma, np.random.default_rng(1))
    rewards = (np.full((1, 1), 1000.0), np.full((1, 1), -1000.0), *mdp.reward[2:])
    mdp = NetworkedMDP(edges, gamma, mdp.transition, rewards, mdp.transition_parents)
    policy = LocalPolicy(mdp, policy.table, policy.parents)
    exact = rational_values_of_tables(mdp, policy)
    refused = 0
    for tolerance in (None, 1.0, *(2.0**-k / (1 - gamma) for k in range(20, 52, 2))):
        try:
            found = mean_value(mdp, policy, method=route, tolerance=tolerance)  # type: ignore[arg-type]
        except ArithmeticError as error:
            refused += 1
            named = float(str(error).partition("ask for tolerance = ")[2].split()[0])
            assert tolerance is not None
            assert tolerance < named
            found = mean_value(mdp, policy, method=route, tolerance=named)  # type: ignore[arg-type]
            assert found.error_bound <= named
        else:
            assert tolerance is None or found.error_bound <= tolerance
        for x, value in enumerate(found.values):
            true = sum((row[x] for row in exact), fmpq(0)) / 4
            assert exactly(found.lower) <= true - exactly(value) <= exactly(found.upper)
    assert 0 < refused < 10


@pytest.mark.parametrize("route", ROUTES)
def test_enclosures_count_rewards_that_cancel(route: str) -> None:
    """Rewards whose mean vanishes but for rounding: the enclosure is as wide as what the actions' rewards round."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        p, first = rng.random(2)
        second = -(p * first) / (1 - p)
        if p * first + (1 - p) * second == 0 != Fraction(p) * Fraction(first) + Fraction(1 - p) * Fraction(second):
            break
    mdp = NetworkedMDP(path(1), 0.9, (np.full((2, 2, 2), 0.5),), (np.array([[first, second]] * 2),))
    policy = LocalPolicy(mdp, (np.array([[p, 1 - p]] * 2),))
    exact = rational_values_of_tables(mdp, policy)
    assert exact[0][0] != 0
    assert contains(solved(mdp, policy, route), exact)


@pytest.mark.parametrize("route", ROUTES)
def test_the_mean_counts_agents_rewards_that_cancel(route: str) -> None:
    """Three rewards whose mean vanishes but for rounding."""
    rewards = next(
        found
        for found in np.random.default_rng(0).standard_normal((1000, 2))
        if found[0] + found[1] != Fraction(found[0]) + Fraction(found[1])
    )
    third = -(rewards[0] + rewards[1])
    one = np.ones((2, 2, 1, 2)) / 2
    edges = AgentGraph.from_edges(3, [])
    tables = tuple(np.full((2, 1), r) for r in (*rewards, third))
    mdp = NetworkedMDP(edges, 0.9, (one[0],) * 3, tables)
    policy = LocalPolicy(mdp, (np.ones((2, 1)),) * 3)
    mean = sum(map(Fraction, (*rewards, third))) / 3 / (1 - Fraction(0.9))
    assert mean != 0
    found = mean_value(mdp, policy, method=route)  # type: ignore[arg-type]
    assert Fraction(found.lower) <= mean - Fraction(found.values[0]) <= Fraction(found.upper)


@pytest.mark.parametrize("route", ROUTES)
def test_enclosures_count_rows_that_do_not_sum_to_one(route: str) -> None:
    """Rows are let pass if they are off by 1e-12; values then move by a hundred times that."""
    for off in (-0.9e-12, 0.9e-12):
        mdp = NetworkedMDP(path(2), 0.9, (np.full((2, 2, 1, 2), 0.5 + off / 2),) * 2, (np.ones((2, 1)),) * 2)
        policy = LocalPolicy(mdp, (np.ones((2, 2, 1)),) * 2)
        exact = rational_values_of_tables(mdp, policy)
        assert abs(exact[0][0] - 10) > exactly(1e-10)
        assert contains(solved(mdp, policy, route), exact)


@pytest.mark.parametrize("off", [-0.9e-12, 0.9e-12])
def test_row_sums_set_how_far_a_residual_reaches(off: float) -> None:
    """Of the zero function the residual is the reward, 1: the enclosure is that of ``1 / (1 - gamma row_sum)``."""
    mdp = NetworkedMDP(path(1), 0.9, (np.full((2, 1, 2), 0.5 + off / 2),), (np.ones((2, 1)),))
    policy = LocalPolicy(mdp, (np.ones((2, 1)),))
    lower, upper = Certificate(closed_loop(mdp, policy), 0.9, [0], 2).enclosure(1.0, 1.0, 0.0)
    assert exactly(lower) <= rational_values_of_tables(mdp, policy)[0][0] <= exactly(upper)


def test_negative_control_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enclosures that count the computed residual alone are refuted, on every route."""
    monkeypatch.setattr(Certificate, "rounding", lambda self, *sizes: 0.0)
    refuted = set()
    for seed in range(8):
        mdp, policy = floating(seed)
        exact = rational_values_of_tables(mdp, policy)
        for route in ROUTES:
            for tolerance in (1e-13, 1e-14, 1e-15):
                try:
                    result = solved(mdp, policy, route, tolerance)
                except ArithmeticError:
                    break
                if not contains(result, exact):
                    refuted.add(route)
    assert refuted == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_negative_control_with_a_corrupted_value(route: str) -> None:
    """One entry moved by three half-widths, either way, is caught."""
    mdp, policy = dyadic(3)
    exact = rational_values_of_tables(mdp, policy)
    result = solved(mdp, policy, route)
    assert contains(result, exact)
    for sign in (-1, 1):
        i, x = result.values.shape[0] - 1, result.values.shape[1] // 2
        values = result.values.copy()
        values[i, x] += sign * 3 * result.error_bound
        assert not contains(replace(result, values=values), exact)
