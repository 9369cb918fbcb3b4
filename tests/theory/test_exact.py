"""Values, occupancy and stationary law: dense against factored, brute force, QuantEcon and power series."""

from __future__ import annotations

import numpy as np
import pytest
import quantecon
import threadpoolctl

from dmpo_theory import exact, laws, routes, series
from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.elimination import Elimination
from dmpo_theory.errors import ProblemTooLarge
from dmpo_theory.exact import each_value, local_values, mean_value
from dmpo_theory.graph import FAMILIES, AgentGraph, named_graph, path, ring, star
from dmpo_theory.instances import random_mdp, random_policy
from dmpo_theory.laws import occupancy, stationary
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP, to_joint
from dmpo_theory.routes import operator
from tests.theory import brute_force

ROUTES = ("dense", "compiled", "numpy")
GRAPH = AgentGraph.from_edges(4, [(0, 1), (1, 2)])  # agent 3 on its own


def uneven(gamma: float = 0.9, radius: int = 1) -> tuple[NetworkedMDP, LocalPolicy]:
    mdp = random_mdp(
        GRAPH, n_states=[2, 3, 1, 2], n_actions=[3, 2, 2, 1], gamma=gamma, radius=radius, concentration=0.3, rng=5
    )
    return mdp, random_policy(mdp, radius=2, rng=6)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_both_routes_agree_with_brute_force(radius: int) -> None:
    mdp, policy = uneven(radius=radius)
    expected = brute_force.values(mdp, policy)
    for method in ROUTES:
        result = local_values(mdp, policy, method=method)  # type: ignore[arg-type]
        assert result.method == method
        assert np.abs(result.values - expected).max() < 1e-10
        assert result.residual.max() <= (1 - mdp.gamma) * 1e-10
        assert result.error_bound <= 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_and_factored_agree_on_every_family(family: str) -> None:
    mdp = random_mdp(named_graph(family, 7, 2), concentration=0.1, gamma=0.95, rng=3)
    policy = random_policy(mdp, rng=4)
    dense, *others = (local_values(mdp, policy, method=method) for method in ROUTES)  # type: ignore[arg-type]
    for other in others:
        assert np.abs(dense.values - other.values).max() <= dense.error_bound + other.error_bound < 2e-11


def test_quantecon_evaluates_the_same_policy() -> None:
    """The mean value, from QuantEcon's policy evaluation of an MDP whose only action is to follow the policy."""
    mdp = random_mdp(path(3), n_states=[2, 3, 2], rng=1)
    policy = random_policy(mdp, rng=2)
    rewards, kernel = to_joint(mdp)
    law = np.array(
        [
            [brute_force.action_law(mdp, policy, s, a) for a in brute_force.joint_actions(mdp)]
            for s in brute_force.joint_states(mdp)
        ]
    )
    followed = quantecon.markov.DiscreteDP(
        (law * rewards).sum(axis=1, keepdims=True), np.einsum("xu,xuy->xy", law, kernel)[:, None], mdp.gamma
    )
    expected = followed.evaluate_policy(np.zeros(mdp.n_joint_states, dtype=int))
    np.testing.assert_allclose(local_values(mdp, policy).values.mean(axis=0), expected, atol=1e-10)


def test_quantecon_takes_the_joint_form() -> None:
    """The optimal value of the joint MDP bounds the value of a local policy, and QuantEcon finds it."""
    mdp, policy = uneven()
    rewards, kernel = to_joint(mdp)
    np.testing.assert_allclose(kernel.sum(axis=-1), 1, atol=1e-12)
    optimum = quantecon.markov.DiscreteDP(rewards, kernel, mdp.gamma).solve(method="policy_iteration")
    assert (local_values(mdp, policy).values.mean(axis=0) <= optimum.v + 1e-9).all()


def test_joint_form_by_loops() -> None:
    mdp, _ = uneven()
    rewards, kernel = to_joint(mdp)
    states, actions = brute_force.joint_states(mdp), brute_force.joint_actions(mdp)
    for x, s in enumerate(states):
        for u, a in enumerate(actions):
            assert rewards[x, u] == pytest.approx(np.mean([mdp.reward[i][s[i], a[i]] for i in range(4)]))
            for y, t in enumerate(states):
                assert kernel[x, u, y] == pytest.approx(brute_force.transition(mdp, s, a, t), abs=1e-15)


