"""Eqs. 9-10: the policy gradient as training estimates it, against the exact one, its three errors told apart.

``noise`` is what finite data add to the expectation of the estimator with the critics at hand; ``critic bias`` is that
expectation against the gradient truncated with exact conditional expectations, Eq. 9; ``truncation bias`` is the latter
against the exact gradient of all agents' return.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from dmpo_deep.check.critic import Fit, surprise
from dmpo_deep.check.setting import Setting, by_copy, states_heard
from dmpo_deep.check.statistics import FEW, Finding, half_width, mean_is_zero, no_deviation
from dmpo_deep.check.tables import LocalTables, on_joint, seen_part, widened
from dmpo_deep.ppo import LocalAgents
from dmpo_deep.rollout import Trajectory
from dmpo_theory.bootstrap import advantage_continuation, states_of
from dmpo_theory.bounds import BOUNDS
from dmpo_theory.bounds import Setting as BoundSetting
from dmpo_theory.gradient import expected_gradient, marginal, policy_gradient, state_gradient, truncated_gradient
from dmpo_theory.mdp import Array, LocalPolicy

GROUPS = 40
"""Groups of copies whose fitted critics give the interval of the critic bias."""


def sampled_gradient(agents: LocalAgents, data: Trajectory) -> Array:
    """The gradient of the policies' loss at the old policy in its logits, by copy: ``[B, n, L, A]``.

    Exactly what line 12 descends, without entropy and normalisation: advantages by ``LocalAgents.estimates``, the
    loss by ``LocalAgents.policy_loss``, its derivative by autograd.
    """
    nets: LocalTables = agents.actor.net  # type: ignore[assignment]
    heard = nets.gather(torch.from_numpy(data.obs))
    logits = nets(heard).detach().requires_grad_()
    action, old = (torch.from_numpy(x).flatten(end_dim=1).T for x in (data.action, data.log_prob))
    log_prob, _ = agents.actor.head.evaluate(logits, action)
    advantage = agents.estimates(data)[1].flatten(end_dim=1).T
    (slope,) = torch.autograd.grad(agents.policy_loss(log_prob, old, advantage).sum(), logits)
    steps, copies, n = data.action.shape
    by_sample = -(slope * steps * copies).reshape(n, steps, copies, -1).permute(3, 1, 2, 0).numpy()
    where, size = states_heard(nets, data), nets.table.shape[1]
    return np.stack([by_copy(column, where, size) for column in by_sample], axis=-1)


def expected(setting: Setting, policy: LocalPolicy, kappa: float, lam: float, critics: Array) -> Array:
    """The expectation of the estimate with given critics ``[n, X]``: ``[n, L, A]`` over what ``policy`` reads."""
    mdp = setting.mdp
    follows = advantage_continuation(setting.chain, mdp.gamma, lam, critics, setting.steps, setting.cut)
    tables = []
    for i in range(mdp.n):
        weights = np.zeros(mdp.n)
        if setting.sums:
            weights[list(mdp.graph.neighbors(i, kappa))] = 1 / mdp.n
        else:
            weights[i] = 1
        by_state = state_gradient(mdp, policy, i, weights @ follows, weights)
        tables.append(expected_gradient(mdp, policy, i, by_state, setting.law))
    return padded(tables)


def truncated(setting: Setting, policy: LocalPolicy, kappa: float) -> Array:
    """Theorem 2: truncated gradients, reading (i)(b), with conditional expectations as critics: ``[n, L, A]``.

    Of agents that mind their own advantage alone, the expectation of their estimate.
    """
    if not setting.sums:
        return expected(setting, policy, kappa, 0.0, setting.extended(kappa))
    return padded(
        truncated_gradient(
            setting.mdp,
            policy,
            setting.values,
            setting.law,
            kappa,
            reference=setting.reference,
            reward="neighborhood",
        )
    )


def check_gradient(
    setting: Setting, kappa: float, lam: float, data: Trajectory, critics: Array | None = None
) -> Finding:
    """The estimate against its exact expectation.

    Args:
        setting: MDP, frozen policy and level.
        kappa: radius of critics and of the sum over neighbours.
        lam: of the advantage; 0 is the TD residual.
        data: a rollout of the frozen policy.
        critics: functions of what the critics hear, ``[n, X]``; by default exact conditional expectations. With these
            and the TD residual the expectation is Theorem 2's truncated gradient, by its own code.
    """
    agents, policy = _agents(setting, kappa, lam)
    put(agents, setting, setting.extended(kappa) if critics is None else critics)
    if critics is None and lam == 0:
        exact, name = truncated(setting, policy, kappa), "exact critic, TD"
    else:
        given = setting.extended(kappa) if critics is None else critics
        exact = expected(setting, policy, kappa, lam, given)
        name = f"{'exact' if critics is None else 'fitted'} critic, {f'GAE {lam:g}' if lam else 'TD'}"
    often, names = _judged(setting, policy, data)
    error = (sampled_gradient(agents, data) - exact)[:, often]
    return mean_is_zero(f"policy gradient, {name}", f"kappa {kappa:g}", error, names, setting.level, setting.size)


def check_update(setting: Setting, kappa: float, data: Trajectory) -> list[Finding]:
    """One whole update by plain gradient descent, against the steps that it makes in expectation.

    From exact conditional expectations the actors' tables move by the truncated gradient, and those of the critics
    by twice their mean surprise, of which the target's expectation is known.
    """
    agents, policy = _agents(setting, kappa, 0.0)
    critics = setting.extended(kappa)
    put(agents, setting, critics)
    actor, critic = _tables(agents)
    gain, far = setting.target
    expected_surprise = gain + critics @ far.T - critics
    expected_step = np.zeros(critic.table.shape[:2])
    for i, members in enumerate(critic.members):
        sums = np.bincount(states_of(setting.mdp, members), weights=setting.law * expected_surprise[i])
        expected_step[i, : len(sums)] = 2 * sums
    slopes, scores = sampled_gradient(agents, data), 2 * surprise(agents, data)
    agents.preset = replace(agents.preset, lr_actor=1.0, lr_critic=1.0)
    agents.actor_optimizer = torch.optim.SGD(agents.actor.parameters(), lr=1.0)  # type: ignore[assignment]
    agents.critic_optimizer = torch.optim.SGD(agents.critic.parameters(), lr=1.0)  # type: ignore[assignment]
    before = [nets.table.detach().double().numpy().copy() for nets in (actor, critic)]
    agents.update(data, np.random.default_rng([setting.seed, 11]))
    moved = [nets.table.detach().double().numpy() - old for nets, old in zip((actor, critic), before, strict=True)]
    often, names = _judged(setting, policy, data)
    visited = scores.std(axis=0) > 0
    seen = [f"agent {i}, state {u} of what it hears" for i, u in np.argwhere(visited)]
    about, count = f"kappa {kappa:g}", len(slopes)
    found = []
    for name, error, samples, labels in (
        ("policy update", (moved[0] - truncated(setting, policy, kappa))[often], slopes[:, often], names),
        ("critic update", (moved[1][..., 0] - expected_step)[visited], scores[:, visited], seen),
    ):
        spread = samples.std(axis=0, ddof=1) / np.sqrt(count)
        # Tables of logits are large numbers in single precision: the difference of two is rounded to their size.
        scale = max(setting.size, float(np.abs(before[0]).max() if name == "policy update" else 0.0))
        found.append(no_deviation(name, about, error, spread, count - 1, labels, setting.level, scale))
    return found


def _judged(setting: Setting, policy: LocalPolicy, data: Trajectory) -> tuple[np.ndarray, list[str]]:
    """Which entries of ``[n, L, A]`` the data hold enough of, and their names."""
    acts = [table.reshape(-1, table.shape[-1]) for table in policy.table]
    masses = [marginal(setting.law, read, setting.mdp.n_states) for read in policy.parents]
    often = padded([m[:, None] * p * (1 - p) for m, p in zip(masses, acts, strict=True)]) * data.step.size >= FEW
    return often, [f"agent {i}, state {u} of what it hears, action {a}" for i, u, a in np.argwhere(often)]


def _tables(agents: LocalAgents) -> tuple[LocalTables, LocalTables]:
    return agents.actor.net, agents.critic  # type: ignore[return-value]


@dataclass(frozen=True)
class GradientError:
    """Errors of the gradient of one radius, 2-norms over all agents' logits, with half-widths of intervals."""

    kappa: int
    exact: float
    """Norm of the exact gradient itself."""
    noise: float
    noise_interval: float
    critic_bias: float
    critic_interval: float
    truncation_bias: float
    printed: float
    """Eq. 14; NaN where advantages are no sum over neighbours."""
    corrected: float
    """Theorem 2, corrected; NaN likewise."""


