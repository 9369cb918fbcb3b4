"""Constructive instances, in exact fractions: the smallest counterexamples, and families that attain the tight bounds.

In a *flooding* instance every agent stores and forwards the bits it has heard, so information travels as fast as the
light cone allows, and an agent that has heard what it waits for plays it for ever: its value moves as late as it can,
and then by all that it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import numpy as np

from dmpo_theory.bounds import Setting
from dmpo_theory.gradient import Reading, conditioning_sets
from dmpo_theory.graph import AgentGraph, path, star
from dmpo_theory.rational import Action, JointState, LocalState, RationalMDP, coin_gradient, rational_values

ONE = Fraction(1)
HALF = Fraction(1, 2)
SIGNED = (Fraction(-1), Fraction(1))
NON_NEGATIVE = (Fraction(0), Fraction(1))
NON_POSITIVE = (Fraction(-1), Fraction(0))


@dataclass(frozen=True)
class Witness:
    """An exact error of truncation and the setting that bounds it.

    Attributes:
        name: what the instance is.
        kappa: radius of the truncation.
        agents: the agents whose errors are given.
        errors: exact errors, one for each of ``agents``.
        setting: what the bounds depend on.
    """

    name: str
    kappa: int
    agents: tuple[int, ...]
    errors: tuple[Fraction, ...]
    setting: Setting

    def mean(self) -> Witness:
        """The mean error over agents, as Remark 1 has it, for each of them."""
        mean = sum(self.errors, Fraction(0)) / len(self.errors)
        return replace(self, errors=(mean,) * len(self.errors))


def shift_register(kappa: int, gamma: Fraction, rewards: tuple[Fraction, Fraction] = SIGNED) -> RationalMDP:
    """A path of ``kappa + 2`` agents with one bit each, on which Theorem 1 as printed fails by ``span / r_max``.

    Bits move one agent towards agent 0, which plays its neighbour's and is paid ``rewards[bit]``. The last bit is
    ``kappa + 1`` hops away from it and is played from step ``kappa`` on.
    """
    graph = path(kappa + 2)

    def transition(i: int, seen: JointState, action: Action) -> dict[LocalState, Fraction]:
        return {seen[-1]: ONE}  # the right-hand neighbour's bit; the last agent keeps its own

    def policy(i: int, seen: JointState) -> dict[Action, Fraction]:
        return {_bit(seen[-1]) if i == 0 else 0: ONE}

    def reward(i: int, state: LocalState, action: Action) -> Fraction:
        return rewards[_bit(action)] if i == 0 else rewards[0]

    return RationalMDP(graph, gamma, transition, policy, reward, (rewards,) * graph.n)


def shift_register_witness(kappa: int, gamma: Fraction, rewards: tuple[Fraction, Fraction] = SIGNED) -> Witness:
    """Agent 0's error in the shift register when the unseen bit is taken to be 0 and is 1."""
    instance = shift_register(kappa, gamma, rewards)
    truth, reference = (1,) * (kappa + 2), (1,) * (kappa + 1) + (0,)
    values = rational_values(instance, [truth, reference])
    error = abs(values[truth][0] - values[reference][0])
    return Witness(f"shift register on path({kappa + 2})", kappa, (0,), (error,), instance.setting())


START, DONE = "start", "done"


def three_agent_star(gamma: Fraction, rewards: tuple[Fraction, Fraction] = SIGNED) -> RationalMDP:
    """A star of three agents with 3 x 2 x 2 states on which Theorem 2 as printed fails by 4/3.

    The centre flips a fair coin at the start, tells the leaves, then adds both leaves' bits to it, while they clear
    theirs. From then on each leaf plays coin + both bits, of which the other leaf's is two hops away from it.
    """
    graph = star(3)

    def transition(i: int, seen: JointState, action: Action) -> dict[LocalState, Fraction]:
        centre = seen[0]
        if i > 0:
            return {seen[1] if centre == START else 0: ONE}
        if centre == START:
            return {action: ONE}
        return {(_bit(centre) + _bit(seen[1]) + _bit(seen[2])) % 2: ONE}

    def policy(i: int, seen: JointState) -> dict[Action, Fraction]:
        centre = seen[0]
        if i == 0:
            return {0: HALF, 1: HALF} if centre == START else {0: ONE}
        return {0 if centre == START else (_bit(centre) + _bit(seen[1])) % 2: ONE}

    def reward(i: int, state: LocalState, action: Action) -> Fraction:
        return rewards[0] if i == 0 else rewards[_bit(action)]

    return RationalMDP(graph, gamma, transition, policy, reward, (rewards,) * 3)


