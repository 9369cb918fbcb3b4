"""Reference controllers of traffic signals: fixed time, the longest queue first, and max-pressure.

Each takes the environment first and returns a policy, observations and a generator to phases and log-probabilities
``[B, n]``. They read the state of the network, not the observations, and fit any network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dmpo_deep.envs import Policy, action_counts
from dmpo_deep.envs.atsc import SignalGrid, Signals
from dmpo_deep.envs.signals import GO, Signal

CAR = 7.5
"""Metres of lane that a waiting vehicle takes."""

Rule = Callable[[Signals], np.ndarray]
"""The state to phases ``[B, n]``."""


def _policy(rule: Rule, env: SignalGrid) -> Policy:
    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        action = rule(env.signals())
        return action, np.zeros(action.shape, dtype=np.float32)

    return policy


def uniform(env: SignalGrid) -> Policy:
    """Every phase with equal probability, drawn anew at every decision."""
    counts = np.array(action_counts(env))

    def policy(obs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        action = rng.integers(counts, size=obs.shape[:-1])
        return action, np.broadcast_to(-np.log(counts), action.shape).astype(np.float32)

    return policy


def constant(env: SignalGrid, phase: int) -> Policy:
    """One phase for ever; signals that do not have it show their last one."""
    chosen = np.minimum(phase, np.array(action_counts(env)) - 1)
    return _policy(lambda state: np.broadcast_to(chosen, state.phase.shape).copy(), env)


def fixed_time(env: SignalGrid, seconds: Sequence[int]) -> Policy:
    """A cycle of phases, ``seconds[k]`` for phase ``k`` with its yellow, 0 to leave it out; all signals run in step.

    Further phases take the last entry.
    """
    plans = []
    for count in action_counts(env):
        own = [seconds[min(k, len(seconds) - 1)] for k in range(count)]
        own = own if sum(own) else [1] * count
        plans.append(np.repeat(np.arange(count), np.array(own)))

    def rule(state: Signals) -> np.ndarray:
        return np.array([[plan[time % len(plan)] for plan in plans] for time in state.time.tolist()])

    return _policy(rule, env)


def greedy(env: SignalGrid, hold: int, whole_lanes: bool = False) -> Policy:
    """Every ``hold`` seconds the phase that lets most vehicles go, counted by detectors or on whole lanes.

    A vehicle counts for the phases in which its lane has most of its links green.
    """
    index, real = env.incoming
    share = _per_phase(env, _served, real.shape[1])

    def value(state: Signals) -> np.ndarray:
        count = (state.on_lane if whole_lanes else state.detected)[:, index] * real
        result: np.ndarray = np.einsum("bnm,npm->bnp", count, share)
        return result

    return _best(env, value, hold)


def max_pressure(env: SignalGrid, hold: int) -> Policy:
    """Every ``hold`` seconds the phase of highest pressure (Varaiya 2013).

    The pressure of a phase is, summed over its green links, the occupancy of the lane that the link leaves minus that
    of the lane it enters.
    """
    lengths = env.network.lanes
    room_in = np.array([lengths[lane] for lane in env.network.incoming]) / CAR
    room_out = np.array([lengths[lane] for lane in env.network.outgoing]) / CAR
    leaves, real = env.by_link
    enters, _ = env.network.padded(
        [tuple(link.target for link in signal.links) for signal in env.network.signals], env.network.outgoing
    )
    green = _per_phase(env, lambda signal, state: [state[link.index] in GO for link in signal.links], real.shape[1])

    def value(state: Signals) -> np.ndarray:
        pressure = (state.on_lane / room_in)[:, leaves] - (state.leaving / room_out)[:, enters]
        result: np.ndarray = np.einsum("bnm,npm->bnp", pressure * real, green)
        return result

    return _best(env, value, hold)


def _best(env: SignalGrid, value: Callable[[Signals], np.ndarray], hold: int) -> Policy:
    """The phase of largest value ``[B, n, P]`` where a decision is due, and the one that is green elsewhere."""
    counts = np.array(action_counts(env))
    missing = np.arange(counts.max()) >= counts[:, None]

    def rule(state: Signals) -> np.ndarray:
        wanted = np.where(missing, -np.inf, value(state)).argmax(axis=-1)
        return np.where((state.time % hold == 0)[:, None], wanted, state.phase)

    return _policy(rule, env)


def _served(signal: Signal, state: str) -> list[float]:
    """For each incoming lane the share of its links that a state lets go, 0 where another phase lets more go."""

    def share(lane: str, shown: str) -> float:
        own = [shown[link.index] in GO for link in signal.links if link.source == lane]
        return sum(own) / len(own)

    most = {lane: max(share(lane, phase) for phase in signal.phases) for lane in signal.incoming}
    return [share(lane, state) * (share(lane, state) == most[lane]) for lane in signal.incoming]


def _per_phase(env: SignalGrid, entries: Callable[[Signal, str], Sequence[float]], width: int) -> np.ndarray:
    """An array ``[n, P, width]`` of a signal's ``entries`` in each of its phases, padded with 0."""
    result = np.zeros((len(env.network.signals), max(action_counts(env)), width))
    for i, signal in enumerate(env.network.signals):
        for k, phase in enumerate(signal.phases):
            found = entries(signal, phase)
            result[i, k, : len(found)] = found
    return result
