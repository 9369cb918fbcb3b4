"""Section VI-C's signals in SUMO: one simulated network, and the frame of what can be measured on it.

A control step lasts ``delta_time`` seconds. A signal that changes its phase shows yellow for the first ``yellow_time``
of them; one that keeps it stays green.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dmpo_deep.envs.signals import SignalNetwork, yellow
from dmpo_deep.envs.sumo import Session

DETECTOR = 50.0
"""Metres before the stop line that a lane's detector sees, the last one left out."""
SYSTEM = (
    *("system_total_running", "system_total_stopped", "system_total_waiting_time", "system_mean_speed"),
    *("system_total_backlogged", "system_total_arrived", "system_total_departed", "system_total_teleported"),
    *("collisions", "unfinished", "mean_delay"),
)
"""Of the whole network: vehicles on the road, those of them that halt, the seconds that these have waited, m/s;
vehicles that wait to depart; since the start vehicles that arrived, departed, were teleported, collided; vehicles on
the road or waiting to depart; and, at the end, seconds lost by a vehicle on the road and before its departure, the mean
over all vehicles that were to depart, arrived or not."""


@dataclass(frozen=True)
class Timing:
    """Seconds, under the names that sumo-rl gives them."""

    begin_time: int
    num_seconds: int
    delta_time: int
    yellow_time: int
    min_green: int


def layout(network: SignalNetwork) -> Mapping[str, slice]:
    """What lies where in a frame: vehicles, halting or not, in front of detectors, on whole lanes; signals; system."""
    incoming, n = len(network.incoming), len(network.signals)
    sizes = {
        **{"detected": incoming, "queued": incoming, "on_lane": incoming, "halting": incoming},
        **{"leaving": len(network.outgoing), "backlog": n, "phase": n, "green": n, "system": len(SYSTEM)},
    }
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


