"""Trained policies as an ONNX model, checked against what they say before anything is written.

``obs [B, n, d]``, the observations of all agents, goes in; parameters of all agents' distributions come out:
``log_probability [B, n, A]`` of discrete actions, ``mean`` and ``sd [B, n, k]`` of continuous ones (played clipped to
the action space). Whom an agent hears is part of the model: outputs of agent ``i`` depend on the observations of
``N_i^kappa`` and on no others. IC3Net's memory goes in and comes out: ``hidden``, ``cell [B, n, H]`` and ``gate
[B, n]``, zero at the start of an episode; ``gate_log_probability [B, n, 2]`` is what the next gate, 0 or 1, is
drawn from.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dmpo_deep.export import Policies
from dmpo_deep.ic3net import Memory, Talkers
from dmpo_deep.policies import Actor, Categorical, Head

TOLERANCE = 1e-4
"""Largest deviation of an output that is taken for rounding; log-probabilities and means are around 1."""
SAMPLES = 64
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class PolicyModel(nn.Module):
    """Policies that do not remember, on batches."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, obs: Tensor) -> tuple[Tensor, ...]:
        """``[B, n, d]`` to the parameters of the distributions, ``[B, n, ...]`` each."""
        net = self.actor.net
        return _parameters(self.actor.head, net(net.gather(obs)))


class MemoryModel(nn.Module):
    """IC3Net's, with what they remember as inputs and outputs."""

    def __init__(self, net: Talkers) -> None:
        super().__init__()
        self.net = net

    def forward(self, obs: Tensor, hidden: Tensor, cell: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
        """``[B, n, ...]`` each."""
        memory = Memory(hidden.transpose(0, 1), cell.transpose(0, 1), gate.transpose(0, 1))
        said, after = self.net(obs, memory)
        gates = torch.log_softmax(said.gate, dim=-1).transpose(0, 1)
        return (
            *_parameters(self.net.head, said.outputs),
            gates,
            after.hidden.transpose(0, 1),
            after.cell.transpose(0, 1),
        )


def _parameters(head: Head, outputs: Tensor) -> tuple[Tensor, ...]:
    if isinstance(head, Categorical):
        return (head.log_probabilities(outputs).transpose(0, 1),)
    mean, sd = head.center + head.unit * outputs, head.unit * head.log_sd.exp()
    return mean.transpose(0, 1), sd.expand_as(mean).transpose(0, 1)


def names(given: Policies) -> tuple[list[str], list[str]]:
    """Of inputs and outputs."""
    outputs = ["log_probability"] if isinstance(given.head, Categorical) else ["mean", "sd"]
    if isinstance(given.net, Actor):
        return ["obs"], outputs
    return ["obs", "hidden", "cell", "gate"], [*outputs, "gate_log_probability", "next_hidden", "next_cell"]


def random_inputs(given: Policies, batch: int, seed: int = 0) -> list[Tensor]:
    """Observations and memories of size 1."""
    rng, n = torch.Generator().manual_seed(seed), given.graph.n
    obs = torch.randn(batch, n, given.features, generator=rng)
    if isinstance(given.net, Actor):
        return [obs]
    memory = [torch.randn(batch, n, given.net.width, generator=rng).tanh() for _ in range(2)]
    return [obs, *memory, torch.randint(2, (batch, n), generator=rng).float()]


def checked_model(given: Policies) -> tuple[bytes, float]:
    """The model, and the largest deviation of its outputs from the policies' on random inputs.

    Raises:
        ImportError: something is not installed; the message says what to install.
        ValueError: the deviation is beyond :data:`TOLERANCE`.
    """
    for needed in NEEDED:
        if importlib.util.find_spec(needed) is None:
            raise ImportError(
                f"{needed} is not installed; pip install 'dmpo[export]' (in a clone: pip install -e '.[export]')"
            )
    module = PolicyModel(given.net) if isinstance(given.net, Actor) else MemoryModel(given.net)
    model = _written(module.eval(), given)
    worst = deviation(model, module, given)
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the ONNX model deviates by {worst:.3g} from the policies, more than {TOLERANCE:g}: nothing is written; "
            "try other versions of onnx and onnxscript"
        )
    return model, worst


def _written(module: nn.Module, given: Policies) -> bytes:
    inputs, outputs = names(given)
    batch = torch.export.Dim("batch", min=1)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            program = torch.onnx.export(
                module,
                tuple(random_inputs(given, 3)),
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def run_model(model: bytes, given: Policies, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of the ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, dict(zip(names(given)[0], inputs, strict=True)))
    return found


@torch.no_grad()
def deviation(model: bytes, module: nn.Module, given: Policies) -> float:
    """The largest difference of an output, over batches of one and of many; NaN if one is not finite."""
    worst = 0.0
    for batch in (1, SAMPLES):
        inputs = random_inputs(given, batch, seed=batch)
        for ours, theirs in zip(module(*inputs), run_model(model, given, [x.numpy() for x in inputs]), strict=True):
            worst = float(np.maximum(worst, np.abs(ours.numpy() - theirs).max()))
    return worst
