"""Other ways to compute what `dmpo_theory.exact.local_values` does, each in its best case, and what each takes.

Peers are given the chain with the policy already averaged out of its factors, so that their MDP has one action, and no
factors: none of them takes any. The kernel `P[x, x']` is built for them by the fastest way that plain numpy knows, and
formats of their own (Python lists, sparse matrices) are filled once, not once for each agent.

A solver is a generator. It first yields no rows, `[0, X]`, once what all agents share has been built; then values,
`[k, X]`, agent after agent, all at once where it can. So that building and solving can be timed apart, and a slow
solver be stopped after a few agents.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.sparse import csr_array

from dmpo_theory.closed_loop import ClosedLoop
from dmpo_theory.mdp import Array

Solver = Callable[[ClosedLoop, float, float], Iterator[Array]]
"""`solve(chain, gamma, tolerance)`: the values of all agents, block after block."""


@dataclass(frozen=True)
class Peer:
    """A solver that is not ours.

    Attributes:
        solve: see :data:`Solver`.
        package: what pip installs, beyond numpy and scipy; none if empty.
        modules: what it imports; imported before memory is counted.
        bytes_per_entry: peak memory for each of the ``X^2`` entries of the kernel.
        power: one agent takes ``O(X^power)`` operations once the kernel is there.
    """

    solve: Solver
    package: str = ""
    modules: tuple[str, ...] = ()
    bytes_per_entry: float = 8.0
    power: int = 2

    @property
    def installed(self) -> bool:
        """Whether its modules are there; nothing is imported."""
        return all(importlib.util.find_spec(module.split(".")[0]) for module in self.modules)


def dense_kernel(chain: ClosedLoop) -> Array:
    """``P[x, x']``, C order, to be overwritten at will: the chain forgets it."""
    kernel = np.require(chain.matrix, requirements=["C", "W"])
    vars(chain).pop("matrix")
    return kernel


def dense_lu(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """LU of ``I - gamma P``, in the kernel's own memory, and all right-hand sides."""
    system = dense_kernel(chain)
    system *= -gamma
    system.reshape(-1)[:: chain.size + 1] += 1
    yield np.empty((0, chain.size))
    factors = scipy.linalg.lu_factor(system.T, overwrite_a=True, check_finite=False)  # LAPACK wants columns
    yield scipy.linalg.lu_solve(factors, chain.reward_functions().T, trans=1, check_finite=False).T


def dense_macqueen(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """Power iteration on all right-hand sides in one matrix product, until the bounds meet."""
    kernel = dense_kernel(chain)
    yield np.empty((0, chain.size))
    yield _macqueen(lambda terms: terms @ kernel.T, chain.reward_functions(), gamma, tolerance)


def sparse_macqueen(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """The same with a scipy CSR matrix, built without a copy; random tables leave no zero in ``P``."""
    kernel, size = dense_kernel(chain), chain.size
    index = np.int32 if size**2 < 2**31 else np.int64
    columns = np.tile(np.arange(size, dtype=index), size)
    starts = np.arange(0, size**2 + 1, size, dtype=index)
    matrix = csr_array((kernel.reshape(-1), columns, starts), shape=(size, size))
    yield np.empty((0, size))
    yield _macqueen(lambda terms: (matrix @ terms.T).T, chain.reward_functions(), gamma, tolerance)


def _macqueen(apply: Callable[[Array], Array], terms: Array, gamma: float, tolerance: float) -> Array:
    """``sum_t (gamma P)^t f`` with the MacQueen-Porteus bounds; ``apply`` takes ``[n, X]``."""
    total = terms.copy()
    while True:
        low, high = terms.min(axis=1), terms.max(axis=1)
        if gamma / (1 - gamma) * (high - low).max() / 2 <= tolerance:
            total += (gamma / (1 - gamma) * (high + low) / 2)[:, None]
            return total
        terms = apply(terms)
        terms *= gamma
        total += terms


def quantecon(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """`DiscreteDP.evaluate_policy`: an LU for each agent."""
    from quantecon.markov import DiscreteDP

    rewards = chain.reward_functions()
    model = DiscreteDP(rewards[0][:, None], dense_kernel(chain)[:, None, :], gamma)
    yield np.empty((0, chain.size))
    for reward in rewards:
        model.R = reward[:, None]
        yield model.evaluate_policy(np.zeros(chain.size, dtype=int))[None]


def pymdptoolbox(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """`PolicyIteration`'s evaluation step, an LU for each agent.

    `ValueIteration` stops on the span of its increments and leaves values off by a constant.
    """
    from mdptoolbox.mdp import PolicyIteration

    rewards = chain.reward_functions()
    first = np.zeros(chain.size, dtype=int)
    model = PolicyIteration(dense_kernel(chain)[None], rewards[0][:, None], gamma, policy0=first)
    yield np.empty((0, chain.size))
    for reward in rewards:
        model.R = (reward,)
        model._evalPolicyMatrix()
        yield np.asarray(model.V).reshape(1, -1)


def mdpsolver(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """MDPSolver (C++), value iteration on one action; it takes Python lists.

    It stops on the span; its post-processing removes the constant that this leaves.
    """
    import mdpsolver

    kernel = [[row.tolist()] for row in dense_kernel(chain)]
    yield np.empty((0, chain.size))
    for reward in chain.reward_functions():
        model = mdpsolver.model()
        model.mdp(discount=gamma, rewards=[[value] for value in reward.tolist()], tranMatWithZeros=kernel)
        model.solve(algorithm="vi", tolerance=tolerance, makeFinalCheck=False, parallel=False)
        yield np.array(model.getValueVector())[None]


def storm(chain: ClosedLoop, gamma: float, tolerance: float) -> Iterator[Array]:
    """Storm's sparse engine on ``R=? [Cdiscount=gamma]``, all rewards in one model."""
    import stormpy
    from stormpy import datastructures, logic, models

    size = chain.size
    builder = datastructures.SparseMatrixBuilder[float](rows=size, columns=size, entries=size**2)
    columns = list(range(size))
    for x, row in enumerate(dense_kernel(chain)):
        builder.add_next_values([x] * size, columns, row.tolist())
    labeling = models.StateLabeling(size)
    labeling.add_label("init")
    labeling.add_label_to_state("init", 0)
    rewards = {
        f"r{i}": models.SparseRewardModel[float](optional_state_reward_vector=reward.tolist())
        for i, reward in enumerate(chain.reward_functions())
    }
    model = models.SparseDtmc[float](models.SparseModelComponents[float](builder.build(), labeling, rewards))
    environment = stormpy.Environment()
    for settings in (environment.solver().native(), environment.solver().min_max()):
        settings.precision = stormpy.Rational(repr(tolerance))
        settings.relative_termination_criterion = False
    del builder
    yield np.empty((0, size))
    for name in rewards:
        query = logic.parse_property(f'R{{"{name}"}}=? [ Cdiscount={gamma!r} ]')
        result = stormpy.model_checking(model, query, environment=environment)
        yield np.array(result.get_value_vector())[None]


PEERS = {
    "dense LU": Peer(dense_lu, bytes_per_entry=8, power=3),
    "dense MacQueen": Peer(dense_macqueen, bytes_per_entry=8),
    "sparse MacQueen": Peer(sparse_macqueen, bytes_per_entry=12),
    "quantecon": Peer(quantecon, "quantecon", ("quantecon",), bytes_per_entry=40, power=3),
    "pymdptoolbox": Peer(pymdptoolbox, "pymdptoolbox", ("mdptoolbox.mdp",), bytes_per_entry=40, power=3),
    "mdpsolver": Peer(mdpsolver, "mdpsolver", ("mdpsolver",), bytes_per_entry=64),
    "storm": Peer(storm, "stormpy", ("stormpy", "stormpy.models", "stormpy.logic"), bytes_per_entry=72),
}
"""Peers by the name that tables give them."""
