"""Many runs side by side: what there is to do, by whom it is done, and what came of it.

A job is a folder that gets filled. One that is full is left alone and one that was begun goes on, so that a sweep which
was stopped, killed or lost its machine is started again by the same command and does only what is missing.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from dmpo_deep.schedule import Schedule, schedule
from dmpo_theory.files import vacant

if TYPE_CHECKING:
    from dmpo_deep.config import RunConfig

ENGINES = ("processes", "ray")
TRACEBACK = "traceback.txt"
LIVES = 2
"""Times that the death of a worker process may meet a job before it counts as failed."""


class Job(Protocol):
    """One folder's worth of work; it travels to another process."""

    @property
    def name(self) -> str:
        """Of the folder."""

    @property
    def kind(self) -> str:
        """Jobs of a kind take about as long as each other."""

    def check(self) -> None:
        """Raise the error that a mistake in the job deserves, before anything starts."""

    def share(self, folder: Path) -> float:
        """How much of the folder is there, 0 to 1; cheap, and while the job runs, too."""

    def run(self, folder: Path) -> None:
        """Fill the folder, from what is there."""


@dataclass(frozen=True)
class Training:
    """A training run, see :func:`dmpo_deep.train.train`."""

    task: str
    algo: str
    seed: int
    steps: int
    eval_every: Schedule
    preset: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the run directory: everything that tells the sweep's runs apart."""
        return "-".join([plain(self.kind), f"s{self.seed}"])

    @property
    def kind(self) -> str:
        """Everything but the seed."""
        from dmpo_deep import DEFAULT_PRESET

        named = () if self.preset == DEFAULT_PRESET else (self.preset,)
        return "-".join([self.task, self.algo, *named, *self.overrides])

    def check(self) -> None:
        """As :func:`dmpo_deep.train.configured`."""
        self.config()

    def config(self) -> RunConfig:
        """What is trained, with every hyper-parameter."""
        from dmpo_deep.train import configured

        return configured(self.task, self.algo, self.seed, self.steps, self.preset, self.overrides, self.eval_every)

    @property
    def id(self) -> str:
        """Of its result, see :func:`dmpo_deep.results.run_id`."""
        from dmpo_deep.results import run_id

        config = self.config()
        return run_id(config.task, self.algo, self.seed, self.eval_every, config.identity["preset"])

    def share(self, folder: Path) -> float:
        """Of the environment steps."""
        from dmpo_deep.log import standing

        return min(1.0, standing(folder) / self.steps)

    def run(self, folder: Path) -> None:
        """Train, or go on training."""
        from dmpo_deep import log
        from dmpo_deep.config import CONFIG, read_config
        from dmpo_deep.train import train

        begun = (folder / log.CHECKPOINT).is_file()
        if begun and log.standing(folder) >= self.steps < read_config(folder).latest["steps"]:
            return  # has had more than is asked for
        if folder.exists() and not begun:
            if not (vacant(folder) or (folder / CONFIG).exists() or (folder / TRACEBACK).exists()):
                raise FileExistsError(f"{folder} exists and is no run; move it, or give another --out")
            shutil.rmtree(folder)  # stopped before its first checkpoint: nothing to go on from
        train(
            *(self.task, self.algo, self.seed, self.steps, folder, self.preset, self.overrides),
            resume=begun,
            eval_every=self.eval_every,
            progress=False,
            interruptible=False,
        )


class Outcome(NamedTuple):
    """What came of a job."""

    name: str
    error: str
    """The traceback; empty if all went well."""


def trainings(
    tasks: Sequence[str],
    algos: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    eval_every: int | Sequence[int],
    preset: str,
    fixed: Sequence[str] = (),
    vary: Mapping[str, Sequence[str]] | None = None,
) -> list[Training]:
    """The cross product of tasks, algorithms, seeds and the values of each varied hyper-parameter.

    Args:
        tasks: ids of tasks.
        algos: ids of algorithms.
        seeds: of the runs.
        steps: environment steps of every run.
        eval_every: as of :func:`dmpo_deep.train.train`.
        preset: name of the hyper-parameters.
        fixed: overrides of all runs, each ``KEY=VALUE``.
        vary: hyper-parameter -> its values; ``"A+B"`` gives A and B the same ones.

    Example:
        >>> jobs = trainings(["ring"], ["dmpo"], [0], 600, 600, "tuned", vary={"kappa_critic+kappa_model": ["0", "1"]})
        >>> [job.name for job in jobs]
        ['ring-dmpo-kappa_critic=0-kappa_model=0-s0', 'ring-dmpo-kappa_critic=1-kappa_model=1-s0']
    """
    when = schedule(eval_every)
    values = [
        [tuple(f"{name}={value}" for name in key.split("+")) for value in values]
        for key, values in (vary or {}).items()
    ]
    return [
        Training(task, algo, seed, steps, when, preset, (*fixed, *itertools.chain(*varied)))
        for seed, task, algo in itertools.product(seeds, tasks, algos)
        for varied in itertools.product(*values)
    ]


