"""Table I and every other hyper-parameter's value: the only place where they live.

``"paper"`` is Table I; what the table leaves out is taken from the authors' published settings or, where those belong
to a different training loop, chosen here, and marked as such. ``"tuned"`` is our own and the default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

from dmpo_deep import DEFAULT_PRESET
from dmpo_deep.envs.own import is_own
from dmpo_deep.hyperparameters import (
    FILLED_IN,
    IndependentPreset,
    ModelPreset,
    OnPolicy,
    Preset,
    RecurrentPreset,
    TrueModelPreset,
)
from dmpo_theory.errors import unknown_name

_WIDE, _NARROW = (64, 64), (16, 16)
_COLUMNS = ("catchup", "slowdown", "eight", "ring", "atsc")
_TABLE_I: Mapping[str, Sequence[Any]] = {
    "lr_critic": (3e-4, 3e-4, 5e-5, 5e-4, 5e-4),
    "lr_actor": (3e-4, 3e-4, 5e-5, 5e-4, 5e-4),
    "lr_model": (3e-4, 3e-4, 5e-4, 5e-4, 2e-4),
    "hidden": (_WIDE, _WIDE, _WIDE, _WIDE, (128, 128)),
    "hidden_model": (_NARROW, _NARROW, _NARROW, _NARROW, (64, 64)),
    "kappa_critic": (2, 2, 3, 3, 1),
    "model_horizon": (25, 25, 25, 25, 25),
}
"""Rows of Table I; its text adds that policies and models hear one hop in all tasks."""

# Not in the paper but in the authors' published settings: one copy and a horizon per epoch, 50 rollouts of warm-up of
# which 15 are kept, 10 (slow-down: 8) rounds of as many full-batch passes on 2048 (1024) branches from the latest
# rollout, a platoon that freezes. Not followed: they train the model every tenth epoch, up to 20,000 steps after the
# warm-up, and mix real with model data. DPPO and CPPO, which have no table in the paper, get the same values. Every
# field is spelt out, so that changing a default changes no paper preset.
#
# Note on freezing: the task's rule ends no episode then, in the learned model either, so that the local models have to
# learn the frozen platoon itself, from observations that do not say that it is frozen.
_AUTHORS: Mapping[str, Sequence[Any]] = {
    "rollout_steps": (600, 600, 1500, 3000, 720),
    "clip": (0.2, 0.1, 0.15, 0.2, 0.2),
    "kl_stop": (0.0075 * 1.5, 0.0075 * 1.5, 0.0075 * 1.5, 0.01 * 1.5, 0.0075 * 1.5),
    "updates": (10, 8, 10, 10, 10),
    "warmup_steps": (30_000, 30_000, 75_000, 150_000, 36_000),
    "buffer": (9_000, 9_000, 22_500, 45_000, 10_800),
    "model_batch": (512, 512, 256, 256, 512),
    "model_rounds": (10, 8, 10, 10, 10),
    "branches": (2048, 1024, 2048, 2048, 2048),
    "recent": (600, 600, 1500, 3000, 720),
    "action_sd": (math.exp(-0.5), math.exp(-0.5), math.exp(-0.5) / 3, math.exp(-0.5), math.exp(-0.5)),
    "environment": (
        {"collision": "freeze"},
        {"collision": "freeze"},
        {"right_of_way": "inside", "shift": 0.0},
        {},
        {"lanes": "by_link", "reward_fn": "queue"},
    ),
}
_AUTHORS_EVERYWHERE: Mapping[str, Any] = {
    "copies": 1,
    "stagger": False,
    "gamma": 0.99,
    "lam": 0.5,
    "reward_scale": 1.0,
    "kappa_policy": 1,
    "kappa_model": 1,
    "entropy": 0.0,
    "minibatches": 1,
    "normalize_advantage": True,
    "lr_half": math.inf,
    "model_steps": 500,
    "holdout": 0.0,
    "ensemble": 1,
    "neighbor_actions": False,
    "real_rounds": 0,
}


def paper_fields(task: str) -> dict[str, Any]:
    """Every hyper-parameter of the paper's DMPO on one of Table I's tasks."""
    column = _COLUMNS.index(task)
    return {**{name: row[column] for name, row in {**_TABLE_I, **_AUTHORS}.items()}, **_AUTHORS_EVERYWHERE}


def _fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that presets of ``kind`` have."""
    return {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values}


