"""Algorithm 1: decentralised model-based policy optimisation. Comments carry the algorithm's line numbers.

The paper says neither how the first model comes about nor where lines 12-13 stand with respect to the loop of line 7.
Here the first rollout is longer (``warmup_steps``, by the untrained, nearly uniform policy; they count as environment
steps), and every round of line 7 ends with its own update on its own fresh rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from dmpo_deep import communication
from dmpo_deep.buffer import TransitionBuffer
from dmpo_deep.envs import NetworkedEnv
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.model import ModelEnv, local_model
from dmpo_deep.phases import Stopwatch
from dmpo_deep.ppo import Agents
from dmpo_deep.rollout import Collector, Trajectory, rollout


class DMPO:
    """Algorithm 1 on ``env``; the radii of policies, critics and models are three fields of the preset."""

    population = Agents

    def __init__(self, env: NetworkedEnv, preset: ModelPreset, seed: int) -> None:
        self.preset, self.rng, self.watch = preset, np.random.default_rng(seed), Stopwatch()
        weights = torch.Generator().manual_seed(seed)
        self.agents = Agents(env, preset, weights)  # 1: actors and critics
        self.model = local_model(env, preset, weights)  # 1: local models
        self.data = TransitionBuffer(preset.buffer)  # 2: D^E; D^M is the rollout at hand
        self.model_env = ModelEnv(self.model, env, self.data, preset.branches, preset.recent)
        self.collector = Collector(env, self.rng, preset.stagger)
        numbers = env.action_space.shape[0] if isinstance(env.action_space, Box) else 1
        self._known = numbers if preset.neighbor_actions else 0

    def epoch(self) -> dict[str, float | None]:
        """Lines 4-13, once; what is worth logging."""
        preset, watch, actor, first = self.preset, self.watch, self.agents.actor, not len(self.data)
        with watch("collect"):
            real = self.collector.collect(actor, preset.warmup_steps if first else preset.rollout_steps)  # 4
        log: dict[str, float | None] = {}
        with watch("model"):
            if not first:  # before the model sees it: the error is out of sample
                log |= self._errors(real)
            held = self.rng if preset.holdout else None
            self.data.add(real, preset.holdout, held)  # 4
            fit = self.model.fit(self.data, preset.model_steps, preset.model_batch, self.rng)  # 5
            log |= {"model_loss": fit.loss, "model_loss_holdout": fit.holdout, "model_gradient_steps": fit.steps}
            newest = np.flatnonzero(~self.data["held"])[-preset.model_batch :]
            log["model_error_train"] = self.model.error(*(self.data[k][newest] for k in ("obs", "action", "next_obs")))
        with watch("update"):
            rounds = [self.agents.update(real, self.rng) for _ in range(preset.real_rounds)]
        for _ in range(preset.model_rounds):  # 7: B rounds
            with watch("imagine"):
                self.model_env.reset(self.rng)  # 8, 9: M branches
                imagined = rollout(self.model_env, actor, preset.model_horizon, self.rng)  # 6, 10, 11: D^M
            with watch("update"):
                rounds.append(self.agents.update(imagined, self.rng))  # 12, 13: G gradient steps
        means = {name: float(np.mean([r[name] for r in rounds])) for name in rounds[0]}
        return {**log, **means, **self._floats(real.metric.size), **watch.take()}

    def _errors(self, new: Trajectory) -> dict[str, float | None]:
        """The model's, after one step and after a quarter, a half and all of its horizon."""
        horizon = self.preset.model_horizon
        errors = self.model.open_loop_errors(new, horizon)
        parts = {"quarter": horizon // 4, "half": horizon // 2, "horizon": horizon}
        far = {
            f"model_error_at_{k}": None if errors is None else float(errors[max(t, 1) - 1]) for k, t in parts.items()
        }
        return {"model_error": self.model.one_step_error(new), **far}

    def _floats(self, steps: int) -> dict[str, float]:
        preset, graph, d = self.preset, self.agents.graph, self.agents.features
        hears, models = preset.kappa_policy, preset.kappa_model
        imagined = preset.model_rounds * preset.branches * preset.model_horizon / steps
        judged = communication.judging(graph, d, preset.kappa_critic, heard=max(hears, models))
        return {
            "floats_policy": communication.acting(graph, d, hears),
            "floats_model": communication.modelling(graph, d, models, hears, imagined, self._known),
            "floats_critic": (preset.real_rounds + imagined) * judged,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {
            "agents": self.agents.state_dict(),
            "collector": self.collector.state_dict(),
            "model": self.model.state(),
            "data": self.data.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.agents.load_state_dict(state["agents"])
        self.collector.load_state_dict(state["collector"])
        self.model.load_state(state["model"])
        self.data.load_state_dict(state["data"])
