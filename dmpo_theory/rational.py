"""Exact rational evaluation of networked MDPs given as functions, on their reachable joint states only.

A counterexample in fractions is a proof, not a rounding artefact, and a constructive instance may have far too many
local states for a table while only a few joint states are ever reached. Values are solved one strongly connected
component of the reachable chain at a time, last ones first, and within a component by eliminating states, so a
deterministic or sparse instance costs little.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import networkx as nx
import numpy as np
from flint import fmpq, fmpq_mat

from dmpo_theory.bounds import Setting
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP, Parents

LocalState = Hashable
JointState = tuple[LocalState, ...]
Action = Hashable
PATIENCE = 1800.0
"""Seconds that a dense exact solution may be expected to take before it is refused."""


@dataclass(frozen=True, eq=False)
class RationalMDP:
    """A networked MDP with its local policy, as functions with rational values.

    Attributes:
        graph: the agents' graph.
        gamma: discount factor, a fraction.
        transition: ``(i, parents' states, a_i) -> {s_i': probability}``.
        policy: ``(i, parents' states) -> {a_i: probability}``.
        reward: ``(i, s_i, a_i) -> reward``.
        reward_range: lowest and highest reward of each agent, ``[n]``.
        m: transition radius: the parents of agent i's transition are ``N_i^m``.
        p: policy radius, likewise.
    """

    graph: AgentGraph
    gamma: Fraction
    transition: Callable[[int, JointState, Action], Mapping[LocalState, Fraction]]
    policy: Callable[[int, JointState], Mapping[Action, Fraction]]
    reward: Callable[[int, LocalState, Action], Fraction]
    reward_range: tuple[tuple[Fraction, Fraction], ...]
    m: int = 1
    p: int = 1

    def setting(self, g_max: Fraction = Fraction(1, 2)) -> Setting:
        """What the bounds depend on. ``g_max`` is 1/2 for a fair coin with one logit."""
        return Setting(self.graph, self.gamma, self.m, self.p, self.reward_range, (g_max,) * self.graph.n)

    @property
    def transition_parents(self) -> Parents:
        """``N_i^m`` of every agent."""
        return tuple(self.graph.neighbors(i, self.m) for i in range(self.graph.n))

    @property
    def policy_parents(self) -> Parents:
        """``N_i^p`` of every agent."""
        return tuple(self.graph.neighbors(i, self.p) for i in range(self.graph.n))

    def actions(self, state: JointState) -> list[Mapping[Action, Fraction]]:
        """The law of every agent's action at a joint state."""
        return [self.policy(i, tuple(state[j] for j in read)) for i, read in enumerate(self.policy_parents)]

    def successors(self, state: JointState, forced: Mapping[int, Action] | None = None) -> dict[JointState, Fraction]:
        """The law of the next joint state, with some agents' actions forced."""
        chosen = [
            {(forced or {})[i]: Fraction(1)} if i in (forced or {}) else law
            for i, law in enumerate(self.actions(state))
        ]
        local = []
        for i, read in enumerate(self.transition_parents):
            seen = tuple(state[j] for j in read)
            law: dict[LocalState, Fraction] = {}
            for action, weight in chosen[i].items():
                for following, probability in self.transition(i, seen, action).items():
                    law[following] = law.get(following, Fraction(0)) + weight * probability
            local.append(law.items())
        joint: dict[JointState, Fraction] = {}
        for outcome in itertools.product(*local):
            probability = Fraction(1)
            for _, factor in outcome:
                probability *= factor
            if probability:
                joint[tuple(following for following, _ in outcome)] = probability
        return joint

    def expected_rewards(self, state: JointState) -> list[Fraction]:
        """``E[r_i | s]`` of every agent."""
        return [
            sum((weight * self.reward(i, state[i], action) for action, weight in law.items()), Fraction(0))
            for i, law in enumerate(self.actions(state))
        ]


def rational_values(
    instance: RationalMDP,
    starts: Iterable[JointState],
    max_states: int = 20_000,
    rewards: Callable[[JointState], Sequence[Fraction]] | None = None,
) -> dict[JointState, tuple[Fraction, ...]]:
    """Exact ``(V_0, ..., V_{n-1})`` at every joint state that can be reached from ``starts``.

    Args:
        instance: the MDP with its policy.
        starts: joint states to start from.
        max_states: refuse to explore more joint states than this.
        rewards: what is summed, functions of the joint state; the expected rewards of all agents by default.

    Raises:
        ValueError: more than ``max_states`` joint states can be reached.
    """
    chain: nx.DiGraph[JointState] = nx.DiGraph()
    todo = list(dict.fromkeys(starts))
    chain.add_nodes_from(todo)
    while todo:
        state = todo.pop()
        for following, probability in instance.successors(state).items():
            if following not in chain:
                if len(chain) >= max_states:
                    raise ValueError(f"more than {max_states} joint states can be reached; raise max_states")
                todo.append(following)
            chain.add_edge(state, following, probability=probability)
    components = nx.condensation(chain)
    values: dict[JointState, tuple[Fraction, ...]] = {}
    for component in reversed(list(nx.topological_sort(components))):
        members = list(components.nodes[component]["members"])
        known = []  # reward plus discounted value of what lies downstream, [members][n]
        for state in members:
            terms = list((rewards or instance.expected_rewards)(state))
            for following, edge in chain[state].items():
                if following in values:
                    terms = [
                        t + instance.gamma * edge["probability"] * v
                        for t, v in zip(terms, values[following], strict=True)
                    ]
            known.append(terms)
        solved = _solve(members, chain, instance.gamma, known)
        values.update(zip(members, solved, strict=True))
    return values


def coin_gradient(
    instance: RationalMDP, i: int, state: JointState, value: Callable[[JointState], Fraction]
) -> Fraction:
    """``E[(r_i / n + gamma f(s')) d log pi_i / d theta | s]`` for an agent that chooses between two actions at ``s``.

    The probability of the second action is the sigmoid of theta. Rewards of other agents do not depend on ``a_i`` and
    drop out, as does the baseline.

    Args:
        instance: the MDP with its policy.
        i: the agent whose logit moves.
        state: the joint state ``s``.
        value: ``f``, a function of the next joint state.
    """
    law = instance.actions(state)[i]
    if len(law) != 2:
        raise ValueError(f"agent {i} has {len(law)} actions at {state!r}; the logit of a coin needs two")
    second = list(law)[1]
    total = Fraction(0)
    for action, probability in law.items():
        score = int(action == second) - law[second]
        after = sum((q * value(s) for s, q in instance.successors(state, {i: action}).items()), Fraction(0))
        total += (
            probability * score * (instance.reward(i, state[i], action) / instance.graph.n + instance.gamma * after)
        )
    return total


def tabulate(
    instance: RationalMDP, local_states: Sequence[Sequence[LocalState]], n_actions: Sequence[int]
) -> tuple[NetworkedMDP, LocalPolicy]:
    """The same instance as float tables; ``local_states[i]`` lists agent i's states, actions are 0, 1, ..."""
    number = [{state: k for k, state in enumerate(states)} for states in local_states]
    transition, policy, reward = [], [], []
    for i in range(instance.graph.n):
        read, acts = instance.transition_parents[i], instance.policy_parents[i]
        sizes = [len(local_states[j]) for j in read]
        p = np.zeros((*sizes, n_actions[i], len(local_states[i])))
        for index in itertools.product(*map(range, sizes)):
            seen = tuple(local_states[j][k] for j, k in zip(read, index, strict=True))
            for a in range(n_actions[i]):
                for following, probability in instance.transition(i, seen, a).items():
                    p[(*index, a, number[i][following])] += float(probability)
        transition.append(p)
        sizes = [len(local_states[j]) for j in acts]
        pi = np.zeros((*sizes, n_actions[i]))
        for index in itertools.product(*map(range, sizes)):
            seen = tuple(local_states[j][k] for j, k in zip(acts, index, strict=True))
            law = instance.policy(i, seen)
            pi[index] = [float(law.get(a, 0)) for a in range(n_actions[i])]
        policy.append(pi)
        reward.append(
            np.array([[float(instance.reward(i, s, a)) for a in range(n_actions[i])] for s in local_states[i]])
        )
    mdp = NetworkedMDP(
        instance.graph, float(instance.gamma), tuple(transition), tuple(reward), instance.transition_parents
    )
    return mdp, LocalPolicy(mdp, tuple(policy), instance.policy_parents)


def _solve(
    members: list[JointState], chain: nx.DiGraph[JointState], gamma: Fraction, known: list[list[Fraction]]
) -> list[tuple[Fraction, ...]]:
    """Solve ``v = known + gamma P v`` on one component: eliminate states while that stays sparse, the rest densely.

    To eliminate a state is to write its value in terms of its successors' and to put that where the state is read.
    """
    inside = {state: k for k, state in enumerate(members)}
    rows: list[dict[int, fmpq]] = [{} for _ in members]
    readers: list[set[int]] = [set() for _ in members]
    for state, k in inside.items():
        for following, edge in chain[state].items():
            if following in inside:
                rows[k][inside[following]] = _flint(gamma * edge["probability"])
                readers[inside[following]].add(k)
    right = [[_flint(term) for term in terms] for terms in known]

    left, order = set(range(len(members))), []
    queue = [(len(rows[k]) * len(readers[k]), k) for k in left]
    heapq.heapify(queue)
    while left:
        cost, k = heapq.heappop(queue)
        if k not in left or cost != len(rows[k]) * len(readers[k]):
            continue  # a stale entry: the state has another one, or is gone
        if len(left) > 8 and 2 * len(rows[k]) > len(left):
            break
        scale = 1 / (1 - rows[k].pop(k, _ZERO))
        rows[k] = {t: weight * scale for t, weight in rows[k].items()}
        right[k] = [term * scale for term in right[k]]
        left.remove(k)
        order.append(k)
        for t in rows[k]:
            readers[t].discard(k)
        for s in readers[k] & left:
            weight = rows[s].pop(k)
            for t, own in rows[k].items():
                rows[s][t] = rows[s].get(t, _ZERO) + weight * own
                readers[t].add(s)
            right[s] = [a + weight * b for a, b in zip(right[s], right[k], strict=True)]
            heapq.heappush(queue, (len(rows[s]) * len(readers[s]), s))
        for t in rows[k]:
            heapq.heappush(queue, (len(rows[t]) * len(readers[t]), t))

    solution = _dense_solve(sorted(left), rows, right)
    for k in reversed(order):
        solution[k] = [
            term + sum((weight * solution[t][column] for t, weight in rows[k].items()), _ZERO)
            for column, term in enumerate(right[k])
        ]
    return [tuple(Fraction(int(x.p), int(x.q)) for x in solution[k]) for k in range(len(members))]


def _dense_solve(left: list[int], rows: list[dict[int, fmpq]], right: list[list[fmpq]]) -> dict[int, list[fmpq]]:
    """The remaining states' values by fraction-free elimination, or a refusal if that would take too long."""
    size = len(left)
    if not size:
        return {}
    seconds = (size / 256) ** 3.6  # measured on dense chains: one second at 256 states
    if seconds > PATIENCE:
        raise ValueError(
            f"{size} joint states reach one another densely: an exact solution would take about {seconds / 3600:.1g} "
            "hours; use fewer agents or states, or dmpo_theory.exact in floating point"
        )
    position = {k: row for row, k in enumerate(left)}
    system = fmpq_mat(size, size)
    for k, row in position.items():
        system[row, row] = 1
        for t, weight in rows[k].items():
            system[row, position[t]] -= weight
    columns = len(right[left[0]])
    solved = system.solve(fmpq_mat(size, columns, [term for k in left for term in right[k]]))
    return {k: [solved[row, column] for column in range(columns)] for k, row in position.items()}


def _flint(number: Fraction) -> fmpq:
    return fmpq(number.numerator, number.denominator)


_ZERO = fmpq(0)
