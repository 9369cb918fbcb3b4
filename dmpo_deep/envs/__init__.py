"""Section VI-A: the environments, the contract they share, and their registry.

Arrays are batch first: ``B`` independent copies, ``n`` agents, ``d`` observation features. Rewards are local, one per
agent, in *training units*. Every random number comes from the generator passed to ``reset``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from dmpo_deep.envs.atsc import SignalGrid
from dmpo_deep.envs.cacc import Platoon, catchup_start, slowdown_start
from dmpo_deep.envs.figure_eight import FigureEight
from dmpo_deep.envs.own import Environment as Environment
from dmpo_deep.envs.own import evaluations, full_name, is_own, maker
from dmpo_deep.envs.ring import Ring
from dmpo_deep.envs.tabular import Tabular
from dmpo_deep.envs.traffic import EVALUATION_DRAWS
from dmpo_theory.errors import unknown_name
from dmpo_theory.graph import AgentGraph

Policy = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Observations ``[B, n, d]`` and a generator to actions ``[B, n, ...]`` and their log-probabilities ``[B, n]``."""

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]


class RolloutEnv(Protocol):
    """What a rollout needs, of the real environment and of the learned one alike."""

    def observe(self) -> np.ndarray:
        """Current observations ``[B, n, d]``, float32."""

    def reset(self, rng: np.random.Generator, where: np.ndarray | None = None) -> np.ndarray:
        """Start the copies marked in ``where [B]`` (all by default) anew; return the observations ``[B, n, d]``."""

    def step(self, action: np.ndarray) -> Step:
        """Apply ``action [B, n, ...]``, the rest as in ``action_space``; a copy that ends must be reset before.

        Returns:
            next observations ``[B, n, d]`` (of the state reached, before any reset), rewards ``[B, n]``,
            ``terminated [B]`` (the task's own end: worth nothing beyond its last reward), ``truncated [B]`` (the time
            limit: values bootstrap through it) and ``info``. ``info["step"] [B]`` is the 0-based index of the step
            just made and ``info["metric"] [B]`` its share of the paper's metric, such that the sum over an episode
            is the episode's score. Real environments add ``info["raw_reward"] [B, n]``, ``info["collided"] [B]`` and
            what else they measure.
        """


