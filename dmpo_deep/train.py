"""Training runs: checks, the loop, evaluations, checkpoints, and exact continuation."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmpo_deep import DEFAULT_PRESET, EVAL_EVERY, checkpoint, log
from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.config import RunConfig, changed_source, read_config
from dmpo_deep.controllers import controllers_of, random_level
from dmpo_deep.envs import make_env, named_task
from dmpo_deep.episodes import require_end
from dmpo_deep.evaluate import EVALUATION, evaluate_controller, evaluate_policy, write_episodes
from dmpo_deep.golden import digest
from dmpo_deep.hyperparameters import LATER
from dmpo_deep.learner import Learner
from dmpo_deep.nets import SMALLER, keep_freed_memory, one_thread
from dmpo_deep.presets import get_preset, key_values, override
from dmpo_deep.schedule import Schedule, due, schedule
from dmpo_deep.watch import Watch, radii_beyond
from dmpo_theory.errors import unknown_name
from dmpo_theory.files import explained, vacant

COLUMNS = (
    *("env_steps", "epoch", "train_return", "eval_sampled", "eval_greedy", "eval_score", "eval_score_greedy"),
    *("eval_collisions", "eval_collisions_greedy"),
    *("policy_loss", "value_loss", "entropy", "kl", "kl_stopped", "clip_fraction", "gates_open"),
    *("model_loss", "model_loss_holdout", "model_error_train", "model_error"),
    *(f"model_error_at_{part}" for part in ("quarter", "half", "horizon")),
    *("gradient_steps", "model_gradient_steps"),
    *("floats_policy", "floats_critic", "floats_model", "floats_gates"),
    *(f"seconds_cpu_{phase}" for phase in ("collect", "model", "imagine", "update", "evaluate")),
    *("seconds_epoch", "seconds_total"),
)
"""Columns of ``progress.csv``. Returns are in the paper's unit; blank cells were not measured in that epoch."""
CHECKPOINT_EVERY = 300.0
"""Seconds after which a checkpoint is written, be evaluations ever so rare."""


