"""Table I and every other hyper-parameter: the only place where they live.

``"paper"`` is Table I; what the paper leaves out is taken from the authors' published settings or, where those belong
to a different training loop, chosen here, and marked as such. ``"tuned"`` is our own and the default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_type_hints

from dmpo_deep import DEFAULT_PRESET
from dmpo_theory.errors import unknown_name
from dmpo_theory.graph import check_kappa

FILLED_IN = {"gamma": "gamma=VALUE", "batch": "copies=VALUE", "draws": "nothing: they come from the run's generator"}
"""Options of an environment that training sets, and what to change instead."""


@dataclass(frozen=True)
class Preset:
    """The model-free part; all that DPPO needs."""

    copies: int = 4
    """Copies of the real environment."""
    rollout_steps: int = 150
    """Real steps of each copy per epoch."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Weight of longer returns in the advantage; 0 is the paper's TD residual."""
    reward_scale: float = 0.1
    """Factor on training rewards before critics see them."""
    hidden: tuple[int, ...] = (64, 64)
    """Hidden layers of actors and critics."""
    kappa_policy: float = 1
    """Radius of what a policy hears."""
    kappa_critic: float = 2
    """Radius of what a critic hears, and of the neighbourhood advantage; inf is a centralised critic."""
    lr_actor: float = 1e-3
    """Adam's step size for actors."""
    lr_critic: float = 1e-3
    """Adam's step size for critics."""
    clip: float = 0.2
    """PPO's bound on the probability ratio."""
    entropy: float = 0.003
    """Weight of the entropy bonus, Eq. 10's beta."""
    updates: int = 5
    """Passes over a batch."""
    minibatches: int = 8
    """Minibatches per pass."""
    kl_stop: float = math.inf
    """Divergence of an agent's policy from the batch's, after a pass, beyond which it takes no further pass."""
    normalize_advantage: bool = True
    """Normalise advantages per agent over the batch; then the 1/n of Eq. 9 is immaterial."""
    action_sd: float = 0.5
    """Standard deviation of continuous actions at the start, in units of half their range."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task, as in ``make_env``; overridden as ``environment.NAME=VALUE``."""

    def __post_init__(self) -> None:
        for name, (valid, wanted) in _RANGES.items():
            value = getattr(self, name, None)
            if value is not None and not valid(value):
                raise ValueError(f"{name} = {value!r} is out of range; it must be {wanted}")
        for name in ("kappa_policy", "kappa_critic", "kappa_model"):
            try:
                check_kappa(getattr(self, name, 0))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        for name in FILLED_IN.keys() & self.environment.keys():
            raise ValueError(f"environment.{name} is not yours to set; set {FILLED_IN[name]} instead")
        if self.minibatches > self.batch:
            raise ValueError(
                f"minibatches = {self.minibatches} exceeds the {self.batch} samples of an update; lower it, or "
                f"{self._batch_is} = {self.batch} must grow"
            )

    _batch_is: ClassVar[str] = "copies * rollout_steps"

    @property
    def batch(self) -> int:
        """Joint samples that one update learns from."""
        return self.copies * self.rollout_steps


@dataclass(frozen=True)
class ModelPreset(Preset):
    """DMPO: the above, and the model's part."""

    warmup_steps: int = 300
    """Real steps of each copy in the first epoch, by the untrained policy."""
    kappa_model: float = 1
    """Radius of what a local model hears."""
    hidden_model: tuple[int, ...] = (64, 64)
    """Hidden layers of the models."""
    lr_model: float = 1e-3
    """Adam's step size for models."""
    model_steps: int = 150
    """Gradient steps of the models per epoch."""
    model_batch: int = 256
    """Transitions per such step."""
    buffer: int = 50_000
    """Capacity of D^E in joint transitions; all of it trains the models."""
    model_rounds: int = 3
    """Line 7's B: rounds of model rollouts per epoch, each with its own update."""
    branches: int = 320
    """Line 8's M: model rollouts per round."""
    model_horizon: int = 25
    """Line 10's T: length of a model rollout."""
    recent: int = 3000
    """Branches start from this many newest real states."""

    _batch_is: ClassVar[str] = "branches * model_horizon"

    @property
    def batch(self) -> int:
        """Joint samples that one update learns from."""
        return self.branches * self.model_horizon


