"""Section IV: n independent networks held as stacked weights, fed with what kappa-hop neighbours share.

Which agents an agent may hear is decided in one place, :meth:`LocalNets.gather`, by
``AgentGraph.padded_neighbors(kappa)``: members in ascending order, padding exactly zero. Agent ``i``'s network has its
own weights ``weight[l][i]``, so that no parameter is shared and one batched product serves all agents.
"""

from __future__ import annotations

import copy
import ctypes
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dmpo_theory.graph import AgentGraph

M = TypeVar("M", bound=nn.Module)

SMALLER = "smaller learning rates may help"


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, from the initial weights on: as fast for networks this small, and sums have one order.

    Without it results depend, in the last bits, on how many threads the process happens to use.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Let the process keep the memory of dead tensors for the next ones, where the C library is glibc.

    By default glibc hands blocks of this size back to the system and asks for them anew in every layer of every
    gradient step, page by page.
    """
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    with suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):  # the most that older ones accept
            mallopt(trim_threshold, 2**30)


@contextmanager
def on_device(name: str) -> Iterator[None]:
    """Compute on the device that torch knows by that name: every tensor made inside is there.

    Environments stay on the CPU. Weights start alike on all devices, sums do not end alike to the last bit.

    Raises:
        ValueError: there is no such device on this machine, or torch knows none of that name.
    """
    if name == "cpu":  # the default costs nothing, and entering it would cost every call
        yield
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r} does not work here ({str(error).splitlines()[0]}); give cpu") from error
    with torch.device(name):
        yield


def tensor(x: np.ndarray) -> Tensor:
    """An array as a tensor on the device at hand; on the CPU they share memory."""
    return torch.from_numpy(x).to(torch.get_default_device())


def set_step_size(optimizer: torch.optim.Optimizer, lr: float, steps: int, half: float) -> None:
    """``lr / (1 + steps / half)``: half of ``lr`` after ``half`` gradient steps, a third after twice as many."""
    for group in optimizer.param_groups:
        group["lr"] = lr / (1 + steps / half)


def require_finite(kind: str, network: nn.Module, n: int | None = None) -> None:
    """Raise ``FloatingPointError`` naming the agents whose weights are not finite.

    Dimension 0 of every weight counts the agents; where each of the ``n`` has several networks, member by member.
    """
    if bad := not_finite(network.parameters(), n):
        raise FloatingPointError(f"weights of the {kind} are not finite any more for agents {bad}; {SMALLER}")


def not_finite(stacks: Iterable[Tensor], n: int | None = None) -> list[int]:
    """The agents, ascending, with a number that is not finite in their part of a stack; as :func:`require_finite`."""
    bad = {int(i) for stack in stacks for i in torch.nonzero(~torch.isfinite(stack))[:, 0]}
    return sorted({i % n for i in bad} if n else bad)


def descend(
    kind: str,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    going: Tensor | None = None,
    n: int | None = None,
) -> None:
    """One step of the ``kind``'s weights down the sum of ``losses``, of all agents or of those in ``going``.

    The others keep weights and Adam's moments. Parameters and moments are agent-major. Adam's momentum moves a weight
    even at zero gradient, so what is to stay is put back. Adam's count of steps is one for all and runs on. ``n`` as in
    :func:`require_finite`.

    Raises:
        FloatingPointError: a loss is not finite; the weights are as they were, and the message names the agents whose
            weights or gradients are to blame.
    """
    optimizer.zero_grad(set_to_none=False)  # others may look at the same memory
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for loss in losses:
        value = loss.item()
        loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(value):
            bad = not_finite([x for w in weights for x in (w, w.grad)], n)
            raise FloatingPointError(f"the loss of the {kind} is {value}{f', by agents {bad}' * bool(bad)}; {SMALLER}")
    if going is None or going.all():
        optimizer.step()
        return
    kept = [
        *(w.data for w in weights),
        *(m for w in weights for m in optimizer.state[w].values() if m.shape == w.shape),
    ]
    before = [x[~going] for x in kept]
    optimizer.step()
    for x, old in zip(kept, before, strict=True):
        x[~going] = old


def agents_of(module: M, agents: slice) -> M:
    """The part of a module that serves some agents, on the same memory: its gradients add to the whole's.

    Dimension 0 of every weight, and of every buffer of two dimensions or more, counts the agents.
    """
    known: dict[int, object] = {}
    for weight in module.parameters():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        known[id(weight)] = part = nn.Parameter(weight.data[agents])
        part.grad = weight.grad[agents]
    for buffer in module.buffers():
        known[id(buffer)] = buffer[agents] if buffer.dim() > 1 else buffer
    return copy.deepcopy(module, known)


NEVER = -1e9
"""The logit of what cannot happen: its probability is 0, and unlike with -inf 0 times its logarithm is 0, too."""


def beyond(counts: Sequence[int]) -> Tensor:
    """Which of ``max(counts)`` outputs agent ``i`` with its ``counts[i]`` does not have: ``[n, 1, max(counts)]``."""
    return torch.arange(max(counts)) >= torch.tensor(counts)[:, None, None]


def drawn(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices drawn with probabilities ``[..., A]``, whose sum may be rounded: ``[...]``; what has none never comes."""
    below = probability.astype(np.float64).cumsum(axis=-1)
    share = below[..., :-1] / below[..., -1:]
    index: np.ndarray = (rng.random((*share.shape[:-1], 1)) >= share).sum(axis=-1)
    return index


