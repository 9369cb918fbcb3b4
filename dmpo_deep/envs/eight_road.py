"""Section VI-B's figure eight in SUMO: two loops of one lane that meet at right angles in one crossing, and their cars.

Straight edges of ``radius`` m lead to and from the crossing, arcs of 270 degrees join them. A lap is ``bottom``, the
crossing northwards, ``top``, ``upper`` arc, ``right``, the crossing westwards, ``left``, ``lower`` arc. Where rules of
priority hold, the northbound stream has the right of way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dmpo_deep.envs.sumo import Session
from dmpo_deep.envs.traffic import DT, Road

CARS, CAR_LENGTH, CAR_WIDTH, TOP_SPEED = 14, 5.0, 1.8, 30.0
CROSSING, JOINT = 9.4, 0.1
"""Metres of the lanes inside the crossing, and of the four joints between straight edges and arcs."""
EDGES = ("bottom", "top", "upper", "right", "left", "lower")
"""In the order of a lap; each is followed by an inner lane of its end node."""
NODES = ("center", "top", "right", "center", "left", "bottom")
"""Where the edges end."""
LAPS = 80
"""Of a route: what the fastest car makes in an episode, with a reserve."""
AGENT, IDM, KRAUSS = 0, 1, 2
"""Who drives: the agents, or SUMO's human drivers by one of two models."""
_COMMON = f'length="{CAR_LENGTH}" width="{CAR_WIDTH}" maxSpeed="{TOP_SPEED}" speedDev="0" tau="1"'
TYPES = (
    f'<vType id="0" carFollowModel="IDM" accel="2.6" decel="4.5" minGap="2.5" {_COMMON}/>',
    f'<vType id="1" carFollowModel="IDM" accel="1" decel="1.5" minGap="2" {_COMMON}/>',
    f'<vType id="2" carFollowModel="Krauss" accel="2.6" decel="4.5" minGap="2.5" sigma="0.5" {_COMMON}/>',
)
ALL_RULES = 31
"""Speed mode in which SUMO's drivers keep every rule."""


def edge_lengths(radius: float) -> np.ndarray:
    """Lengths ``[6]`` of the edges of a lap, without inner lanes, in m."""
    arc = 1.5 * math.pi * radius
    return np.array([radius, radius, arc, radius, radius, arc])


def inner_lengths() -> np.ndarray:
    """Lengths ``[6]`` of the inner lanes that follow them."""
    return np.array([CROSSING, JOINT, JOINT, CROSSING, JOINT, JOINT])


def lap_length(radius: float) -> float:
    """Length of a lap in m.

    Example:
        >>> round(lap_length(30), 2)
        421.94
    """
    return float((edge_lengths(radius) + inner_lengths()).sum())


def centers(radius: float) -> tuple[float, float]:
    """Where on a lap the middle of the crossing lies, northwards and westwards."""
    upper = edge_lengths(radius) + inner_lengths()
    return radius + CROSSING / 2, float(upper[:3].sum()) + radius + CROSSING / 2


def start_positions(radius: float, shift: float) -> np.ndarray:
    """Places ``[14]`` on the lap of cars that share the edges evenly, the first one ``shift`` m after the start."""
    lengths = edge_lengths(radius)
    along = (shift + lengths.sum() / CARS * np.arange(CARS)) % lengths.sum()
    edge = np.searchsorted(lengths.cumsum(), along, side="right")
    result: np.ndarray = along + np.concatenate(([0.0], inner_lengths().cumsum()))[edge]
    return result