@pytest.mark.parametrize("method", ROUTES)
def test_occupancy_is_the_power_series(method: str) -> None:
    mdp, policy = uneven(gamma=0.8)
    kernel = brute_force.kernel(mdp, policy)
    start = np.random.default_rng(0).dirichlet(np.ones(len(kernel)))
    term, expected = start, np.zeros(len(kernel))
    for t in range(300):
        expected += 0.2 * 0.8**t * term
        term = term @ kernel
    result = occupancy(mdp, policy, start, method=method)  # type: ignore[arg-type]
    assert np.abs(result.law - expected).sum() < 1e-10
    assert result.law.sum() == pytest.approx(1, abs=1e-10)
    assert result.residual <= 0.2e-10


@pytest.mark.parametrize("method", ROUTES)
def test_stationary_law_is_quantecons(method: str) -> None:
    mdp, policy = uneven()
    expected = quantecon.markov.MarkovChain(brute_force.kernel(mdp, policy)).stationary_distributions[0]
    result = stationary(mdp, policy, method=method)  # type: ignore[arg-type]
    assert np.abs(result.law - expected).max() < 1e-10
    assert result.residual < 1e-11


@pytest.mark.parametrize("method", ROUTES)
def test_stationary_law_of_periodic_and_reducible_chains(method: str) -> None:
    """One agent with states 0 <-> 1, absorbing 2, and 3 which moves to either: time averages from each start."""
    rows = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.5, 0]])
    mdp = NetworkedMDP(path(1), 0.9, (rows[:, None],), (np.zeros((4, 1)),))
    policy = LocalPolicy(mdp, (np.ones((4, 1)),))
    for start, expected in (
        ([1, 0, 0, 0], [0.5, 0.5, 0, 0]),
        ([0, 0, 1, 0], [0, 0, 1, 0]),
        ([0, 0, 0, 1], [0.25, 0.25, 0.5, 0]),
    ):
        result = stationary(mdp, policy, np.array(start, dtype=float), method=method)  # type: ignore[arg-type]
        np.testing.assert_allclose(result.law, expected, atol=1e-10)


def test_gamma_zero_and_slow_chains() -> None:
    mdp, policy = uneven(gamma=0.0)
    for method in ROUTES:
        result = local_values(mdp, policy, method=method)  # type: ignore[arg-type]
        np.testing.assert_allclose(result.values, brute_force.rewards(mdp, policy), atol=1e-14)
    mdp = random_mdp(ring(5), gamma=0.99, concentration=0.01, rng=0)
    policy = random_policy(mdp, concentration=0.01, rng=1)
    dense, *others = (local_values(mdp, policy, method=method) for method in ROUTES)  # type: ignore[arg-type]
    for other in others:
        assert other.error_bound <= 2e-10
        assert np.abs(dense.values - other.values).max() <= dense.error_bound + other.error_bound


def test_parents_may_leave_out_the_agent_itself() -> None:
    """A shift register: each agent copies its right-hand neighbour, policies read nothing."""
    copy = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    reward = (np.array([[0.0], [1.0]]), np.zeros((2, 1)), np.zeros((2, 1)))
    mdp = NetworkedMDP(path(3), 0.5, (copy, copy, copy), reward, ((1,), (2,), (2,)))
    policy = LocalPolicy(mdp, (np.ones((2, 1)),) * 3, ((0,), (1,), (2,)))
    for method in ROUTES:
        values = local_values(mdp, policy, method=method).values[0].reshape(2, 2, 2)  # type: ignore[arg-type]
        for s in np.ndindex(2, 2, 2):
            assert values[s] == pytest.approx(s[0] + 0.5 * s[1] + 0.5 * s[2], abs=1e-10)


def test_too_large_is_refused_with_the_memory_it_would_take() -> None:
    mdp = random_mdp(ring(40), rng=0)
    policy = random_policy(mdp, rng=0)
    for call in (local_values, occupancy, stationary):
        with pytest.raises(
            ProblemTooLarge,
            match=r"1\.09951e\+12 states \(40 agents\) .* \d\d such agents would fit",
        ):
            call(mdp, policy)  # type: ignore[operator]
    lonely = random_mdp(path(30), n_states=[2] * 5 + [1] * 25)
    with pytest.raises(ProblemTooLarge, match="30 agents need more array axes than numpy has"):
        local_values(lonely, random_policy(lonely), method="numpy")
    assert local_values(lonely, random_policy(lonely)).values.shape == (30, 32)
    with pytest.raises(ProblemTooLarge, match=r"the table of agent 0, which reads 41 agents, needs .* GiB"):
        random_mdp(star(41))
    with pytest.raises(ProblemTooLarge, match=r"dense .* GiB.*, or method=.auto."):
        local_values(random_mdp(ring(18)), random_policy(random_mdp(ring(18))), method="dense")
    with pytest.raises(ProblemTooLarge, match=r"needs .* GiB, the limit is 1e-06 GiB"):
        to_joint(random_mdp(ring(5)), memory_limit_gib=1e-6)


