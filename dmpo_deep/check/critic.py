"""Eqs. 7-8: the fitted extended critic against the exact fixed point of its own bootstrapped target.

That fixed point ``V^phi`` is not the conditional expectation of ``V_i``: a truncated critic that learns from its own
values settles elsewhere, though no further from ``V_i`` than ``span gamma^kappa / (1 - gamma)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dmpo_deep.check.setting import Setting, by_copy, states_heard
from dmpo_deep.check.statistics import FEW, SINGLE, Finding, half_width, mean_is_zero, no_deviation, within
from dmpo_deep.check.tables import LocalTables, heard_by, local_observations, on_joint, seen_part, tabulated
from dmpo_deep.nets import LocalNets
from dmpo_deep.ppo import LocalAgents
from dmpo_deep.rollout import Trajectory
from dmpo_theory.bootstrap import seen_target, settled_critic
from dmpo_theory.bounds import BOUNDS
from dmpo_theory.bounds import Setting as BoundSetting
from dmpo_theory.envelope import each_envelope
from dmpo_theory.gradient import marginal
from dmpo_theory.mdp import Array

PRECISION = 1e-3
"""What a fitted network may be off, in units of the largest value."""
PASSES, STEPS = 40, 50
"""Rounds of new targets for a network, and steps of Adam in each."""
DIVERGED = 1e12
"""A table this large has no fixed point to find."""
ROUNDS = 1000
"""Rounds of fitting tables, from zeros, to their own targets, at most; each shrinks what is left by gamma at least."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Tables fitted to data as training's critics are, and what is exactly known of them; ``n`` arrays ``[L_i]``.

    Attributes:
        agents: what made the targets; its critics hold the fitted tables.
        settled: the fixed point ``V^phi`` for the radius claimed, over what the critics really hear.
        tables: the fitted ones.
        scores: ``mean_t 1{u_t = u} (target_t - V^phi(u))`` of every copy, ``[B, n, L]``: of mean zero.
        influence: what each copy's scores move in the fitted tables, to first order, ``[B, n, L]``.
        often: which entries the data visit often enough to be judged, ``[n, L]``.
        names: of those entries.
    """

    agents: LocalAgents
    settled: list[Array]
    tables: list[Array]
    scores: Array
    influence: Array
    often: np.ndarray
    names: list[str]

    @property
    def members(self) -> list[tuple[int, ...]]:
        """Whom each critic hears."""
        tables: LocalTables = self.agents.critic  # type: ignore[assignment]
        return tables.members

    @property
    def spread(self) -> Array:
        """Standard errors of the fitted tables, ``[n, L]``."""
        return np.asarray(self.influence.std(axis=0, ddof=1) / np.sqrt(len(self.influence)))

    @property
    def freedom(self) -> int:
        """Of the standard errors."""
        return len(self.influence) - 1


def settled_on_joint(setting: Setting, kappa: float) -> Array:
    """``V^phi`` of every agent with radius ``kappa``, as functions of the joint state: ``[n, X]``."""
    gain, far = setting.target
    balls = enumerate(setting.balls(kappa))
    return np.stack([settled_critic(setting.mdp, gain[i], far, seen, setting.reference) for i, seen in balls])


def fit(setting: Setting, kappa: float, data: Trajectory) -> Fit:
    """Least squares over tables on the code's own targets, until the tables are their targets' means."""
    agents, mdp = setting.agents(kappa), setting.mdp
    nets: LocalTables = agents.critic  # type: ignore[assignment]
    lifted = settled_on_joint(setting, kappa)
    settled = [seen_part(mdp, lifted[i], members) for i, members in enumerate(nets.members)]
    where, size = states_heard(nets, data), nets.table.shape[1]
    nets.put(settled)
    scores = surprise(agents, data)

    masses = [marginal(setting.law, members, mdp.n_states) for members in nets.members]
    often, influence = np.zeros((mdp.n, size), dtype=bool), np.zeros_like(scores)
    for i, (mass, (_, known)) in enumerate(zip(masses, _targets(setting, nets.members), strict=True)):
        often[i, : len(mass)] = mass * where[..., 0].size >= FEW
        slope = mass[:, None] * (np.eye(len(mass)) - known)
        influence[:, i, : len(mass)] = np.linalg.lstsq(slope, scores[:, i, : len(mass)].T, rcond=None)[0].T

    visits = by_copy(np.ones(where.shape), where, size).sum(axis=0)
    before = np.zeros(nets.table.shape[:2])
    nets.put(list(before))
    for _ in range(ROUNDS):
        means = by_copy(agents.estimates(data)[0].numpy(), where, size).sum(axis=0) / np.maximum(visits, 1e-9)
        after = np.where(visits > 0, means, before)
        nets.put(list(after))
        step, before = np.abs(after - before).max(), after
        if step < SINGLE * np.abs(after).max() * setting.cut or not np.abs(after).max() < DIVERGED:
            break
    tables = [table[: len(exact)] for table, exact in zip(before, settled, strict=True)]
    names = [f"agent {i}, state {u} of what it hears" for i, u in np.argwhere(often)]
    return Fit(agents, settled, tables, scores, influence, often, names)


def surprise(agents: LocalAgents, data: Trajectory) -> Array:
    """``mean_t 1{u_t = u} (target_t - V(u))`` of every copy, by what the critics hear: ``[B, n, L]``."""
    tables: LocalTables = agents.critic  # type: ignore[assignment]
    error = agents.estimates(data)[0] - agents.values(torch.from_numpy(data.obs))
    return by_copy(error.numpy(), states_heard(tables, data), tables.table.shape[1])


def check_critic(setting: Setting, kappa: float, found: Fit) -> list[Finding]:
    """The target's mean at the exact fixed point, the fitted tables, and the bounds on the fixed point."""
    about, error = f"kappa {kappa:g}", np.zeros(found.often.shape)
    for i, (table, exact) in enumerate(zip(found.tables, found.settled, strict=True)):
        error[i, : len(exact)] = table - exact
    deviation = error[found.often], found.spread[found.often], found.freedom, found.names, setting.level, setting.size
    return [
        mean_is_zero("value target", about, found.scores[:, found.often], found.names, setting.level, setting.size),
        no_deviation("tabular critic", about, *deviation),
        _within_bounds(setting, kappa),
    ]


