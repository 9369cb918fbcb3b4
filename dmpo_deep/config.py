"""``config.json``: what makes a run, written whole and read back with every damage named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from dmpo_deep.envs import make_env
from dmpo_deep.envs.own import is_own
from dmpo_deep.golden import digest
from dmpo_deep.hyperparameters import LATER, OnPolicy
from dmpo_deep.presets import PARSERS, get_preset
from dmpo_deep.schedule import Schedule, schedule
from dmpo_theory.files import write_text

CONFIG = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """A run as it was started, and how it was continued since."""

    task: str
    algo: str
    seed: int
    steps: int
    eval_every: Schedule
    preset_name: str
    overrides: list[str]
    preset: OnPolicy
    versions: Mapping[str, str]
    resumed: tuple[Mapping[str, Any], ...] = ()
    """``steps`` and ``versions`` of each continuation."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run, in plain JSON."""
        return {"task": self.task, "algo": self.algo, "seed": self.seed, "preset": to_config(self.preset)}

    @property
    def latest(self) -> Mapping[str, Any]:
        """``steps`` and ``versions`` of the last start."""
        return self.resumed[-1] if self.resumed else {"steps": self.steps, "versions": self.versions}

    def write(self, run: Path) -> None:
        """Write ``config.json`` in the folder ``run``, whole or not at all."""
        write_text(run / CONFIG, json.dumps({**asdict(self), **self.identity}, indent=2, allow_nan=False) + "\n")


def read_config(run: Path) -> RunConfig:
    """The run's ``config.json``.

    Raises:
        FileNotFoundError: ``run`` is no run directory.
        ValueError: a damaged file; the message names it, what is wrong and the remedy.
        ImportError: the run is of a user's own task, and its module or file is not here.
    """
    path = run / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run directory: it has no {CONFIG}")
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        values = {"resumed": [], **values}
        if odd := sorted(values.keys() ^ {f.name for f in fields(RunConfig)}):
            raise ValueError(f"missing or unknown: {', '.join(odd)}")
        for key, kind in _KINDS.items():
            if type(values[key]) is not kind:
                raise ValueError(f"{key} = {values[key]!r} is no {kind.__name__}")
        values["eval_every"] = schedule(values["eval_every"])
        if not all(isinstance(start, dict) and start.keys() == {"steps", "versions"} for start in values["resumed"]):
            raise ValueError("an entry of resumed without steps and versions")
        preset = from_config(values["task"], values["algo"], values["preset"])
        make_env(values["task"], 1, **preset.environment)
        return RunConfig(**{**values, "preset": preset, "resumed": tuple(values["resumed"])})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; restore it from a copy, or train again") from error


def changed_source(config: RunConfig) -> str | None:
    """What there is to say of a run of a user's own task whose source is another one than at its last start."""
    before, now = config.latest["versions"].get("trace", ""), digest(config.task, config.algo)
    if not is_own(config.task) or before == now:
        return None
    return f"The source of {config.task} has changed since the run's last start ({before} -> {now or 'none'})"


def to_config(preset: OnPolicy) -> dict[str, Any]:
    """``preset`` in plain JSON: lists for tuples, ``"inf"`` for infinity.

    Nothing for what is at its value in :data:`~dmpo_deep.hyperparameters.LATER`.

    Example:
        >>> to_config(get_preset("catchup", "cppo"))["kappa_critic"]
        'inf'
    """
    values = asdict(preset)
    return {key: _plain(value) for key, value in values.items() if key not in LATER or value != LATER[key]}


def from_config(task: str, algo: str, values: Mapping[str, Any]) -> OnPolicy:
    """The preset that :func:`to_config` has turned into ``values``.

    Raises:
        ValueError: an unknown task or algorithm, a missing or unknown field, a value of the wrong type or out of range.
    """
    try:
        kind = type(get_preset(task, algo))
    except ValueError:
        raise ValueError(f"no algorithm {algo!r} on task {task!r}") from None
    kinds, known = get_type_hints(kind), {f.name for f in fields(kind)}
    values = {**{key: value for key, value in LATER.items() if key in known}, **values}
    if odd := sorted(known ^ values.keys()):
        raise ValueError(f"hyper-parameters missing or unknown: {', '.join(odd)}")
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key != "environment" and not _STORED[kinds[key]](value):
            raise ValueError(f"{key} = {value!r} is not {PARSERS[kinds[key]][1]}")
        result[key] = tuple(value) if isinstance(value, list) else math.inf if value == "inf" else value
    if not isinstance(result["environment"], dict):
        raise ValueError(f"environment = {result['environment']!r} is no table of options")
    return kind(**result)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else "inf" if value == math.inf else value


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


_STORED: Mapping[Any, Callable[[Any], bool]] = {
    int: lambda x: _is(x, int),
    float: lambda x: x == "inf" or _is(x, int, float),
    bool: lambda x: _is(x, bool),
    tuple[int, ...]: lambda x: isinstance(x, list) and all(_is(width, int) for width in x),
}


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("task", "algo", "preset_name"), str),
    **dict.fromkeys(("seed", "steps"), int),
    **dict.fromkeys(("overrides", "resumed"), list),
    **dict.fromkeys(("preset", "versions"), dict),
}
