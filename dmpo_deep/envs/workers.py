"""Simulations in processes of their own: copies side by side, and a simulator that dies or hangs takes nobody along.

A worker serves one copy. What a simulation answers is a *frame*, a vector of numbers; the environment makes
observations and rewards of it. A worker that is killed, crashes or does not answer in time is replaced, and its episode
is played again from the start up to where it stood: the seed and the actions so far determine it bit for bit. The same
makes states that can be saved, of a simulator that cannot save them exactly.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any, Protocol

import numpy as np

from dmpo_deep.envs.sumo import SimulationError

TIMEOUT = 50.0
"""Seconds that a worker may take for one step or reset before it counts as hung."""
ATTEMPTS = 2
"""How often an episode that broke is played again before it is given up."""


class Simulation(Protocol):
    """One copy of a simulated task."""

    def start(self, seed: float) -> np.ndarray:
        """Begin the episode that ``seed``, in [0, 1), stands for; the frame ``[m]``."""

    def step(self, action: np.ndarray) -> np.ndarray:
        """One step of the task with the actions ``[n, ...]`` of all agents; the frame ``[m]``."""

    def close(self) -> None:
        """End the simulation."""


Request = float | np.ndarray
"""The seed of an episode to start, or the actions ``[n, ...]`` of a step."""
Maker = Callable[[], Simulation]
"""Must survive pickling, as a class or a partial of one does."""


class Lost(Exception):
    """A worker has died or hangs."""


class Fleet:
    """``batch`` simulations at once.

    Args:
        make: makes each simulation.
        batch: how many.
        width: ``m``, the length of a frame.
        isolated: each in a process of its own; without, one in this process, which is faster and unprotected.
        timeout: seconds for a step until a silent worker counts as hung.
    """

    def __init__(self, make: Maker, batch: int, width: int, isolated: bool = True, timeout: float = TIMEOUT) -> None:
        if not isolated and batch > 1:
            raise ValueError(
                f"batch = {batch} with isolated = False; SUMO has room for one simulation in a process, so give "
                "batch = 1, or leave out isolated=False"
            )
        self.isolated, self.timeout = isolated, timeout
        self._make = make
        self._copies: list[Worker | Local | None] = [None] * batch
        self._seeds = np.full(batch, np.nan)
        self._actions: list[list[np.ndarray]] = [[] for _ in range(batch)]
        self._frames = np.zeros((batch, width))

    def start(self, seeds: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Begin episodes ``seeds [k]`` of the ``k`` copies marked in ``where [B]``; frames ``[B, m]`` of all."""
        copies = np.flatnonzero(where).tolist()
        for copy, seed in zip(copies, seeds.tolist(), strict=True):
            self._seeds[copy], self._actions[copy] = seed, []
        self._ask({copy: float(self._seeds[copy]) for copy in copies})
        return self._frames.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step with ``action [B, n, ...]``; frames ``[B, m]``, and which copies ``[B]`` had to be given up.

        A copy that is given up keeps its last frame and must be started anew.
        """
        action = action.copy()
        for past, now in zip(self._actions, action, strict=True):
            past.append(now)
        lost = np.zeros(len(action), dtype=bool)
        lost[self._ask(dict(enumerate(action)))] = True
        return self._frames.copy(), lost

    def _ask(self, requests: Mapping[int, Request]) -> list[int]:
        """Send all requests, then collect all answers; the copies that failed for good."""
        lost: dict[int, str] = {}
        try:
            for copy, request in requests.items():
                try:
                    self._serving(copy, request).send(request)
                except Lost as failure:
                    lost[copy] = str(failure)
            sent = time.monotonic()
            for copy, request in requests.items():
                if copy not in lost:
                    try:
                        self._frames[copy] = self._serving(copy).receive(sent + self._patience(request))
                    except Lost as failure:
                        lost[copy] = str(failure)
            return [copy for copy, failure in lost.items() if not self._recovers(copy, failure)]
        except BaseException:
            self.close()  # answers may be outstanding
            raise

    def _recovers(self, copy: int, failure: str) -> bool:
        """Whether the episode of ``copy``, whose worker was lost, could be played again to where it stood."""
        at = f"copy {copy} at step {len(self._actions[copy])} of its episode"
        for _ in range(ATTEMPTS):
            warnings.warn(f"{at}: {failure}; its episode is played again in a new worker", RuntimeWarning, stacklevel=5)
            try:
                self._replay(copy)
                return True
            except Lost as again:
                failure = str(again)
        self._drop(copy)
        if not self._actions[copy]:
            raise SimulationError(f"{at}: {failure}, {ATTEMPTS + 1} times; the simulation does not start")
        warnings.warn(
            f"{at}: {failure}, {ATTEMPTS + 1} times; the episode ends here, as if by the time limit",
            RuntimeWarning,
            stacklevel=5,
        )
        self._seeds[copy], self._actions[copy] = np.nan, []
        return False

    def _replay(self, copy: int) -> None:
        self._drop(copy)
        requests: list[Request] = [float(self._seeds[copy]), *self._actions[copy]]
        for request in requests:
            self._serving(copy, request).send(request)
            self._frames[copy] = self._serving(copy).receive(time.monotonic() + self._patience(request))

    def _patience(self, request: Request) -> float:
        return max(self.timeout, TIMEOUT) if isinstance(request, float) else self.timeout

    def _serving(self, copy: int, request: Request | None = None) -> Worker | Local:
        """Whoever serves a copy; anew where there is nobody."""
        if (found := self._copies[copy]) is None:
            if isinstance(request, np.ndarray):
                raise Lost("the simulation was closed")
            found = Worker(self._make, self._processors(copy)) if self.isolated else Local(self._make)
            self._copies[copy] = found
        return found

    def _processors(self, copy: int) -> list[int]:
        """Where a copy's worker may run: workers wake together, and must not queue for one processor."""
        available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        shares = max(min(len(self._copies), len(available)), 1)
        return available[copy % shares :: shares]

    def _drop(self, copy: int) -> None:
        if (worker := self._copies[copy]) is not None:
            worker.close()
        self._copies[copy] = None

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that run."""
        return [copy.process.pid for copy in self._copies if isinstance(copy, Worker)]

    def close(self) -> None:
        """End all simulations; the next start begins anew."""
        for copy in range(len(self._copies)):
            self._drop(copy)

    def state_dict(self) -> dict[str, Any]:
        """Seeds and actions so far: what determines the state."""
        return {"seeds": self._seeds.copy(), "actions": [np.array(past) for past in self._actions]}

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Play the episodes again up to where they stood; frames ``[B, m]``."""
        self._seeds = np.array(state["seeds"])
        self._actions = [list(past) for past in state["actions"]]
        started = np.flatnonzero(~np.isnan(self._seeds)).tolist()
        for copy in started:
            try:
                self._replay(copy)
            except Lost as failure:
                self._recovers(copy, str(failure))
        return self._frames.copy()


