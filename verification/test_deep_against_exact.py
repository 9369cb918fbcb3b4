"""The learner held against exact truth: models, critics, gradients and model rollouts of a frozen policy.

Every check is a statistical test of level 1e-4; `--deep-seed` draws everything anew. Each deliberate mistake must be
found by the check that is named for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.check.bugs import BUGS
from dmpo_deep.check.critic import critic_error, fit, settled_on_joint
from dmpo_deep.check.gradient import check_gradient, expected, truncated
from dmpo_deep.check.run import Report, run, stages
from dmpo_deep.check.setting import Setting
from dmpo_deep.check.statistics import LEVEL, Finding
from dmpo_deep.hyperparameters import ActorCritic
from dmpo_deep.nets import one_thread
from dmpo_deep.ppo import LocalAgents
from dmpo_deep.presets import get_preset
from dmpo_theory.graph import named_graph
from dmpo_theory.instance_file import load_instance
from dmpo_theory.instances import noisy_relay, random_mdp, random_policy
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP

UNEQUAL = Path(__file__).parents[1] / "tests" / "data" / "unequal.instance.json"


def drawn(family: str, n: int, radius: int = 1, **options: object) -> tuple[NetworkedMDP, LocalPolicy]:
    mdp = random_mdp(named_graph(family, n, 0), rng=1, radius=radius, **options)  # type: ignore[arg-type]
    return mdp, random_policy(mdp, rng=2)


def unequal() -> tuple[NetworkedMDP, LocalPolicy]:
    _, mdp, policy = load_instance(UNEQUAL)
    return mdp, policy


Case = Callable[[], tuple[NetworkedMDP, LocalPolicy]]
CASES: dict[str, tuple[Case, tuple[int, ...]]] = {
    "ring": (lambda: drawn("ring", 6, concentration=0.5), (0, 1, 3)),
    "star": (lambda: drawn("star", 5), (0, 1)),
    "unequal": (unequal, (1,)),
}
SLOW: dict[str, tuple[Case, tuple[int, ...]]] = {
    "relay": (lambda: noisy_relay(6), (0, 1, 2, 3)),
    "erdos-renyi": (lambda: drawn("erdos-renyi", 6, n_actions=3), (0, 1, 2)),
    "path": (lambda: drawn("path", 5, n_states=3), (0, 1, 2)),
    "far-reading": (lambda: drawn("path", 5, radius=2), (0, 1, 2)),
    "patient": (lambda: drawn("ring", 5, gamma=0.99), (1,)),
}
EDGES: dict[str, Case] = {
    "one state, one action": lambda: drawn("path", 3, n_states=[2, 1, 2], n_actions=[2, 1, 2]),
    "constant rewards": lambda: drawn("path", 3, reward_range=(0.3, 0.3)),
    "large rewards": lambda: drawn("path", 3, reward_range=(999.99, 1000.0)),
    "nothing to decide": lambda: drawn("path", 3, n_actions=1),
    "no future": lambda: drawn("path", 3, gamma=0.0),
    "certain": lambda: noisy_relay(4, noise=0.0),
}
Learned = Callable[[Report], None]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--deep-seed"))


@pytest.fixture
def learned(record_property: Callable[[str, object], None]) -> Learned:
    """Hand over what was found, for the closing table."""

    def note(report: Report) -> None:
        for f in report.findings:
            record_property("learner", (f.check, f.about, f.tests, f.worst, f.p))

    return note


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_the_learner_computes_what_it_should(case: str, seed: int, learned: Learned) -> None:
    make, kappas = (CASES | SLOW)[case]
    report = run(Setting(*make(), seed=seed), kappas)
    learned(report)
    assert {f.level for f in report.findings} == {LEVEL}
    assert not report.failed, report.failed


@pytest.mark.parametrize("algo", ["dppo", "cppo", "ia2c"])
def test_so_do_the_rivals(algo: str, seed: int, learned: Learned) -> None:
    base: ActorCritic = get_preset("tabular", algo)  # type: ignore[assignment]
    population: Callable[..., LocalAgents] = ALGORITHMS[algo].population  # type: ignore[assignment]
    setting = Setting(*drawn("path", 4), seed=seed, make_agents=population, base=base)
    report = run(setting, [math.inf if base.kappa_critic == math.inf else 1])
    learned(report)
    assert not report.failed, report.failed


@pytest.mark.parametrize("edge", EDGES)
@one_thread()
def test_rounding_and_what_is_certain_are_no_mistakes(edge: str, seed: int) -> None:
    setting, report = Setting(*EDGES[edge](), seed=seed, copies=500), Report()
    for stage in stages(setting, [1], report):
        if stage.startswith("models") and edge != "certain":
            break
    assert not report.failed, report.failed


def named(bug: str, report: Report) -> list[Finding]:
    return [f for f in report.failed if f.check.startswith(BUGS[bug].found_by)]


@pytest.mark.parametrize("bug", BUGS)
def test_a_mistake_is_found_by_the_check_that_is_named_for_it(
    bug: str, seed: int, record_property: Callable[[str, object], None]
) -> None:
    setting = Setting(*noisy_relay(6), seed=seed)
    report = Report()
    with one_thread(), BUGS[bug].active(setting) as wrong:
        for _ in stages(wrong, [2], report):
            if named(bug, report):
                break
    found = named(bug, report)
    assert found, f"found only by {report.failed}"
    worst = min(found, key=lambda f: f.p)
    record_property("bug", (bug, worst.check, worst.about, worst.worst, worst.p))


@one_thread()
def test_critic_errors_follow_the_exact_curve_on_a_ring_of_eight(seed: int) -> None:
    setting = Setting(*noisy_relay(8), seed=seed)
    data = setting.sample(0)
    found = [critic_error(setting, kappa, fit(setting, kappa, data)) for kappa in range(4)]
    for error in found:
        assert abs(error.fitted - error.settled) <= error.interval
        assert error.settled <= error.envelope <= error.corrected
    first, last = found[0], found[-1]
    assert first.fitted - first.interval > last.fitted + last.interval, "the curve is not seen to fall"


@one_thread()
def test_truncated_gradients_have_two_routes(seed: int) -> None:
    """Theorem 2's code and the general expectation of an estimate agree, and so does the code's own estimate."""
    mdp, policy = drawn("star", 5)
    setting = Setting(mdp, policy, seed=seed)
    for kappa in (0, 1):
        general = expected(setting, policy, kappa, 0.0, setting.extended(kappa))
        np.testing.assert_allclose(general, truncated(setting, policy, kappa), atol=1e-14)
    assert check_gradient(setting, 1, 0.0, setting.sample(0)).passed


def test_the_fixed_point_is_not_the_conditional_expectation() -> None:
    setting = Setting(*noisy_relay(6))
    assert np.abs(settled_on_joint(setting, 1) - setting.extended(1)).max() > 0.1
