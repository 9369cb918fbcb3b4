"""One file for a nested state: tensors and arrays in safetensors, everything else as JSON in its header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

from dmpo_theory.files import whole

FORMAT, UNSIGNED = "dmpo-checkpoint/2", "dmpo-checkpoint/1"
"""The format, and the one before it, which is the same without a digest."""
BLANK = "0" * hashlib.sha256().digest_size * 2
"""What stands in the place of the digest while it is taken."""


class CheckpointError(RuntimeError):
    """A file that cannot be restored; the message names the file and the remedy."""


def save(path: Path, state: Any) -> None:
    """Write ``state`` so that ``path`` holds either the old or the new checkpoint whole, whatever happens.

    Args:
        path: the file.
        state: nested dicts, lists and tuples of tensors, arrays, numbers, strings, booleans and None.

    Raises:
        TypeError: something else in the state.
        OSError: the file cannot be written; the message names it and the remedy.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _flatten(state, arrays)
    metadata = {"format": FORMAT, "sha256": BLANK, "tree": json.dumps(tree)}
    data = safetensors.numpy.save(arrays, metadata=metadata)
    with whole(path, binary=True) as file:
        file.write(_sealed(data, BLANK, hashlib.sha256(data).hexdigest()))


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
    if "sha256" in metadata or found == FORMAT:
        _require_digest(path, metadata.get("sha256", ""))
    if found not in (FORMAT, UNSIGNED):
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


def _require_digest(path: Path, digest: str) -> None:
    """Refuse a file of which a single bit is not as it was written."""
    data = _sealed(path.read_bytes(), digest, BLANK)
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(
            f"{path} is damaged: its bytes are not those that were written; restore it from a copy, or train again"
        )


def _sealed(data: bytes, before: str, after: str) -> bytes:
    """The file with another digest in its header, where quotes within values are escaped and no key is as this one."""
    return data.replace(f'"sha256":"{before}"'.encode(), f'"sha256":"{after}"'.encode(), 1)


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