class Worker:
    """A simulation in a process of its own, on the given processors; on any if none are given."""

    def __init__(self, make: Maker, processors: Collection[int] = ()) -> None:
        context = _context()
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, processors), daemon=True)
        with _known_start_method(context):
            self.process.start()
        theirs.close()
        self._close = weakref.finalize(self, _end, self.process, self._connection)

    def send(self, request: Request) -> None:
        """Pass a request on.

        Raises:
            Lost: the process has ended.
        """
        try:
            self._connection.send_bytes(_packed(request))
        except OSError as error:
            raise Lost(f"worker {self.process.pid} is gone") from error

    def receive(self, deadline: float) -> np.ndarray:
        """The answer to the request sent last; ``deadline`` is a time of ``time.monotonic``.

        Raises:
            Lost: the process has ended, is too slow, or its simulator failed in mid-episode.
            Exception: what else the simulation raised.
        """
        try:
            if not self._connection.poll(max(deadline - time.monotonic(), 0)):
                self.process.kill()
                raise Lost(f"worker {self.process.pid} does not answer")
            answer = _unpacked(self._connection.recv_bytes())
        except (OSError, EOFError) as error:
            self.process.join(1)
            status = self.process.exitcode
            raise Lost(
                f"worker {self.process.pid} died (exit status {status})"
                + ("" if status != 1 else "; a script that makes environments needs if __name__ == '__main__':")
            ) from error
        if isinstance(answer, Exception):
            raise answer
        frame: np.ndarray = answer
        return frame

    def close(self) -> None:
        """End the process."""
        self._close()


class Local:
    """The same in this process."""

    def __init__(self, make: Maker) -> None:
        self._simulation = make()

    def send(self, request: Request) -> None:
        """Keep the request."""
        self._request = request

    def receive(self, deadline: float) -> np.ndarray:
        """Serve it; there is nobody to watch the ``deadline``."""
        return _answer(self._simulation, self._request)

    def close(self) -> None:
        """End the simulation."""
        self._simulation.close()


def _context() -> Any:
    """Workers are forked from a server that has imported what they need and knows nothing of this process."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dmpo_deep.envs", "libsumo"])
    get_temp_dir()  # a worker is told of it when it is made: the first one, too, has to know what to remove
    return context


@contextlib.contextmanager
def _known_start_method(context: Any) -> Iterator[None]:
    """A new worker looks up how this process starts others by default; joblib's processes have a way of their own."""
    before = multiprocessing.get_start_method()
    foreign = before not in multiprocessing.get_all_start_methods()
    if foreign:
        multiprocessing.set_start_method(context.get_start_method(), force=True)
    try:
        yield
    finally:
        if foreign:
            multiprocessing.set_start_method(before, force=True)


def _answer(simulation: Simulation, request: Request) -> np.ndarray:
    if isinstance(request, float):
        return simulation.start(request)
    try:
        return simulation.step(request)
    except SimulationError as error:
        raise Lost(str(error)) from error


def _packed(message: Any) -> bytes:
    """Pickled; arrays, which are most of what travels, by their bytes, in a quarter of the time."""
    if isinstance(message, np.ndarray):
        message = (message.dtype.str, message.shape, message.tobytes())
    return pickle.dumps(message)


def _unpacked(data: bytes) -> Any:
    message = pickle.loads(data)
    if isinstance(message, tuple):
        kind, shape, numbers = message
        return np.frombuffer(numbers, kind).reshape(shape)
    return message


def _serve(connection: Connection, make: Maker, processors: Collection[int]) -> None:
    """A worker's life: answer requests until the other end says goodbye, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides what Ctrl-C means
    if processors:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setaffinity(0, processors)
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # not to interrupt who still wakes the others
    simulation: Simulation | None = None
    try:
        while True:
            request = _unpacked(connection.recv_bytes())
            if request is None:
                break
            try:
                simulation = simulation or make()
                answer: Any = _answer(simulation, request)
            except Exception as error:
                answer = error
            connection.send_bytes(_packed(answer))
    except (EOFError, OSError):  # nobody said goodbye
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join(5)
            if not parent.is_alive():  # the socket of the server of workers would stay
                shutil.rmtree(get_temp_dir(), ignore_errors=True)
    finally:
        if simulation is not None:
            simulation.close()


def _end(process: BaseProcess, connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.send_bytes(_packed(None))
    connection.close()
    process.join(2)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()