def _paper(task: str) -> Mapping[str, OnPolicy]:
    values = paper_fields(task)
    free = Preset(**_fields(Preset, values))
    return {"dmpo": ModelPreset(**values), "dppo": free, "cppo": replace(free, kappa_critic=math.inf)}


# A collision is charged a part of the frozen tail of the episode: 60 is a fifth, 300 all of it (discounted, training
# units). On catch-up driving well costs an agent 16 and a fifth deters without swamping the critics; on slow-down it
# costs 113, so that a fifth would make crashing early the best thing to do (docs/results.md).
# Catch-up's models are told what the car ahead does, on which the next headway depends (trials in docs/dmpo.md).
_CATCHUP: Mapping[str, Any] = {"environment": {"collision_scale": 0.2}}
_SLOWDOWN: Mapping[str, Any] = {"environment": {"collision_scale": 1.0}}
_CACC_PPO: Mapping[str, Any] = {"lr_actor": 2e-3, "updates": 10, "minibatches": 4}
_CACC_MODEL: Mapping[str, Any] = {"rollout_steps": 75, "stagger": True}
_CACC_TALK: Mapping[str, Any] = {"copies": 16, "rollout_steps": 25, "lr": 3e-3}
_CACC_ALONE: Mapping[str, Any] = {"copies": 16, "rollout_steps": 10, "critic_steps": 4, "lr_actor": 1e-2}
_FAST: Mapping[str, Any] = {"lr_actor": 3e-3, "lr_critic": 3e-3}
_CATCHUP_TUNED: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(**_CATCHUP, **_CACC_MODEL, warmup_steps=150, lr_half=2000.0, neighbor_actions=True),
    "dmpo-true-model": TrueModelPreset(**_CATCHUP, **_CACC_MODEL, lr_half=2000.0),
    "dppo": Preset(**_CATCHUP, **_CACC_PPO, stagger=True),
    "cppo": Preset(**_CATCHUP, **{**_CACC_PPO, "lr_actor": 1e-3}, kappa_critic=math.inf),
    "ic3net": RecurrentPreset(**_CATCHUP, **_CACC_TALK, updates=5, minibatches=4),
    "ia2c": IndependentPreset(**_CATCHUP, **_CACC_ALONE, stagger=True),
}
_SLOWDOWN_TUNED: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(**_SLOWDOWN, **_CACC_MODEL, warmup_steps=150),
    "dmpo-true-model": TrueModelPreset(**_SLOWDOWN, **_CACC_MODEL),
    "dppo": Preset(**_SLOWDOWN, **_CACC_PPO, stagger=True),
    "cppo": Preset(**_SLOWDOWN, **{**_CACC_PPO, "lr_actor": 1e-3}, stagger=True, kappa_critic=math.inf),
    "ic3net": RecurrentPreset(**_SLOWDOWN, **_CACC_TALK),
    "ia2c": IndependentPreset(**_SLOWDOWN, **{**_CACC_ALONE, "lr_actor": 3e-3}),
}

# Positions that wrap hide how long the ring is; what a driver sees does not. With gamma = 0.99 standing still would be
# the best there is, and where all cars stand one that sets out alone only loses, so most episodes start in motion
# (docs/results.md). Models are told what the leader does, which decides the gap, as on a platoon.
_RING: Mapping[str, Any] = {
    "environment": {"observation": "local", "exploring_starts": 0.9},
    "action_sd": 0.2,
    "gamma": 0.998,
    "stagger": True,
}
_RING_MODEL: Mapping[str, Any] = {"copies": 8, "rollout_steps": 75, "lr_actor": 2e-3, "lr_half": 4000.0}
_RING_PPO: Mapping[str, Any] = {**_FAST, "copies": 8, "lr_half": 600.0}
_RING_TUNED: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(**_RING, **_RING_MODEL, warmup_steps=150, neighbor_actions=True),
    "dmpo-true-model": TrueModelPreset(**_RING, **_RING_MODEL),
    "dppo": Preset(**_RING, **_RING_PPO),
    "cppo": Preset(**_RING, **_RING_PPO, kappa_critic=math.inf),
    "ic3net": RecurrentPreset(**_RING, copies=16, rollout_steps=25, updates=5, minibatches=4, lr_half=1800.0),
    "ia2c": IndependentPreset(**_RING, **_FAST, copies=8, rollout_steps=10, critic_steps=4, lr_half=450.0),
}