def check_network(setting: Setting, kappa: float, found: Fit, data: Trajectory) -> Finding:
    """A network fitted to the training code's targets, against ``V^phi``.

    The optimiser stops short of the least squares that the data determine: it is allowed one standard error and
    :data:`PRECISION`.
    """
    net = fitted_network(setting, kappa, data)
    lifted = settled_on_joint(setting, kappa)
    said = on_joint(setting.mdp, [t[:, 0] for t in tabulated(net, setting.mdp)], heard_by(net))
    error = np.zeros(found.often.shape)
    for i, members in enumerate(found.members):
        part = seen_part(setting.mdp, said[i] - lifted[i], members)
        error[i, : len(part)] = part
    spread = found.spread[found.often]
    beyond = np.maximum(np.abs(error[found.often]) - spread - PRECISION * setting.size, 0)
    rest = found.freedom, found.names, setting.level, setting.size
    return no_deviation("network critic", f"kappa {kappa:g}", beyond, spread, *rest)


def fitted_network(setting: Setting, kappa: float, data: Trajectory) -> LocalNets:
    """A critic network fitted by Eq. 8 to its own targets.

    A network gives samples with the same input the same value, so the loss is that of the targets' means over them,
    weighted by their number: that is what is minimised here, with targets made anew in every round.
    """
    graph, d = setting.mdp.graph, data.obs.shape[-1]
    net = LocalNets(graph, kappa, d, 1, (64, 64), torch.Generator().manual_seed(setting.seed))
    tables = LocalTables(net, setting.mdp.n_states)
    agents = setting.agents(kappa)
    agents.critic = tables  # type: ignore[assignment]
    where, size = states_heard(tables, data), tables.table.shape[1]
    visits = by_copy(np.ones(where.shape), where, size).sum(axis=0)
    inputs = torch.zeros(graph.n, size, net.weight[0].shape[1])
    for i, members in enumerate(tables.members):
        obs = torch.from_numpy(local_observations(setting.mdp, members))
        inputs[i, : len(obs)] = net.gather(obs)[i]
    weight = torch.from_numpy(visits / visits.sum(axis=1, keepdims=True)).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / PASSES))
    for _ in range(PASSES):
        tables.put([table[:, 0] for table in tabulated(net, setting.mdp)])
        means = by_copy(agents.estimates(data)[0].numpy(), where, size).sum(axis=0) / np.maximum(visits, 1e-9)
        target = torch.from_numpy(means).float()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (weight * (net(inputs)[..., 0] - target) ** 2).sum()
            loss.backward()
            optimizer.step()
        schedule.step()
    return net


