"""Every exact answer on every route against dense tables over joint states and joint actions, on random instances."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo_theory import routes
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.elimination import elimination_cost
from dmpo_theory.exact import local_values
from dmpo_theory.extended import JointLaw, ReferenceLaw, deviation, mean_span, point_law, span, uniform_law
from dmpo_theory.gradient import policy_gradient, truncated_gradient
from dmpo_theory.graph import AgentGraph, path
from dmpo_theory.laws import occupancy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP
from dmpo_theory.routes import Route, apply_kernel, operator, push_law
from tests.theory.dense_truth import Array, DenseTruth, check_operator, random_chain, random_tables

ROUTES: tuple[Route, ...] = ("dense", "compiled", "numpy")
KINDS = ("random", "disconnected", "complete", "star", "path")
GAMMAS = (0.0, 0.3, 0.9, 0.99)
READINGS = ("eq9", "theorem2")
REWARDS = ("global", "neighborhood", "own")
REFERENCES = ("uniform", "point", "joint", "joint with gaps")
TOLERANCE = 1e-12
LARGEST = 3e5
"""Entries of the dense transition table, ``[X, U, X]``."""


class Problem(NamedTuple):
    """An instance, and a start and reference laws to ask about."""

    mdp: NetworkedMDP
    policy: LocalPolicy
    start: Array
    reference: ReferenceLaw
    reward: str


def edges(kind: str, n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    pairs = list(itertools.combinations(range(n), 2))
    if kind == "star":
        return [pair for pair in pairs if pair[0] == 0]
    if kind == "path":
        return [(i, i + 1) for i in range(n - 1)]
    if kind == "disconnected":
        left = int(rng.integers(1, n))
        pairs = [(i, j) for i, j in pairs if (i < left) == (j < left)]
    return [pair for pair in pairs if kind == "complete" or rng.random() < 0.5]


def fitted(states: Sequence[int], actions: Sequence[int], largest: float) -> tuple[list[int], list[int]]:
    """The sizes, largest ones reduced until the dense table has at most so many entries."""
    sizes = [*states, *actions]
    while math.prod(sizes[: len(states)]) ** 2 * math.prod(sizes[len(states) :]) > largest:
        sizes[int(np.argmax(sizes))] -= 1
    return sizes[: len(states)], sizes[len(states) :]


@st.composite
def problems(draw: st.DrawFn, kind: str, gamma: float, largest: float = LARGEST) -> Problem:
    n = draw(st.integers(2, 6))
    states, actions = fitted(
        draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)),
        draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)),
        largest,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mdp, policy = random_tables(
        AgentGraph.from_edges(n, edges(kind, n, rng)),
        states,
        actions,
        gamma,
        rng,
        radii=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        concentration=draw(st.sampled_from([0.05, 0.3, 1.0])),
        thinned=draw(st.sampled_from([0.0, 0.0, 0.3])),
    )
    start = rng.dirichlet(np.full(mdp.n_joint_states, 0.5))
    reference = draw(st.sampled_from(REFERENCES))
    law: ReferenceLaw
    if reference == "uniform":
        law = uniform_law(mdp)
    elif reference == "point":
        law = point_law(mdp, [int(rng.integers(size)) for size in states])
    else:
        probabilities = rng.dirichlet(np.ones(mdp.n_joint_states))
        if reference == "joint with gaps":
            probabilities[rng.random(len(probabilities)) < 0.6] = 0.0
        law = JointLaw(probabilities / max(probabilities.sum(), 1e-300))
    return Problem(mdp, policy, start, law, draw(st.sampled_from(REWARDS)))


def close(quantity: str, route: str, found: Array, expected: Array, size: float) -> None:
    """Within the tolerance, relative to the values' size."""
    assert np.shape(found) == np.shape(expected)
    error = float(np.abs(np.asarray(found) - expected).max(initial=0.0)) / size
    assert error <= TOLERANCE, (quantity, route, error)


def values_on(route: Route, mdp: NetworkedMDP, policy: LocalPolicy, tolerance: float) -> Array:
    """At the tolerance, or at the tightest one, within a factor of 1.5, that float64 can certify."""

    def solved(tolerance: float) -> Array:
        found = local_values(mdp, policy, method=route, tolerance=tolerance, threads=1)
        assert found.method == route
        assert found.error_bound <= tolerance
        return found.values

    try:
        return solved(tolerance)
    except ArithmeticError as refused:  # it names one that can be certified
        tolerance = float(str(refused).partition("ask for tolerance = ")[2].split()[0])
    values = solved(tolerance)
    while True:
        try:
            values = solved(tolerance := tolerance / 1.5)
        except ArithmeticError:
            return values


