"""``config.json``: what makes a run, written whole and read back with every damage named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dmpo_deep.envs import make_env
from dmpo_deep.presets import Preset, from_config, to_config

CONFIG = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """A run as it was started, and how it was continued since."""

    task: str
    algo: str
    seed: int
    steps: int
    eval_every: int
    preset_name: str
    overrides: list[str]
    preset: Preset
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
        part = run / (CONFIG + ".part")
        part.write_text(json.dumps({**asdict(self), **self.identity}, indent=2, allow_nan=False) + "\n")
        os.replace(part, run / CONFIG)


def read_config(run: Path) -> RunConfig:
    """The run's ``config.json``.

    Raises:
        FileNotFoundError: ``run`` is no run directory.
        ValueError: a damaged file; the message names it, what is wrong and the remedy.
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
        if not all(isinstance(start, dict) and start.keys() == {"steps", "versions"} for start in values["resumed"]):
            raise ValueError("an entry of resumed without steps and versions")
        preset = from_config(values["task"], values["algo"], values["preset"])
        make_env(values["task"], 1, **preset.environment)
        return RunConfig(**{**values, "preset": preset, "resumed": tuple(values["resumed"])})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; restore it from a copy, or train again") from error


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("task", "algo", "preset_name"), str),
    **dict.fromkeys(("seed", "steps", "eval_every"), int),
    **dict.fromkeys(("overrides", "resumed"), list),
    **dict.fromkeys(("preset", "versions"), dict),
}
