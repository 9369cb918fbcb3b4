"""Section VI-C: the traffic signals of a SUMO network, read from its files: phases, lanes, links and neighbours.

A signal's *actions* are the green phases of its program: those without yellow that let somebody go, in the order of the
file. A *link* is one movement through a signal, and a character of its states. Files are checked here, before SUMO sees
them, because SUMO takes a state of the wrong length without a word and reads demand while it runs.
"""

from __future__ import annotations

import gzip
import re
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dmpo_theory.graph import AgentGraph

GO = frozenset("Gg")


@dataclass(frozen=True)
class Link:
    """A movement through a signal."""

    index: int
    """Its character in the signal's states."""
    source: str
    """Lane that it leaves."""
    target: str
    """Lane that it enters."""


@dataclass(frozen=True)
class Signal:
    """One traffic light."""

    id: str
    phases: tuple[str, ...]
    """Green states, one per action."""
    links: tuple[Link, ...]
    """In the order of their characters."""

    @cached_property
    def incoming(self) -> tuple[str, ...]:
        """The lanes that lead to it, each once, in the order of their links."""
        return tuple(dict.fromkeys(link.source for link in self.links))

    @cached_property
    def by_link(self) -> tuple[str, ...]:
        """The lanes that lead to it, once for each link."""
        return tuple(link.source for link in self.links)

    @cached_property
    def outgoing(self) -> tuple[str, ...]:
        """The lanes that it leads to, each once."""
        return tuple(dict.fromkeys(link.target for link in self.links))


