"""What every environment refuses before it moves, and what is refused of it: answers that are no numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from dmpo_theory.errors import require_memory


def require_copies(
    task: str, batch: int, draws: Sequence[float] | None, bytes_each: int, several: bool = False
) -> np.ndarray | None:
    """Check the number of copies, that they fit in memory, and that each has its draw in [0, 1); the draws ``[B]``.

    With ``several`` a copy may have more than one draw, for its episodes: there are ``[k B]``.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}; at least one copy is needed")
    require_memory(bytes_each * batch, f"{task} in {batch} copies", "give fewer copies")
    if draws is None:
        return None
    if len(draws) != batch and not (several and len(draws) and len(draws) % batch == 0):
        wanted = "the same number for each copy" if several else "one per copy"
        raise ValueError(f"{len(draws)} draws for batch = {batch}; give {wanted}")
    array = np.asarray(draws, dtype=float)
    if (bad := ~((array >= 0) & (array < 1))).any():
        raise ValueError(f"draw {array[bad][0]} is out of range; draws are numbers in [0, 1)")
    return array


def require_choices(**options: tuple[str, Collection[str]]) -> None:
    """Check each option, ``name=(value, allowed)``, against what it may be."""
    for name, (value, allowed) in options.items():
        if value not in tuple(allowed):
            raise ValueError(f"{name} = {value!r}; give {' or '.join(map(repr, allowed))}")


def require_running(ended: np.ndarray) -> None:
    """Refuse a step of copies, marked in ``ended [B]``, that have ended or were never reset."""
    if ended.any():
        copies = np.flatnonzero(ended).tolist()
        raise RuntimeError(
            f"copies {_first(copies)} have ended or were never reset; reset(rng, where) them before the next step"
        )


def require_discrete(action: np.ndarray, shape: tuple[int, ...], count: int | np.ndarray) -> None:
    """Refuse actions other than integers 0 .. ``count`` - 1 of shape ``[B, n]``, ``count`` being of all or ``[n]``."""
    _require_shape(action, shape)
    most = f"{np.max(count) - 1}" if np.ndim(count) == 0 else "one less than the agent's number of actions"
    if action.dtype.kind not in "iu":
        raise ValueError(f"actions of type {action.dtype}; give integers from 0 to {most}, the indices of the actions")
    if np.minimum.reduce(action, axis=None) < 0 or (action >= count).any():
        _refuse(action, (action < 0) | (action >= count), f"give integers from 0 to {most}")


def require_continuous(action: np.ndarray, shape: tuple[int, ...], limit: float, remedy: str) -> None:
    """Refuse all but numbers in [-``limit``, ``limit``] of shape ``[B, n, k]``; ``remedy`` ends the error."""
    _require_shape(action, shape)
    if action.dtype.kind != "f":
        raise ValueError(f"actions of type {action.dtype}; give floating-point numbers")
    if not float(np.maximum.reduce(np.abs(action), axis=None)) <= limit:  # false for NaN, too
        _refuse(action, ~(np.abs(action.astype(np.float64)) <= limit), remedy)


def require_finite_answer(env: object, step: np.ndarray | None = None, **answers: np.ndarray) -> None:
    """Refuse observations ``[B, n, d]`` and rewards ``[B, n]`` of which one is no finite number.

    Args:
        env: who gave them.
        step: ``[B]``, of which step of its episode; of a reset by default.
        answers: the arrays, by what they are called.

    Raises:
        FloatingPointError: naming the environment, the array, its copy and agent, and the step.
    """
    for name, array in answers.items():
        if not np.isfinite(array).all():
            index = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
            copy, agent, *feature = index
            place = "".join(f", feature {k}" for k in feature)
            when = "after a reset" if step is None else f"at step {step[copy]} of its episode"
            raise FloatingPointError(
                f"{type(env).__name__} gave {array[index]} as {name} of agent {agent} in copy {copy}{place}, {when}; "
                "an environment gives finite numbers only"
            )


def _require_shape(action: np.ndarray, shape: tuple[int, ...]) -> None:
    if not isinstance(action, np.ndarray):
        raise ValueError(f"actions are a {type(action).__name__}; give a numpy array of shape {shape}")
    if action.shape != shape:
        raise ValueError(
            f"actions have shape {action.shape}; {shape[1]} agents in {shape[0]} copies need shape {shape}"
        )


def _refuse(action: np.ndarray, bad: np.ndarray, remedy: str) -> None:
    copy, agent = np.argwhere(bad)[0][:2]
    raise ValueError(f"action {action[bad][0]} of agent {agent} in copy {copy} is out of range; {remedy}")


def _first(copies: list[int], most: int = 5) -> str:
    return f"{copies[:most]} (and {len(copies) - most} more)" if len(copies) > most else str(copies)
