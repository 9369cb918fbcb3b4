"""``dmpo envs``, ``search``, ``train``, ``evaluate`` and ``plot``: tasks, reference controllers and learners."""

from __future__ import annotations

import csv
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from dmpo_deep import DEFAULT_PRESET, EVAL_EVERY
from dmpo_deep.cli.common import require, table

Settings = UseAppendAction[tuple[tuple[str, ...], ...]]
"""``KEY=VALUE`` pairs, several after one flag or each after its own."""


def envs(tasks: Positional[tuple[str, ...]] = ()) -> None:
    """List tasks: agents and graph, spaces, horizon, what they need, and their reference controllers.

    Args:
        tasks: all registered ones by default; MODULE:FACTORY or FILE.py:FACTORY is one of your own.
    """
    require("gymnasium")
    from dmpo_deep.controllers import controllers_of
    from dmpo_deep.envs import ENVIRONMENTS, find_task, make_env

    rows, known = [], {name: find_task(name) for name in tasks or ENVIRONMENTS}
    for name, task in known.items():
        env = make_env(name, 1)
        graph = f"{env.graph.n}, diameter {env.graph.diameter}"
        spaces = (str(env.action_space), f"{env.observation_space.shape[0]} numbers")
        rows.append((name, task.title, graph, *spaces, str(env.horizon), task.needs))
    print(table(("task", "title", "agents", "action", "observation", "horizon", "needs beside [deep]"), rows))
    controllers = [(task, name, *of[::2]) for task in known for name, of in controllers_of(task).items()]
    print("\n" + table(("task", "controller", "title", "decides on"), controllers) + "\n")
    print("Results: above; docs/environments/ has a card for each task")


def search(
    task: Positional[str],
    controller: str,
    out: Path,
    set: Settings = (),
    seed: int = 0,
    population: int = 128,
    draws: int = 16,
    iterations: int = 40,
    restarts: int = 8,
    overwrite: bool = False,
) -> None:
    """Find the weights of a reference controller by the cross-entropy method, on training draws.

    Ctrl-C ends it early and keeps what it has found. `dmpo evaluate TASK --controller OUT` measures the result.

    Args:
        task: a task; `dmpo envs` lists them.
        controller: linear, or mixture on the platoons.
        out: JSON file for the weights, with how they were found.
        set: options of the task, each KEY=VALUE.
        seed: of the training draws and of the search.
        population: candidates in an iteration.
        draws: training draws on which each candidate is played.
        iterations: of the method.
        restarts: searches from the start, of which the best on 200 further training draws is kept.
        overwrite: replace an existing OUT.
    """
    require("torch", "safetensors", "gymnasium")
    from tqdm import tqdm

    from dmpo_deep.controllers.search import best, search, write
    from dmpo_deep.evaluate import check_file
    from dmpo_deep.presets import task_options

    check_file(out, overwrite)
    options = task_options([pair for given in set for pair in given])
    settings = {"seed": seed, "population": population, "draws": draws}
    settings |= {"iterations": iterations, "restarts": restarts}
    history = []
    with tqdm(total=iterations * restarts, desc=f"{controller} on {task}", unit="iteration") as bar:
        try:
            for found in search(task, controller, options, **settings):
                history.append(found)
                bar.set_postfix(metric=f"{found.metric:.2f}")
                bar.update()
        except KeyboardInterrupt:
            if not history:
                raise
    write(out, task, controller, options, settings, history)
    found, steps = best(history), history[-1].env_steps
    print(f"Mean metric: {found.metric:.2f} on training draws, {found.validation} on validation draws; {steps} steps")
    print(f"Results: {out} (next: dmpo evaluate {task} --controller {out})")


