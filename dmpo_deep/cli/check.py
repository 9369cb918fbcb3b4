"""``dmpo check`` and ``dmpo gap``: the learner's parts, and what it learns, against exact truth."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from tyro.conf import Positional

from dmpo_deep.cli.common import Unexpected, at_least, require, table
from dmpo_deep.cli.learner import Settings


def check(
    mdp: Positional[str] = "ring",
    algo: str = "dmpo",
    out: Path = Path("runs/check"),
    set: Settings = (),
    kappas: str = "",
    copies: int = 3000,
    steps: int = 20,
    seed: int = 0,
    level: float = 1e-4,
    bug: str | None = None,
    overwrite: bool = False,
) -> None:
    """Hold the learner's models, critics, gradients and model rollouts against exact answers, the policy frozen.

    Every line of the table is a statistical test on independent copies, Bonferroni-corrected inside; a correct program
    fails it with the stated probability at most. Also written: how far critics, gradients and model rollouts are from
    exact values, told apart by cause and beside their bounds. Ends with status 1 if a check fails.

    Args:
        mdp: instance file, or graph family of a random MDP; its own policy is the frozen one.
        algo: whose agents are checked, and models if it has any; not ic3net's, whose policies remember.
        out: folder for findings.csv, critics.csv, gradients.csv, check.png, check.pdf and, of models, rollouts.csv.
        set: options of a random MDP, each KEY=VALUE: --set n=5 states=3 instance=7.
        kappas: comma-separated radii of critics and of the sum over neighbours; 0 to the diameter by default. Critics
            of cppo hear everybody.
        copies: independent copies of the environment: the sample of each test; for networks, which are allowed one
            standard error beside what data determine, up to some 10,000.
        steps: steps of a rollout; targets are closed at its end.
        seed: of the data and initial weights.
        level: probability with which a check of a correct program may fail.
        bug: put a deliberate mistake in place first, to see which check finds it; --bug list names them.
        overwrite: replace the results in OUT.
    """
    require("torch", "gymnasium", "matplotlib")
    from contextlib import nullcontext

    from tqdm import tqdm

    from dmpo_deep.algorithms import ALGORITHMS
    from dmpo_deep.check.bugs import BUGS
    from dmpo_deep.check.learning import require_memoryless
    from dmpo_deep.check.run import Report, number_of_stages, run, write
    from dmpo_deep.check.setting import Setting
    from dmpo_deep.envs import make_env
    from dmpo_deep.hyperparameters import ModelPreset
    from dmpo_deep.presets import get_preset, task_options
    from dmpo_theory.errors import unknown_name

    if bug == "list":
        print(table(("bug", "what is wrong", "found by"), [(name, b.title, b.found_by) for name, b in BUGS.items()]))
        print("Results: above; dmpo check --bug NAME shows one")
        return
    if bug is not None and bug not in BUGS:
        raise unknown_name("bug", bug, BUGS)
    base, population = get_preset("tabular", algo), ALGORITHMS[algo].population
    require_memoryless(algo)
    if bug is not None and not isinstance(base, ModelPreset):
        raise ValueError(f"--bug {bug} with --algo {algo}; mistakes are put into dmpo, so leave --algo out")
    at_least("--seed", seed, 0)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        raise FileExistsError(f"{out} exists; give another --out, or --overwrite to replace the results in a folder")
    env = make_env("tabular", 1, mdp=mdp, **task_options([pair for given in set for pair in given]))
    radii = _radii(kappas, base.kappa_critic, env.graph.diameter)  # type: ignore[attr-defined]
    setting = Setting(env.mdp, env.policy, copies, steps, seed, level, population, base)  # type: ignore[attr-defined,arg-type]
    with (
        BUGS[bug].active(setting) if bug else nullcontext(setting) as given,
        tqdm(total=number_of_stages(setting, radii), desc="check", unit="stage") as bar,
    ):

        def tell(stage: str) -> None:
            bar.set_postfix_str(stage)
            bar.update()

        report: Report = run(given, radii, tell)
    out.mkdir(parents=True, exist_ok=True)
    written = write(report, out)
    header = ("check", "on", "tests", "worst", "", "p", "verdict", "where it is worst")
    cells = [
        (f.check, f.about, str(f.tests), f"{f.worst:.3g}", f.unit, f"{f.p:.2g}", "ok" if f.passed else "FAILS", f.where)
        for f in report.findings
    ]
    print(table(header, cells))
    print(f"Results: {out} ({', '.join(written)})")
    if report.failed:
        names = sorted({f.check for f in report.failed})
        raise Unexpected(f"{len(report.failed)} of {len(report.findings)} checks failed: {', '.join(names)}")


def _radii(text: str, critics: float, diameter: int) -> list[float]:
    """Radii to check: as asked for, or all there are; of critics that hear everybody, that."""
    if critics == math.inf:
        if text:
            raise ValueError(f"--kappas {text!r}: critics of this algorithm hear everybody; leave it out")
        return [critics]
    if not text:
        return list(range(diameter + 1))
    try:
        radii: list[float] = [int(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"--kappas {text!r} is no list of whole numbers; give for example 0,1,2") from None
    if min(radii) < 0:
        raise ValueError(f"--kappas {text!r}: the smallest radius is 0")
    return radii


def gap(
    out: Path = Path("runs/gap"),
    graphs: str = "ring:6,star:5,erdos-renyi:6",
    algos: str = "dmpo,dmpo-true-model,dppo,cppo,ia2c",
    seeds: int = 5,
    steps: int = 8_000,
    every: int = 400,
    set: Settings = (("concentration=0.5",),),
) -> None:
    """Learning towards a known optimum, on small random MDPs whose returns are exact.

    For each graph: the best of 50 exact ascents, the best deterministic own-state policy by enumeration, the optimum of
    one controller of everything; ascent with exact and with truncated gradients, which is learning without noise; and
    the exact return of each algorithm's policies against environment steps. The same command goes on where it stopped.

    Args:
        out: folder for gap.csv, gap-table.csv, gap.png, gap.pdf and one file for each finished part.
        graphs: comma-separated FAMILY:N.
        algos: comma-separated algorithms.
        seeds: training seeds 0 .. SEEDS - 1.
        steps: environment steps of each run.
        every: environment steps between exact returns.
        set: further options of the random MDPs, each KEY=VALUE.
    """
    require("torch", "gymnasium", "matplotlib")
    import json

    from tqdm import tqdm

    from dmpo_deep.algorithms import ALGORITHMS
    from dmpo_deep.check.learning import require_memoryless, study, write
    from dmpo_deep.envs import make_env
    from dmpo_deep.presets import get_preset, task_options
    from dmpo_theory.errors import unknown_name
    from dmpo_theory.files import write_text

    options = task_options([pair for given in set for pair in given])
    wanted, names = {}, [name.strip() for name in algos.split(",")]
    for item in graphs.split(","):
        family, colon, n = item.strip().partition(":")
        if not (colon and n.isdigit()):
            raise ValueError(f"--graphs {item!r} is not FAMILY:N; give for example ring:6")
        wanted[f"{family}-{n}"] = {"mdp": family, "n": int(n), **options}
        make_env("tabular", 1, **wanted[f"{family}-{n}"])
    for name in names:
        if name not in ALGORITHMS:
            raise unknown_name("algorithm", name, ALGORITHMS)
        get_preset("tabular", name)
        require_memoryless(name)
    for option, number in (("--seeds", seeds), ("--steps", steps), ("--every", every)):
        at_least(option, number, 1)
    asked = json.dumps({"graphs": wanted, "steps": steps, "every": every}, indent=2)
    record = out / "gap.json"
    if out.exists() and not (record.is_file() and record.read_text() == asked):
        raise FileExistsError(f"{out} exists and holds no study with these settings; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(record, asked)
    with tqdm(total=len(wanted) * (2 + len(names) * seeds), desc="gap", unit="part") as bar:

        def tell(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        study(wanted, names, range(seeds), steps, every, out, tell)
    write(list(wanted), names, range(seeds), out)
    with (out / "gap-table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    columns = list(zip(*rows, strict=True))
    lines = [(name, *map(_short, cells)) for name, cells in zip(header[1:], columns[1:], strict=True)]
    print(table(("", *columns[0]), lines))
    print(f"Results: {out} (gap.csv, gap-table.csv, gap.png, gap.pdf)")


def _short(cell: str) -> str:
    return "" if cell in ("", "nan") else f"{float(cell):.4g}"
