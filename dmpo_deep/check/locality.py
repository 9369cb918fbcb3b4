"""Section IV: nobody hears beyond its radius: states outside a neighbourhood are changed, outputs must not be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dmpo_deep.check.setting import Setting
from dmpo_deep.check.statistics import Finding, within
from dmpo_deep.hyperparameters import ModelPreset
from dmpo_deep.model import local_model

SAMPLES = 64
"""Joint states that are changed."""


def check_locality(setting: Setting, kappas: Sequence[float]) -> Finding:
    """Policies, critics and models of every radius, as training makes them: changes outside their neighbourhoods.

    Outputs must stay the same to the last bit.
    """
    pairs, rng = list[tuple[float, float, str]](), np.random.default_rng([setting.seed, 33])
    for kappa in kappas:
        preset, env = setting.preset(kappa), setting.env(1)
        weights = torch.Generator().manual_seed(setting.seed)
        agents = setting.make_agents(env, preset, weights)
        nets = {"policy": agents.actor.net, "critic": agents.critic}
        radii = {"policy": preset.kappa_policy, "critic": preset.kappa_critic}
        if isinstance(preset, ModelPreset):
            nets["model"], radii["model"] = local_model(env, preset, weights).net, preset.kappa_model
        own = torch.zeros(setting.mdp.n, SAMPLES, max(setting.mdp.n_actions))
        state = _drawn(setting, rng)
        for j in range(setting.mdp.n):
            changed = state.clone()
            changed[:, j] = _drawn(setting, rng)[:, j]
            for name, net in nets.items():
                given = [own] if name == "model" else []
                with torch.no_grad():
                    before, after = (net(torch.cat([net.gather(obs), *given], dim=-1)) for obs in (state, changed))
                moved = (after - before).abs().amax(dim=(1, 2))
                for i in range(setting.mdp.n):
                    if j not in setting.mdp.graph.neighbors(i, radii[name]):
                        pairs.append((float(moved[i]), 0.0, f"{name} of agent {i}, state of agent {j}"))
    radii_seen = ", ".join(f"{kappa:g}" for kappa in kappas)
    return within("locality", f"kappa {radii_seen}", pairs, setting.level, 0.0)


def _drawn(setting: Setting, rng: np.random.Generator) -> torch.Tensor:
    """Observations ``[SAMPLES, n, d]`` of random joint states."""
    state = (rng.random((SAMPLES, setting.mdp.n)) * setting.mdp.n_states).astype(np.int64)
    return torch.from_numpy(np.eye(max(setting.mdp.n_states), dtype=np.float32)[state])
