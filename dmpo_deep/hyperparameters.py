"""The hyper-parameters that there are: fields, their ranges, and what each is for; values live in ``presets.py``.

A field stands in the first class whose algorithms all use it, so that no algorithm has one it does not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmpo_theory.graph import check_kappa

FILLED_IN = {"gamma": "gamma=VALUE", "batch": "copies=VALUE", "draws": "nothing: they come from the run's generator"}
"""Options of an environment that training sets, and what to change instead."""


@dataclass(frozen=True)
class OnPolicy:
    """What every algorithm has: real rollouts, and advantages on them."""

    copies: int = 4
    """Copies of the real environment."""
    stagger: bool = False
    """Whether copies are out of step: the first episodes are cut early, each copy's at another part of the horizon."""
    rollout_steps: int = 150
    """Real steps of each copy per epoch."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Weight of longer returns in the advantage; 0 is the paper's TD residual."""
    reward_scale: float = 0.1
    """Factor on training rewards before critics see them."""
    entropy: float = 0.003
    """Weight of the entropy bonus, Eq. 10's beta."""
    normalize_advantage: bool = True
    """Normalise advantages per agent over the batch; then the 1/n of Eq. 9 is immaterial."""
    lr_half: float = math.inf
    """Gradient steps after which the step sizes of actors and critics have halved; inf keeps them."""
    action_sd: float = 0.5
    """Standard deviation of continuous actions at the start, in units of half their range."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task, as in ``make_env``; overridden as ``environment.NAME=VALUE``."""

    def __post_init__(self) -> None:
        for name, (valid, wanted) in _RANGES.items():
            value = getattr(self, name, None)
            if value is not None and not valid(value):
                raise ValueError(f"{name} = {value!r} is out of range; it must be {wanted}")
        for name in RADII:
            try:
                check_kappa(getattr(self, name, 0))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        for name in FILLED_IN.keys() & self.environment.keys():
            raise ValueError(f"environment.{name} is not yours to set; set {FILLED_IN[name]} instead")
        most, least = self.divisible
        if getattr(self, "minibatches", 1) > most:
            raise ValueError(
                f"minibatches = {getattr(self, 'minibatches', 1)} exceeds the {most} samples of an update; lower it, "
                f"or {least} = {most} must grow"
            )

    @property
    def divisible(self) -> tuple[int, str]:
        """Samples that minibatches divide, and what they are."""
        return self.copies * self.rollout_steps, "copies * rollout_steps"


@dataclass(frozen=True)
class ActorCritic(OnPolicy):
    """An actor and a critic for each agent, hearing a neighbourhood."""

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


@dataclass(frozen=True)
class Preset(ActorCritic):
    """PPO: all that DPPO and CPPO need."""

    clip: float = 0.2
    """PPO's bound on the probability ratio."""
    updates: int = 5
    """Passes over a batch."""
    minibatches: int = 8
    """Minibatches per pass."""
    kl_stop: float = math.inf
    """Divergence of an agent's policy from the batch's, after a pass, beyond which it takes no further pass."""


@dataclass(frozen=True)
class IndependentPreset(ActorCritic):
    """Advantage actor-critic: one actor step per rollout."""

    kappa_critic: float = 1
    """Radius of what a critic hears; the advantage is the own one."""
    critic_steps: int = 1
    """Steps of the critics on a rollout."""


@dataclass(frozen=True)
class RecurrentPreset(OnPolicy):
    """IC3Net: actor, critic and gate of an agent share one recurrent network."""

    width: int = 64
    """Numbers in the memory of an agent, and in a message."""
    lr: float = 1e-3
    """Adam's step size."""
    value_weight: float = 0.5
    """Weight of the critic's loss beside the actor's; they share the network."""
    clip: float = 0.2
    """PPO's bound on the probability ratio; without effect if ``updates`` and ``minibatches`` are 1."""
    updates: int = 1
    """Passes over a rollout; 1 is the algorithm as published."""
    minibatches: int = 1
    """Parts that the copies are divided into in each pass."""

    @property
    def divisible(self) -> tuple[int, str]:
        """Sequences that minibatches divide: whole copies."""
        return self.copies, "copies"