# Who is ahead, and who comes from the other side. A car at rest that hardly ever accelerates learns nothing from being
# at rest, and nobody behind can pass: with a deviation of 0.2 one such car soon stops all (docs/results.md).
_EIGHT: Mapping[str, Any] = {"environment": {"observation": "local", "graph": "conflict"}, "action_sd": 0.5}
_EIGHT_TUNED: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(**_EIGHT, lr_half=4000.0),
    "dppo": Preset(**_EIGHT),
    "cppo": Preset(**_EIGHT, kappa_critic=math.inf),
    "ic3net": RecurrentPreset(**_EIGHT),
    "ia2c": IndependentPreset(**_EIGHT),
}

# The simulator makes about 100 steps a second, so one copy. What a signal shows is not in the paper's observation; it
# has to be for a policy that holds a phase, and the queue that the reward charges for models and critics to know it.
# From gridlock nothing is learnt: training episodes end there (docs/results.md).
_ATSC: Mapping[str, Any] = {
    "copies": 1,
    "environment": {"observation": "queue_and_phase", "gridlock": 600},
    "gamma": 0.95,
    "reward_scale": 0.3,
}
_ATSC_ACTOR_CRITIC: Mapping[str, Any] = {**_ATSC, "rollout_steps": 360, "lr_actor": 2e-3}
_ATSC_PPO: Mapping[str, Any] = {**_ATSC_ACTOR_CRITIC, "updates": 10, "minibatches": 4}
_ATSC_TUNED: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(
        **_ATSC_ACTOR_CRITIC,
        kappa_critic=1,
        warmup_steps=360,
        model_rounds=5,
        model_horizon=15,
        branches=240,
        recent=1440,
        neighbor_actions=True,
    ),
    "dppo": Preset(**_ATSC_PPO, kappa_critic=1),
    "cppo": Preset(**_ATSC_PPO, kappa_critic=math.inf),
    "ic3net": RecurrentPreset(**_ATSC, rollout_steps=60, updates=5, lr=3e-3),
    "ia2c": IndependentPreset(**_ATSC, rollout_steps=60, critic_steps=4),
}

# Small networked MDPs, gamma 0.9: short rollouts of many copies.
_TABULAR: Mapping[str, Any] = {"copies": 16, "rollout_steps": 25, "gamma": 0.9, "reward_scale": 1.0}
_TABULAR_NETS: Mapping[str, Any] = {"hidden": (32, 32), "lr_actor": 3e-3, "lr_critic": 3e-3}
_TABULAR_PPO: Mapping[str, Any] = {**_TABULAR, **_TABULAR_NETS, "minibatches": 4}
_TABULAR_TUNED: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(
        **_TABULAR_PPO,
        warmup_steps=50,
        hidden_model=(32, 32),
        lr_model=3e-3,
        branches=400,
        model_horizon=10,
        recent=2000,
    ),
    "dmpo-true-model": TrueModelPreset(**_TABULAR_PPO, branches=400, model_horizon=10, recent=2000),
    "dppo": Preset(**_TABULAR_PPO),
    "cppo": Preset(**_TABULAR_PPO, kappa_critic=math.inf),
    "ic3net": RecurrentPreset(**_TABULAR, width=32, lr=3e-3),
    "ia2c": IndependentPreset(**_TABULAR, **_TABULAR_NETS, critic_steps=4),
}

# A user's own task, of which nothing is known: the defaults, and for what learns from short rollouts more copies.
_OWN: Mapping[str, OnPolicy] = {
    "dmpo": ModelPreset(),
    "dmpo-true-model": TrueModelPreset(),
    "dppo": Preset(),
    "cppo": Preset(kappa_critic=math.inf),
    "ic3net": RecurrentPreset(copies=16, rollout_steps=25, updates=5, minibatches=4),
    "ia2c": IndependentPreset(copies=16, rollout_steps=10, critic_steps=4),
}