class EightRoad:
    """One figure eight in SUMO; frames are speeds ``[14]`` and places on the lap ``[14]``, in SI units.

    Args:
        radius: of the arcs in m.
        speed_mode: SUMO's bit set of rules that agents' cars keep.
        warmup: steps at the start in which SUMO's IDM drivers drive.
        shift: where the first car starts; None draws it, from the seed, so that no car starts in the crossing.
        driver: who drives.
        backend: of the session.
    """

    def __init__(
        self, radius: float, speed_mode: int, warmup: int, shift: float | None, driver: int, backend: str
    ) -> None:
        self._session, self._cars = Session(backend), [str(car) for car in range(CARS)]
        self._radius, self._mode, self._warmup, self._shift, self._driver = radius, speed_mode, warmup, shift, driver
        self._lap, self._network = lap_length(radius), network(radius)

    def start(self, seed: float) -> np.ndarray:
        """Cars at rest, evenly spaced; then the warm-up."""
        shift = drawn_shift(self._radius, seed) if self._shift is None else self._shift
        self._start = start_positions(self._radius, shift)
        cars = demand(self._radius, self._start, IDM if self._warmup else self._driver)
        self._session.load(
            {
                **{"seed": int(seed * 2**31), "step-length": DT, "time-to-teleport": -1, "insertion-checks": "none"},
                **{"collision.action": "none", "no-internal-links": "false"},
            },
            {"net-file": self._network, "route-files": cars},
        )
        self._session.step()
        vehicle = self._session.api.vehicle
        for car in self._cars:
            vehicle.setSpeedMode(car, ALL_RULES)
        for _ in range(self._warmup):
            self._session.step()
        for car in self._cars:
            if self._warmup:
                vehicle.setType(car, str(self._driver))
            if self._driver == AGENT:
                vehicle.setSpeedMode(car, self._mode)
        return self._frame()

    def step(self, action: np.ndarray) -> np.ndarray:
        """Next speeds are ``max(0, v + 0.1 a)`` for accelerations ``a [14, 1]``, where the rules allow it."""
        if self._driver == AGENT:
            slow_down = self._session.api.vehicle.slowDown
            for car, speed in zip(self._cars, np.maximum(self._speed + DT * action[:, 0], 0).tolist(), strict=True):
                slow_down(car, speed, 1e-3)
        self._session.step()
        return self._frame()

    def _frame(self) -> np.ndarray:
        vehicle = self._session.api.vehicle
        frame = np.array([*map(vehicle.getSpeed, self._cars), *map(vehicle.getDistance, self._cars)])
        self._speed = frame[:CARS]
        frame[CARS:] = (self._start + frame[CARS:]) % self._lap
        return frame

    def close(self) -> None:
        """End the simulation."""
        self._session.close()


CLEAR = 3.0
"""Metres after the crossing in which no car starts: its tail would block the crossing."""


def drawn_shift(radius: float, seed: float) -> float:
    """The shift for a seed in [0, 1): uniform over a spacing, but for shifts that put a tail into the crossing."""
    spacing = edge_lengths(radius).sum() / CARS
    return float((radius + CLEAR + seed * (spacing - CLEAR)) % spacing)


def road(radius: float) -> Road:
    """The lane from above, from the start of ``bottom``; every piece is stretched to the length that SUMO gives it."""
    shapes = [shape for pair in zip(*_shapes(radius), strict=True) for shape in pair]
    lengths = np.stack([edge_lengths(radius), inner_lengths()], axis=1).ravel()
    along, points = [np.zeros(1)], [np.array([[0.0, -radius]])]
    for shape, length in zip(shapes, lengths, strict=True):
        piece = np.array([point.split(",") for point in shape.split()], dtype=float)
        driven = np.linalg.norm(np.diff(piece, axis=0), axis=1).cumsum()
        along.append(along[-1][-1] + length * driven / driven[-1])
        points.append(piece[1:])
    return Road(np.concatenate(along), np.concatenate(points))


