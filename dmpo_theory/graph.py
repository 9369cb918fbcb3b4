"""Section III-A: the agents' graph, hop distances and kappa-hop neighbourhoods.

``N_i^kappa`` is the set of agents at breadth-first distance at most ``kappa`` from agent ``i``, agent ``i``
included. It is *not* the support of a power of the adjacency matrix: without self loops such a power keeps walks of
one parity only and loses agents. Both packages take every neighbourhood from :class:`AgentGraph`.

Agents are numbered ``0 .. n-1`` everywhere; ``graph.nodes[i]`` is the user's label of agent ``i``.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path

from dmpo_theory.errors import require_memory, shown, unknown_name

Array = npt.NDArray[np.float64]


def check_kappa(kappa: float) -> float:
    """Return ``kappa`` if it is a whole number >= 0 or ``math.inf``; raise ``ValueError`` otherwise."""
    if not isinstance(kappa, numbers.Real) or isinstance(kappa, bool) or not (kappa % 1 == 0 or kappa == math.inf):
        raise ValueError(f"kappa = {kappa!r} is not an integer; give 0, 1, 2, ... or math.inf for all agents")
    if kappa < 0:
        raise ValueError(f"kappa = {kappa!r} is negative; the smallest neighbourhood is kappa = 0, the agent itself")
    return kappa


@dataclass(frozen=True, eq=False)
class AgentGraph:
    """An undirected graph of ``n`` agents. Build one with :meth:`from_edges` or :meth:`from_networkx`.

    Attributes:
        nodes: label of each agent, ``[n]``.
        edges: pairs of agent numbers ``(i, j)`` with ``i < j``, sorted.

    Example:
        >>> graph = AgentGraph.from_edges(4, [(0, 1), (1, 2), (2, 3)])
        >>> graph.neighbors(0, kappa=2)
        (0, 1, 2)
        >>> graph.neighborhood_sizes[0]
        array([1, 2, 3, 4])
    """

    nodes: tuple[Hashable, ...]
    edges: tuple[tuple[int, int], ...]

    @classmethod
    def from_edges(cls, n: int, edges: Iterable[Sequence[int]]) -> AgentGraph:
        """The graph on agents ``0 .. n-1`` with the given edges; parallel edges count once.

        Raises:
            ValueError: no agents, a self loop, or an edge to a node that does not exist.
        """
        if n < 1:
            raise ValueError(f"a graph needs at least one agent, got n = {n}")
        found = set()
        for position, edge in enumerate(edges):
            if len(edge) != 2:
                raise ValueError(f"edge {position} is {shown(list(edge))}; give two agents, for example [0, 1]")
            for end in edge:
                if isinstance(end, bool) or not isinstance(end, int | np.integer) or not 0 <= end < n:
                    raise ValueError(
                        f"edge {position}, {shown(list(edge))}, names the missing node {shown(end)}; "
                        f"agents are 0 .. {n - 1}"
                    )
            i, j = sorted(int(end) for end in edge)
            if i == j:
                raise ValueError(
                    f"edge {position}, {shown(list(edge))}, is a self loop; remove it, N_i contains agent i already"
                )
            found.add((i, j))
        return cls(tuple(range(n)), tuple(sorted(found)))

    @classmethod
    def from_networkx(cls, graph: nx.Graph) -> AgentGraph:  # type: ignore[type-arg]
        """Any undirected networkx graph, with any hashable labels, connected or not.

        Agents are numbered in ascending order of their labels, or in the graph's own order where labels cannot be
        compared.
        """
        if graph.is_directed():
            raise ValueError("the graph is directed; communication is undirected here: pass graph.to_undirected()")
        labels = list(graph.nodes)
        with contextlib.suppress(TypeError):  # labels of several kinds keep the graph's own order
            labels.sort()
        number = {label: i for i, label in enumerate(labels)}
        loops = next(iter(nx.selfloop_edges(graph)), None)
        if loops is not None:
            raise ValueError(
                f"node {loops[0]!r} has a self loop; remove it with graph.remove_edges_from(nx.selfloop_edges(graph))"
            )
        numbered = cls.from_edges(len(labels), [(number[a], number[b]) for a, b in graph.edges()])
        return cls(tuple(labels), numbered.edges)

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.nodes)

    @cached_property
    def adjacency(self) -> csr_array:
        """Sparse symmetric ``[n, n]`` matrix of ones at edges; no self loops, columns ascending in each row."""
        start, end = np.array(self.edges, dtype=np.int64).reshape(-1, 2).T
        rows, columns = np.concatenate([start, end]), np.concatenate([end, start])
        matrix = csr_array((np.ones(len(rows)), (rows, columns)), shape=(self.n, self.n))
        matrix.sort_indices()
        return matrix

    @cached_property
    def components(self) -> npt.NDArray[np.int64]:
        """Number of each agent's connected component, ``[n]``."""
        return np.asarray(connected_components(self.adjacency, directed=False)[1], dtype=np.int64)

    @cached_property
    def hop_distance(self) -> Array:
        """Breadth-first distances ``[n, n]``; ``inf`` between agents of different components.

        Raises:
            ProblemTooLarge: where ``8 n^2`` bytes do not fit; :meth:`neighbors` and :meth:`ball_sums` never form it.
        """
        require_memory(8.0 * self.n**2, f"the distance table of {self.n} agents", "ask for neighbors(i, kappa) instead")
        distance: Array = shortest_path(self.adjacency, unweighted=True, directed=False)
        distance.setflags(write=False)
        return distance

    @cached_property
    def diameter(self) -> int:
        """Largest finite hop distance: from this kappa on, neighbourhoods no longer grow."""
        return int(self.neighborhood_sizes.shape[1] - 1)

    def neighbors(self, i: int, kappa: float = 1) -> tuple[int, ...]:
        """``N_i^kappa`` in ascending order, ``i`` included."""
        check_kappa(kappa)
        if not 0 <= i < self.n:
            raise IndexError(f"agent {i} does not exist; agents are 0 .. {self.n - 1}")
        if kappa == math.inf:
            return tuple(range(self.n))
        found, shell, hops = {i}, {i}, 0
        while shell and hops < kappa:
            shell = {k for j in shell for k in self._linked[j]} - found
            found |= shell
            hops += 1
        return tuple(sorted(found))

    @cached_property
    def _linked(self) -> list[list[int]]:
        ends = self.adjacency.indptr
        return [self.adjacency.indices[a:b].tolist() for a, b in itertools.pairwise(ends)]

    def mask(self, kappa: float) -> npt.NDArray[np.bool_]:
        """``[n, n]``: entry ``(i, j)`` says whether ``j`` is in ``N_i^kappa``; ``inf`` keeps every agent."""
        return np.asarray(self.hop_distance <= check_kappa(kappa))

    def padded_neighbors(self, kappa: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """``N_i^kappa`` as rectangular arrays: indices ``[n, K]`` and which of them are real ``[n, K]``.

        ``K`` is the largest neighbourhood's size; padding repeats agent ``i`` and is marked False.
        """
        lists = [self.neighbors(i, kappa) for i in range(self.n)]
        width = max(len(members) for members in lists)
        index = np.array([list(m) + [i] * (width - len(m)) for i, m in enumerate(lists)], dtype=np.int64)
        real = np.array([[True] * len(m) + [False] * (width - len(m)) for m in lists])
        return index, real

    @cached_property
    def neighborhood_sizes(self) -> npt.NDArray[np.int64]:
        """``|N_i^kappa|`` for every agent and ``kappa = 0 .. diameter``: ``[n, diameter + 1]``."""
        return self.ball_sums(np.ones((self.n, 1)))[:, :, 0].astype(np.int64)

    def ball_sums(self, weights: Array, radius: float = math.inf) -> Array:
        """``sum_{j in N_i^kappa} weights[j]`` for every agent and ``kappa = 0, 1, ...``: ``[n, kappas, c]``.

        Balls of all agents grow together as bit sets, so that ``n^2 / 8`` bytes hold what a distance table needs
        ``8 n^2`` for.

        Args:
            weights: ``c`` numbers for each agent, ``[n, c]``.
            radius: the last kappa; at most the diameter, where balls stop growing.
        """
        check_kappa(radius)
        n, words = self.n, -(-self.n // 64)
        require_memory(16.0 * n * words, f"the balls of {n} agents", "use fewer agents")
        bits = np.zeros((n, 8 * words), dtype=np.uint8)
        bits[np.arange(n), np.arange(n) // 8] = 128 >> (np.arange(n) % 8)
        padded = np.zeros((weights.shape[1], 64 * words))
        padded[:, :n] = np.transpose(weights)
        balls, sums = bits.view(np.uint64), []
        linked, ends = self.adjacency.indices, self.adjacency.indptr
        some = np.flatnonzero(np.diff(ends))  # agents with a neighbour
        while True:
            total = np.empty(weights.shape)
            for i in range(0, n, 64):
                members = np.unpackbits(balls[i : i + 64].view(np.uint8), axis=1).astype(np.float64)
                for c, weight in enumerate(padded):  # by einsum: many small products would keep BLAS threads waiting
                    total[i : i + 64, c] = np.einsum("ij,j->i", members, weight)
            sums.append(total)
            if len(sums) > radius:
                break
            grown = balls.copy()
            if len(some):
                grown[some] |= np.bitwise_or.reduceat(balls[linked], ends[some], axis=0)
            if (grown == balls).all():
                break
            balls = grown
        return np.stack(sums, axis=1)

    def to_networkx(self) -> nx.Graph:  # type: ignore[type-arg]
        """The graph on agent numbers ``0 .. n-1`` as a networkx graph."""
        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.n))
        graph.add_edges_from(self.edges)
        return graph

    def __repr__(self) -> str:
        return f"AgentGraph(n={self.n}, edges={len(self.edges)}, diameter={self.diameter})"


def path(n: int) -> AgentGraph:
    """A chain of ``n`` agents."""
    return AgentGraph.from_networkx(nx.path_graph(n))


def ring(n: int) -> AgentGraph:
    """A cycle of ``n >= 3`` agents."""
    if n < 3:
        raise ValueError(f"a ring needs at least 3 agents, got n = {n}; use path({n})")
    return AgentGraph.from_networkx(nx.cycle_graph(n))


def star(n: int) -> AgentGraph:
    """Agent 0 linked to each of the ``n - 1`` others."""
    return AgentGraph.from_networkx(nx.star_graph(n - 1))


def grid(rows: int, columns: int) -> AgentGraph:
    """A 4-neighbour grid; agent ``(r, c)`` has number ``r * columns + c``."""
    return AgentGraph.from_networkx(nx.grid_2d_graph(rows, columns))


def tree(n: int, rng: np.random.Generator) -> AgentGraph:
    """A uniformly random labelled tree."""
    return AgentGraph.from_networkx(nx.random_labeled_tree(n, seed=_seed(rng)))


def random_regular(degree: int, n: int, rng: np.random.Generator) -> AgentGraph:
    """A random graph in which every agent has ``degree`` neighbours; ``degree * n`` must be even."""
    return AgentGraph.from_networkx(nx.random_regular_graph(degree, n, seed=_seed(rng)))


def erdos_renyi(n: int, probability: float, rng: np.random.Generator) -> AgentGraph:
    """Each edge is there with the given probability, independently; may be disconnected."""
    return AgentGraph.from_networkx(nx.erdos_renyi_graph(n, probability, seed=_seed(rng)))


def barabasi_albert(n: int, attachments: int, rng: np.random.Generator) -> AgentGraph:
    """Preferential attachment: each new agent links to ``attachments`` old ones."""
    return AgentGraph.from_networkx(nx.barabasi_albert_graph(n, attachments, seed=_seed(rng)))


def watts_strogatz(n: int, nearest: int, rewiring: float, rng: np.random.Generator) -> AgentGraph:
    """A ring of ``nearest`` neighbours, each edge rewired with probability ``rewiring``."""
    return AgentGraph.from_networkx(nx.watts_strogatz_graph(n, nearest, rewiring, seed=_seed(rng)))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))


