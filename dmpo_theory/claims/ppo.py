"""Claims on Eq. 10 and its use in PPO: the entropy's sign, the surrogate, what clipping bounds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dmpo_theory.claims.record import FAILS, HOLDS, Claim, Finding, Scope, Tally, decided_by
from dmpo_theory.extended import uniform_law
from dmpo_theory.gradient import truncated_state_gradient
from dmpo_theory.mdp import Array, on_joint_states

CLIP = Fraction(1, 5)


def entropy_sign(scope: Scope) -> Finding:
    """Descent on Eq. 10's loss as printed, ``+ beta H``, must not lower the entropy. One small step, advantage 0."""
    tally = Tally()
    for case in scope.cases:
        for i in range(case.mdp.n):
            logits = np.log(np.maximum(case.policy.table[i].reshape(-1, case.mdp.n_actions[i]), 1e-12))
            pi = _softmax(logits)
            entropy = _entropy(pi)
            slope = -pi * (np.log(pi) + entropy[:, None])  # dH / dlogits
            after = _entropy(_softmax(logits - 1e-3 * slope))
            loss = float((entropy - after).max())
            tally.add(max(loss, 0.0), 0.0, f"{case.name}, agent {i}: entropy falls by {loss:.1e} in one step")
    return decided_by(tally)


def surrogate_gradient(scope: Scope) -> Finding:
    """The clipped surrogate's gradient at the old policy is the truncated gradient: finite differences against it."""
    tally = Tally()
    step = 1e-6
    for case in scope.cases:
        mdp, policy = case.mdp, case.policy
        kappa = min(1, mdp.graph.diameter)
        for i in range(mdp.n):
            expected = truncated_state_gradient(mdp, policy, i, case.values, kappa, reference=uniform_law(mdp))
            pi = on_joint_states(policy.table[i], policy.parents[i], mdp.n_states)
            # E[A | s, a] up to a baseline, read off the gradient: g = pi (A - mean A).
            advantage = expected / np.where(pi > 0, pi, 1.0)
            logits = np.log(np.maximum(pi, 1e-300))
            for a in range(mdp.n_actions[i]):
                shifted = [logits + sign * step * np.eye(mdp.n_actions[i])[a] for sign in (1, -1)]
                up, down = (_surrogate(pi, _softmax(moved), advantage) for moved in shifted)
                error = np.abs((up - down) / (2 * step) - expected[:, a]).max()
                scale = 1e-6 * max(1.0, float(np.abs(advantage).max()))
                tally.add(float(error), scale, f"{case.name}, agent {i}")
    return decided_by(None, tally)


def joint_drift(scope: Scope) -> Finding:
    """``TV(pi', pi) <= 1 - prod(1 - TV_i) <= sum TV_i`` for joint policies, by enumeration of joint actions."""
    tally = Tally()
    rng = np.random.default_rng([scope.seed, 11])
    for n in range(1, scope.n + 1):
        for _ in range(20):
            old, new = rng.dirichlet(np.ones(2), n), rng.dirichlet(np.ones(2), n)
            joint = [_product(rows) for rows in (old, new)]
            each = np.abs(old - new).sum(axis=1) / 2
            product = 1 - np.prod(1 - each)
            tally.add(float(np.abs(joint[0] - joint[1]).sum() / 2), float(product), f"{n} agents, random policies")
            tally.add(float(product), float(each.sum()), f"{n} agents, random policies, sum")
    return decided_by(None, tally)


def clip_is_joint(scope: Scope) -> Finding:
    """A clip of eps for each agent as a bound of 1 + eps on the joint ratio: it reaches (1 + eps)^n."""
    tally = Tally()
    for n in range(2, scope.n + 1):
        tally.add((1 + CLIP) ** n, 1 + CLIP, f"{n} agents, each at its clip of {CLIP}")
    return decided_by(tally)


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = weights / weights.sum(axis=-1, keepdims=True)
    return result


def _entropy(pi: Array) -> Array:
    return np.asarray(-(pi * np.log(np.maximum(pi, 1e-300))).sum(axis=-1))


def _surrogate(old: Array, new: Array, advantage: Array) -> Array:
    ratio = new / np.where(old > 0, old, 1.0)
    clipped = np.clip(ratio, 1 - float(CLIP), 1 + float(CLIP))
    return np.asarray((old * np.minimum(ratio * advantage, clipped * advantage)).sum(axis=-1))


def _product(rows: Array) -> Array:
    joint = np.ones(1)
    for row in rows:
        joint = np.outer(joint, row).ravel()
    return joint


CLAIMS = (
    Claim(
        "E10",
        "Eq. 10",
        "sign of the entropy",
        r"\mathcal L=\dots+\beta H(\pi)\text{ rewards entropy}",
        "loss is minimised",
        FAILS,
        r"-\beta H(\pi)",
        entropy_sign,
    ),
    Claim(
        "F6a",
        "after Eq. 10",
        "surrogate gradient at the old policy",
        r"\nabla\mathcal L^{\mathrm{clip}}|_{\theta_{old}}=\tilde g_i",
        "exact advantages",
        HOLDS,
        r"=",
        surrogate_gradient,
    ),
    Claim(
        "F6b",
        "after Eq. 10",
        "joint drift from local drifts",
        r"\mathrm{TV}(\pi',\pi)\le1-\prod_i(1-\mathrm{TV}_i)\le\sum_i\mathrm{TV}_i",
        "none",
        HOLDS,
        r"1-\prod(1-\mathrm{TV}_i)",
        joint_drift,
    ),
    Claim(
        "F6c",
        "after Eq. 10",
        "a clip for each agent clips the joint ratio",
        r"\frac{\pi'(a|s)}{\pi(a|s)}\le1+\varepsilon",
        "each agent's ratio is at most 1 + eps",
        FAILS,
        r"(1+\varepsilon)^n",
        clip_is_joint,
    ),
)
