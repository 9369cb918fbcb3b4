"""Section IV-B taken away: trained policies as one safetensors file with a card, weights of each agent by themselves.

``agent.I.layer.L.weight`` is ``[in, out]`` and ``agent.I.layer.L.bias`` ``[out]``; the inputs of agent ``I`` are the
observations of the agents it hears, ascending, one after the other. Whom it hears, and how outputs are read, is in the
file's metadata, so that nothing of this package is needed to use it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from torch import Tensor, nn

from dmpo_deep import log
from dmpo_deep.algorithms import TITLES
from dmpo_deep.config import RunConfig
from dmpo_deep.envs import evaluation_env
from dmpo_deep.evaluate import load_agents
from dmpo_deep.ic3net import Talkers, TalkingAgents
from dmpo_deep.policies import Actor, Categorical, Gaussian, Head
from dmpo_deep.ppo import LocalAgents
from dmpo_theory.files import vacant, whole
from dmpo_theory.graph import AgentGraph

FORMAT, WEIGHTS, CARD, ONNX = "dmpo-policies/1", "policies.safetensors", "README.md", "policies.onnx"


@dataclass(frozen=True, eq=False)
class Policies:
    """What is exported of a run."""

    net: Actor | Talkers
    graph: AgentGraph
    features: int
    hears: tuple[tuple[int, ...], ...]
    """Whose observations or messages each agent's network takes in a step, ascending."""
    config: RunConfig
    spaces: tuple[str, str]
    """What an agent sees and does."""

    @property
    def head(self) -> Head:
        """Reads outputs as a distribution."""
        return self.net.head


def policies(run: Path) -> Policies:
    """The trained policies of a run.

    Raises:
        FileNotFoundError, ValueError, CheckpointError: as :func:`dmpo_deep.evaluate.load_agents`.
    """
    agents, config = load_agents(run)
    with closing(evaluation_env(config.task, **config.preset.environment)) as env:
        graph, seen, does = env.graph, env.observation_space, env.action_space
    kappa = getattr(config.preset, "kappa_policy", 1)
    hears = tuple(graph.neighbors(i, kappa) for i in range(graph.n))
    return Policies(network(agents), graph, seen.shape[0], hears, config, (f"{seen.shape[0]} numbers", str(does)))


@singledispatch
def network(agents: Any) -> Actor | Talkers:
    """What acts, of a population."""
    raise ValueError(f"policies of {type(agents).__name__} cannot be exported: give dmpo_deep.export.network a rule")


@network.register
def _(agents: LocalAgents) -> Actor:
    return agents.actor


@network.register
def _(agents: TalkingAgents) -> Talkers:
    return agents.net


def arrays(given: Policies) -> dict[str, np.ndarray]:
    """All numbers of the policies, by agent; rows that would take padding are left out."""
    found: dict[str, np.ndarray] = {}
    layers = _layers(given.net)
    for i, heard in enumerate(given.hears):
        for name, value in layers.items():
            found[f"agent.{i}.{name}"] = _array(value[i, 0] if name.endswith("bias") else value[i])
        if isinstance(given.net, Actor):
            first = f"agent.{i}.layer.0.weight"
            found[first] = found[first][: len(heard) * given.features]
        if isinstance(head := given.head, Gaussian):
            found[f"agent.{i}.sd"] = _array(head.unit * head.log_sd[i, 0].exp())
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _layers(net: nn.Module) -> Mapping[str, Tensor]:
    """Weights and biases of all agents, agents first."""
    if isinstance(net, Actor):
        pairs = enumerate(zip(net.net.weight, net.net.bias, strict=True))
        return {f"layer.{k}.{kind}": x for k, pair in pairs for kind, x in zip(("weight", "bias"), pair, strict=True)}
    return {name: value for name, value in net.named_parameters() if not name.startswith("head.")}