def _near_square_grid(n: int) -> AgentGraph:
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    return grid(rows, n // rows)


FAMILIES: Mapping[str, Callable[[int, np.random.Generator], AgentGraph]] = {
    "path": lambda n, rng: path(n),
    "ring": lambda n, rng: ring(n),
    "star": lambda n, rng: star(n),
    "grid": lambda n, rng: _near_square_grid(n),
    "tree": tree,
    "random-regular": lambda n, rng: random_regular(3 if n % 2 == 0 else 2, n, rng),
    "erdos-renyi": lambda n, rng: erdos_renyi(n, min(1.0, 2.5 / max(n - 1, 1)), rng),
    "barabasi-albert": lambda n, rng: barabasi_albert(n, 1 if n < 4 else 2, rng),
    "watts-strogatz": lambda n, rng: watts_strogatz(n, 2 if n < 5 else 4, 0.3, rng),
}
"""Graph families by name, each a function of the number of agents and a generator, with usual parameters."""


def named_graph(family: str, n: int, rng: np.random.Generator | int = 0) -> AgentGraph:
    """A graph of a named family, see :data:`FAMILIES`.

    Example:
        >>> named_graph("ring", 6)
        AgentGraph(n=6, edges=6, diameter=3)
    """
    if family not in FAMILIES:
        raise unknown_name("graph family", family, FAMILIES)
    try:
        if n < 1:
            raise ValueError("a graph needs at least one agent")
        return FAMILIES[family](n, np.random.default_rng(rng))
    except (ValueError, nx.NetworkXException) as error:
        raise ValueError(f"{family}({n}): {error}; choose another number of agents") from None
