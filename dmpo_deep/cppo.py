"""Section VI-A: CPPO, PPO with critics that hear everybody and one advantage for the team.

It is DPPO with the critics' radius infinite, and with it that of the advantage, Eq. 9: ``V_i(s)`` of the whole joint
state, agents of other components included, and ``A = (1/n) sum_j A_j`` for every agent. Policies stay local.
"""

from __future__ import annotations

import math

from dmpo_deep.envs import NetworkedEnv
from dmpo_deep.hyperparameters import Preset
from dmpo_deep.learner import ModelFree
from dmpo_deep.ppo import Agents


class CPPO(ModelFree):
    """Local actors, centralised critics, the team's advantage."""

    population = Agents

    def __init__(self, env: NetworkedEnv, preset: Preset, seed: int) -> None:
        if preset.kappa_critic != math.inf:
            raise ValueError(
                f"kappa_critic = {preset.kappa_critic}; a centralised critic hears everybody, so leave it at inf, or "
                "train dppo"
            )
        super().__init__(env, preset, seed)