def _array(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().numpy()
    return array


def metadata(given: Policies) -> dict[str, str]:
    """What the weights need to be used: strings, JSON where they hold more than one thing."""
    head, recurrent = given.head, isinstance(given.net, Talkers)
    found: dict[str, Any] = {
        "format": FORMAT,
        "network": "ic3net" if recurrent else "mlp-relu",
        "hears": given.hears,
        "edges": given.graph.edges,
        "features": given.features,
    }
    if isinstance(head, Categorical):
        counts = (~head.missing[:, 0]).sum(dim=-1).tolist()
        found |= {"distribution": "categorical", "actions": counts}
    else:
        numbers = {k: _array(getattr(head, k)).tolist() for k in ("low", "high", "center", "unit")}
        found |= {"distribution": "clipped normal", **numbers}
    identity = given.config.identity
    found |= {"task": identity["task"], "algorithm": identity["algo"], "seed": identity["seed"]}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def export(run: Path, out: Path, onnx: bool = False) -> tuple[list[Path], float | None]:
    """Write the policies of a run, a card, and, if asked for, an ONNX model that was held against them first.

    Args:
        run: run directory.
        out: folder, new or empty.
        onnx: also write ``policies.onnx``, see :mod:`dmpo_deep.export_onnx`.

    Returns:
        the files, and the largest deviation of the ONNX model's outputs; None without one.

    Raises:
        FileExistsError: ``out`` exists and is not empty.
        ValueError: the ONNX model does not say what the policies say; nothing is written.
        ImportError: something to write ONNX is not installed.
    """
    if not vacant(out):
        raise FileExistsError(f"{out} exists; give a new or empty folder as --out")
    given, deviation, model = policies(run), None, b""
    if onnx:
        from dmpo_deep.export_onnx import checked_model

        model, deviation = checked_model(given)
    content, text = safetensors.numpy.save(arrays(given), metadata=metadata(given)), card(given, run, deviation)
    out.mkdir(parents=True, exist_ok=True)
    files = {WEIGHTS: content, CARD: text.encode(), **({ONNX: model} if onnx else {})}
    for name, data in files.items():
        with whole(out / name, binary=True) as file:
            file.write(data)
    return [out / name for name in files], deviation


def card(given: Policies, run: Path, deviation: float | None) -> str:
    """The model card, in Markdown."""
    config, rows = given.config, [row for row in log.read_progress(run) if row.get("eval_sampled") is not None]
    last: Mapping[str, float | None] = rows[-1] if rows else {}
    steps = log.standing(run)
    facts = {
        "task": f"`{config.task}`"
        + (f" with {json.dumps(config.preset.environment)}" if config.preset.environment else ""),
        "algorithm": f"{TITLES[config.algo]} (`{config.algo}`)",
        "preset": " ".join([config.preset_name, *config.overrides]),
        "seed": str(config.seed),
        "environment steps": f"{steps:,}",
        "an agent sees": given.spaces[0],
        "an agent does": given.spaces[1],
        "return, sampled": _score(last, "eval_sampled"),
        "return, greedy": _score(last, "eval_greedy"),
        "normalised score, sampled": _score(last, "eval_score"),
        "normalised score, greedy": _score(last, "eval_score_greedy"),
        **{f"version of {name}": version for name, version in config.latest["versions"].items() if version},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    heard = "\n".join(f"| {i} | {', '.join(map(str, js))} |" for i, js in enumerate(given.hears))
    recurrent = isinstance(given.net, Talkers)
    parts = [
        f"# Policies of {TITLES[config.algo]} on {config.task}\n",
        f"Decentralised policies of {given.graph.n} agents, trained with `dmpo train`. Scores are of the last "
        "evaluation of the run, on the published evaluation draws of the task; `-` is what the task does not have.\n",
        f"| | |\n|---|---|\n{table}\n",
        "## Who hears whom\n",
        (
            "In a step an agent hears what its neighbours said in the step before: news travel one hop a step.\n"
            if recurrent
            else "An agent's action depends on the observations of these agents only.\n"
        ),
        f"| agent | hears |\n|---|---|\n{heard}\n",
        f"Edges of the graph: {', '.join(f'{a}-{b}' for a, b in given.graph.edges)}.\n",
        "## How to load\n",
        _RECURRENT if recurrent else _PLAIN,
        _DISCRETE if isinstance(given.head, Categorical) else _CONTINUOUS,
    ]
    if deviation is not None:
        state = "`hidden`, `cell` `[B, n, H]` and `gate` `[B, n]`, zero at the start of an episode, go in and come out"
        parts.append(
            f"`{ONNX}` takes `obs` `[B, n, d]`, all agents' observations, and gives the parameters of all agents' "
            f"distributions{'; ' + state if recurrent else ''}. When it was written its outputs were at most "
            f"{deviation:.1e} from the policies', on random observations.\n"
        )
    return "\n".join(parts)


def _score(row: Mapping[str, float | None], name: str) -> str:
    value = row.get(name)
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


_PLAIN = """```python
import json
import numpy as np
from safetensors import safe_open

with safe_open("policies.safetensors", framework="numpy") as file:
    about, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
hears = json.loads(about["hears"])

def outputs(i, obs):
    \"\"\"Of agent i, from all observations [n, d]; it looks at those that it hears.\"\"\"
    x, layer = np.concatenate([obs[j] for j in hears[i]]), 0
    while f"agent.{i}.layer.{layer}.weight" in weights:
        x = (np.maximum(x, 0) if layer else x) @ weights[f"agent.{i}.layer.{layer}.weight"]
        x, layer = x + weights[f"agent.{i}.layer.{layer}.bias"], layer + 1
    return x
```

With torch: `safetensors.torch.load_file`, and the same products.
"""
_RECURRENT = """```python
import json
import numpy as np
from safetensors import safe_open

with safe_open("policies.safetensors", framework="numpy") as file:
    about, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
hears = json.loads(about["hears"])
sigmoid = lambda x: 1 / (1 + np.exp(-x))

def outputs(i, obs, hidden, cell, gate):
    \"\"\"Of agent i: outputs, logits of silence and talking, new hidden and cell [H]; old ones of all [n, H].\"\"\"
    w = lambda name: weights[f"agent.{i}.{name}"]
    said = [gate[j] * hidden[j] for j in hears[i] if j != i]
    heard = np.mean(said, axis=0) if said else np.zeros_like(hidden[i])
    x = obs[i] @ w("encoder") + w("encoder_bias") + heard @ w("message") + w("message_bias")
    keep, write, show, new = np.split(x @ w("input") + w("input_bias") + hidden[i] @ w("recurrent"), 4)
    c = sigmoid(keep) * cell[i] + sigmoid(write) * np.tanh(new)
    h = sigmoid(show) * np.tanh(c)
    return h @ w("policy") + w("policy_bias"), h @ w("gate") + w("gate_bias"), h, c
```

Draw the gate of the next step, 0 or 1, from the logits, as the action is drawn.
"""
_DISCRETE = """The probabilities of agent i's actions are the softmax of its first `actions[i]` outputs, which are
`json.loads(about["actions"])`.
"""
_CONTINUOUS = """Agent i's numbers are normal with mean `center + unit * outputs` and deviation
`weights[f"agent.{i}.sd"]`, clipped to `low` .. `high`; all four are JSON lists in `about`.
"""