class NetworkedEnv(RolloutEnv, Protocol):
    """A networked control task, ``batch`` copies at a time."""

    task: str
    graph: AgentGraph
    batch: int
    action_space: Discrete | MultiDiscrete | Box
    """Of one agent: ``Discrete`` for actions ``[B, n]``, ``Box`` of shape ``(k,)`` for actions ``[B, n, k]``. Where
    agents have different numbers of actions, ``MultiDiscrete`` of those ``n`` numbers for actions ``[B, n]``."""
    observation_space: Box
    """Of one agent, shape ``(d,)``."""
    period: np.ndarray | None
    """After which each feature comes round, ``[d]``, as a place on a loop does; inf for others, None if none does."""
    n_states: tuple[int, ...] | None
    """``S_i`` of agents with finitely many states, whose observations are their one-hot codes; None for all others."""
    horizon: int
    """Steps of the longest episode."""
    warmup_steps: int
    """Steps that every reset spends before the agents act; they count as environment steps."""
    measures: Sequence[str]
    """Names of further ``info`` entries ``[B]`` that evaluations average."""
    outcomes: Sequence[str]
    """Names of ``info`` entries ``[B]`` that say at the last step of an episode how it went."""

    def termination(self, next_obs: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether steps ``step [B]`` that lead to ``next_obs [B, n, d]`` end the task, and at what price.

        A pure function, so that rollouts in a learned model end by the same rule as real ones.

        Returns:
            ``terminated [B]`` and the reward ``[B]`` that every agent then receives instead of the step's own.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

    def close(self) -> None:
        """End what runs outside of this object, such as a simulator; a reset starts it anew."""


class Task(NamedTuple):
    """A registered task, or a user's own."""

    make: Callable[..., NetworkedEnv]
    """Called with ``batch`` and the task's options, :data:`OFFERED` among them where it takes them."""
    title: str
    needs: str
    """What to install beside the extra ``deep``."""
    source: str = ""
    """The option that ``SOURCE`` is in a task given as ``TASK:SOURCE``; none by default."""
    draws: Sequence[float] = EVALUATION_DRAWS
    """Of the evaluation, one per episode."""
    at_once: int = len(EVALUATION_DRAWS)
    """Copies that evaluations run side by side; the draws are a multiple."""


ENVIRONMENTS: Mapping[str, Task] = {
    "catchup": Task(partial(Platoon, "catchup", catchup_start), "CACC: a platoon closes a gap", "-"),
    "slowdown": Task(partial(Platoon, "slowdown", slowdown_start), "CACC: a platoon brakes from high speed", "-"),
    "ring": Task(Ring, "ring attenuation: cars on a circle", "backend=sumo: the extra sumo"),
    "eight": Task(FigureEight, "figure eight: cars on a loop that crosses itself", "the extra sumo", at_once=5),
    "atsc": Task(
        SignalGrid,
        "traffic signals: a grid of 5x5, or any SUMO network",
        "the extra sumo",
        draws=EVALUATION_DRAWS[:10],
        at_once=5,
    ),
    "tabular": Task(Tabular, "any networked MDP: tabular:FILE, tabular:FAMILY", "-", source="mdp"),
}
"""Tasks by id."""
OFFERED = ("gamma", "draws")
"""Options that training and evaluations give to every task that takes them."""
BESIDE = "isolated"
"""The option that evaluations leave at its default: they run beside the environment of a training run."""


_SIMPLE: Mapping[type, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    type(None): (type(None),),
}


def make_env(task: str, batch: int, **options: Any) -> NetworkedEnv:
    """``batch`` copies of a task: a registered one, or a user's own, see :func:`find_task`.

    Raises:
        ValueError: a task or an option that does not exist, naming the nearest one, or a value of the wrong type.

    Example:
        >>> make_env("catchup", 4, collision="freeze").graph.n
        8
    """
    factory = find_task(task).make
    kinds, others = _options(task, factory)
    for name, value in tuple(options.items()):
        if name in OFFERED and name not in kinds and not others:
            del options[name]
        elif name in kinds:
            _require_type(task, name, value, kinds[name])
        elif not others:
            raise unknown_name(f"option of {task}", name, kinds)
    return factory(batch, **options)


def find_task(name: str) -> Task:
    """The registered task of that id, or the user's own that ``MODULE:FACTORY`` or ``FILE.py:FACTORY`` names.

    Raises:
        ValueError: there is none, or no such factory.
        ImportError: there is no such module or file, or it cannot be imported.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    if not is_own(name):
        raise unknown_name("task", name, [*ENVIRONMENTS, "MODULE:FACTORY"])
    make, episodes = maker(name), evaluations(name, len(EVALUATION_DRAWS))
    title = next(iter((make.__doc__ or "").strip().splitlines()), "")
    return Task(make, title, "-", draws=EVALUATION_DRAWS[:episodes], at_once=episodes)


def brought(name: str) -> bool:
    """Whether users bring what the task is: an MDP, or all of it."""
    return is_own(name) or bool(ENVIRONMENTS[name].source)


def _options(task: str, factory: Callable[..., NetworkedEnv]) -> tuple[dict[str, Any], bool]:
    """The options that a factory names with what they may be, and whether it takes others as well."""
    try:
        parameters = list(inspect.signature(factory, eval_str=True).parameters.values())
    except NameError:  # an annotation that is imported for type checkers only
        parameters = list(inspect.signature(factory).parameters.values())
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ValueError(f"the factory of {task} takes no number of copies; let batch be its first parameter")
    named = {p.name: p.annotation for p in parameters[1:] if p.kind is not p.VAR_KEYWORD}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _require_type(task: str, name: str, value: Any, kind: Any) -> None:
    wanted = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if set(wanted) <= _SIMPLE.keys() and not any(type(value) in _SIMPLE[one] for one in wanted):
        names = " or ".join(one.__name__ for one in wanted if one is not type(None))
        raise ValueError(f"{name} = {value!r}; this option of {task} must be of type {names}")


def named_task(name: str) -> tuple[str, dict[str, Any]]:
    """Split ``TASK:SOURCE`` into the task's id and the option that ``SOURCE`` stands for; ``TASK`` has none.

    A source that is a file becomes its full path, so that what is recorded holds in every folder. What does not begin
    with the id of a registered task is the id of a user's own, whole.

    Raises:
        ValueError: a task that does not exist, or one that takes no source.
        ImportError: a user's own that cannot be imported.

    Example:
        >>> named_task("tabular:ring"), named_task("catchup")
        (('tabular', {'mdp': 'ring'}), ('catchup', {}))
    """
    task, colon, source = name.partition(":")
    if task not in ENVIRONMENTS:
        try:
            find_task(name)
        except ImportError as error:
            if difflib.get_close_matches(task, ENVIRONMENTS):
                raise unknown_name("task", task, ENVIRONMENTS) from error
            raise
        return full_name(name), {}
    if not colon:
        return task, {}
    option = ENVIRONMENTS[task].source
    if not option or not source:
        takes = [f"{known}:{t.source.upper()}" for known, t in ENVIRONMENTS.items() if t.source]
        raise ValueError(
            f"{name!r}: give {task}{':SOURCE' if option else ''} (tasks with one: {', '.join(takes)}); a module of "
            f"your own that has this name is ./{task}.py:FACTORY"
        )
    return task, {option: str(Path(source).resolve()) if Path(source).is_file() else source}


def evaluation_env(task: str, **options: Any) -> NetworkedEnv:
    """The task on its published evaluation draws, as many copies as play side by side."""
    known = find_task(task)
    kept = {name: value for name, value in options.items() if name != BESIDE}
    return make_env(task, known.at_once, draws=known.draws, **kept)


def evaluation_rounds(task: str) -> int:
    """Episodes that each copy of :func:`evaluation_env` plays to use up the draws."""
    known = find_task(task)
    return len(known.draws) // known.at_once


def action_counts(env: NetworkedEnv) -> tuple[int, ...]:
    """Number of discrete actions of each agent, ``[n]``.

    Raises:
        ValueError: the task's actions are continuous.
    """
    if isinstance(env.action_space, Discrete):
        return (int(env.action_space.n),) * env.graph.n
    if isinstance(env.action_space, MultiDiscrete):
        return tuple(env.action_space.nvec.tolist())
    raise ValueError(f"{env.task} has continuous actions, {env.action_space}, and no number of them to choose from")