def gradient_error(setting: Setting, kappa: float, found: Fit, data: Trajectory) -> GradientError:
    """Noise, critic bias and truncation bias of the TD estimate with fitted critics.

    Args:
        setting: MDP, frozen policy and level.
        kappa: radius of critics and of the sum over neighbours.
        found: critics fitted to other data.
        data: a rollout for the estimate.
    """
    mdp = setting.mdp
    agents, policy = _agents(setting, kappa, 0.0)
    critics = on_joint(mdp, found.tables, found.members)
    put(agents, setting, critics)
    mean = expected(setting, policy, kappa, 0.0, critics)
    cut = truncated(setting, policy, kappa)
    exact = padded(policy_gradient(mdp, policy, setting.values, setting.law))
    sample = (sampled_gradient(agents, data) - mean).reshape(len(data.obs[0]), -1)
    noise, spread = sample.mean(axis=0), sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    none = expected(setting, policy, kappa, 0.0, np.zeros_like(critics))
    moved = []
    for group in np.array_split(found.influence, GROUPS):
        tables = [table[: len(t)] for table, t in zip(group.mean(axis=0), found.tables, strict=True)]
        moved.append(expected(setting, policy, kappa, 0.0, on_joint(mdp, tables, found.members)) - none)
    wobble = np.std(moved, axis=0, ddof=1).reshape(-1) / np.sqrt(GROUPS)
    bounds, hops = BoundSetting.of(mdp, setting.policy), setting.hops(kappa)
    named = [_norm(np.array([float(x) for x in BOUNDS[b].value(bounds, hops)])) for b in _BOUNDS]
    return GradientError(
        hops,
        _norm(exact),
        _norm(noise),
        _norm(half_width(spread[spread > 0], len(sample) - 1, setting.level)),
        _norm(mean - cut),
        _norm(half_width(wobble[wobble > 0], GROUPS - 1, setting.level)),
        _norm(cut - exact),
        *(named if setting.sums else [math.nan] * len(named)),
    )