_TUNED: Mapping[str, Mapping[str, OnPolicy]] = {
    "catchup": _CATCHUP_TUNED,
    "slowdown": _SLOWDOWN_TUNED,
    "ring": _RING_TUNED,
    "eight": _EIGHT_TUNED,
    "atsc": _ATSC_TUNED,
    "tabular": _TABULAR_TUNED,
}


def _presets(task: str, algo: str) -> Mapping[str, OnPolicy]:
    paper = _paper(task) if task in _COLUMNS else {}
    return {"tuned": _TUNED[task][algo]} | ({"paper": paper[algo]} if algo in paper else {})


PRESETS: Mapping[tuple[str, str], Mapping[str, OnPolicy]] = {
    (task, algo): _presets(task, algo) for task, tuned in _TUNED.items() for algo in tuned
}
"""``(task, algorithm)`` -> presets by name."""


def get_preset(task: str, algo: str, name: str = DEFAULT_PRESET) -> OnPolicy:
    """A preset by name, of a registered task or of a user's own; ``ValueError`` with what there is if there is none."""
    presets = {(task, of): {DEFAULT_PRESET: preset} for of, preset in _OWN.items()} if is_own(task) else PRESETS
    if (task, algo) not in presets:
        has = sorted({of for on, of in presets if on == task})
        raise ValueError(f"no preset of {algo} on {task}; {task} has presets of {', '.join(has) or 'no algorithm'}")
    known = presets[task, algo]
    if name not in known:
        raise unknown_name(f"preset of {algo} on {task}", name, known)
    return known[name]


P = TypeVar("P", bound=OnPolicy)


def key_values(overrides: Sequence[str]) -> dict[str, str]:
    """Split ``KEY=VALUE`` pairs, as on a command line; ``ValueError`` if one is none or a key is given twice."""
    pairs: dict[str, str] = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"override {item!r} is not KEY=VALUE, for example lr_actor=1e-3")
        if key in pairs:
            raise ValueError(f"override {key} is given twice, {pairs[key]} and {value}; leave one out")
        pairs[key] = value
    return pairs


def task_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options of a task from ``NAME=VALUE`` pairs; the task checks what it gets.

    Example:
        >>> task_options(["humans=21", "limit=inf", "start=bunched"])
        {'humans': 21, 'limit': inf, 'start': 'bunched'}
    """
    options = {name: _literal(text) for name, text in key_values(pairs).items()}
    for name in FILLED_IN.keys() & options.keys():
        raise ValueError(f"{name} is not yours to set: evaluations have draws of their own, and no discount")
    return options


def override(preset: P, values: Mapping[str, str]) -> P:
    """``preset`` with fields replaced by values written as strings, as on a command line.

    Raises:
        ValueError: an unknown key (with the nearest one), a value of the wrong type or out of range.

    Example:
        >>> override(Preset(), {"lr_actor": "1e-4", "kappa_critic": "inf", "hidden": "32,32"}).hidden
        (32, 32)
    """
    kinds = get_type_hints(type(preset))
    known = [f.name for f in dataclasses.fields(preset)]
    changes: dict[str, Any] = {}
    environment = dict(preset.environment)
    for key, text in values.items():
        if key.startswith("environment."):
            environment[key.removeprefix("environment.")] = _literal(text)
        elif key not in known or key == "environment":
            raise unknown_name("hyper-parameter", key, [*(k for k in known if k != "environment"), "environment.NAME"])
        else:
            value = _parse(key, text, kinds[key])
            if value != getattr(preset, key):  # 2.0 for 2 would be another run in results
                changes[key] = value
    return replace(preset, **changes, environment=environment)


def _parse(key: str, text: str, kind: Any) -> Any:
    parser, wanted = PARSERS[kind]
    try:
        return parser(text)
    except (ValueError, KeyError):
        raise ValueError(f"{key} = {text!r} is not {wanted}") from None


def _literal(text: str) -> Any:
    """An integer, a number, true or false, and else the text itself; the environment checks what it gets."""
    for kind in (int, float, bool):
        try:
            return PARSERS[kind][0](text)
        except (ValueError, KeyError):
            pass
    return text


PARSERS: Mapping[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "an integer"),
    float: (float, "a number"),
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    tuple[int, ...]: (lambda text: tuple(int(width) for width in text.split(",")), "integers joined by commas"),
}
"""Type of a field -> how to read it from a string, and what it is called in errors."""
