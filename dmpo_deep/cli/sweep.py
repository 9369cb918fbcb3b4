"""``dmpo sweep``: many training runs, or many audits, side by side."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dmpo_deep import DEFAULT_PRESET, EVAL_EVERY
from dmpo_deep.cli.common import Unexpected, at_least, require
from dmpo_deep.cli.learner import Settings

if TYPE_CHECKING:
    from dmpo_deep.sweep import Job


def sweep(
    out: Path,
    plan: Positional[Path | None] = None,
    tasks: tuple[str, ...] = (),
    algos: tuple[str, ...] = ("dmpo",),
    seeds: tuple[int, ...] = (0,),
    steps: int = 12_000,
    eval_every: tuple[int, ...] = (EVAL_EVERY,),
    preset: str = DEFAULT_PRESET,
    set: Settings = (),
    vary: Settings = (),
    audit: Settings = (),
    workers: int = 0,
    engine: str = "processes",
) -> None:
    """Train every task with every algorithm, seed and value of the varied hyper-parameters, several at a time.

    The same command again does only what is missing: finished runs are left alone, stopped or killed ones go on from
    their checkpoints, bit for bit. A failed run takes nothing with it; its traceback is printed and kept in its folder,
    and the exit status is 1. Ctrl-C stops at once, and every run keeps its last checkpoint.

        dmpo sweep --tasks catchup ring --algos dmpo dppo --seeds 0 1 2 3 4 --steps 30000 --out runs/compare
        dmpo sweep --tasks ring --vary kappa_critic 0 1 2 3 --out runs/radii
        dmpo sweep --tasks ring --vary kappa_critic+kappa_model 0 1 2 3 --out runs/both-radii
        dmpo sweep --audit gamma 1/2 9/10 --audit n 3 4 --seeds 0 1 --out runs/audits
        dmpo sweep plan.toml --out runs/plan

    A plan is a TOML file with one cross product in each [[train]] or [[audit]]:

        [[train]]
        tasks = ["catchup", "slowdown"]
        algos = ["dmpo", "dppo"]
        seeds = [0, 1, 2]
        steps = 30000
        set = { copies = 8 }
        vary = { kappa_critic = [0, 1, 2] }

        [[audit]]
        seeds = [0, 1]
        vary = { gamma = ["1/2", "9/10"], n = [3, 4] }

    Args:
        out: folder of the run directories, one a run; it may hold earlier ones.
        plan: TOML file, instead of all options below up to AUDIT.
        tasks: as of dmpo train.
        algos: as of dmpo train.
        seeds: of training, or of an audit's random instances.
        steps: environment steps of every run.
        eval_every: as of dmpo train; checkpoints are written then, too, and every five minutes.
        preset: as of dmpo train.
        set: hyper-parameters of all runs, each KEY=VALUE.
        vary: a hyper-parameter and its values; A+B gives A and B the same ones. Repeat it for a cross product.
        audit: sweep audits instead: an option of dmpo audit (graphs, n, gamma, kappa, instances, claim) and its values.
        workers: runs at a time; as many as there are cores by default.
        engine: processes of this machine, or ray: the Ray cluster at hand, whose machines share OUT.
    """
    from dmpo_deep import sweep as sweeps
    from dmpo_theory.errors import unknown_name

    at_least("--workers", workers, 0)
    if engine not in sweeps.ENGINES:
        raise unknown_name("engine", engine, sweeps.ENGINES)
    if plan is not None:
        if tasks or set or vary or audit:
            raise ValueError(f"{plan} says what to run; leave out --tasks, --set, --vary and --audit")
        jobs = list(read_plan(plan))
    elif audit:
        if tasks or set or vary:
            raise ValueError("--audit sweeps audits; leave out --tasks, --set and --vary")
        jobs = list(_audits(seeds, _varied("--audit", audit)))
    else:
        pairs = [pair for given in set for pair in given]
        jobs = list(sweeps.trainings(tasks, algos, seeds, steps, eval_every, preset, pairs, _varied("--vary", vary)))
    run_jobs(jobs, out, workers, engine)
    print(f"Results: {out} ({len(jobs)} folders)")


def reproduce(
    figure: Positional[str],
    out: Path | None = None,
    results: Path = Path("results"),
    runs: Path | None = None,
    as_is: bool = False,
    workers: int = 0,
    engine: str = "processes",
) -> None:
    """Make a figure of the paper again: fig4 (learning), fig5 (radii), fig6 (signals) or fig7 (trained policies).

    Or one that the paper has not: ablations, what DMPO's advantage on catch-up rests on, or floats, scores against what
    agents receive.

    Runs of the figure's plan, dmpo_deep/plans/, that RESULTS holds already are taken from there, unless they are stale;
    the others are trained like a sweep: the same command goes on where it was stopped. Fig. 7 plays the policies, so
    that it always needs the runs themselves.

    Args:
        figure: its name.
        out: folder for the figure and its summary; runs/FIGURE by default.
        results: folder of results, see dmpo collect.
        runs: folder of the run directories; OUT/runs by default.
        as_is: train nothing; draw what RESULTS and RUNS hold of the plan, whole runs only.
        workers: runs at a time; as many as there are cores by default.
        engine: as of dmpo sweep.
    """
    require("torch", "safetensors", "tensorboard", "gymnasium", "matplotlib")
    from dmpo_deep import summary
    from dmpo_deep.figures import FIGURES, PLANS
    from dmpo_deep.groups import collect
    from dmpo_deep.results import from_run, read, set_aside
    from dmpo_deep.sweep import Training
    from dmpo_theory.errors import unknown_name

    if figure not in FIGURES:
        raise unknown_name("figure", figure, FIGURES)
    folder, chosen = out or Path("runs") / figure, FIGURES[figure]
    trained = runs or folder / "runs"
    known = {} if chosen.plays else {result.id: result for result in read(results)}
    jobs = {}
    for job in read_plan(PLANS / f"{figure}.toml"):
        assert isinstance(job, Training)
        jobs[job.id] = job

    def whole(key: str) -> bool:
        return key in known and not known[key].stale and known[key].steps >= jobs[key].steps

    missing = {key: job for key, job in jobs.items() if not whole(key)}
    if missing and not as_is:
        print(f"{len(missing)} of {len(jobs)} runs are {'wanted' if chosen.plays else f'not in {results}'}")
        for job in missing.values():
            if (aside := set_aside(trained / job.name, job.config())) is not None:
                print(f"{job.name} was begun by other code or with another preset; it is {aside} now")
        run_jobs(list(missing.values()), trained, workers, engine)
    for key, job in missing.items():
        with contextlib.suppress(FileNotFoundError, ValueError):  # not begun, or without an evaluation
            known[key] = from_run(trained / job.name)
    drawn = [key for key in jobs if whole(key)]
    if not drawn:
        raise ValueError(f"neither {results} nor {trained} holds a whole run of {figure}; leave out --as-is")
    folder.mkdir(parents=True, exist_ok=True)
    found = [known[key].until(jobs[key].steps) for key in drawn]
    sources = [trained / jobs[key].name for key in drawn] if chosen.plays else found
    chosen.draw(sources, folder / figure)
    summary.write(collect(found), folder)
    print(f"{figure}: {chosen.title}, from {len(drawn)} of {len(jobs)} runs")
    files = f"{figure}.png, .pdf and .csv; summary, each-run and traffic as .csv and .md"
    print(f"Results: {folder} ({files}; next: dmpo collect {trained}/*)")


def run_jobs(jobs: Sequence[Job], out: Path, workers: int, engine: str = "processes") -> None:
    """Check and run jobs under a live table; a line for each that ends.

    Raises:
        Unexpected: some failed; their tracebacks have been printed.
        KeyboardInterrupt: after Ctrl-C, saying how to go on.
    """
    from rich.console import Console
    from rich.live import Live

    from dmpo_deep import sweep as sweeps
    from dmpo_deep.board import Board

    if any(isinstance(job, sweeps.Training) for job in jobs):
        require("torch", "safetensors", "tensorboard", "gymnasium")
    sweeps.check(jobs)
    workers = workers or os.cpu_count() or 1
    board, console = Board(jobs, out, workers), Console(file=sys.stderr)
    try:
        with Live(get_renderable=board.__rich__, console=console, refresh_per_second=1, transient=True):
            for outcome in sweeps.sweep(jobs, out, workers, engine, board.started):
                board.ended(outcome)
                said = f"failed: {outcome.name}\n{outcome.error}" if outcome.error else f"done: {outcome.name}"
                console.print(f"{said} ({board.summary()})", markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{board.summary()}. What was running keeps its last checkpoint; the same command goes on"
        ) from None
    if board.failed:
        names = ", ".join(outcome.name for outcome in board.failed)
        raise Unexpected(f"{len(board.failed)} of {len(jobs)} failed: {names}; tracebacks above and in {out}/*/")


def read_plan(path: Path) -> Iterator[Job]:
    """The jobs of a TOML file, see :func:`sweep`.

    Raises:
        ValueError: no TOML, or a key that does not belong there; the message names it.
        FileNotFoundError: no such file.
    """
    from dmpo_deep.sweep import trainings
    from dmpo_theory.errors import unknown_name

    try:
        plan = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    for kind, blocks in plan.items():
        if kind not in ("train", "audit"):
            raise unknown_name(f"table in {path}", kind, ("train", "audit"))
        for number, block in enumerate(blocks if isinstance(blocks, list) else [blocks], start=1):
            where = f"{path}, [[{kind}]] number {number}"
            if not isinstance(block, dict):
                raise ValueError(f"{where} is no table; write [[{kind}]] above its settings")
            known = _TRAIN if kind == "train" else _AUDIT
            for key, value in block.items():
                if key not in known:
                    raise unknown_name(f"setting of {where}", key, known)
                if not _fits(value, known[key]):
                    raise ValueError(f"{where}: {key} = {value!r} is not like {known[key]!r}")
            settings = {**known, **block}
            varied = {
                key: [_text(value) for value in values] if isinstance(values, list) else [_text(values)]
                for key, values in settings.pop("vary").items()
            }
            if kind == "audit":
                yield from _audits(settings["seeds"], varied)
            else:
                fixed = [f"{key}={_text(value)}" for key, value in settings.pop("set").items()]
                yield from trainings(**settings, fixed=fixed, vary=varied)


_TRAIN: Mapping[str, Any] = {
    **{"tasks": ["catchup"], "algos": ["dmpo"], "seeds": [0], "steps": 12_000, "eval_every": (EVAL_EVERY,)},
    **{"preset": DEFAULT_PRESET, "set": {}, "vary": {}},
}
_AUDIT: Mapping[str, Any] = {"seeds": [0], "vary": {}}


@dataclass(frozen=True)
class Audit:
    """``dmpo audit`` with some options."""

    seed: int
    options: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """Everything but the seed."""
        return "-".join(["audit", *(f"{key}={value}" for key, value in self.options)])

    @property
    def name(self) -> str:
        """Of its folder."""
        from dmpo_deep.sweep import plain

        return f"{plain(self.kind)}-s{self.seed}"

    def check(self) -> None:
        """Every option exists and reads as what it is."""
        from dmpo_deep.cli.theory import audit_settings

        audit_settings(**self._settings())

    def share(self, folder: Path) -> float:
        """Of the claims."""
        from dmpo_theory import audit as ledger

        if (folder / "audit.html").exists():
            return 1.0
        record = folder / ledger.RECORD
        decided = len(record.read_text().splitlines()) - 1 if record.exists() else 0
        return max(0, decided) / len(ledger.select(self._settings().get("claim", ())))

    def run(self, folder: Path) -> None:
        """Decide what is not decided yet; a surprise is one again."""
        from dmpo_deep.cli.theory import audit
        from dmpo_deep.sweep import TRACEBACK
        from dmpo_theory.audit import RECORD

        (folder / TRACEBACK).unlink(missing_ok=True)  # of a failure before the record was begun
        with contextlib.redirect_stdout(io.StringIO()):
            audit(folder, resume=(folder / RECORD).exists(), **self._settings())

    def _settings(self) -> dict[str, Any]:
        from dmpo_theory.errors import unknown_name

        settings: dict[str, Any] = {"seed": self.seed}
        for key, text in self.options:
            if key not in _AUDIT_OPTIONS:
                raise unknown_name("option of dmpo audit", key, _AUDIT_OPTIONS)
            try:
                settings[key] = _AUDIT_OPTIONS[key](text)
            except ValueError:
                raise ValueError(f"{key} = {text!r} is no integer") from None
        return settings


_AUDIT_OPTIONS: Mapping[str, Any] = {
    **{"n": int, "kappa": int, "instances": int, "gamma": str, "graphs": str},
    "claim": lambda text: tuple(text.split(",")),
}


def _audits(seeds: Sequence[int], vary: Mapping[str, Sequence[str]]) -> Iterator[Audit]:
    values = [[(key, value) for value in values] for key, values in vary.items()]
    for seed in seeds:
        yield from (Audit(seed, options) for options in itertools.product(*values))


def _varied(flag: str, given: Settings) -> dict[str, list[str]]:
    """``KEY VALUE VALUE ...`` after each flag."""
    varied: dict[str, list[str]] = {}
    for group in given:
        key, *values = group or ("",)
        if not values or "=" in key:
            raise ValueError(f"{flag} {' '.join(group)}: give a name and its values, as in {flag} kappa_critic 0 1 2")
        if key in varied:
            raise ValueError(f"{flag} {key} is given twice; give all values after one")
        varied[key] = values
    return varied


def _text(value: object) -> str:
    """A TOML value as on the command line."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fits(value: object, like: object) -> bool:
    if isinstance(like, tuple):  # one, or several
        return _fits(value, like[0]) or _fits(value, list(like))
    if isinstance(like, list):
        return isinstance(value, list) and bool(value) and all(_fits(item, like[0]) for item in value)
    return isinstance(value, type(like)) and not isinstance(value, bool)