def test_precision_that_float64_cannot_reach_is_an_error() -> None:
    mdp = random_mdp(path(2), gamma=0.9999, rng=0)
    with pytest.raises(
        ArithmeticError,
        match=r"float64 cannot certify .* ask for tolerance = \S+e-07 or more",
    ):
        local_values(mdp, random_policy(mdp), method="dense", tolerance=1e-10)


@pytest.mark.parametrize(("gamma", "size"), [(0.999, 1.0), (0.9, 1e4), (0.9999, 100.0)])
def test_large_values_are_solved_to_what_float64_gives(gamma: float, size: float) -> None:
    """By default the tolerance follows the size of the values; the error bound says so, and is true."""
    mdp = random_mdp(ring(4), gamma=gamma, reward_range=(-size, size), rng=0)
    policy = random_policy(mdp, rng=1)
    dense, *others = (local_values(mdp, policy, method=method) for method in ROUTES)  # type: ignore[arg-type]
    for other in others:
        assert other.error_bound <= 2e-14 * size / (1 - gamma) ** 2
        assert np.abs(dense.values - other.values).max() <= dense.error_bound + other.error_bound


def test_bad_arguments() -> None:
    mdp, policy = uneven()
    with pytest.raises(ValueError, match='method = \'sparse\'; choose "auto", "dense", "compiled" or "numpy"'):
        local_values(mdp, policy, method="sparse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"start has shape \(3,\)"):
        occupancy(mdp, policy, np.ones(3) / 3)


def test_the_cheapest_route_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = random_mdp(ring(4), rng=0), random_mdp(ring(11), rng=0)
    assert local_values(small, random_policy(small)).method == "dense"
    assert local_values(large, random_policy(large)).method == "compiled"
    monkeypatch.setattr(routes, "has_numba", lambda: False)
    routes._kept.cache_clear()
    values = local_values(large, random_policy(large))
    assert values.method == "numpy"
    with pytest.raises(ValueError, match='method = "compiled" needs numba'):
        local_values(large, random_policy(large), method="compiled")


@pytest.mark.parametrize("method", ROUTES)
@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_senseless_tolerances(method: str, tolerance: float) -> None:
    mdp, policy = uneven()
    with pytest.raises(ValueError, match=r"tolerance = .* must be a positive number"):
        local_values(mdp, policy, method=method, tolerance=tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ROUTES)
def test_the_mean_value_takes_one_solve(method: str) -> None:
    mdp, policy = uneven()
    mean = mean_value(mdp, policy, method=method)  # type: ignore[arg-type]
    values = local_values(mdp, policy, method=method)  # type: ignore[arg-type]
    assert np.abs(mean.values - values.values.mean(axis=0)).max() <= mean.error_bound + values.error_bound


def apart(gamma: float = 0.8) -> tuple[NetworkedMDP, LocalPolicy]:
    """Three components, their agents' numbers mixed."""
    graph = AgentGraph.from_edges(6, [(0, 3), (3, 5), (1, 4)])
    mdp = random_mdp(graph, n_states=[2, 3, 2, 2, 2, 3], gamma=gamma, concentration=0.3, rng=7)
    return mdp, random_policy(mdp, rng=8)


def test_components_are_what_never_meets() -> None:
    assert sorted(closed_loop(*apart()).components) == [(0, 3, 5), (1, 4), (2,)]
    copy = np.eye(2)[:, None]
    parents = tuple(((i + 1) % 6,) if i < 4 else (i,) for i in range(6))  # 4 and 5 do not read, but 3 reads 4
    mdp = NetworkedMDP(ring(6), 0.9, (copy,) * 6, (np.ones((2, 1)),) * 6, parents)
    policy = LocalPolicy(mdp, (np.ones((2, 1)),) * 6, tuple((i,) for i in range(6)))
    assert sorted(closed_loop(mdp, policy).components) == [(0, 1, 2, 3, 4), (5,)]


@pytest.mark.parametrize("method", ROUTES)
def test_the_mean_value_of_components(method: str) -> None:
    mdp, policy = apart()
    mean = mean_value(mdp, policy, method=method)  # type: ignore[arg-type]
    chain = closed_loop(mdp, policy)
    expected = np.linalg.solve(np.eye(chain.size) - mdp.gamma * chain.matrix, chain.reward_functions().mean(axis=0))
    assert np.abs(mean.values - expected).max() <= mean.error_bound + 1e-13 < 1.1e-11


@pytest.mark.parametrize("method", ["compiled", "numpy"])
@pytest.mark.parametrize("patience", [laws.PATIENCE, 3])
@pytest.mark.parametrize("solvable", [True, False])
def test_the_occupancy_of_components(
    method: str, patience: int, solvable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a uniform start, by components and together; from any other; by sweeps, Krylov methods, where these fail."""
    mdp, policy = apart()
    kernel = closed_loop(mdp, policy).matrix
    monkeypatch.setattr(laws, "PATIENCE", patience)
    if not solvable:
        monkeypatch.setattr(laws, "krylov", lambda *problem: (None, 0))
    rng = np.random.default_rng(0)
    for start in (None, rng.dirichlet(np.ones(len(kernel)))):
        law = np.full(len(kernel), 1 / len(kernel)) if start is None else start
        expected = 0.2 * np.linalg.solve(np.eye(len(kernel)) - 0.8 * kernel.T, law)
        result = occupancy(mdp, policy, start, method=method)  # type: ignore[arg-type]
        assert np.abs(result.law - expected).sum() < 1e-10
        assert result.residual <= 0.2e-10


def test_values_stream_in_the_order_asked_for() -> None:
    mdp = random_mdp(ring(10), rng=0)
    policy = random_policy(mdp, rng=1)
    everything = local_values(mdp, policy, threads=1)
    found = list(each_value(mdp, policy, [7, 2, 5], threads=2))
    assert [value.agent for value in found] == [7, 2, 5]
    for value in found:
        np.testing.assert_array_equal(value.values, everything.values[value.agent])


@pytest.mark.parametrize("method", ["compiled", "numpy"])
def test_extrapolation_saves_sweeps_and_misleads_nobody(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow eigenvalue is annihilated; should the extrapolation lead away, sweeps alone still get there."""
    mdp = random_mdp(path(7), concentration=0.2, rng=3)
    policy = random_policy(mdp, rng=4)
    quick = local_values(mdp, policy, method=method)  # type: ignore[arg-type]
    monkeypatch.setattr(series, "PATIENCE", 10**9)
    for patched in (
        (series, "HISTORY", 1),
        (Elimination, "extrapolate", lambda self, V, changes: V.__iadd__(changes[0])),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*patched)
            slow = local_values(mdp, policy, method="numpy")
        assert quick.sweeps < 0.8 * slow.sweeps, (quick.sweeps, slow.sweeps)
        assert np.abs(quick.values - slow.values).max() <= quick.error_bound + slow.error_bound < 2.1e-11


def test_slow_chains_are_solved_by_krylov_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the one that mixes slowly and the shift register, on which BiCGStab breaks down, agree with sweeps alone."""
    slow = random_mdp(ring(6), gamma=0.999, concentration=0.03, rng=0)
    copy = np.eye(2)[:, None]
    reward = tuple(np.array([[0.0], [float(i == 0)]]) for i in range(6))
    register = NetworkedMDP(ring(6), 0.99, (copy,) * 6, reward, tuple(((i + 1) % 6,) for i in range(6)))
    idle = LocalPolicy(register, (np.ones((2, 1)),) * 6, tuple((i,) for i in range(6)))
    for mdp, policy in ((slow, random_policy(slow, concentration=0.03, rng=1)), (register, idle)):
        quick = local_values(mdp, policy, method="compiled")
        with monkeypatch.context() as patch:
            patch.setattr(series, "PATIENCE", 10**9)
            patch.setattr(series, "HISTORY", 1)
            sweeping = local_values(mdp, policy, method="compiled")
        assert quick.sweeps < sweeping.sweeps / 3, (quick.sweeps, sweeping.sweeps)
        assert np.abs(quick.values - sweeping.values).max() <= quick.error_bound + sweeping.error_bound


@pytest.mark.parametrize("method", ["compiled", "numpy"])
def test_rounding_ends_every_solution_soon(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding allows is given, or refused with a tolerance that is then met: no sweeps without end."""
    for module in (series, laws):
        monkeypatch.setattr(module, "MAX_SWEEPS", 20_000)
    refused = 0
    for seed in range(40):
        mdp = random_mdp(path(3), n_states=[1, 2, 3], gamma=0.99, concentration=0.05, rng=seed)
        policy = random_policy(mdp, concentration=0.05, rng=seed)
        for solve in (
            lambda tolerance, of=(mdp, policy): local_values(*of, method=method, tolerance=tolerance).error_bound,
            lambda tolerance, of=(mdp, policy): occupancy(*of, method=method, tolerance=tolerance).residual * 100,
        ):
            for tolerance in 10 ** np.linspace(-15, -10, 11):
                try:
                    assert solve(tolerance) <= tolerance
                except ArithmeticError as message:
                    refused += 1
                    named = float(str(message).partition("ask for tolerance = ")[2].split()[0])
                    assert solve(named) <= named
    assert refused > 100


def test_the_light_cone_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = random_mdp(ring(9), n_states=[2, 3, 2, 2, 1, 2, 3, 2, 2], rng=0)
    policy = random_policy(mdp, rng=1)
    plain = local_values(mdp, policy, method="compiled")
    monkeypatch.setattr(exact, "_LIGHT_CONE_FROM", 1)
    narrow = local_values(mdp, policy, method="compiled")
    assert np.abs(plain.values - narrow.values).max() <= plain.error_bound + narrow.error_bound


def test_long_work_says_so_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exact, "_LONG", 0.0)
    mdp = random_mdp(ring(10), rng=0)
    local_values(mdp, random_policy(mdp, rng=1), method="compiled")
    assert "Exact values of 10 agents on 1024 joint states: about 0 minutes" in capsys.readouterr().err


def test_rows_of_agents_that_never_matter_are_counted_too() -> None:
    """Two agents apart, rows of one a little above 1: values by sweeps over one agent and over both agree."""
    half = np.full((2, 1, 2), 0.5)
    rows = (half, half * (1 + 9e-13))
    mdp = NetworkedMDP(path(2), 0.99, rows, (np.ones((2, 1)),) * 2, ((0,), (1,)))
    policy = LocalPolicy(mdp, (np.ones((2, 1)),) * 2, ((0,), (1,)))
    dense, *others = (local_values(mdp, policy, method=method, tolerance=1e-6) for method in ROUTES)  # type: ignore[arg-type]
    for other in others:
        assert np.abs(dense.values - other.values).max() <= dense.error_bound + other.error_bound


def test_overlapping_streams_leave_blas_as_it_was() -> None:
    mdp = random_mdp(ring(10), rng=0)
    policy = random_policy(mdp, rng=1)

    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    for _ in zip(each_value(mdp, policy), each_value(mdp, policy), strict=True):
        pass
    assert threads() == before


def test_agents_and_threads_that_are_not_there() -> None:
    mdp, policy = uneven()
    with pytest.raises(ValueError, match=r"agents = \[-1\] names a missing one; agents are 0 .. 3"):
        each_value(mdp, policy, [-1])
    with pytest.raises(ValueError, match="threads = -1; at least one is needed"):
        local_values(mdp, policy, threads=-1)
    many = random_mdp(path(10_000), n_states=3)
    with pytest.raises(ProblemTooLarge, match=r"2\^15849 states \(10000 agents\)"):
        local_values(many, random_policy(many))


@pytest.mark.parametrize("graph", [star(14), ring(14), named_graph("barabasi-albert", 14, 0)])
@pytest.mark.parametrize("radius", [0, 1])
def test_a_plan_takes_no_more_memory_than_was_foretold(graph: AgentGraph, radius: int) -> None:
    mdp = random_mdp(graph, radius=radius, rng=0)
    chain = closed_loop(mdp, random_policy(mdp, radius=radius, rng=1))
    steps = operator(chain, "compiled")._steps  # type: ignore[attr-defined]
    vectors = 8.0 * chain.size * (1 + routes._VECTORS)
    assert sum(array.nbytes for array in steps) <= routes.memory_needed(chain, "compiled", 1, 1) - vectors


def test_states_that_nobody_reads_do_not_swell_the_plan() -> None:
    """Twenty agents that draw their next states anew: each of their states is opened by its own agent's step."""
    rows = np.full((1, 2), 0.5)
    mdp = NetworkedMDP(path(20), 0.9, (rows,) * 20, (np.ones((2, 1)),) * 20, ((),) * 20)
    chain = closed_loop(mdp, LocalPolicy(mdp, (np.ones(1),) * 20, ((),) * 20))
    kernel = operator(chain, "compiled")
    assert len(kernel._steps.tables) < 2**16  # type: ignore[attr-defined]
    function = np.random.default_rng(0).random(chain.size)
    np.testing.assert_allclose(kernel.apply(function), function.mean(), rtol=1e-12)