@one_thread()
def train(
    task: str,
    algo: str,
    seed: int,
    steps: int,
    out: str | Path,
    preset: str = DEFAULT_PRESET,
    overrides: Sequence[str] = (),
    resume: bool = False,
    eval_every: int | Sequence[int] = EVAL_EVERY,
    progress: bool = True,
    interruptible: bool = True,
) -> Path:
    """Train until ``steps`` environment steps (one step of one copy each, warm-up included) are spent.

    Everything is checked before anything is written. A checkpoint is written at every evaluation, five minutes after
    the last one and at the end; ``evaluation.csv`` has the last evaluation, draw by draw. A run that was stopped or
    killed continues from it bit for bit, and a finished one can be given more steps: then the evaluation at its end is
    taken back unless it was due.
    What looks wrong, such as a policy below random play, is said on stderr and in ``warnings.txt``. The first Ctrl-C
    lets the epoch finish and writes a checkpoint, the second one stops at once. The process keeps the memory of dead
    tensors from then on (:func:`dmpo_deep.nets.keep_freed_memory`). Networks compute on the device at hand,
    :func:`dmpo_deep.nets.on_device`, the CPU by default.

    Args:
        task: the task's id, ``TASK:SOURCE``, or ``MODULE:FACTORY`` or ``FILE.py:FACTORY`` for a task of one's own.
        algo: the algorithm, see :data:`~dmpo_deep.algorithms.ALGORITHMS`.
        seed: of everything random in training; at least 0.
        steps: environment steps in all.
        out: the run directory, new unless ``resume``.
        preset: name of the hyper-parameters.
        overrides: changes to them, each ``KEY=VALUE``.
        resume: continue the run in ``out``.
        eval_every: environment steps between evaluations; or, where these are dear, all steps at which one is due.
        progress: show a progress bar on stderr.
        interruptible: whether Ctrl-C is treated as said above; else the caller sees to it.

    Returns:
        The run directory.

    Raises:
        ImportError: a task of one's own that cannot be imported.
        ValueError: an unknown name, a value out of range, or, with ``resume``, other settings than the run's or a
            damaged ``config.json`` or ``progress.csv``.
        CheckpointError: ``resume`` is set, and the checkpoint is damaged or of another run.
        FloatingPointError: an observation, reward, loss or weight is not finite; nothing of that epoch is saved.
        OSError: something could not be written; the last checkpoint is kept.
        FileExistsError: ``out`` exists and ``resume`` is not set.
        FileNotFoundError: ``resume`` is set and ``out`` has no checkpoint.
        KeyboardInterrupt: after Ctrl-C; the checkpoint is written and the message says how to continue.
    """
    config = configured(task, algo, seed, steps, preset, overrides, eval_every)
    run, task, chosen, found = Path(out), config.task, config.preset, config.versions
    if resume:
        config = _continued(run, config)
    elif not vacant(run):
        raise FileExistsError(f"{run} exists; give another --out, or --resume to continue it")
    keep_freed_memory()
    env = make_env(task, chosen.copies, gamma=chosen.gamma, **chosen.environment)
    learner = ALGORITHMS[algo](env, chosen, seed)
    books, saved = learner.collector, run / log.CHECKPOINT
    epoch, seconds, rows = 0, 0.0, []
    if resume:
        state = checkpoint.load(saved, config.identity)
        with checkpoint.restoring(saved):
            learner.load_state_dict(state["learner"])
            epoch, seconds, safe = int(state["epoch"]), float(state["seconds"]), books.env_steps
        rows = _record(run, safe, config.eval_every)
        if steps < safe and steps != config.latest["steps"]:
            raise ValueError(f"{run} has spent {safe} steps; give --steps {safe} or more to resume")
        if steps <= safe:
            return run
        if (said := changed_source(config)) is not None:
            tqdm.write(f"Warning: {said}: the run goes on with the task as it is now", sys.stderr)
        _compare(config.latest["versions"], found)
        config = replace(config, resumed=(*config.resumed, {"steps": steps, "versions": found}))
    run.mkdir(parents=True, exist_ok=True)
    for note in radii_beyond(env, chosen):
        tqdm.write(note, sys.stderr)
    watch = Watch(lambda: _random_play(task, chosen.environment), rows)

    safe, kept = books.env_steps if resume else 0, time.monotonic()  # where the checkpoint stands, and since when
    try:
        config.write(run)
        bar = tqdm(total=steps, initial=books.env_steps, unit="step", desc=f"{algo} {task}", disable=not progress)
        stoppable = _interruptible() if interruptible else nullcontext(lambda: False)
        with closing(env), bar, stoppable as stopped, closing(log.RunLog(run, COLUMNS, rows)) as record:
            stop = False
            while books.env_steps < steps and not stop:
                start, before = time.perf_counter(), books.env_steps
                row: dict[str, float | None] = {"epoch": (epoch := epoch + 1), **_learn(learner)}
                row |= {"env_steps": books.env_steps, "train_return": books.train_return}
                row["gradient_steps"] = learner.agents.gradient_steps
                evaluated = due(before, books.env_steps, config.eval_every) or books.env_steps >= steps
                if evaluated:
                    before_cpu = time.process_time()
                    policies = {"sampled": learner.agents.policy(), "greedy": learner.agents.policy(greedy=True)}
                    played = {name: evaluate_policy(task, p, chosen.environment) for name, p in policies.items()}
                    row["seconds_cpu_evaluate"] = time.process_time() - before_cpu
                    for name, told in played.items():
                        which = "" if name == "sampled" else f"_{name}"
                        row |= {f"eval_{name}": told.mean, f"eval_score{which}": told.score}
                        row[f"eval_collisions{which}"] = told.collisions
                    write_episodes(run / EVALUATION, played)
                    bar.set_postfix({name: f"{told.mean:.1f}" for name, told in played.items()})
                seconds += (spent := time.perf_counter() - start)
                record.write({**row, "seconds_epoch": spent, "seconds_total": seconds})
                for warning in watch.look(row):
                    record.warn(f"{books.env_steps} steps: {warning}")
                stop = stopped()
                if evaluated or stop or time.monotonic() - kept >= CHECKPOINT_EVERY:
                    record.sync()
                    state = {"learner": learner.state_dict(), "epoch": epoch, "seconds": seconds}
                    checkpoint.save(saved, config.identity | state)
                    safe, kept = books.env_steps, time.monotonic()
                bar.update(books.env_steps - before)
    except FloatingPointError as error:
        raise FloatingPointError(f"epoch {epoch}: {error}; {_kept(run, safe)}") from error
    except OSError as error:
        raise OSError(f"epoch {epoch}: {explained(error, run)}; {_kept(run, safe)}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(run, safe)) from None
    if books.env_steps < steps:
        raise KeyboardInterrupt(
            f"{run} stands at {books.env_steps} of {steps} steps; the same command with --resume continues it"
        )
    return run


def configured(
    task: str,
    algo: str,
    seed: int,
    steps: int,
    preset: str = DEFAULT_PRESET,
    overrides: Sequence[str] = (),
    eval_every: int | Sequence[int] = EVAL_EVERY,
) -> RunConfig:
    """What :func:`train` would train, with everything that needs no run directory checked; arguments as there.

    Raises:
        ValueError: an unknown name, or a value out of range.
    """
    task, source = named_task(task)
    make_env(task, 1, **source)
    overrides = [*(f"environment.{option}={value}" for option, value in source.items()), *overrides]
    if algo not in ALGORITHMS:
        raise unknown_name("algorithm", algo, ALGORITHMS)
    for name, number, least in (("seed", seed, 0), ("steps", steps, 1)):
        if not least <= number < 2**63:
            raise ValueError(f"{name} = {number}; it must be at least {least} and below 2^63")
    when, chosen = schedule(eval_every), override(get_preset(task, algo, preset), key_values(overrides))
    require_end(make_env(task, chosen.copies, gamma=chosen.gamma, **chosen.environment))
    return RunConfig(
        task,
        algo,
        seed,
        steps,
        when,
        preset,
        list(overrides),
        chosen,
        log.versions() | {"trace": digest(task, algo)},
    )


def _learn(learner: Learner) -> dict[str, float | None]:
    learned = learner.epoch()
    bad = [f"{name} = {value}" for name, value in learned.items() if value is not None and not math.isfinite(value)]
    if bad:
        raise FloatingPointError(f"{', '.join(bad)}; {SMALLER}")
    return learned


def _random_play(task: str, options: Mapping[str, Any]) -> float | None:
    """The metric of random play, measured if it is not stored."""
    level, known = random_level(task, options), controllers_of(task)
    if level is None and "random" in known:
        return evaluate_controller(task, known["random"], options).mean
    return level


def _kept(run: Path, safe: int) -> str:
    if not safe:
        return f"{run} has no checkpoint yet; start anew in another --out"
    return f"{run} keeps its checkpoint at {safe} steps; the same command with --resume continues from there"


def _record(run: Path, safe: int, when: Schedule) -> list[dict[str, str]]:
    """The rows up to the checkpoint; the evaluation that only the end of the run called for is taken back."""
    rows = log.rows_until(run, COLUMNS, safe)
    before = int(rows[-2]["env_steps"]) if len(rows) > 1 else 0
    if not due(before, safe, when):
        rows[-1] |= {name: "" for name in COLUMNS if name.startswith("eval_")}
    return rows


def _compare(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    changed = [f"{name} {before.get(name)} -> {now.get(name)}" for name in now if before.get(name) != now[name]]
    if changed:
        tqdm.write(f"Versions differ since the last start, so may the last bits: {', '.join(changed)}", sys.stderr)


def _continued(run: Path, asked: RunConfig) -> RunConfig:
    """The config of the run in ``run``, which must be the one asked for."""
    if not (run / log.CHECKPOINT).is_file():
        raise FileNotFoundError(f"{run} has no checkpoint to resume from; start it anew in another --out")
    config = read_config(run)
    earlier, now = (
        {**LATER, **c.identity, **c.identity["preset"], "eval_every": c.eval_every} for c in (config, asked)
    )
    for key in now:
        if key != "preset" and earlier[key] != now[key]:
            raise ValueError(
                f"{run} was started with {key} = {earlier[key]!r}, not {now[key]!r}; give the same to resume"
            )
    return config


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT into a flag and say so; the next one acts as before."""
    hits: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        hits.append(number)
        signal.signal(signal.SIGINT, previous)
        os.write(2, b"\nStopping after this epoch; Ctrl-C once more stops at once.\n")  # safe within any other write

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(hits)
    finally:
        signal.signal(signal.SIGINT, previous)