def three_agent_star_witness(gamma: Fraction, rewards: tuple[Fraction, Fraction] = SIGNED) -> Witness:
    """The centre's gradient error at kappa = 1: bits are 0, the reference takes the leaf that is not seen as 1."""
    instance = three_agent_star(gamma, rewards)

    def reference(j: int, state: JointState) -> JointState:
        return tuple(1 if k != j and k > 0 else s for k, s in enumerate(state)) if j > 0 else state

    error = _gradient_error(instance, 0, (START, 0, 0), (0, 1, 2), reference)
    return Witness("star of 3 agents, 12 states", 1, (0,), (error,), instance.setting())


def wrong_sign(gamma: Fraction) -> RationalMDP:
    """A star of four agents on which the advantage after Eq. 9 has the wrong sign, with exact critics.

    The centre's coin pays it 1 for heads and -1 for tails at the start, once; heads cost each leaf 1 and tails pay it 1
    in the next step, once. With the own reward at weight 1 against values at 1/4, heads look good; they are bad.
    """
    graph = star(4)

    def transition(i: int, seen: JointState, action: Action) -> dict[LocalState, Fraction]:
        if i > 0:
            return {0: ONE}
        return {_bit(action) if seen[0] == START else DONE: ONE}

    def policy(i: int, seen: JointState) -> dict[Action, Fraction]:
        centre = seen[0]
        if i == 0:
            return {0: HALF, 1: HALF} if centre == START else {2: ONE}
        return {2 if centre in (START, DONE) else 1 - _bit(centre): ONE}

    def reward(i: int, state: LocalState, action: Action) -> Fraction:
        return (Fraction(-1), Fraction(1), Fraction(0))[_bit(action)]

    return RationalMDP(graph, gamma, transition, policy, reward, (SIGNED,) * 4)


def wrong_sign_gradients(gamma: Fraction) -> tuple[Fraction, Fraction]:
    """The centre's exact gradient at the start, and the one with its own reward at weight 1, both with exact values."""
    instance, start = wrong_sign(gamma), (START, 0, 0, 0)
    values = rational_values(instance, [start])
    exact = coin_gradient(instance, 0, start, lambda s: sum(values[s], Fraction(0)) / 4)
    own = coin_gradient(instance, 0, start, lambda s: Fraction(0)) * (4 - 1)  # the own reward once more, 1 - 1/n
    return exact, exact + own


def walker(positions: int, gamma: Fraction, rewards: tuple[Fraction, Fraction] = SIGNED) -> RationalMDP:
    """Two agents: agent 0 flips a fair coin for ever; agent 1 walks a step up or down with it, between two walls.

    Agent 1 is paid ``rewards[1]`` in the upper half of its positions and ``rewards[0]`` in the lower. Every flip
    matters for a long time, so gradients that add up over time grow faster than Eq. 14 allows.
    """

    def transition(i: int, seen: JointState, action: Action) -> dict[LocalState, Fraction]:
        if i == 0:
            return {action: ONE}
        step = 1 if _bit(seen[0]) else -1
        return {min(max(_bit(seen[1]) + step, 0), positions - 1): ONE}

    def policy(i: int, seen: JointState) -> dict[Action, Fraction]:
        return {0: HALF, 1: HALF} if i == 0 else {0: ONE}

    def reward(i: int, state: LocalState, action: Action) -> Fraction:
        return rewards[0] if i == 0 else rewards[int(2 * _bit(state) >= positions)]

    return RationalMDP(path(2), gamma, transition, policy, reward, (rewards,) * 2)


