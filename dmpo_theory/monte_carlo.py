r"""Bounds on ``V_i(s)`` at a joint state of a network of any size: certain where possible, else with high probability.

The envelope (:mod:`dmpo_theory.envelope`) is certain, and tight where influence decays within a neighbourhood that fits
in memory. On an expander it does not: a few hops reach everybody. Then discounted returns of ``T`` steps are simulated,

    V_i(s) in E[G_T] + gamma^T / (1 - gamma) [min rbar_i, max rbar_i],   G_T = sum_{t<T} gamma^t rbar_i(s(t)),

and the mean of m of them is within ``sqrt(2 Var ln(4/delta) / m) + 7 range ln(4/delta) / (3 (m - 1))`` of ``E[G_T]``
with probability ``1 - delta``, whatever the law of ``G_T``. Samples are doubled until the interval is narrow enough;
look k has ``delta / (k (k + 1))``, so that all looks together are wrong with probability at most delta.

References:
    A. Maurer and M. Pontil, Empirical Bernstein bounds and sample variance penalization, COLT 2009, Theorem 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dmpo_theory.closed_loop import ClosedLoop, closed_loop
from dmpo_theory.envelope import envelope, envelope_bytes
from dmpo_theory.mdp import Array, LocalPolicy, NetworkedMDP

_ENVELOPE_BYTES = 2.0**26
_FIRST_SAMPLES = 1000
_BATCH_STATES = 2**22
"""Local states simulated at once."""


@dataclass(frozen=True)
class ValueBounds:
    """An interval for ``V_i(s)``.

    Attributes:
        agent: i.
        lower: its lower end.
        upper: its upper end.
        method: ``"envelope"``: certain; ``"monte-carlo"``: with the given confidence.
        confidence: probability that the interval holds ``V_i(s)``; 1 for the envelope.
        radius: of the envelope, also where it was too wide to be of use.
        samples: returns simulated; 0 for the envelope.
    """

    agent: int
    lower: float
    upper: float
    method: Literal["envelope", "monte-carlo"]
    confidence: float
    radius: int
    samples: int

    @property
    def width(self) -> float:
        """Upper minus lower end."""
        return self.upper - self.lower


def value_bounds(
    mdp: NetworkedMDP,
    policy: LocalPolicy,
    i: int,
    state: Sequence[int],
    *,
    width: float,
    confidence: float = 0.99,
    most_samples: int = 1_000_000,
    rng: np.random.Generator | int = 0,
) -> ValueBounds:
    """``V_i(s)`` at one joint state within an interval of the given width, certain if the envelope gives it.

    Where neither route gives the width the narrower interval of the two is returned.

    Args:
        mdp: the networked MDP, of any number of agents.
        policy: a local policy of it.
        i: the agent.
        state: the joint state, ``[n]``.
        width: wanted width of the interval, in units of value.
        confidence: of the interval where it is simulated.
        most_samples: at most so many returns are simulated.
        rng: generator or seed.

    Raises:
        ValueError: the state is no joint state, or width or confidence make no sense.

    Example:
        >>> from dmpo_theory.graph import named_graph
        >>> from dmpo_theory.instances import random_mdp, random_policy
        >>> mdp = random_mdp(named_graph("random-regular", 300, 0), gamma=0.7, rng=0)
        >>> found = value_bounds(mdp, random_policy(mdp, rng=1), 0, [0] * 300, width=0.1)
        >>> found.method, found.confidence, found.width <= 0.1
        ('monte-carlo', 0.99, True)
    """
    start = np.asarray(state)
    if (
        start.shape != (mdp.n,)
        or start.dtype.kind not in "iu"
        or not all(0 <= s < size for s, size in zip(start, mdp.n_states, strict=True))
    ):
        raise ValueError(
            f"state has shape {start.shape} and type {start.dtype}; give a local state, an integer in [0, S_j), for "
            f"each of {mdp.n} agents"
        )
    if most_samples < 2:
        raise ValueError(f"most_samples = {most_samples!r}; a variance takes at least 2")
    if not width > 0:
        raise ValueError(f"width = {width!r} must be positive, in units of value")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence!r} is outside (0, 1); use 0.99")
    chain = closed_loop(mdp, policy)
    radius = 0
    while envelope_bytes(chain, mdp.graph.neighbors(i, radius + 1), i) <= _ENVELOPE_BYTES:
        radius += 1
        if len(mdp.graph.neighbors(i, radius)) == len(mdp.graph.neighbors(i, radius - 1)):
            break
    found = envelope(chain, mdp.graph, mdp.gamma, i, radius)
    seen = tuple(int(start[j]) for j in found.members)
    certain = ValueBounds(i, float(found.lower[seen]), float(found.upper[seen]), "envelope", 1.0, radius, 0)
    if certain.width <= width:
        return certain
    low, high, samples = _simulated(
        chain, mdp.gamma, i, start, width, 1 - confidence, most_samples, np.random.default_rng(rng)
    )
    if high - low >= certain.width:
        return certain
    return ValueBounds(i, low, high, "monte-carlo", confidence, radius, samples)


def _simulated(
    chain: ClosedLoop,
    gamma: float,
    i: int,
    start: np.ndarray,
    width: float,
    delta: float,
    most: int,
    rng: np.random.Generator,
) -> tuple[float, float, int]:
    least, largest = float(chain.rewards[i].min()), float(chain.rewards[i].max())
    spread = max(largest - least, np.finfo(np.float64).tiny)
    horizon = 1  # what comes after it is worth at most a tenth of the width
    if gamma > 0:
        horizon = max(1, math.ceil(math.log(min(1.0, width * (1 - gamma) / (10 * spread))) / math.log(gamma)))
    weight = (1 - gamma**horizon) / (1 - gamma)
    tail = gamma**horizon / (1 - gamma)
    simulator = _Simulator(chain, i, horizon)
    returns, look = np.empty(0), 0
    while True:
        look += 1
        wanted = min(most, _FIRST_SAMPLES * 2 ** (look - 1))
        returns = np.concatenate([returns, simulator.returns(start, gamma, wanted - len(returns), rng)])
        m, chance = len(returns), math.log(4 * look * (look + 1) / delta)
        half = math.sqrt(2 * returns.var(ddof=1) * chance / m) + 7 * weight * spread * chance / (3 * (m - 1))
        low, high = returns.mean() - half + tail * least, returns.mean() + half + tail * largest
        if high - low <= width or m >= most:
            return float(low), float(high), m


class _Simulator:
    """Trajectories of the agents that matter to agent i within a horizon; agents with like tables move together."""

    def __init__(self, chain: ClosedLoop, i: int, horizon: int) -> None:
        self.chain, self.agent, self.horizon = chain, i, horizon
        needed = set(chain.reward_parents[i])
        for _ in range(horizon - 1):
            wider = needed.union(*(chain.parents[j] for j in needed))
            if len(wider) == len(needed):
                break
            needed = wider
        self.members = np.array(sorted(needed))
        place = {j: k for k, j in enumerate(self.members)}
        groups: dict[tuple[int, ...], list[int]] = {}
        for j in self.members:
            if set(chain.parents[j]) <= needed:  # others only ever matter through their first state
                groups.setdefault(chain.kernels[j].shape, []).append(int(j))
        self.groups = [
            (
                np.array([place[j] for j in agents]),
                np.array([[place[k] for k in chain.parents[j]] for j in agents], dtype=np.int64),
                np.array([math.prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1)], dtype=np.int64),
                np.moveaxis(np.cumsum(_stacked(chain, agents), axis=-1)[..., :-1], -1, 0).copy(),
            )
            for shape, agents in groups.items()
        ]
        self.reward_at = np.array([place[j] for j in chain.reward_parents[i]])

    def returns(self, start: np.ndarray, gamma: float, samples: int, rng: np.random.Generator) -> Array:
        """So many discounted returns, ``[samples]``."""
        batch = max(1, _BATCH_STATES // len(self.members))
        parts = [self._batch(start, gamma, min(batch, samples - done), rng) for done in range(0, samples, batch)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _batch(self, start: np.ndarray, gamma: float, samples: int, rng: np.random.Generator) -> Array:
        states = np.tile(start[self.members], (samples, 1))
        rewards, total = self.chain.rewards[self.agent], np.zeros(samples)
        for t in range(self.horizon):
            total += gamma**t * rewards[tuple(states[:, self.reward_at].T)]
            if t + 1 == self.horizon:
                break
            following = states.copy()
            for agents, parents, strides, cumulative in self.groups:
                rows = states[:, parents] @ strides if parents.shape[1] else np.zeros((samples, len(agents)), int)
                draw, after = rng.random(rows.shape), np.zeros(rows.shape, dtype=np.int64)
                for threshold in cumulative:  # of each next state but the last: [agents, joint states of parents]
                    after += draw >= threshold[np.arange(len(agents)), rows]
                following[:, agents] = after
            states = following
        return total


def _stacked(chain: ClosedLoop, agents: Sequence[int]) -> Array:
    """Kernels of one shape as rows: ``[agents, joint states of parents, S]``."""
    return np.stack([chain.kernels[j].reshape(-1, chain.kernels[j].shape[-1]) for j in agents])