@dataclass(frozen=True)
class Branching:
    """Branched rollouts, in a learned model or in the simulator."""

    model_rounds: int = 3
    """Line 7's B: rounds of model rollouts per epoch, each with its own update."""
    branches: int = 320
    """Line 8's M: model rollouts per round."""
    model_horizon: int = 25
    """Line 10's T: length of a model rollout."""
    recent: int = 3000
    """Branches start from this many newest real states."""

    @property
    def divisible(self) -> tuple[int, str]:
        """Joint samples that minibatches divide."""
        return self.branches * self.model_horizon, "branches * model_horizon"


@dataclass(frozen=True)
class TrueModelPreset(Branching, Preset):
    """DMPO with the simulator in the model's place."""


@dataclass(frozen=True)
class ModelPreset(Branching, Preset):
    """DMPO: the above, and the local models."""

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
    """Capacity of D^E in joint transitions; all of it but ``holdout`` trains the models."""
    holdout: float = 0.0
    """Share of real transitions that never trains the models; fitting stops when the error there no longer falls."""
    ensemble: int = 1
    """Networks in each local model; in a rollout every prediction is that of a random one."""
    neighbor_actions: bool = False
    """Whether a local model knows the actions of the agents it hears, and not only its own."""
    real_rounds: int = 0
    """Updates on the real rollout, before the rounds in the model: none in Algorithm 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real_rounds and self.minibatches > self.copies * self.rollout_steps:
            raise ValueError(
                f"minibatches = {self.minibatches} exceeds the copies * rollout_steps = "
                f"{self.copies * self.rollout_steps} samples of a real round; lower it, or leave out real_rounds"
            )
        if self.copies * self.rollout_steps > self.buffer:
            raise ValueError(
                f"buffer = {self.buffer} is too small for a rollout of copies * rollout_steps = "
                f"{self.copies * self.rollout_steps} joint transitions; raise it, or shorten the rollout"
            )


LATER: Mapping[str, Any] = {"real_rounds": 0, "stagger": False, "lr_half": math.inf}
"""Fields that came after the first results, with the value that changes nothing.

At it they are left out of what identifies a run, so that earlier runs remain what they are.
"""
RADII = ("kappa_policy", "kappa_critic", "kappa_model")
_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda x: x > 0 and math.isfinite(x), "positive")
_COUNT: tuple[Callable[[Any], bool], str] = (lambda x: x >= 1, "at least 1")
_WIDTHS: tuple[Callable[[Any], bool], str] = (lambda x: all(width >= 1 for width in x), "widths of at least 1")
_NOT_NEGATIVE: tuple[Callable[[Any], bool], str] = (lambda x: x >= 0 and math.isfinite(x), "at least 0")
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "gamma": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "lam": (lambda x: 0 <= x <= 1, "in [0, 1]"),
    "entropy": _NOT_NEGATIVE,
    "value_weight": _POSITIVE,
    "holdout": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "kl_stop": (lambda x: x > 0, "positive; inf never stops"),
    "lr_half": (lambda x: x > 0, "positive; inf keeps step sizes"),
    **dict.fromkeys(("hidden", "hidden_model"), _WIDTHS),
    **dict.fromkeys(("reward_scale", "action_sd", "lr", "lr_actor", "lr_critic", "lr_model", "clip"), _POSITIVE),
    **dict.fromkeys(("copies", "rollout_steps", "updates", "minibatches", "warmup_steps", "model_batch"), _COUNT),
    "real_rounds": _NOT_NEGATIVE,
    **dict.fromkeys(("model_steps", "model_rounds", "branches", "model_horizon", "buffer", "recent"), _COUNT),
    **dict.fromkeys(("critic_steps", "width", "ensemble"), _COUNT),
}