def agrees(problem: Problem) -> None:
    """Hold everything against the dense tables."""
    mdp, policy, start, reference, reward = problem
    truth = DenseTruth(mdp, policy)
    values, law = truth.values(), truth.occupancy(start)
    size = max(1.0, float(np.abs(values).max()))
    mean, everyone = values.mean(axis=0), np.full(mdp.n, 1 / mdp.n)
    gradients = [truth.gradient(i, law, everyone, mean) for i in range(mdp.n)]
    spans, mean_spans = truth.spans(values)
    deviations = truth.deviations(values, reference)
    kappas = [*sorted({0, 1, *(int(d) for d in truth.hops[np.isfinite(truth.hops)])}), math.inf]
    truncated = {
        (reading, kappa): [truth.truncated(i, values, law, kappa, reference, reading, reward) for i in range(mdp.n)]
        for reading in READINGS
        for kappa in kappas
    }
    for route in ROUTES:
        found = values_on(route, mdp, policy, TOLERANCE * size / 4)
        visited = occupancy(mdp, policy, start, method=route, tolerance=TOLERANCE / 2).law
        close("values", route, found, values, size)
        assert np.abs(visited - law).sum() <= TOLERANCE
        close("span", route, span(mdp, found), spans, size)
        close("mean span", route, mean_span(mdp, found), mean_spans, size)
        close("deviation", route, deviation(mdp, found, reference), deviations, size)
        if route == "dense":
            continue
        forced = 0 if route == "compiled" else 2**62
        with mock.patch.object(routes, "_COMPILED_FROM", forced):  # gradients choose their operator by size
            for i, gradient in enumerate(policy_gradient(mdp, policy, found, visited)):
                close("gradient", route, gradient, gradients[i], size)
            for (reading, kappa), expected in truncated.items():
                got = truncated_gradient(
                    mdp,
                    policy,
                    found,
                    visited,
                    kappa,
                    reference=reference,
                    reading=reading,
                    reward=reward,  # type: ignore[arg-type]
                )
                for i in range(mdp.n):
                    close(f"truncated {reading}", route, got[i], expected[i], size)
            chain = closed_loop(mdp, policy)
            close("P f", route, apply_kernel(chain, mean), truth.kernel @ mean, size)
            close("P' d", route, push_law(chain, visited), law @ truth.kernel, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_hundred_instances(kind: str, gamma: float) -> None:
    @settings(max_examples=10, deadline=None)
    @given(problem=problems(kind, gamma))
    def run(problem: Problem) -> None:
        agrees(problem)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_thousand_larger_instances(kind: str, gamma: float) -> None:
    @settings(max_examples=100, deadline=None)
    @given(problem=problems(kind, gamma, largest=4e6))
    def run(problem: Problem) -> None:
        agrees(problem)

    run()


@pytest.mark.parametrize("route", ["compiled", "numpy"])
@pytest.mark.parametrize("part", range(4))
def test_operators_on_any_agents(route: Route, part: int) -> None:
    """One agent up to five with 1 to 6 states, read by anybody or nobody; all of them, and some."""
    for seed in range(15 * part, 15 * part + 15):
        chain, rng = random_chain(seed), np.random.default_rng(seed)
        some = rng.choice(chain.n, int(rng.integers(1, chain.n + 1)), replace=False)
        check_operator(chain, route, None, rng)
        check_operator(chain, route, [int(i) for i in some], rng)


def test_random_chains_are_of_every_kind() -> None:
    """What the operators are checked on: without these, the branches for them would not be reached."""
    chains = [random_chain(seed) for seed in range(60)]
    read = [set().union(*chain.parents) for chain in chains]
    assert {chain.n for chain in chains} == {1, 2, 3, 4, 5}
    assert any(max(chain.n_states) >= 5 and chain.n > 1 for chain in chains)
    assert any(1 in chain.n_states and chain.n > 1 for chain in chains)
    assert any(i not in members for chain in chains for i, members in enumerate(chain.parents))
    assert any(len(agents) < chain.n for chain, agents in zip(chains, read, strict=True))
    assert any(not members for chain in chains for members in chain.parents)
    assert any(chain.size > 64 and min(chain.n_states) > 1 for chain in chains), "more than one step"


@pytest.mark.parametrize("sizes", [[7, 9], [5, 13, 2], [6, 5, 5, 6], [2, 2, 5, 2, 7], [3, 3, 3, 3, 3, 3], [2] * 9])
@pytest.mark.parametrize("route", ["compiled", "numpy"])
def test_operators_beyond_four_states_and_in_many_steps(route: Route, sizes: list[int]) -> None:
    """On a path: local spaces that do not fit in a block of four, and eliminations of several steps."""
    rng = np.random.default_rng(len(sizes))
    mdp, policy = random_tables(path(len(sizes)), sizes, [1] * len(sizes), 0.9, rng)
    chain = closed_loop(mdp, policy)
    check_operator(chain, route, None, rng)
    check_operator(chain, route, range(1, len(sizes)), rng)


def test_an_operator_is_shared_by_threads() -> None:
    """Eight agents of three states at once: every thread gets what a single one does."""
    mdp, policy = random_tables(path(8), [3] * 8, [1] * 8, 0.9, np.random.default_rng(0))
    kernel = operator(closed_loop(mdp, policy), "compiled")
    functions = [np.random.default_rng(k).standard_normal(3**8) for k in range(24)]
    expected = [(kernel.apply(f), kernel.push(f), kernel.factor_gradients(f, f)) for f in functions]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda f: (kernel.apply(f), kernel.push(f), kernel.factor_gradients(f, f)), functions))
    for one, other in zip(expected, found, strict=True):
        assert (one[0] == other[0]).all()
        assert (one[1] == other[1]).all()
        assert all((one[2][i] == other[2][i]).all() for i in range(8))