def network(radius: float) -> str:
    """The figure eight as a SUMO network."""
    r, half = radius, CROSSING / 2
    shapes, inner = _shapes(radius)
    parts = ['<net version="1.20">']
    names = _inner_names()
    for name, length, shape in zip(names, inner_lengths().tolist(), inner, strict=True):
        parts.append(f'<edge id="{name}" function="internal">{_lane(name, length, shape)}</edge>')
    for k, (edge, length, shape) in enumerate(zip(EDGES, edge_lengths(radius).tolist(), shapes, strict=True)):
        priority = 2 if edge in ("bottom", "top") else 1
        ends = f'from="{NODES[k - 1]}" to="{NODES[k]}"'
        parts.append(f'<edge id="{edge}" {ends} priority="{priority}">{_lane(edge, length, shape)}</edge>')
    square = f"{-half},{-half} {half},{-half} {half},{half} {-half},{half}"
    parts.append(
        '<junction id="center" type="priority" x="0" y="0" incLanes="bottom_0 right_0" '
        f'intLanes="{names[0]}_0 {names[3]}_0" shape="{square}">'
        '<request index="0" response="00" foes="10" cont="0"/><request index="1" response="01" foes="01" cont="0"/>'
        "</junction>"
    )
    for k, (x, y) in {1: (0, r), 2: (r, 0), 4: (-r, 0), 5: (0, -r)}.items():
        parts.append(
            f'<junction id="{NODES[k]}" type="priority" x="{x}" y="{y}" incLanes="{EDGES[k]}_0" '
            f'intLanes="{names[k]}_0"><request index="0" response="0" foes="0" cont="0"/></junction>'
        )
    for k, name in enumerate(names):
        there = f'to="{EDGES[(k + 1) % 6]}" fromLane="0" toLane="0" dir="s"'
        parts.append(f'<connection from="{EDGES[k]}" via="{name}_0" {there} state="{"m" if k == 3 else "M"}"/>')
        parts.append(f'<connection from="{name}" {there} state="M"/>')
    return "\n".join([*parts, "</net>"])


def demand(radius: float, position: np.ndarray, driver: int) -> str:
    """The types of cars, a route of many laps from each edge, and every car at rest at ``position [14]``."""
    first = np.concatenate(([0.0], (edge_lengths(radius) + inner_lengths()).cumsum()))
    parts = list(TYPES)
    for k in range(6):
        edges = " ".join(EDGES[(k + j) % 6] for j in range(6 * LAPS))
        parts.append(f'<route id="from{k}" edges="{edges}"/>')
    for car, x in enumerate(position.tolist()):
        k = int(np.searchsorted(first, x, side="right")) - 1
        parts.append(
            f'<vehicle id="{car}" type="{driver}" route="from{k}" depart="0" departLane="0" '
            f'departPos="{float(x - first[k])!r}" departSpeed="0"/>'
        )
    return "\n".join(["<routes>", *parts, "</routes>"])


def _shapes(radius: float) -> tuple[Sequence[str], Sequence[str]]:
    """Of the edges of a lap and of the inner lanes that follow them, as SUMO writes them."""
    r, half = radius, CROSSING / 2
    return (
        *(f"0,{-r} 0,{-half}", f"0,{half} 0,{r}", _arc(r, r, math.pi, -math.pi / 2)),
        *(f"{r},0 {half},0", f"{-half},0 {-r},0", _arc(-r, -r, math.pi / 2, 2 * math.pi)),
    ), (
        *(f"0,{-half} 0,{half}", f"0,{r} 0.05,{r + JOINT}", f"{r},0 {r - JOINT},0"),
        *(f"{half},0 {-half},0", f"{-r},0 {-r - JOINT},0", f"0,{-r} 0,{-r + JOINT}"),
    )


def _inner_names() -> list[str]:
    return [f":{node}_{NODES[:k].count(node)}" for k, node in enumerate(NODES)]


def _lane(edge: str, length: float, shape: str) -> str:
    return f'<lane id="{edge}_0" index="0" speed="{TOP_SPEED}" length="{length!r}" shape="{shape}"/>'


def _arc(x: float, y: float, start: float, end: float) -> str:
    """A circle of radius ``|x|`` around ``(x, y)``, between two angles."""
    return " ".join(
        f"{x + abs(x) * math.cos(angle):.4f},{y + abs(x) * math.sin(angle):.4f}"
        for angle in np.linspace(start, end, 40)
    )
