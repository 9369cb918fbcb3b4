"""Section III-A: the return, and how large it can be, by local policies, by own-state policies, with all known to all.

The return is ``J = E_{s(0)} (1/n) sum_i V_i``, uniform over joint states. Ascent on exact gradients, or on exact
truncated ones, is the noise-free limit of what a learner does. The largest return of one controller that sees and
decides everything bounds all others from above.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg
import scipy.optimize

from dmpo_theory.closed_loop import closed_loop
from dmpo_theory.errors import require_memory
from dmpo_theory.extended import JointLaw
from dmpo_theory.gradient import Reward, policy_gradient, truncated_gradient
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP, Parents, to_joint

Direction = Callable[[NetworkedMDP, LocalPolicy, Array, Array], tuple[Array, ...]]
"""MDP, policy, values ``[n, X]`` and occupancy ``[X]`` to a change of the logits, ``n`` arrays as the policy's."""

MOST_POLICIES = 2**16
"""Deterministic policies that an enumeration goes through at most."""


def evaluated(mdp: NetworkedMDP, policy: LocalPolicy) -> tuple[Array, Array]:
    """``V_i [n, X]`` and the normalised occupancy ``[X]`` from a uniform start, by dense solves."""
    chain = closed_loop(mdp, policy)
    factors = scipy.linalg.lu_factor(np.eye(chain.size) - mdp.gamma * chain.matrix)
    values = scipy.linalg.lu_solve(factors, chain.reward_functions().T).T
    start = np.full(chain.size, 1 / chain.size)
    return values, (1 - mdp.gamma) * scipy.linalg.lu_solve(factors, start, trans=1)


def expected_return(mdp: NetworkedMDP, policy: LocalPolicy) -> float:
    """``J`` of a policy.

    Example:
        >>> from dmpo_theory.graph import path
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(path(3), rng=0)
        >>> expected_return(mdp, random_policy(mdp, rng=1)) < central_optimum(mdp)
        True
    """
    return float(evaluated(mdp, policy)[0].mean())


def softmax_policy(mdp: NetworkedMDP, logits: Sequence[Array], parents: Parents = ()) -> LocalPolicy:
    """The policy with these logits, ``n`` arrays as its tables."""
    tables = []
    for table in logits:
        weight = np.exp(table - table.max(axis=-1, keepdims=True))
        weight[weight < np.finfo(np.float64).tiny] = 0.0
        tables.append(weight / weight.sum(axis=-1, keepdims=True))
    return LocalPolicy(mdp, tuple(tables), parents)


def uniform_logits(mdp: NetworkedMDP, radius: int = 1) -> list[Array]:
    """Zeros in the shape of a policy that reads ``N_i^radius``."""
    balls = [mdp.graph.neighbors(i, radius) for i in range(mdp.n)]
    return [np.zeros((*(mdp.n_states[j] for j in ball), a)) for ball, a in zip(balls, mdp.n_actions, strict=True)]


def exact_direction(mdp: NetworkedMDP, policy: LocalPolicy, values: Array, law: Array) -> tuple[Array, ...]:
    """``g_i`` of every agent: the gradient of ``(1 - gamma) J``."""
    return policy_gradient(mdp, policy, values, law)


def truncated_direction(kappa: float, reward: Reward = "neighborhood") -> Direction:
    """Eq. 9's truncated gradient with exact conditional expectations under the occupancy."""

    def direction(mdp: NetworkedMDP, policy: LocalPolicy, values: Array, law: Array) -> tuple[Array, ...]:
        return truncated_gradient(mdp, policy, values, law, kappa, reference=JointLaw(law), reward=reward)

    return direction


def ascent(
    mdp: NetworkedMDP, direction: Direction, steps: int, rate: float, radius: int = 1
) -> Iterator[tuple[float, LocalPolicy]]:
    """``J`` and the policy, at the uniform policy and after each of ``steps`` steps along ``direction``.

    In each step the logits of each agent move by ``rate`` at most, however small its gradient: a plain step would come
    to a halt near deterministic policies, as an optimiser with normalised steps does not.

    Args:
        mdp: the networked MDP.
        direction: of the change in the logits.
        steps: number of steps.
        rate: largest change of a logit in a step.
        radius: of what policies read.
    """
    logits = uniform_logits(mdp, radius)
    parents = tuple(mdp.graph.neighbors(i, radius) for i in range(mdp.n))
    for step in range(steps + 1):
        policy = softmax_policy(mdp, logits, parents)
        values, law = evaluated(mdp, policy)
        yield float(values.mean()), policy
        if step < steps:
            moves = direction(mdp, policy, values, law)
            sizes = [max(float(np.abs(move).max()), np.finfo(np.float64).tiny) for move in moves]
            logits = [t + rate / size * move for t, size, move in zip(logits, sizes, moves, strict=True)]