_BOUNDS = ("theorem2-printed", "theorem2-tight")


def put(agents: LocalAgents, setting: Setting, critics: Array) -> None:
    """Give critics ``[n, X]``, as far as they are functions of what is heard, to the agents."""
    tables: LocalTables = agents.critic  # type: ignore[assignment]
    tables.put([seen_part(setting.mdp, critics[i], members) for i, members in enumerate(tables.members)])


def padded(tables: list[Array] | tuple[Array, ...]) -> Array:
    """Tables ``[parents..., A_i]`` of all agents as one array ``[n, L, A]``, zeros where there is no entry."""
    flat = [table.reshape(-1, table.shape[-1]) for table in tables]
    result = np.zeros((len(flat), *(max(table.shape[axis] for table in flat) for axis in (0, 1))))
    for i, table in enumerate(flat):
        result[i, : len(table), : table.shape[1]] = table
    return result


def _agents(setting: Setting, kappa: float, lam: float) -> tuple[LocalAgents, LocalPolicy]:
    """Agents, and the frozen policy as a table over what their actors hear."""
    agents = setting.agents(kappa, lam)
    return agents, widened(setting.mdp, setting.policy, agents.actor.net.members)  # type: ignore[arg-type]


def _norm(x: Array) -> float:
    return float(np.linalg.norm(x))