_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda x: x > 0 and math.isfinite(x), "positive")
_COUNT: tuple[Callable[[Any], bool], str] = (lambda x: x >= 1, "at least 1")
_WIDTHS: tuple[Callable[[Any], bool], str] = (lambda x: all(width >= 1 for width in x), "widths of at least 1")
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "gamma": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "lam": (lambda x: 0 <= x <= 1, "in [0, 1]"),
    "entropy": (lambda x: x >= 0, "at least 0"),
    "kl_stop": (lambda x: x > 0, "positive; inf never stops"),
    **dict.fromkeys(("hidden", "hidden_model"), _WIDTHS),
    **dict.fromkeys(("reward_scale", "action_sd", "lr_actor", "lr_critic", "lr_model", "clip"), _POSITIVE),
    **dict.fromkeys(("copies", "rollout_steps", "updates", "minibatches", "warmup_steps", "model_batch"), _COUNT),
    **dict.fromkeys(("model_steps", "model_rounds", "branches", "model_horizon", "buffer", "recent"), _COUNT),
}

# Table I gives step sizes, networks, kappa and T. Everything else here is not in the paper but in the authors'
# published settings: one copy and a horizon per epoch, 50 rollouts of warm-up of which 15 are kept, 10 rounds of 10
# full-batch passes on 2048 branches from the latest rollout, a platoon that freezes. Not followed: they train the model
# every tenth epoch, up to 20,000 steps after the warm-up, and mix real with model data. DPPO, which has no table in the
# paper, gets the same values. Every field is spelt out, so that changing a default changes no paper preset.
#
# Note on freezing: the task's rule ends no episode then, in the learned model either, so that the local models have to
# learn the frozen platoon itself, from observations that do not say that it is frozen.
_PAPER: Mapping[str, Any] = {
    "copies": 1,
    "rollout_steps": 600,
    "gamma": 0.99,
    "lam": 0.5,
    "reward_scale": 1.0,
    "hidden": (64, 64),
    "kappa_policy": 1,
    "kappa_critic": 2,
    "lr_actor": 3e-4,
    "lr_critic": 3e-4,
    "clip": 0.2,
    "entropy": 0.0,
    "updates": 10,
    "minibatches": 1,
    "kl_stop": 0.0075 * 1.5,
    "normalize_advantage": True,
    "action_sd": math.exp(-0.5),
    "environment": {"collision": "freeze"},
}
_PAPER_MODEL: Mapping[str, Any] = {
    "warmup_steps": 30_000,
    "buffer": 9_000,
    "kappa_model": 1,
    "hidden_model": (16, 16),
    "lr_model": 3e-4,
    "model_steps": 500,
    "model_batch": 512,
    "model_rounds": 10,
    "branches": 2048,
    "model_horizon": 25,
    "recent": 600,
}

# A fifth of the frozen tail is enough to deter from collisions, and does not swamp the critics.
_CACC: Mapping[str, Any] = {"environment": {"collision_scale": 0.2}}
_DMPO = {"tuned": ModelPreset(**_CACC), "paper": ModelPreset(**_PAPER, **_PAPER_MODEL)}
_DPPO = {"tuned": Preset(**_CACC, lr_actor=2e-3, updates=10, minibatches=4), "paper": Preset(**_PAPER)}

# Positions that wrap hide how long the ring is; what a driver sees does not.
_RING: Mapping[str, Any] = {"environment": {"observation": "local"}, "action_sd": 0.2}
_RING_DMPO = {"tuned": ModelPreset(**_RING)}
_RING_DPPO = {"tuned": Preset(**_RING)}

# Who is ahead, and who comes from the other side. In "paper", kappa is Table I's, the rule of priority, the start and
# clipping are the original's.
_EIGHT: Mapping[str, Any] = {"environment": {"observation": "local", "graph": "conflict"}, "action_sd": 0.2}
_EIGHT_PAPER: Mapping[str, Any] = {
    **_PAPER,
    "rollout_steps": 1500,
    "kappa_critic": 3,
    "lr_actor": 5e-5,
    "lr_critic": 5e-5,
    "clip": 0.15,
    "action_sd": math.exp(-0.5) / 3,
    "environment": {"right_of_way": "inside", "shift": 0.0},
}
_EIGHT_PAPER_MODEL: Mapping[str, Any] = {
    **_PAPER_MODEL,
    "warmup_steps": 75_000,
    "buffer": 22_500,
    "lr_model": 5e-4,
    "model_batch": 256,
    "recent": 1500,
}

