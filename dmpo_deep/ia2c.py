"""Section VI-A's simplest rival: IA2C, independent advantage actor-critic.

Every agent minds its own reward alone: ``A_i = R_i - V_i(s_{N_i})`` from short rollouts, one actor step
``-E[log pi_i(a_i | s_{N_i}) A_i] - beta H(pi_i)`` and a few critic steps on each. The entropy is a bonus: added to the
loss, as Eq. 10 prints it, it would punish exploration.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dmpo_deep import communication
from dmpo_deep.hyperparameters import IndependentPreset
from dmpo_deep.learner import ModelFree
from dmpo_deep.nets import descend, require_finite, tensor
from dmpo_deep.ppo import LocalAgents, agents_first, normalized, value_loss
from dmpo_deep.rollout import Trajectory


class IndependentAgents(LocalAgents):
    """:class:`~dmpo_deep.ppo.LocalAgents` that learn by advantage actor-critic, each from its own reward."""

    preset: IndependentPreset

    def credit(self, residual: Tensor) -> Tensor:
        """The own one."""
        return residual

    def policy_loss(self, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
        """Eq. 10 without entropy."""
        return -(log_prob * advantage).mean(dim=1)

    def update(self, data: Trajectory, rng: np.random.Generator) -> dict[str, float]:
        """One actor step and ``critic_steps`` critic steps on a rollout; what is worth logging.

        Raises:
            FloatingPointError: a loss or weight is not finite any more.
        """
        self.set_step_sizes()
        target, advantage = map(agents_first, self.estimates(data))
        if self.preset.normalize_advantage:
            advantage = normalized(advantage)
        obs, action = tensor(data.obs), agents_first(tensor(data.action))
        log_prob, entropy = self.actor.evaluate(self.actor.net.gather(obs), action)
        loss, spread = self.policy_loss(log_prob, log_prob.detach(), advantage), entropy.mean(dim=1)
        descend("actor", self.actor_optimizer, [(loss - self.preset.entropy * spread).sum()])
        heard = self.critic.gather(obs)
        for _ in range(self.preset.critic_steps):
            squared = value_loss(self.critic(heard)[..., 0], target)
            descend("critic", self.critic_optimizer, [squared.sum()])
        self.gradient_steps += 1
        require_finite("actor", self.actor)
        require_finite("critic", self.critic)
        means = {"policy_loss": loss, "value_loss": squared, "entropy": spread}
        return {name: float(value.detach().mean()) for name, value in means.items()}

    def floats(self) -> dict[str, float]:
        """Numbers that an agent receives per environment step; advantages are not shared."""
        hears, judges = self.preset.kappa_policy, self.preset.kappa_critic
        critic = communication.judging(self.graph, self.features, judges, heard=hears, shares=False)
        return super().floats() | {"floats_critic": critic}


class IA2C(ModelFree):
    """Independent advantage actor-critic."""

    population = IndependentAgents
