"""One file for a nested state: tensors and arrays in safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

FORMAT = "dmpo-checkpoint/1"


class CheckpointError(RuntimeError):
    """A file that cannot be restored; the message names the file and the remedy."""


def save(path: Path, state: Any) -> None:
    """Write ``state`` so that ``path`` holds either the old or the new checkpoint whole, whatever happens.

    Args:
        path: the file.
        state: nested dicts, lists and tuples of tensors, arrays, numbers, strings, booleans and None.

    Raises:
        TypeError: something else in the state.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _flatten(state, arrays)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(safetensors.numpy.save(arrays, metadata={"format": FORMAT, "tree": json.dumps(tree)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load(path: Path, identity: Mapping[str, Any] | None = None) -> Any:
    """What :func:`save` wrote.

    Args:
        path: the file.
        identity: entries that the state must have, such as its task; a state without them is of another run.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a truncated or damaged file, one of another version or run, or no checkpoint at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is its folder a run, and did it reach a checkpoint?")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or is no checkpoint ({error}); restore it from a copy, or train again"
        ) from error
    found = metadata.get("format")
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found!r}, and this version reads {FORMAT!r}; "
            "load it with the version that wrote it, or train again"
        )
    with restoring(path):
        state = _unflatten(json.loads(metadata["tree"]), arrays)
    for key, wanted in (identity or {}).items():
        has = state.get(key) if isinstance(state, dict) else None
        if has != wanted:
            raise CheckpointError(
                f"{path} is of another run: its {key} is {has!r}, and the run's is {wanted!r}; restore both files from "
                "one copy, or train again"
            )
    return state


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a state of ``path`` is put in place into a :class:`CheckpointError`."""
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged or does not fit its run ({type(error).__name__}: {error}); restore it from a copy, or "
            "train again"
        ) from error


def _flatten(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for ``value``; every container and array is tagged, so that keys and types survive."""
    match value:
        case torch.Tensor() | np.ndarray():
            key = f"{len(arrays):05d}"
            kind, array = (
                ("array", value) if isinstance(value, np.ndarray) else ("tensor", value.detach().cpu().numpy())
            )
            arrays[key] = np.array(array, order="C")
            return {kind: key}
        case dict():
            return {"dict": [[key, _flatten(item, arrays)] for key, item in value.items()]}
        case list():
            return {"list": [_flatten(item, arrays) for item in value]}
        case tuple():
            return {"tuple": [_flatten(item, arrays) for item in value]}
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(
        f"cannot store {type(value).__name__} in a checkpoint; convert it to an array, a number or a string"
    )


def _unflatten(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(kind, content)] = tree.items()
    match kind:
        case "array":
            return arrays[content]
        case "tensor":
            return torch.from_numpy(arrays[content])
        case "dict":
            return {key: _unflatten(item, arrays) for key, item in content}
    items = [_unflatten(item, arrays) for item in content]
    return items if kind == "list" else tuple(items)
