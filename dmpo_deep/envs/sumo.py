"""SUMO's simulator in this process: one simulation, loaded anew for every episode. The only file that touches SUMO.

``libsumo`` is the simulator as a library, and the fast way; ``traci`` runs it as a program of its own and talks to it
through a socket, and ``sumo-gui`` shows it. All three obey the same calls and give the same trajectories. A process has
room for one library: a second start would silently replace the first, and is refused here. What runs in worker
processes is :mod:`dmpo_deep.envs.workers`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

BACKENDS = ("libsumo", "traci", "sumo-gui")
ROOM = "SUMO has room for one simulation in a process"
FILES, STALE = "dmpo-sumo-", 3600.0
"""How the names of folders for SUMO's input begin, and seconds after which one must be of a process that was killed
while SUMO was reading."""

_running: weakref.ref[Session] | None = None


class SimulationError(RuntimeError):
    """SUMO refused its input, died, or stopped answering."""


def require_sumo(backend: str) -> None:
    """``ImportError`` with the remedy if what ``backend`` needs is not installed; ``ValueError`` for another name."""
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r}; give one of {', '.join(map(repr, BACKENDS))}")
    module, extra = ("libsumo", "sumo") if backend == "libsumo" else ("traci", "gui")
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"{module} is not installed; pip install 'dmpo[{extra}]' (in a clone: pip install -e '.[{extra}]')"
        )
    if backend != "libsumo":
        _program(backend)


def _program(backend: str) -> str:
    """Path of ``sumo`` or ``sumo-gui``: on the PATH, or from the wheel ``eclipse-sumo``; SUMO_HOME is not needed."""
    import sumolib

    name = "sumo" if backend == "traci" else backend
    found: str = sumolib.checkBinary(name)
    if not os.path.isfile(found) and not any(
        os.path.isfile(os.path.join(folder, found)) for folder in os.get_exec_path()
    ):
        raise ImportError(f"the program {name} is not installed; pip install 'dmpo[gui]', or put it on the PATH")
    return found


class Session:
    """One simulation; ``api`` has SUMO's domains, ``api.vehicle``, ``api.lane`` and so on.

    Args:
        backend: ``"libsumo"``, ``"traci"`` or ``"sumo-gui"``.

    Raises:
        ImportError: the backend is not installed.
    """

    api: Any

    def __init__(self, backend: str = "libsumo") -> None:
        require_sumo(backend)
        _sweep()
        self._backend, self._started = backend, False

    def load(self, options: Mapping[str, object], texts: Mapping[str, str] | None = None) -> None:
        """Start a simulation, or load another one in its place.

        Args:
            options: SUMO's, ``{"net-file": path}``; one that is True is a flag.
            texts: options, and what stands in a file, or a further one, for each; these files exist only while SUMO
                reads them, so that nothing is left of a process that is killed later; what one leaves that is
                killed just then, a session of another hour removes.

        Raises:
            RuntimeError: another session of this process still runs.
            SimulationError: SUMO refuses its input.
        """
        with tempfile.TemporaryDirectory(prefix=FILES, ignore_cleanup_errors=True) as folder:
            options = dict(options)
            for name, text in (texts or {}).items():
                file = Path(folder) / f"{name}.xml"
                file.write_text(text)
                options[name] = f"{options[name]},{file}" if name in options else file
            flags = [
                text
                for name, value in options.items()
                for text in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
            ]
            try:
                self._load([*flags, "--no-step-log", "--no-warnings"])
                self.api.simulation.getTime()  # the answer of a program comes when it has read everything
            except self._failures() as error:
                raise SimulationError(f"SUMO refuses to start ({error}); it says why on stderr, above") from error

    def _load(self, flags: list[str]) -> None:
        if self._started:
            self.api.load(flags)
            return
        if self._backend == "libsumo":
            import libsumo

            global _running
            other = None if _running is None else _running()
            if other is not self and (other is not None or libsumo.isLoaded()):
                raise RuntimeError(
                    f"another simulation runs in this process, and {ROOM}; close or delete that environment first, or "
                    "leave out isolated=False: then each copy has a process of its own"
                )
            if other is None:
                self._close = weakref.finalize(self, _close_library)
            _running, self.api = weakref.ref(self), libsumo
            libsumo.start(["sumo", *flags])
        else:
            import traci

            shown = ["--start", "--quit-on-end", "--delay", "50"] if self._backend == "sumo-gui" else []
            label = f"session-{id(self)}"
            traci.start([_program(self._backend), *flags, *shown], label=label)
            self.api = traci.getConnection(label)
            self._close = weakref.finalize(self, partial(_close_connection, self.api))
        self._started = True

    def step(self) -> None:
        """Advance by one step of the simulation.

        Raises:
            SimulationError: SUMO gives up, or has gone.
        """
        try:
            self.api.simulationStep()
        except self._failures() as error:
            raise SimulationError(f"SUMO stopped in mid-episode: {error}") from error

    def close(self) -> None:
        """End the simulation; ``load`` starts another one."""
        if hasattr(self, "_close"):
            self._close()
        self._started = False

    def _failures(self) -> tuple[type[Exception], ...]:
        if self._backend == "libsumo":
            import libsumo

            return libsumo.TraCIException, libsumo.FatalTraCIError
        import traci

        return traci.TraCIException, traci.FatalTraCIError, ConnectionError


def _sweep() -> None:
    """Remove what killed processes left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FILES}*"):
        with contextlib.suppress(OSError):  # another session may have been faster
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder)


def _close_library() -> None:
    import libsumo

    global _running
    _running = None
    if libsumo.isLoaded():
        libsumo.close()


def _close_connection(connection: Any) -> None:
    import traci

    with contextlib.suppress(traci.TraCIException, traci.FatalTraCIError, OSError):  # the program may have gone already
        connection.close()
