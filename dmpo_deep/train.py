"""Training runs: checks, the loop, evaluations, checkpoints, and exact continuation."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from dmpo_deep import checkpoint, log
from dmpo_deep.dmpo import DMPO
from dmpo_deep.envs import ENVIRONMENTS, make_env
from dmpo_deep.evaluate import evaluate_policy
from dmpo_deep.nets import one_thread
from dmpo_deep.ppo import DPPO, Agents
from dmpo_deep.presets import get_preset, override
from dmpo_deep.rollout import Collector
from dmpo_theory.errors import unknown_name

EVAL_EVERY = 1200
"""Environment steps between evaluations by default."""

COLUMNS = (
    *("env_steps", "epoch", "train_return", "eval_sampled", "eval_greedy"),
    *("eval_collisions", "eval_collisions_greedy", "policy_loss", "value_loss", "entropy", "kl", "clip_fraction"),
    *("model_loss", "model_error", "model_error_at_horizon", "gradient_steps", "seconds_epoch", "seconds_total"),
)
"""Columns of ``progress.csv``. Returns are in the paper's unit; blank cells were not measured in that epoch."""


class Learner(Protocol):
    """What the loop needs of an algorithm."""

    agents: Agents
    collector: Collector

    def epoch(self) -> dict[str, float | None]:
        """Collect, learn, and return what is worth logging."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


ALGORITHMS: Mapping[str, Callable[..., Learner]] = {"dmpo": DMPO, "dppo": DPPO}
"""Algorithm -> class, called with environment, preset and seed."""


@one_thread()
def train(
    task: str,
    algo: str,
    seed: int,
    steps: int,
    out: str | Path,
    preset: str = "tuned",
    overrides: Sequence[str] = (),
    resume: bool = False,
    eval_every: int = EVAL_EVERY,
    progress: bool = True,
) -> Path:
    """Train until ``steps`` environment steps (one step of one copy each, warm-up included) are spent.

    Everything is checked before anything is written. A checkpoint is written at every evaluation and at the end; a
    run that was stopped or killed continues from it bit for bit, and a finished one can be given more steps. The
    first Ctrl-C lets the epoch finish and writes a checkpoint, the second one stops at once.

    Args:
        task: the task's id.
        algo: the algorithm, see :data:`ALGORITHMS`.
        seed: of everything random in training; at least 0.
        steps: environment steps in all.
        out: the run directory, new unless ``resume``.
        preset: name of the hyper-parameters.
        overrides: changes to them, each ``KEY=VALUE``.
        resume: continue the run in ``out``.
        eval_every: environment steps between evaluations.
        progress: show a progress bar on stderr.

    Returns:
        The run directory.

    Raises:
        ValueError: an unknown name or a value out of range.
        FileExistsError: ``out`` exists and ``resume`` is not set.
        FileNotFoundError: ``resume`` is set and ``out`` has no checkpoint.
        KeyboardInterrupt: after Ctrl-C; the checkpoint is written and the message says how to continue.
    """
    for kind, name, known in (("task", task, ENVIRONMENTS), ("algorithm", algo, ALGORITHMS)):
        if name not in known:
            raise unknown_name(kind, name, known)
    for name, number, least in (("seed", seed, 0), ("steps", steps, 1), ("eval_every", eval_every, 1)):
        if number < least:
            raise ValueError(f"{name} = {number}; it must be at least {least}")
    chosen = override(get_preset(task, algo, preset), _pairs(overrides))
    env = make_env(task, chosen.copies, gamma=chosen.gamma, **chosen.environment)
    learner = ALGORITHMS[algo](env, chosen, seed)

    run = Path(out)
    config = {
        **{"task": task, "algo": algo, "seed": seed, "preset_name": preset, "overrides": list(overrides)},
        **{"eval_every": eval_every, "preset": dataclasses.asdict(chosen), "steps": steps, "versions": log.versions()},
    }
    epoch, seconds, after = 0, 0.0, None
    if resume:
        _check_same(run, config)
        state = checkpoint.load(run / log.CHECKPOINT)
        learner.load_state_dict(state["learner"])
        epoch, seconds, after = state["epoch"], state["seconds"], learner.collector.env_steps
    elif run.exists():
        raise FileExistsError(f"{run} exists; give another --out, or --resume to continue it")
    run.mkdir(parents=True, exist_ok=resume)
    log.write_config(run, config)

    books = learner.collector
    bar = tqdm(total=steps, initial=books.env_steps, unit="step", desc=f"{algo} {task}", disable=not progress)
    with bar, _interruptible() as stopped, closing(log.RunLog(run, COLUMNS, after)) as record:
        while books.env_steps < steps and not stopped():
            start, before = time.perf_counter(), books.env_steps
            row: dict[str, float | None] = {"epoch": (epoch := epoch + 1), **learner.epoch()}
            row |= {"env_steps": books.env_steps, "train_return": books.train_return}
            row["gradient_steps"] = learner.agents.gradient_steps
            due = books.env_steps // eval_every > before // eval_every or books.env_steps >= steps
            if due:
                actor = learner.agents.actor
                sampled = evaluate_policy(task, actor, chosen.environment)
                greedy = evaluate_policy(task, actor.greedy, chosen.environment)
                row |= {"eval_sampled": sampled.mean, "eval_collisions": sampled.collisions}
                row |= {"eval_greedy": greedy.mean, "eval_collisions_greedy": greedy.collisions}
                bar.set_postfix(sampled=f"{sampled.mean:.1f}", greedy=f"{greedy.mean:.1f}")
            seconds += (spent := time.perf_counter() - start)
            record.write({**row, "seconds_epoch": spent, "seconds_total": seconds})
            if due or stopped():
                state = {"learner": learner.state_dict(), "epoch": epoch, "seconds": seconds}
                checkpoint.save(run / log.CHECKPOINT, state)
            bar.update(books.env_steps - before)
    if stopped() and books.env_steps < steps:
        raise KeyboardInterrupt(
            f"{run} stands at {books.env_steps} of {steps} steps; the same command with --resume continues it"
        )
    return run


def _pairs(overrides: Sequence[str]) -> dict[str, str]:
    for item in overrides:
        if "=" not in item:
            raise ValueError(f"override {item!r} is not KEY=VALUE, for example lr_actor=1e-3")
    return dict(item.split("=", maxsplit=1) for item in overrides)


def _check_same(run: Path, config: Mapping[str, Any]) -> None:
    if not (run / log.CHECKPOINT).is_file():
        raise FileNotFoundError(f"{run} has no checkpoint to resume from; start it anew in another --out")
    earlier, now = log.read_config(run), json.loads(json.dumps(config))
    for key in ("task", "algo", "seed", "eval_every"):
        if earlier[key] != now[key]:
            raise ValueError(
                f"{run} was started with {key} = {earlier[key]!r}, not {now[key]!r}; give the same to resume"
            )
    for key, value in now["preset"].items():
        if earlier["preset"].get(key) != value:
            was = earlier["preset"].get(key)
            raise ValueError(f"{run} was started with {key} = {was!r}, not {value!r}; give the same to resume")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT into a flag; the next one acts as before."""
    hits: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        hits.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(hits)
    finally:
        signal.signal(signal.SIGINT, previous)