def check(jobs: Sequence[Job]) -> None:
    """Refuse a sweep in which something is wrong, before anything starts.

    Raises:
        ValueError: no job, the same one twice, or a mistake in one; the message names it.
    """
    if not jobs:
        raise ValueError("nothing to do: name at least one task, algorithm and seed")
    names = [job.name for job in jobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{min(twice)} is in the sweep twice; leave one out")
    for job in jobs:
        try:
            job.check()
        except ValueError as error:
            raise ValueError(f"{job.name}: {error}") from error


def attempt(job: Job, folder: Path, sweeper: int) -> Outcome:
    """Run a job; what it raises is kept in the folder's ``traceback.txt`` and returned.

    Ctrl-C, which reaches all processes of a terminal, is left to ``sweeper``, the process that runs the sweep. A child
    of it ends with it, so that nobody is at work in a folder when the sweep is started again.
    """
    if os.getppid() == sweeper:
        threading.Thread(target=_end_with, args=(sweeper,), daemon=True).start()
    said, report = io.StringIO(), folder / TRACEBACK
    try:
        with _deaf_to_interrupts(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            job.run(folder)
    except Exception:
        error = said.getvalue() + traceback.format_exc()
        with contextlib.suppress(OSError):  # a full disk is what the error may be about
            folder.mkdir(parents=True, exist_ok=True)
            report.write_text(error)
        return Outcome(job.name, error)
    with contextlib.suppress(OSError):
        report.unlink(missing_ok=True)
    return Outcome(job.name, "")


def sweep(
    jobs: Sequence[Job],
    out: Path,
    workers: int,
    engine: str = "processes",
    started: Callable[[Job], None] = lambda job: None,
) -> Iterator[Outcome]:
    """Run jobs side by side, each in ``out / job.name``; outcomes come as jobs end.

    A failed job takes nothing with it. When a worker process dies, those that were at work start over from their last
    checkpoints; a job that this happens to twice has failed.

    Args:
        jobs: what to do, checked.
        out: the folder of all folders.
        workers: jobs at a time.
        engine: ``"processes"`` of this machine, or ``"ray"``: joblib's backend on the Ray cluster at hand, whose
            machines must share ``out``.
        started: told of each job when its turn has come.

    Raises:
        ImportError: the engine is not installed.
    """
    if engine == "ray":
        _register_ray()
    out.mkdir(parents=True, exist_ok=True)
    left, deaths = {job.name: job for job in jobs}, dict.fromkeys((job.name for job in jobs), 0)
    backend = {"processes": "loky", "ray": "ray"}[engine]
    while left:
        turns, at_work = list(left.values()), list[str]()
        calls = (joblib.delayed(attempt)(job, out / job.name, os.getpid()) for job in tuple(turns))
        with joblib.parallel_config(backend=backend, n_jobs=max(2, workers)):  # 1 would mean this very process
            side_by_side = joblib.Parallel(return_as="generator_unordered", pre_dispatch=workers, batch_size=1)
            try:
                outcomes = side_by_side(calls)
                while turns or at_work:
                    while turns and len(at_work) < workers:  # joblib has them begin in this order
                        started(turns[0])
                        at_work.append(turns.pop(0).name)
                    outcome = next(outcomes)
                    at_work.remove(outcome.name)
                    del left[outcome.name]
                    yield outcome
            except BrokenProcessPool:
                for name in at_work:
                    deaths[name] += 1
                    if deaths[name] == LIVES:
                        del left[name]
                        yield Outcome(name, f"its process died {LIVES} times; out of memory? Fewer --workers may help")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _register_ray() -> None:
    try:
        from ray.util.joblib.ray_backend import RayBackend
    except ImportError as error:
        raise ImportError("ray is not installed; pip install 'dmpo[cluster]' (pip install -e '.[cluster]')") from error

    class Backend(RayBackend):  # type: ignore[misc, unused-ignore]
        """Ray's, with results as they come: it inherits a no from forking pools, and does not fork."""

        supports_return_generator = True

    joblib.register_parallel_backend("ray", Backend)


def plain(name: str) -> str:
    """What can be a folder: other characters than letters, digits and ``_ . , = + -`` become ``_``."""
    return re.sub(r"[^\w.,=+-]", "_", name)