def train(
    task: Positional[str],
    algo: str = "dmpo",
    seed: int = 0,
    steps: int = 12_000,
    out: Path | None = None,
    preset: str = DEFAULT_PRESET,
    set: Settings = (),
    eval_every: tuple[int, ...] = (EVAL_EVERY,),
    resume: bool = False,
    device: str = "cpu",
) -> None:
    """Train an algorithm on a task. Ctrl-C stops after the epoch; --resume goes on, bit for bit.

    Args:
        task: catchup, slowdown, ring, eight, atsc, tabular:FILE for the MDP in an instance file, or a task of your own,
            MODULE:FACTORY or FILE.py:FACTORY (docs/own.md).
        algo: dmpo, dmpo-true-model (the simulator in the model's place), dppo, cppo, ic3net or ia2c; docs/dmpo.md.
        seed: of everything random in training.
        steps: environment steps in all, warm-up included; one step of one copy of the environment counts as one.
        out: run directory; runs/TASK-ALGO-sSEED by default.
        preset: tuned, or paper for Table I.
        set: hyper-parameters to change, each KEY=VALUE: --set lr_actor=1e-3 kappa_critic=1, once or several times.
        eval_every: environment steps between evaluations; several numbers: the steps at which evaluations are due.
        resume: continue the run in OUT.
        device: what networks compute on, for example cuda; networks this small are at home on the CPU.
    """
    require("torch", "safetensors", "tensorboard", "gymnasium")
    from dmpo_deep.nets import on_device
    from dmpo_deep.train import train

    with on_device(device):
        run = train(
            task,
            algo,
            seed,
            steps,
            out or Path("runs") / f"{'-'.join(Path(part).stem for part in task.split(':'))}-{algo}-s{seed}",
            preset=preset,
            overrides=[pair for given in set for pair in given],
            resume=resume,
            eval_every=eval_every,
        )
    print(f"Results: {run} (progress.csv, TensorBoard events, checkpoint; next: dmpo evaluate {run})")


def evaluate(
    target: Positional[str],
    controller: str | None = None,
    set: Settings = (),
    skip: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
    picture: Path | None = None,
    animate: Path | None = None,
    fps: int = 10,
    seconds: int = 12,
) -> None:
    """The paper's metric of a trained run, sampled and greedy, or of a task's reference controllers.

    --picture and --animate show the first evaluation episode of the controller, or of the run's sampled policy.

        dmpo evaluate runs/dmpo-s0 --picture profile.pdf
        dmpo evaluate eight --controller timetable --animate timetable.gif
        dmpo evaluate atsc --controller max-pressure-15 --animate grid.mp4 --fps 20 --seconds 30

    Args:
        target: run directory, or a task; `dmpo envs` lists them, MODULE:FACTORY is one of your own.
        controller: one reference controller of the task, or a file that dmpo search wrote; all of them by default.
        set: options of the task, each KEY=VALUE: --set humans=21 start=bunched; a run has its own.
        skip: steps at the start of each episode that speeds and headways leave out.
        out: CSV file, one row per policy and draw; by default evaluation.csv inside a run, written anew each time.
        overwrite: replace an existing OUT, PICTURE or ANIMATE.
        picture: draw it: cars in time and space, their speeds and headways; or who waits at which signal, queues,
            arrivals and backlog. The suffix chooses the format: png, pdf, svg.
        animate: film it: FILE.gif, or FILE.mp4 where there is ffmpeg; cars on their road, coloured by speed, or the
            lanes of the network with queues in red, green and black for who may go, and rings for those outside.
        fps: frames a second of the film, 1 to 30.
        seconds: of the whole film, 1 to 60, however long the episode. A film has at most FPS x SECONDS frames.
    """
    require("torch", "safetensors", "gymnasium")
    from dmpo_deep.config import changed_source, read_config
    from dmpo_deep.evaluate import check_file, chosen_controllers, default_out, evaluate
    from dmpo_deep.presets import task_options

    options = task_options([pair for given in set for pair in given])
    shown = [path for path in (picture, animate) if path is not None]
    for path in shown:
        require("matplotlib")
        check_file(path, overwrite)
    if shown:
        from dmpo_deep.animation import animate as film
        from dmpo_deep.animation import check_film
        from dmpo_deep.config import read_config
        from dmpo_deep.envs import named_task
        from dmpo_deep.pictures import check_picture, profile
        from dmpo_deep.recording import played, record, require_something_to_see
        from dmpo_theory.files import save_figure

        if picture is not None:
            check_picture(picture)
        if animate is not None:
            check_film(animate, fps, seconds)
        if default_out(target) is not None:
            config = read_config(Path(target))
            task, environment = config.task, dict(config.preset.environment)
        elif controller is None:
            raise ValueError("--picture and --animate show one controller; choose it with --controller")
        else:
            task, environment = named_task(target)
            environment |= options
        require_something_to_see(task, environment)
    if default_out(target) is not None and (said := changed_source(read_config(Path(target)))) is not None:
        print(f"Warning: {said}: what follows is of the task as it is now")
    for name, result in evaluate(target, controller, out, overwrite, options, skip).items():
        print(f"{name}: {result}")
    if shown:
        if controller is None:
            recording = played(Path(target))
        else:
            [chosen] = chosen_controllers(task, controller).values()
            recording = record(task, chosen.make, environment)
        if picture is not None:
            save_figure(profile(recording).figure, picture)
        if animate is not None:
            from tqdm import tqdm

            film(recording, animate, fps, seconds, lambda frames: tqdm(frames, desc=animate.name, unit="frame"))
    written = [str(path) for path in (out or default_out(target), *shown) if path is not None]
    print(f"Results: {' '.join(written) or 'above; --out FILE writes one row per policy and draw'}")


