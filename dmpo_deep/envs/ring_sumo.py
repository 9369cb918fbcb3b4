"""The ring of :mod:`dmpo_deep.envs.ring` in SUMO itself: its checker.

Four edges of ``length/4`` m joined by junctions of 0.1 m. Learning cars are of an IDM type whose follow speed SUMO
holds as their safe speed (speed mode 1); each command is a ``slowDown`` over 1 ms, which holds for one step. Human cars
get no command: SUMO drives them.
"""

from __future__ import annotations

import numpy as np

from dmpo_deep.envs.ring import CAR_LENGTH, CARS, HUMAN, JUNCTIONS, SAFE, TOP_SPEED, Driver, leaders
from dmpo_deep.envs.sumo import Session
from dmpo_deep.envs.traffic import DT, Traffic

QUARTERS, LAPS = 4, 150
SAFE_SPEED_ONLY = 1
"""Speed mode in which SUMO keeps a commanded car from exceeding its safe speed, and does nothing else."""


class SumoRing:
    """One ring in a SUMO simulation; a process has room for one.

    Args:
        human: which cars SUMO drives, ``[cars]``.

    Raises:
        ImportError: libsumo is not installed.
    """

    def __init__(self, human: np.ndarray) -> None:
        self._human, self._session = human, Session()

    def start(self, circumference: float, position: np.ndarray) -> None:
        """Put the cars at rest at ``position [cars]`` on a new ring.

        Raises:
            RuntimeError: another simulation runs in this process, which has room for one.
        """
        self._quarter, self._turn = circumference / QUARTERS, _clear_of_joints(position, circumference / QUARTERS)
        cars = _demand(self._human, (position + self._turn) % circumference, self._quarter)
        options = {"step-length": DT, "time-to-teleport": -1, "insertion-checks": "none"}
        self._session.load(options, {"net-file": _network(self._quarter), "route-files": cars})
        self._session.step()
        for car in np.flatnonzero(~self._human):
            self._session.api.vehicle.setSpeedMode(str(car), SAFE_SPEED_ONLY)

    def advance(self, learning: np.ndarray, wanted: np.ndarray) -> Traffic:
        """One step; cars ``learning`` want the speeds ``wanted``, and follow their safe speed where that is inf."""
        vehicle = self._session.api.vehicle
        for car, speed in zip(learning.tolist(), wanted.tolist(), strict=True):
            if speed < np.inf:
                vehicle.slowDown(str(car), max(speed, 0.0), 1e-3)
        self._session.step()
        speed = np.array([[vehicle.getSpeed(str(car)) for car in range(CARS)]])
        position = np.array([[self._position(str(car)) for car in range(CARS)]])
        headway = (leaders(position) - position) % (QUARTERS * self._quarter) - CAR_LENGTH
        return Traffic(position, speed, headway, leaders(speed))

    def close(self) -> None:
        """End the simulation."""
        self._session.close()

    def _position(self, car: str) -> float:
        lane = self._session.api.vehicle.getLaneID(car)
        internal = lane.startswith(":")
        start = int(lane[2] if internal else lane[1]) * self._quarter - internal * JUNCTIONS / QUARTERS
        return float(start + self._session.api.vehicle.getLanePosition(car) - self._turn) % (QUARTERS * self._quarter)


def _clear_of_joints(position: np.ndarray, quarter: float) -> float:
    """By how much to turn the ring so that every car starts well on an edge: none can start on a joint."""
    turns = np.linspace(0, quarter, 1000)
    along = (position + turns[:, None]) % quarter
    return float(turns[np.minimum(along, quarter - JUNCTIONS / QUARTERS - along).min(axis=1).argmax()])


def _network(quarter: float) -> str:
    """Edges ``e0 .. e3`` in a square, each entered by a joint of 0.1 m at the nodes ``n0 .. n3``."""
    parts = []
    for here, (x, y) in enumerate(((0, 0), (100, 0), (100, 100), (0, 100))):
        there, edge = (here + 1) % QUARTERS, quarter - JUNCTIONS / QUARTERS
        lane = f'index="0" speed="{TOP_SPEED}" shape="{x},{y} {x + 1},{y + 1}"'
        parts += [
            f'<edge id=":n{here}_0" function="internal">'
            f'<lane id=":n{here}_0_0" length="{JUNCTIONS / QUARTERS}" {lane}/></edge>',
            f'<edge id="e{here}" from="n{here}" to="n{there}"><lane id="e{here}_0" length="{edge!r}" {lane}/></edge>',
        ]
    for here in range(QUARTERS):
        before = (here - 1) % QUARTERS
        parts.append(
            f'<junction id="n{here}" type="priority" x="0" y="0" incLanes="e{before}_0" intLanes=":n{here}_0_0">'
            '<request index="0" response="0" foes="0" cont="0"/></junction>'
        )
    for here in range(QUARTERS):
        before = (here - 1) % QUARTERS
        straight = f'to="e{here}" fromLane="0" toLane="0" dir="s" state="M"'
        parts.append(f'<connection from="e{before}" via=":n{here}_0_0" {straight}/>')
        parts.append(f'<connection from=":n{here}_0" {straight}/>')
    return "\n".join(['<net version="1.20">', *parts, "</net>"])


def _demand(human: np.ndarray, position: np.ndarray, quarter: float) -> str:
    """Both types of cars, a route of many laps from each edge, and every car where it starts."""
    parts = [_type("learning", SAFE), _type("human", HUMAN)]
    for first in range(QUARTERS):
        edges = " ".join(f"e{(first + k) % QUARTERS}" for k in range(QUARTERS * LAPS))
        parts.append(f'<route id="from{first}" edges="{edges}"/>')
    for car, (drives, x) in enumerate(zip(human, position, strict=True)):
        first = int(x // quarter)
        parts.append(
            f'<vehicle id="{car}" type="{"human" if drives else "learning"}" route="from{first}" depart="0" '
            f'departLane="0" departPos="{float(x - first * quarter)!r}" departSpeed="0"/>'
        )
    return "\n".join(["<routes>", *parts, "</routes>"])


def _type(name: str, driver: Driver) -> str:
    return (
        f'<vType id="{name}" carFollowModel="IDM" length="{CAR_LENGTH}" maxSpeed="{TOP_SPEED}" speedDev="0" tau="1" '
        f'accel="{driver.acceleration}" decel="{driver.braking}" minGap="{driver.least_gap}"/>'
    )