def walker_return_gradient(positions: int, gamma: Fraction, rewards: tuple[Fraction, Fraction] = SIGNED) -> Fraction:
    """Largest derivative of ``E sum_t gamma^t r(t)`` by agent 0's logit, over starting states.

    At kappa = 0 it is all error: agent 0's own value does not depend on what it does.
    """
    instance = walker(positions, gamma, rewards)
    states = [(coin, place) for coin in (0, 1) for place in range(positions)]
    values = rational_values(instance, states)

    def here(state: JointState) -> list[Fraction]:
        return [coin_gradient(instance, 0, state, lambda s: sum(values[s], Fraction(0)) / 2)]

    return max(abs(total) for (total,) in rational_values(instance, states, rewards=here).values())


def flooding_values(
    graph: AgentGraph,
    kappa: int,
    gamma: Fraction,
    rewards: tuple[Fraction, Fraction] = SIGNED,
    m: int = 1,
    p: int = 1,
    name: str = "flooding",
) -> Witness:
    """Theorem 1 and Remark 1 with equality, for every agent of any graph at once.

    Each agent waits for the bit of an agent just outside its neighbourhood; all bits are 1 and each reference law
    takes the one that is waited for as 0. Agents that see their whole component have error 0.
    """
    instance, truth, flipped = _waiting(graph, kappa, gamma, rewards, m, p)
    values = rational_values(instance, [truth, *flipped.values()])
    errors = [abs(values[truth][j] - values[flipped[j]][j]) if j in flipped else Fraction(0) for j in range(graph.n)]
    return Witness(name, kappa, tuple(range(graph.n)), tuple(errors), instance.setting())


def flooding_q_values(graph: AgentGraph, kappa: int, gamma: Fraction) -> Witness:
    """``|Q_i(s, a) - Q_i(s', a')|`` in the same instances, with actions inside ``N_i^kappa`` held fixed too."""
    instance, truth, flipped = _waiting(graph, kappa, gamma, SIGNED, 1, 1)
    chosen = [next(iter(law)) for law in instance.actions(truth)]
    errors = []
    for j in range(graph.n):
        if j not in flipped:
            errors.append(Fraction(0))
            continue
        held = {k: chosen[k] for k in graph.neighbors(j, kappa)}
        after = [next(iter(instance.successors(state, held))) for state in (truth, flipped[j])]
        values = rational_values(instance, after)
        errors.append(gamma * abs(values[after[0]][j] - values[after[1]][j]))
    return Witness("flooding", kappa, tuple(range(graph.n)), tuple(errors), instance.setting())


def _waiting(
    graph: AgentGraph, kappa: int, gamma: Fraction, rewards: tuple[Fraction, Fraction], m: int, p: int
) -> tuple[RationalMDP, JointState, dict[int, JointState]]:
    """The instance, the state with all bits 1, and for each agent that state with the bit it waits for taken as 0."""
    source = {}
    for j in range(graph.n):
        outside = _nearest_outside(graph, j, graph.neighbors(j, kappa))
        if outside is not None:
            source[j] = outside
    instance = _flooding(graph, gamma, rewards, m, p, lambda j, heard: heard.get(source.get(j, -1), 0))
    truth = tuple(frozenset({(e, 1)}) if e in source.values() else frozenset() for e in range(graph.n))
    return instance, truth, {j: _replace(truth, e, frozenset({(e, 0)})) for j, e in source.items()}


def flooding_gradient(
    graph: AgentGraph,
    i: int,
    kappa: int,
    gamma: Fraction,
    reading: Reading = "eq9",
    rewards: tuple[Fraction, Fraction] = SIGNED,
    m: int = 1,
    p: int = 1,
    name: str = "flooding",
) -> Witness:
    """Theorem 2 with equality, for any agent of any graph, in reading (i) or (ii).

    Agent i flips a fair coin. Agents outside ``N_i^kappa`` play the coin once they have heard of it; agent j inside
    plays coin XOR the bit of the nearest agent outside ``U_j``, which the reference law takes the wrong way round.
    """
    seen = conditioning_sets(graph, i, kappa, reading)
    source = {}
    for j in seen:
        outside = _nearest_outside(graph, j, seen[j])
        if outside is not None:
            source[j] = outside

    def decide(j: int, heard: Mapping[object, int]) -> int:
        if "coin" not in heard or (j in seen and source.get(j) not in heard):
            return 0
        return heard["coin"] ^ heard[source[j]] if j in seen else heard["coin"]

    instance = _flooding(graph, gamma, rewards, m, p, decide)
    # Bits are sealed until the first step is over, so that they start to spread together with the coin.
    start: JointState = tuple(
        frozenset(({("sealed", e, 0)} if e in source.values() else set()) | ({("flip",)} if e == i else set()))
        for e in range(graph.n)
    )

    def reference(j: int, state: JointState) -> JointState:
        return _replace(state, source[j], frozenset({(source[j], 1)})) if j in source else state

    error = _gradient_error(instance, i, start, tuple(seen), reference)
    return Witness(name, kappa, (i,), (error,), instance.setting())