def plot(runs: Positional[tuple[Path, ...]], out: Path, overwrite: bool = False, profiles: bool = False) -> None:
    """Every figure and table that runs have the data for, one column wide, as PNG and PDF, with their numbers as CSV.

    Runs of one task and algorithm are taken together: interquartile mean with a 95 % bootstrap interval from three
    seeds on. They are compared at the steps at which all were evaluated; the column left_out counts the others.

        learning       return against environment steps, and the levels of reference controllers
        thresholds     environment steps to normalised scores of 0, 0.5 and 0.9, a dot a run, arrows for runs that
                       ended before
        model-error    error of learned models, against environment steps and against steps in the model
        kappa          score and model error against kappa, if radii were varied: dmpo sweep --vary kappa_critic 0 1 2
        floats         score against the numbers that agents receive, kappa beside runs that differ in a radius
        profile-...    with --profiles: what a policy does in the first evaluation episode. Cars: time-space diagram,
                       speeds, headways. Signals: who waits where, queues, arrivals, backlog
        table          final returns, scores and steps to scores, as .csv, .md and .tex (booktabs)
        summary        scores at 10,000, 30,000 and 100,000 steps, and costs; each-run: the same for every run
        traffic        speeds, headways, queues and delays at the last evaluation

    The last lines say what was left out, and why.

    Args:
        runs: run directories, and folders of results (dmpo collect), of which stale ones are left out.
        out: folder, new or empty, for all of it.
        overwrite: replace the results in OUT.
        profiles: play the run with the median final return of each task and algorithm: seconds for cars of the platoon
            and the ring, minutes in SUMO. One run alone: dmpo evaluate RUN --picture FILE.
    """
    require("torch", "safetensors", "gymnasium", "matplotlib")
    from tqdm import tqdm

    from dmpo_deep.report import plot
    from dmpo_deep.results import read, stale

    for said in stale(result for run in runs for result in read(run)):
        print(f"Left out. {said}")
    report = plot(runs, out, overwrite, profiles, lambda played: tqdm(played, desc="profiles", unit="run"))
    with (report.folder / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    print(table(header, rows))
    for name, reason in report.left_out.items():
        print(f"No {name}: {reason}")
    kinds: dict[str, list[str]] = {}
    for path in map(Path, report.written):
        kinds.setdefault(path.stem, []).append(path.suffix)
    files = ", ".join(f"{kind}{' '.join(suffixes)}" for kind, suffixes in kinds.items())
    print(f"Results: {report.folder} ({files})")


def collect(runs: Positional[tuple[Path, ...]], into: Path = Path("results")) -> None:
    """Add runs to a folder of results: CSV files to commit, with config and commit of every run.

    The folder can be plotted like a run directory. Says which of its results are stale: made by code whose golden
    trace, a short run that is kept with the code, was another one, or with a preset that has changed since.

    Args:
        runs: run directories, or other folders of results.
        into: folder for runs.csv and a file for each task.
    """
    require("torch", "safetensors", "gymnasium")
    from dmpo_deep.results import add, gather, stale

    found = add(gather(runs), into)
    for said in stale(found):
        print(said)
    print(f"Results: {into} (runs.csv and a file for each task; {len(found)} runs)")