# Small networked MDPs, gamma 0.9: short rollouts of many copies.
_TABULAR: Mapping[str, Any] = {
    "copies": 16,
    "rollout_steps": 25,
    "gamma": 0.9,
    "reward_scale": 1.0,
    "hidden": (32, 32),
    "lr_actor": 3e-3,
    "lr_critic": 3e-3,
    "minibatches": 4,
}
_TABULAR_MODEL: Mapping[str, Any] = {
    "warmup_steps": 50,
    "hidden_model": (32, 32),
    "lr_model": 3e-3,
    "branches": 400,
    "model_horizon": 10,
    "recent": 2000,
}

# A copy's episode is 720 steps of a simulator that makes about 100 a second. What a signal shows is not in the paper's
# observation; it has to be for a policy that holds a phase. Table I, and the original's lanes and reward, are "paper".
_ATSC: Mapping[str, Any] = {
    "copies": 2,
    "rollout_steps": 180,
    "kappa_critic": 1,
    "environment": {"observation": "wave_and_phase"},
}
_ATSC_MODEL: Mapping[str, Any] = {"warmup_steps": 360, "model_horizon": 15, "branches": 240, "recent": 1440}
_ATSC_PAPER: Mapping[str, Any] = {
    **_PAPER,
    "rollout_steps": 720,
    "hidden": (128, 128),
    "kappa_critic": 1,
    "lr_actor": 5e-4,
    "lr_critic": 5e-4,
    "environment": {"lanes": "by_link", "reward_fn": "queue"},
}
_ATSC_PAPER_MODEL: Mapping[str, Any] = {
    **_PAPER_MODEL,
    "warmup_steps": 36_000,
    "buffer": 10_800,
    "hidden_model": (64, 64),
    "lr_model": 2e-4,
    "recent": 720,
}

PRESETS: Mapping[tuple[str, str], Mapping[str, Preset]] = {
    ("atsc", "dmpo"): {
        "tuned": ModelPreset(**_ATSC, **_ATSC_MODEL),
        "paper": ModelPreset(**_ATSC_PAPER, **_ATSC_PAPER_MODEL),
    },
    ("atsc", "dppo"): {"tuned": Preset(**_ATSC, updates=10, minibatches=4), "paper": Preset(**_ATSC_PAPER)},
    ("eight", "dmpo"): {"tuned": ModelPreset(**_EIGHT), "paper": ModelPreset(**_EIGHT_PAPER, **_EIGHT_PAPER_MODEL)},
    ("eight", "dppo"): {"tuned": Preset(**_EIGHT), "paper": Preset(**_EIGHT_PAPER)},
    ("tabular", "dmpo"): {"tuned": ModelPreset(**_TABULAR, **_TABULAR_MODEL)},
    ("tabular", "dppo"): {"tuned": Preset(**_TABULAR)},
    ("ring", "dmpo"): _RING_DMPO,
    ("ring", "dppo"): _RING_DPPO,
    **{(task, "dmpo"): _DMPO for task in ("catchup", "slowdown")},
    **{(task, "dppo"): _DPPO for task in ("catchup", "slowdown")},
}
"""``(task, algorithm)`` -> presets by name."""


def get_preset(task: str, algo: str, name: str = DEFAULT_PRESET) -> Preset:
    """A preset by name; ``ValueError`` with what there is if there is none."""
    if (task, algo) not in PRESETS:
        has = sorted({of for on, of in PRESETS if on == task})
        raise ValueError(f"no preset of {algo} on {task}; {task} has presets of {', '.join(has) or 'no algorithm'}")
    known = PRESETS[task, algo]
    if name not in known:
        raise unknown_name(f"preset of {algo} on {task}", name, known)
    return known[name]


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


def override(preset: Preset, values: Mapping[str, str]) -> Preset:
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
            changes[key] = _parse(key, text, kinds[key])
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