def _flooding(
    graph: AgentGraph,
    gamma: Fraction,
    rewards: tuple[Fraction, Fraction],
    m: int,
    p: int,
    decide: Callable[[int, Mapping[object, int]], int],
) -> RationalMDP:
    """Agents pass on all they hear; agent j plays ``decide(j, what it has heard)`` and is paid for it.

    Local states are sets of facts: (name, bit) spreads, ("sealed", name, bit) is opened at the next step, ("flip",)
    flips a coin. An action is (bit played, facts heard): facts travel through actions too, as far as policies read.
    """
    acts = [graph.neighbors(i, p) for i in range(graph.n)]
    reads = [graph.neighbors(i, m) for i in range(graph.n)]

    def transition(i: int, seen: JointState, action: Action) -> dict[LocalState, Fraction]:
        bit, heard = _play(action)
        own = _facts(seen[reads[i].index(i)])
        facts = _open_facts(seen) | heard | {fact[1:] for fact in own if fact[0] == "sealed"}
        return {facts | {("coin", bit)} if ("flip",) in own else facts: ONE}

    def policy(i: int, seen: JointState) -> dict[Action, Fraction]:
        heard = _open_facts(seen)
        if ("flip",) in _facts(seen[acts[i].index(i)]):
            return {(0, heard): HALF, (1, heard): HALF}
        return {(decide(i, {fact[0]: fact[1] for fact in heard}), heard): ONE}

    def reward(i: int, state: LocalState, action: Action) -> Fraction:
        return rewards[_play(action)[0]]

    return RationalMDP(graph, gamma, transition, policy, reward, (rewards,) * graph.n, m, p)


def _gradient_error(
    instance: RationalMDP,
    i: int,
    start: JointState,
    members: tuple[int, ...],
    reference: Callable[[int, JointState], JointState],
) -> Fraction:
    """``|g_i - g~_i|`` at ``start`` when ``V_j`` of ``members`` is taken at ``reference(j, s')``, others left out."""
    after = instance.successors(start)
    values = rational_values(instance, [*after, *(reference(j, s) for s in after for j in members)])
    n = instance.graph.n
    exact = coin_gradient(instance, i, start, lambda s: sum(values[s], Fraction(0)) / n)
    truncated = coin_gradient(
        instance, i, start, lambda s: sum((values[reference(j, s)][j] for j in members), Fraction(0)) / n
    )
    return abs(exact - truncated)


def _nearest_outside(graph: AgentGraph, j: int, seen: tuple[int, ...]) -> int | None:
    distance = np.where(np.isin(np.arange(graph.n), seen), np.inf, graph.hop_distance[j])
    nearest = int(distance.argmin())
    return nearest if np.isfinite(distance[nearest]) else None


def _replace(state: JointState, position: int, local: LocalState) -> JointState:
    return (*state[:position], local, *state[position + 1 :])


def _facts(state: LocalState) -> frozenset[Any]:
    return cast("frozenset[Any]", state)


def _open_facts(states: JointState) -> frozenset[Any]:
    return frozenset(fact for state in states for fact in _facts(state) if len(fact) == 2)


def _play(action: Action) -> tuple[int, frozenset[Any]]:
    return cast("tuple[int, frozenset[Any]]", action)


def _bit(symbol: object) -> int:
    return cast(int, symbol)