def stacked(n: int, before: int, after: int, gain: float, rng: torch.Generator) -> Tensor:
    """One orthogonal matrix for each agent, ``[n, before, after]``."""
    weight = torch.empty(n, before, after, device="cpu")  # where the generator is
    for matrix in weight:
        nn.init.orthogonal_(matrix, gain, generator=rng)
    return weight.to(torch.get_default_device())


class LocalNets(nn.Module):
    """One multi-layer perceptron per agent on the observations of ``N_i^kappa``, orthogonally initialised.

    Args:
        graph: the agents' graph, ``n`` agents.
        kappa: radius of the input; ``math.inf`` for all agents.
        features: observation features ``d`` of one agent.
        outputs: outputs ``O`` per agent.
        hidden: widths of the hidden (ReLU) layers.
        rng: source of the initial weights.
        own: features given by agent ``i`` alone, after the gathered ones (the model's action).
        gain: scale of the last layer.
        members: networks of each agent, stacked member by member.
    """

    index: Tensor
    real: Tensor

    def __init__(
        self,
        graph: AgentGraph,
        kappa: float,
        features: int,
        outputs: int,
        hidden: Sequence[int],
        rng: torch.Generator,
        own: int = 0,
        gain: float = 1.0,
        members: int = 1,
    ) -> None:
        super().__init__()
        index, real = graph.padded_neighbors(kappa)
        self.register_buffer("index", tensor(index), persistent=False)
        self.register_buffer("real", tensor(real), persistent=False)
        sizes = [index.shape[1] * features + own, *hidden, outputs]
        gains = [2**0.5] * len(hidden) + [gain]
        weights = [
            stacked(members * graph.n, *shape, scale, rng) for shape, scale in zip(pairwise(sizes), gains, strict=True)
        ]
        self.weight = nn.ParameterList(weights)
        self.bias = nn.ParameterList([torch.zeros(members * graph.n, 1, after) for after in sizes[1:]])

    def gather(self, obs: Tensor) -> Tensor:
        """What each agent hears: observations ``[..., n, d]`` to inputs ``[n, N, K d]``, ``N`` the rest flattened."""
        heard = obs.flatten(end_dim=-3)[:, self.index]
        heard = torch.where(self.real[..., None], heard, 0.0)
        return heard.flatten(start_dim=2).transpose(0, 1).contiguous()

    def forward(self, inputs: Tensor) -> Tensor:
        """Gathered inputs ``[n, N, F]`` to outputs ``[n, N, O]``; with members, ``members n`` of both."""
        *hidden, last = ((bias.mT, weight.mT) for bias, weight in zip(self.bias, self.weight, strict=True))
        layer = inputs.mT  # samples last in memory, where what is done to each of few outputs is fastest
        for bias, weight in hidden:
            layer = torch.baddbmm(bias, weight, layer).relu_()
        return torch.baddbmm(last[0], last[1], layer).mT