@dataclass(frozen=True)
class CriticError:
    """How far critics of one radius are from the values, the largest over agents and the states that are judged."""

    kappa: int
    fitted: float
    """Of the fitted tables."""
    interval: float
    """Half-width: all fitted entries are this close to ``V^phi`` at once, at the level of the check."""
    settled: float
    """Of ``V^phi``, exact."""
    extended: float
    """Of the conditional expectation of ``V_i`` under the data's law, exact."""
    printed: float
    """Eq. 12."""
    corrected: float
    """Theorem 1, corrected."""
    envelope: float
    """The instance's own: the robust envelope of ``N_i^kappa`` encloses ``V_i``, its expectation and ``V^phi``."""


def critic_error(setting: Setting, kappa: float, found: Fit) -> CriticError:
    """Errors of fitted, settled and extended critics against exact values, with the bounds on them."""
    mdp, settled = setting.mdp, settled_on_joint(setting, kappa)
    fitted = on_joint(mdp, found.tables, found.members)
    judged = on_joint(mdp, list(found.often.astype(float)), found.members) > 0
    errors = [float(np.abs(v - setting.values)[judged].max()) for v in (fitted, settled, setting.extended(kappa))]
    bounds = BoundSetting.of(mdp, setting.policy)
    hops = setting.hops(kappa)
    printed, corrected = (max(map(float, BOUNDS[f"theorem1-{b}"].value(bounds, hops))) for b in ("printed", "tight"))
    envelope = max(float(e.errors()[-1]) for e in each_envelope(mdp, setting.policy, hops))
    width = float(half_width(found.spread[found.often], found.freedom, setting.level).max())
    return CriticError(hops, errors[0], width, errors[1], errors[2], printed, corrected, envelope)


def _within_bounds(setting: Setting, kappa: float) -> Finding:
    """``|V^phi - V_i| <= span gamma^t / (1 - gamma)``, and gamma times that from the extended value, for all i."""
    bounds, mdp = BoundSetting.of(setting.mdp, setting.policy), setting.mdp
    settled, extended = settled_on_joint(setting, kappa), setting.extended(kappa)
    pairs = []
    for i in range(mdp.n):
        delay = bounds.first_effect(bounds.outside_distance(i, mdp.graph.neighbors(i, kappa)))
        size = float(bounds.span[i] * bounds.discount(delay)) / (1 - mdp.gamma)
        pairs += [
            (float(np.abs(settled[i] - setting.values[i]).max()), size, f"agent {i}, from V_i"),
            (float(np.abs(settled[i] - extended[i]).max()), mdp.gamma * size, f"agent {i}, from its expectation"),
        ]
    return within("bounds on the fixed point", f"kappa {kappa:g}", pairs, setting.level, setting.size)


def _targets(setting: Setting, members: list[tuple[int, ...]]) -> list[tuple[Array, Array]]:
    """The mean target of every agent as an affine map of its table: ``[L_i]`` and ``[L_i, L_i]``."""
    gain, far = setting.target
    return [seen_target(setting.mdp, gain[i], far, seen, setting.reference) for i, seen in enumerate(members)]
