"""A task of the user's own: what ``MODULE:FACTORY`` or ``FILE.py:FACTORY`` names, and what most need not say."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_theory.errors import unknown_name
from dmpo_theory.graph import AgentGraph

MEMBERS: Mapping[str, tuple[Any, ...]] = {
    "graph": (AgentGraph,),
    "batch": (int, np.integer),
    "action_space": (Discrete, MultiDiscrete, Box),
    "observation_space": (Box,),
    "period": (np.ndarray, type(None)),
    "n_states": (tuple, type(None)),
    "horizon": (int, float, np.integer),
    "warmup_steps": (int, np.integer),
    "measures": (tuple, list),
    "outcomes": (tuple, list),
    **dict.fromkeys(("reset", "observe", "step", "termination", "state_dict", "load_state_dict", "close"), (Callable,)),
}
"""Members of :class:`dmpo_deep.envs.NetworkedEnv` that a factory's object must have, and what they may be."""


class Environment:
    """What most environments need not say: derive from it and write ``reset``, ``observe``, ``step`` and the rest.

    An environment needs ``graph``, ``batch``, ``action_space``, ``observation_space`` and ``horizon`` beside those
    three methods. The state is taken to be all arrays and generators among the object's attributes.
    """

    task = ""
    period: np.ndarray | None = None
    n_states: tuple[int, ...] | None = None
    warmup_steps = 0
    measures: Sequence[str] = ()
    outcomes: Sequence[str] = ()

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nothing but the time limit ends an episode: False and 0 for every copy ``[B]``."""
        return np.zeros(len(next_obs), dtype=bool), np.zeros(len(next_obs))

    def state_dict(self) -> dict[str, Any]:
        """All arrays and generators among the attributes."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                found[name] = value.copy()
            elif isinstance(value, np.random.Generator):
                found[name] = value.bit_generator.state
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value.copy())
            else:
                getattr(self, name).bit_generator.state = value

    def close(self) -> None:
        """Nothing runs outside of this object."""


def is_own(task: str) -> bool:
    """Whether a task's id names a factory; ids of registered tasks have no colon."""
    return ":" in task


def full_name(task: str) -> str:
    """The task's id with the full path of its file, so that what is recorded holds in every folder."""
    place, factory = _parts(task)
    return f"{Path(place).resolve()}:{factory}" if _is_file(place) else task


def source_digest(task: str) -> str:
    """Of the file that the factory is in, of every ``.py`` file of a package; empty if there is none. Runs no code.

    Example:
        >>> source_digest("no_such_module:make")
        ''
    """
    place, _ = _parts(task)
    files = [Path(place)]
    if not _is_file(place):
        _look_in_current_folder()
        top = importlib.util.find_spec(place.partition(".")[0])
        if top is None or not top.origin:
            return ""
        folders = top.submodule_search_locations
        files = sorted(f for folder in folders for f in Path(folder).rglob("*.py")) if folders else [Path(top.origin)]
    content = hashlib.sha256()
    for file in files:
        if not file.is_file():
            return ""
        content.update(file.read_bytes())
    return f"source:{content.hexdigest()[:12]}"


def factory_of(task: str) -> Callable[..., Any]:
    """The factory that ``MODULE:FACTORY`` or ``FILE.py:FACTORY`` names.

    Raises:
        ImportError: no such module or file, or one that raises when it is imported.
        ValueError: the module has no such factory.
    """
    place, name = _parts(task)
    module = _load(place)
    found = getattr(module, name, None)
    if not callable(found):
        known = [k for k, value in vars(module).items() if callable(value) and not k.startswith("_")]
        raise unknown_name(f"factory of {place}", name, known)
    return found  # type: ignore[no-any-return]


def maker(task: str) -> Callable[..., Any]:
    """The factory, with what it makes looked over; takes what the factory takes.

    Raises:
        ImportError, ValueError: as :func:`factory_of`.
    """
    factory = factory_of(task)

    @functools.partial(functools.update_wrapper, wrapped=factory, updated=())
    def make(*arguments: Any, **options: Any) -> Any:
        env = factory(*arguments, **options)
        require_members(env, task)
        env.task = task
        return env

    return make


def evaluations(task: str, most: int) -> int:
    """Episodes in an evaluation: the factory's attribute ``evaluations``, for slow ones, or as many as there can be."""
    count = getattr(factory_of(task), "evaluations", most)
    if not (isinstance(count, int) and 2 <= count <= most):
        raise ValueError(f"evaluations = {count!r} of {task}; give 2 to {most} episodes")
    return count


def require_members(env: Any, task: str) -> None:
    """Refuse an object that lacks members of an environment, or has some of another kind, naming all of them."""
    remedy = f"see dmpo_deep.envs.NetworkedEnv, and dmpo check-env {task}"
    if lacking := [name for name in MEMBERS if not hasattr(env, name)]:
        raise ValueError(
            f"{task} made a {type(env).__name__} without {', '.join(lacking)}; derive it from "
            f"dmpo_deep.envs.Environment, or add them: {remedy}"
        )
    for name, kinds in MEMBERS.items():
        value = getattr(env, name)
        if not isinstance(value, kinds):
            wanted = " or ".join("a method" if kind is Callable else kind.__name__ for kind in kinds)
            raise ValueError(f"{task}: {name} is {value!r}; it must be {wanted}: {remedy}")


def _parts(task: str) -> tuple[str, str]:
    place, _, factory = task.rpartition(":")
    if not place or not factory.isidentifier():
        raise ValueError(f"{task!r} names no factory; give MODULE:FACTORY or FILE.py:FACTORY")
    return place, factory


def _is_file(place: str) -> bool:
    return place.endswith(".py")


def _look_in_current_folder() -> None:
    """As ``python -m`` does."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def _load(place: str) -> ModuleType:
    path = Path(place).resolve()
    if _is_file(place) and not path.is_file():
        raise ImportError(f"there is no file {path}; give FILE.py:FACTORY as it is seen from here")
    try:
        if _is_file(place):
            return _load_file(path)
        _look_in_current_folder()
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise ImportError(f"{place} cannot be imported: {error}; install that module") from error
        raise ImportError(
            f"there is no module {error.name}, neither in {os.getcwd()} nor among what is installed; go to its folder, "
            "install it, or give FILE.py:FACTORY"
        ) from error
    except Exception as error:
        raise ImportError(f"{place} cannot be imported ({type(error).__name__}: {error}); mend it") from error


def _load_file(path: Path) -> ModuleType:
    """The module in a file, loaded once; what lies beside it can be imported, as when Python runs it."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