@dataclass(frozen=True, eq=False)
class SignalNetwork:
    """The signals of a network, numbered by their ids in natural order."""

    signals: tuple[Signal, ...]
    lanes: Mapping[str, float]
    """Lane -> length in m, inner lanes left out."""
    shapes: Mapping[str, tuple[tuple[float, float], ...]]
    """Lane -> its middle from above, in m, as a polyline in the direction of travel."""
    inner: tuple[str, ...]
    """Lanes inside of junctions."""
    edges: tuple[str, ...]
    """All roads and inner roads."""
    follows: Mapping[str, tuple[str, ...]]
    """Road -> the roads that one can drive on to."""

    @cached_property
    def incoming(self) -> tuple[str, ...]:
        """The incoming lanes of all signals, signal by signal."""
        return tuple(lane for signal in self.signals for lane in signal.incoming)

    @cached_property
    def outgoing(self) -> tuple[str, ...]:
        """The outgoing lanes of all signals, signal by signal."""
        return tuple(lane for signal in self.signals for lane in signal.outgoing)

    @cached_property
    def leads_to(self) -> Mapping[str, int]:
        """Road -> the number of the nearest signal that it leads to; roads that lead to none are left out."""
        ends = {_edge(lane): number for number, signal in enumerate(self.signals) for lane in signal.incoming}
        found = dict(ends)
        before: dict[str, list[str]] = {}
        for edge, others in self.follows.items():
            for other in others:
                before.setdefault(other, []).append(edge)
        waiting = deque(ends)
        while waiting:
            edge = waiting.popleft()
            for other in before.get(edge, ()):
                if other not in found:
                    found[other] = found[edge]
                    waiting.append(other)
        return found

    @cached_property
    def graph(self) -> AgentGraph:
        """Signals are neighbours where a car can drive from one to the other without passing a third."""
        ends: dict[str, set[int]] = {}
        for number, signal in enumerate(self.signals):
            for lane in signal.incoming:
                ends.setdefault(_edge(lane), set()).add(number)
        pairs = set()
        for number, signal in enumerate(self.signals):
            waiting = deque(dict.fromkeys(_edge(lane) for lane in signal.outgoing))
            seen = set(waiting)
            while waiting:
                edge = waiting.popleft()
                if edge in ends:
                    pairs |= {(min(number, other), max(number, other)) for other in ends[edge] - {number}}
                    continue
                fresh = [other for other in self.follows.get(edge, ()) if other not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
        return AgentGraph.from_edges(len(self.signals), sorted(pairs))

    def padded(self, lanes_of: Iterable[tuple[str, ...]], among: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Indices ``[n, m]`` of each signal's lanes in ``among``, padded, and which of them are real ``[n, m]``."""
        number = {lane: k for k, lane in enumerate(among)}
        rows = [[number[lane] for lane in lanes] for lanes in lanes_of]
        index = np.zeros((len(rows), max(map(len, rows))), dtype=int)
        real = np.zeros(index.shape, dtype=bool)
        for i, row in enumerate(rows):
            index[i, : len(row)], real[i, : len(row)] = row, True
        return index, real


def _edge(lane: str) -> str:
    return lane.rpartition("_")[0]


def read_network(path: Path) -> SignalNetwork:
    """The signals of a SUMO network, ``.net.xml`` or ``.net.xml.gz``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no network, one without signals, or a signal whose states do not fit its links.
    """
    root = _parsed(path, "net", "net_file", "a network made by SUMO's netconvert or netedit")
    programs: dict[str, list[str]] = {}
    for logic in root.iter("tlLogic"):
        programs.setdefault(logic.get("id", ""), [phase.get("state", "") for phase in logic.iter("phase")])
    links: dict[str, set[tuple[int, str, str]]] = {signal: set() for signal in programs}
    follows: dict[str, dict[str, None]] = {}
    for connection in root.iter("connection"):
        start, end, light = connection.get("from", ""), connection.get("to", ""), connection.get("tl")
        if start.startswith(":"):
            continue
        follows.setdefault(start, {})[end] = None
        if light in links:
            source, target = f"{start}_{connection.get('fromLane')}", f"{end}_{connection.get('toLane')}"
            links[light].add((int(connection.get("linkIndex", -1)), source, target))
    signals = []
    for light in sorted(programs, key=_natural):
        if not links[light]:
            continue
        size = max(index for index, _, _ in links[light]) + 1
        for state in programs[light]:
            if len(state) != size:
                raise ValueError(
                    f"{path}: signal {light!r} has {size} links and a phase {state!r} of {len(state)} characters; give "
                    "every phase one character per link"
                )
        phases = tuple(dict.fromkeys(filter(is_green, programs[light])))
        if not phases:
            raise ValueError(
                f"{path}: signal {light!r} has no green phase among {programs[light]}; give its program one, or take "
                "its signal away"
            )
        signals.append(Signal(light, phases, tuple(Link(*link) for link in sorted(links[light]))))
    if not signals:
        raise ValueError(f"{path} has no traffic signals; give a network with <tlLogic> and controlled connections")
    lanes: dict[str, float] = {}
    shapes: dict[str, tuple[tuple[float, float], ...]] = {}
    inner: list[str] = []
    for edge in root.iter("edge"):
        for lane in edge.iter("lane"):
            if edge.get("function") == "internal":
                inner.append(lane.get("id", ""))
            else:
                name, points = lane.get("id", ""), [point.split(",") for point in lane.get("shape", "").split()]
                lanes[name] = float(lane.get("length", "nan"))
                shapes[name] = tuple((float(x), float(y)) for x, y, *_ in points)
    edges = tuple(edge.get("id", "") for edge in root.iter("edge"))
    roads = {edge: tuple(others) for edge, others in follows.items()}
    return SignalNetwork(tuple(signals), lanes, shapes, tuple(inner), edges, roads)


def departures(path: Path, network: SignalNetwork) -> tuple[str, ...]:
    """The roads on which the vehicles of a demand, ``.rou.xml``, can depart.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no demand, an empty one, or one that names roads that the network does not have.
    """
    root = _parsed(path, "routes", "route_file", "a demand of vehicles, trips or flows")
    known: Collection[str] = frozenset(network.edges)
    found: dict[str, None] = {}
    for element in root.iter():
        named = [element.get("from"), element.get("to")] if element.tag in ("trip", "flow", "vehicle") else []
        route = (element.get("edges") or "").split() if element.tag == "route" else []
        for edge in (*filter(None, named), *route):
            if edge not in known:
                raise ValueError(
                    f"{path}: <{element.tag} id={element.get('id')!r}> names the road {edge!r}, which the network does "
                    "not have; give the demand that belongs to net_file"
                )
        found.update(dict.fromkeys(edge for edge in (*named[:1], *route[:1]) if edge))
    if not found:
        raise ValueError(f"{path} has no vehicle that departs; give trips, flows with from, or routes with edges")
    return tuple(found)


def is_green(state: str) -> bool:
    """Whether a state is an action: somebody may go, and nobody is told to stop soon.

    Example:
        >>> [is_green(state) for state in ("GGrr", "yyrr", "rrrr", "grry")]
        [True, False, False, False]
    """
    return not GO.isdisjoint(state) and "y" not in state.lower()


def yellow(now: str, following: str) -> str:
    """The state between two phases: yellow for who has to stop, red for who will start, no change for the others.

    Example:
        >>> yellow("GGgrrrGGgrrr", "rrrGrGrrrGrG")
        'yyyrrryyyrrr'
        >>> yellow("GGrr", "GrGr")
        'Gyrr'
    """
    return "".join(
        a if a == b or (a in GO and b in GO) else "y" if a in GO else "r" for a, b in zip(now, following, strict=True)
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts n2 before n10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _parsed(path: Path, root: str, option: str, remedy: str) -> ElementTree.Element:
    if not path.is_file():
        raise FileNotFoundError(f"{option} = {str(path)!r} does not exist; give {remedy}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            found = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, EOFError) as error:
        raise ValueError(f"{option} = {str(path)!r} is damaged or is no XML ({error}); give {remedy}") from error
    if found.tag != root:
        raise ValueError(f"{option} = {str(path)!r} holds <{found.tag}>, not <{root}>; give {remedy}")
    return found