def best_local(
    mdp: NetworkedMDP, starts: int, rng: np.random.Generator, radius: int = 1, spread: float = 1.0
) -> Iterator[tuple[float, LocalPolicy]]:
    """``J`` and the policy where exact ascent by L-BFGS ends, from ``starts`` normal logits, one after another.

    Policies that read ``N_i^radius`` have many local optima: the best of many starts is a level that local policies
    can reach, and not a bound on them.
    """
    shapes = [table.shape for table in uniform_logits(mdp, radius)]
    parents = tuple(mdp.graph.neighbors(i, radius) for i in range(mdp.n))
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def policy_at(flat: Array) -> LocalPolicy:
        parts = [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]
        return softmax_policy(mdp, parts, parents)

    def loss(flat: Array) -> tuple[float, Array]:
        policy = policy_at(flat)
        values, law = evaluated(mdp, policy)
        slope = [g.reshape(-1) for g in policy_gradient(mdp, policy, values, law)]
        return -float(values.mean()), -np.concatenate(slope) / (1 - mdp.gamma)

    for _ in range(starts):
        first = spread * rng.standard_normal(int(sum(map(math.prod, shapes))))
        found = scipy.optimize.minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        yield -float(found.fun), policy_at(found.x)


def best_own_state(mdp: NetworkedMDP) -> tuple[float, LocalPolicy]:
    """The largest ``J`` of deterministic policies that read their own state only, by enumeration, and one with it.

    It bounds no randomised policy: who does not see the joint state can gain by drawing lots (Singh, Jaakkola and
    Jordan 1994).

    Raises:
        ValueError: there are more than :data:`MOST_POLICIES` deterministic ones.
    """
    rows = [(i, s) for i in range(mdp.n) for s in range(mdp.n_states[i])]
    choices = [range(mdp.n_actions[i]) for i, _ in rows]
    count = math.prod(map(len, choices))
    if count > MOST_POLICIES:
        raise ValueError(f"{count} deterministic policies are too many to go through; use best_local with radius=0")
    parents = tuple((i,) for i in range(mdp.n))
    best, chosen = -math.inf, None
    for actions in itertools.product(*choices):
        tables = [np.zeros((s, a)) for s, a in zip(mdp.n_states, mdp.n_actions, strict=True)]
        for (i, s), a in zip(rows, actions, strict=True):
            tables[i][s, a] = 1.0
        policy = LocalPolicy(mdp, tuple(tables), parents)
        chain = closed_loop(mdp, policy)
        mean = chain.reward_functions().mean(axis=0)
        value = float(np.linalg.solve(np.eye(chain.size) - mdp.gamma * chain.matrix, mean).mean())
        if value > best:
            best, chosen = value, policy
    assert chosen is not None  # there is at least one policy
    return best, chosen


def central_optimum(mdp: NetworkedMDP, memory_limit_gib: float | None = None) -> float:
    """The largest ``J`` of a controller that sees all states and decides all actions, by policy iteration.

    Raises:
        ProblemTooLarge: when the joint tables would not fit, naming the GiB they need.
    """
    size, actions = mdp.n_joint_states, math.prod(mdp.n_actions)
    require_memory(16.0 * size**2 * (actions + 1), f"{size} joint states and {actions} joint actions", "fewer agents")
    reward, kernel = to_joint(mdp, memory_limit_gib)
    everywhere = np.arange(size)
    choice = reward.argmax(axis=1)
    while True:
        value = np.linalg.solve(np.eye(size) - mdp.gamma * kernel[everywhere, choice], reward[everywhere, choice])
        gain = reward + mdp.gamma * kernel @ value
        better = gain.max(axis=1) > gain[everywhere, choice] + 1e-12
        if not better.any():
            return float(value.mean())
        choice = np.where(better, gain.argmax(axis=1), choice)