@pytest.mark.parametrize("part", range(2))
def test_the_best_order_is_the_cheapest_permutation(part: int) -> None:
    cheaper_than_greedy = 0
    for seed in range(30 * part, 30 * part + 30):
        chain = random_chain(seed)
        order = operator(chain, "compiled").inside
        assert sorted(order) == list(range(chain.n))
        costs = [elimination_cost(chain, other)[0] for other in itertools.permutations(range(chain.n))]
        assert elimination_cost(chain, order)[0] == min(costs)
        cheaper_than_greedy += min(costs) < elimination_cost(chain, operator(chain, "numpy")._order)[0]  # type: ignore[attr-defined]
    assert cheaper_than_greedy


UNDER_BOUNDS_CHECK = """
import numpy as np
import pytest
from dmpo_theory import kernels
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.graph import path
from dmpo_theory.routes import operator
from tests.theory.dense_truth import check_operator, random_chain, random_tables

checked = 0
for seed in range(60):
    chain, rng = random_chain(seed), np.random.default_rng(seed)
    some = [int(i) for i in rng.choice(chain.n, int(rng.integers(1, chain.n + 1)), replace=False)]
    for inside in (None, some):
        check_operator(chain, "compiled", inside, rng)
        checked += 1
for sizes in ([6, 5, 5, 6], [2, 2, 5, 2, 7], [3] * 6, [2] * 9):
    mdp, policy = random_tables(path(len(sizes)), sizes, [1] * len(sizes), 0.9, np.random.default_rng(0))
    chain = closed_loop(mdp, policy)
    for inside in (None, range(1, len(sizes))):
        check_operator(chain, "compiled", inside, np.random.default_rng(1))
        checked += 1
# The checks are on: a buffer that is one number too short is an error, wherever it is.
kernel = operator(chain, "compiled")
full = chain.size
work, law, none = np.ones(kernel._work), np.ones(full), np.empty(0)
for sizes in ((full - 1, full, len(work)), (full, full - 1, len(work)), (full, full, len(work) - 1)):
    source, result, room = (np.ones(size) for size in sizes)
    with pytest.raises(IndexError):
        kernels.apply(kernel._steps, source, result, room)
    with pytest.raises(IndexError):
        kernels.sweeps(kernel._steps, source, np.ones(full), result[None], 0.5, -1.0, 3, 1.0, room)
    with pytest.raises(IndexError):
        kernels.reverse(kernel._steps, source, law, result, none, room, room, False)
short = kernel._steps._replace(tables=kernel._steps.tables[:-1])
with pytest.raises(IndexError):
    kernels.apply(short, np.ones(full), np.ones(full), work)
print(checked)
"""


def test_kernels_stay_within_their_arrays(tmp_path: Path) -> None:
    """All kernels compiled anew with bounds checks, on the chains above."""
    run = subprocess.run(
        [sys.executable, "-c", UNDER_BOUNDS_CHECK],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == 128