class SignalTraffic:
    """One network in SUMO; see :func:`layout` for its frames.

    Args:
        network: the signals.
        origins: roads on which vehicles depart.
        files: SUMO's options ``net-file`` and ``route-files``.
        timing: of the control.
        sumo_seed: of every episode; drawn by default.
        options: further options of SUMO.
        backend: of the session.
    """

    def __init__(
        self,
        network: SignalNetwork,
        origins: tuple[str, ...],
        files: Mapping[str, str],
        timing: Timing,
        sumo_seed: int | None,
        options: Mapping[str, object],
        backend: str,
    ) -> None:
        self._session, self._network, self._timing, self._seed = Session(backend), network, timing, sumo_seed
        self._origins = [(edge, network.leads_to.get(edge)) for edge in origins]
        entering = list(dict.fromkeys(network.incoming))
        self._lanes = list(dict.fromkeys((*entering, *network.lanes, *network.inner)))
        where = {lane: k for k, lane in enumerate(self._lanes)}
        self._incoming, self._outgoing = (
            np.array([where[lane] for lane in lanes]) for lanes in (network.incoming, network.outgoing)
        )
        self._detectors = [f"detector {lane}" for lane in entering]
        self._built = {"additional-files": _detectors(network, entering, self._detectors)}
        self._options = {
            **files,
            **{"begin": timing.begin_time, "step-length": 1, "device.tripinfo.probability": 1, **options},
        }

    def start(self, seed: float) -> np.ndarray:
        """All signals in their first phase; nothing has moved yet."""
        number = int(seed * 2**31) if self._seed is None else self._seed
        self._session.load({**self._options, "seed": number}, self._built)
        n = len(self._network.signals)
        self._phase, self._green = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        self._totals = dict.fromkeys(("arrived", "departed", "teleported", "collided", "loaded"), 0)
        self._vanished: set[str] = set()
        self._steps = 0
        for signal in self._network.signals:
            self._show(signal.id, signal.phases[0])
        return self._frame()

    def step(self, action: np.ndarray) -> np.ndarray:
        """Request phases ``[n]``; those whose signal has not been green for ``min_green`` are not followed yet."""
        timing, due = self._timing, []
        for i in np.flatnonzero((action != self._phase) & (self._green >= timing.min_green)).tolist():
            signal = self._network.signals[i]
            following = signal.phases[action[i]]
            self._show(signal.id, yellow(signal.phases[self._phase[i]], following))
            due.append((signal.id, following))
            self._phase[i], self._green[i] = action[i], -timing.yellow_time
        for second in range(timing.delta_time):
            if second == timing.yellow_time:
                for light, following in due:
                    self._show(light, following)
            self._session.step()
            self._count()
        self._green += timing.delta_time
        self._steps += 1
        return self._frame()

    def _show(self, light: str, state: str) -> None:
        self._session.api.trafficlight.setRedYellowGreenState(light, state)

    def _count(self) -> None:
        simulation, totals = self._session.api.simulation, self._totals
        totals["loaded"] += simulation.getLoadedNumber()
        totals["departed"] += simulation.getDepartedNumber()
        arrived = simulation.getArrivedNumber()
        totals["arrived"] += arrived
        totals["collided"] += simulation.getCollidingVehiclesNumber()
        started = simulation.getStartingTeleportNumber()
        totals["teleported"] += started
        if started:
            self._vanished.update(simulation.getStartingTeleportIDList())
        if self._vanished:
            self._vanished.difference_update(simulation.getEndingTeleportIDList(), simulation.getArrivedIDList())

    def _frame(self) -> np.ndarray:
        api, backlog = self._session.api, np.zeros(len(self._network.signals))
        detected, queued = (
            np.array(list(map(read, self._detectors)))
            for read in (api.lanearea.getLastStepVehicleNumber, api.lanearea.getLastStepHaltingNumber)
        )
        on_lane = np.array(list(map(api.lane.getLastStepVehicleNumber, self._lanes)))
        halting = np.zeros_like(on_lane)
        for k in np.flatnonzero(on_lane).tolist():
            halting[k] = api.lane.getLastStepHaltingNumber(self._lanes[k])
        waiting = len(api.simulation.getPendingVehicles())
        if waiting:
            for edge, signal in self._origins:
                if signal is not None:
                    backlog[signal] += len(api.edge.getPendingVehicles(edge))
        enter, leave = self._incoming, self._outgoing
        return np.concatenate(
            [
                *(detected[enter], queued[enter], on_lane[enter], halting[enter], on_lane[leave]),
                *(backlog, self._phase, np.maximum(self._green, 0), self._system(on_lane, halting, waiting)),
            ]
        )

    def _system(self, on_lane: np.ndarray, halting: np.ndarray, waiting: int) -> list[float]:
        lane, totals = self._session.api.lane, self._totals
        busy = [(self._lanes[k], int(on_lane[k])) for k in np.flatnonzero(on_lane)]
        speed = sum(number * lane.getLastStepMeanSpeed(name) for name, number in busy) / max(int(on_lane.sum()), 1)
        waited = sum(lane.getWaitingTime(name) for name, _ in busy)
        running = totals["departed"] - totals["arrived"]
        return [
            *(running, float(halting.sum()), waited, speed),
            *(waiting, totals["arrived"], totals["departed"], totals["teleported"], totals["collided"]),
            *(running + waiting, self._mean_delay() if self._at_end() else np.nan),
        ]

    def _at_end(self) -> bool:
        return self._steps * self._timing.delta_time >= self._timing.num_seconds

    def _mean_delay(self) -> float:
        """Time loss on the road and before departure of all vehicles that were to depart, in s a vehicle."""
        api = self._session.api
        on_road, waiting = {*api.vehicle.getIDList(), *self._vanished}, api.simulation.getPendingVehicles()
        finished = {
            name: float(api.simulation.getParameter("", f"device.tripinfo.{name}"))
            for name in ("count", "timeLoss", "totalDepartDelay")
        }
        lost: float = max(finished["count"] * finished["timeLoss"], 0) + max(finished["totalDepartDelay"], 0)
        lost += sum(api.vehicle.getTimeLoss(car) + api.vehicle.getDepartDelay(car) for car in on_road)
        lost += sum(map(api.vehicle.getDepartDelay, waiting))
        return lost / max(finished["count"] + len(on_road) + len(waiting), 1)

    def close(self) -> None:
        """End the simulation."""
        self._session.close()


def _detectors(network: SignalNetwork, lanes: list[str], names: list[str]) -> str:
    """A detector on the last 50 m of each lane, or all of a shorter one; what SUMO writes of them goes nowhere."""
    parts = []
    for lane, name in zip(lanes, names, strict=True):
        start = -min(DETECTOR, network.lanes[lane] - 0.1)
        end = -1 if start < -2 else -0.1
        parts.append(
            f'<laneAreaDetector id="{name}" lane="{lane}" pos="{start:g}" endPos="{end:g}" period="86400" file="NUL"/>'
        )
    return "\n".join(["<additional>", *parts, "</additional>"])
