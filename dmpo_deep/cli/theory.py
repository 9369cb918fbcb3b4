"""``dmpo audit``, ``solve``, ``bounds`` and ``kappa``: the exact half."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dmpo_deep.cli.common import Unexpected, at_least, missing, table

if TYPE_CHECKING:
    from dmpo_theory.claims.record import Claim, Scope


def solve(
    file: Positional[Path],
    out: Path,
    fields: str = "",
    npz: bool = False,
    method: str = "auto",
    tolerance: float | None = None,
    overwrite: bool = False,
) -> None:
    """Exact answers about the MDP and policy in an instance file.

    Args:
        file: instance file, format networked-mdp/1 (see examples/).
        out: file to write.
        fields: comma-separated names of what to compute; all by default.
        npz: write arrays (numpy .npz) instead of JSON.
        method: auto (the fastest), dense, compiled or numpy.
        tolerance: largest error in value, rounding counted; 1e-11 by default where float64 can certify it.
        overwrite: replace an existing file.
    """
    from dmpo_theory.instance_file import load_instance
    from dmpo_theory.solution import FIELDS, solve, write_json, write_npz

    if out.is_dir():
        raise FileExistsError(f"{out} is a folder; give a file as --out")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give another --out, or --overwrite to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    wanted = [name.strip() for name in fields.split(",")] if fields else list(FIELDS)
    instance = load_instance(file)
    answers = solve(instance.mdp, instance.policy, wanted, method, tolerance)  # type: ignore[arg-type]
    (write_npz if npz else write_json)(answers, out)
    print(f"{instance.name}: {instance.mdp!r}, residual {answers['residual']:.2g}")
    print(f"Results: {out} ({', '.join(answers)})")


def bounds(
    out: Path,
    instance: tuple[Path, ...] = (),
    families: str = "",
    n: int = 8,
    gamma: str = "9/10",
    couplings: tuple[float, ...] = (0.3, 1.0),
    seeds: int = 1,
) -> None:
    """Hold Theorem 1, Remark 1 and Theorem 2, as printed and as corrected, against exact errors.

    Random instances show typical errors, constructive ones in exact fractions attain or break the bounds. Ends with
    one verdict a bound, the figure of bounds against kappa, and the CSV files behind both.

    Args:
        out: folder for verdicts.csv, checks.csv, bounds.png and bounds.pdf; must not exist.
        instance: instance files of your own to check instead: nothing else enters the verdicts.
        families: comma-separated graph families; all by default.
        n: number of agents.
        gamma: discount factor, 0.9 or 9/10.
        couplings: weights of the neighbours in random instances, each in [0, 1].
        seeds: random instances for each family, coupling and sign of the rewards.
    """
    from tqdm import tqdm

    from dmpo_theory.bounds import BOUNDS
    from dmpo_theory.instance_file import load_instance
    from dmpo_theory.sweep import (
        Check,
        constructive_jobs,
        instance_jobs,
        random_jobs,
        verdicts,
        write_checks,
        write_verdicts,
    )

    if out.exists():
        raise FileExistsError(f"{out} exists; give another --out")
    chosen, discount = _families(families), _discount(gamma)
    at_least("--n", n, 1)
    at_least("--seeds", seeds, 1)
    loaded = [load_instance(path) for path in instance]
    given = instance_jobs(loaded) if loaded else random_jobs(chosen, n, float(discount), couplings, range(seeds))
    jobs = given if loaded else [*given, *constructive_jobs(chosen, n, discount)]
    checks: list[Check] = []
    done = 0
    try:
        for job in tqdm(jobs, desc="bounds", unit="instance"):
            checks += job()
            done += 1
    except KeyboardInterrupt:
        print(f"Stopped: what follows rests on {done} of {len(jobs)} instances.")
        if not checks:
            raise
    out.mkdir(parents=True)
    found = verdicts(checks)
    write_checks(checks, out / "checks.csv")
    write_verdicts(found, out / "verdicts.csv")
    print(
        table(
            ("bound", "source", "verdict", "violated", "worst ratio", "witness"),
            [
                (v.bound, BOUNDS[v.bound].source, v.verdict, f"{v.violations}/{v.checks}", f"{ratio:.4f}", v.because)
                for v, ratio in ((v, float(v.worst.ratio)) for v in found)
            ],
        )
    )
    files = "verdicts.csv, checks.csv"
    if importlib.util.find_spec("matplotlib"):
        from dmpo_theory.plots import plot_bounds

        plot_bounds(checks, out / "bounds.png")
        files += ", bounds.png, bounds.pdf"
    else:
        print("No figure: " + missing("matplotlib"))
    print(f"Results: {out} ({files})")


def audit(
    out: Path = Path("runs/audit"),
    claim: tuple[str, ...] = (),
    instance: tuple[Path, ...] = (),
    graphs: str = "",
    n: int = 5,
    gamma: str = "9/10",
    kappa: int | None = None,
    instances: int = 2,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Decide every claim of the paper: holds, holds and is tight, or fails, each with a witness.

    Writes audit.html (one page that needs nothing else), audit.json and the figures. Ends with status 1 if a verdict
    is not the expected one. Ctrl-C stops it; --resume goes on.

    Args:
        out: folder for the results.
        claim: ids of claims; all by default.
        instance: instance files of your own to check the claims on, instead of random and constructive ones.
        graphs: comma-separated graph families; all by default.
        n: number of agents.
        gamma: discount factor, 0.9 or 9/10.
        kappa: the only kappa to check; all up to the diameter by default.
        instances: random instances for each family.
        seed: of the random instances.
        resume: continue the audit in OUT, with the same settings.
    """
    from tqdm import tqdm

    from dmpo_theory import audit as ledger
    from dmpo_theory.claims import CLAIMS
    from dmpo_theory.files import vacant

    if not (resume or vacant(out)):
        raise FileExistsError(f"{out} exists; give another --out, or --resume to continue it")
    if resume and not (out / ledger.RECORD).exists():
        raise FileNotFoundError(f"{out} holds no audit to resume; leave out --resume")
    claims, scope, settings = audit_settings(claim, instance, graphs, n, gamma, kappa, instances, seed)
    try:
        rows = ledger.run(claims, scope, settings, out, lambda left: iter(tqdm(left, desc="audit", unit="claim")))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{out} holds the claims decided so far; --resume goes on") from None
    ledger.write_json(rows, settings, out / "audit.json")
    figures = []
    if importlib.util.find_spec("matplotlib"):
        from dmpo_theory.plots import audit_figures

        figures = audit_figures(scope, out)
    else:
        print("No figures: " + missing("matplotlib"))
    ledger.write_html(rows, settings, figures, out / "audit.html")
    print(
        table(
            ("claim", "title", "verdict", "printed", "corrected", "seconds", "witness"),
            [
                (
                    *(row.id, CLAIMS[row.id].title, row.verdict + ("" if row.as_expected else " (!)")),
                    *(row.printed, row.corrected, f"{row.seconds:.1f}", row.witness),
                )
                for row in rows
            ],
        )
    )
    surprising = [row.id for row in rows if not row.as_expected]
    print(f"Results: {out} (audit.html, audit.json{''.join(', ' + picture.name for _, picture in figures)})")
    if surprising:
        raise Unexpected(f"{len(surprising)} verdicts are not the expected ones: {', '.join(surprising)}")


def audit_settings(
    claim: tuple[str, ...] = (),
    instance: tuple[Path, ...] = (),
    graphs: str = "",
    n: int = 5,
    gamma: str = "9/10",
    kappa: int | None = None,
    instances: int = 2,
    seed: int = 0,
) -> tuple[list[Claim], Scope, dict[str, Any]]:
    """The claims, what they are checked on, and both in plain JSON; ``ValueError`` if an option is wrong."""
    from dmpo_theory import audit as ledger
    from dmpo_theory.claims.record import Case, Scope
    from dmpo_theory.graph import check_kappa
    from dmpo_theory.instance_file import load_instance

    discount = _discount(gamma, zero=False)
    if kappa is not None:
        check_kappa(kappa)
    at_least("--n", n, 2)
    at_least("--instances", instances, 1)
    at_least("--seed", seed, 0)
    families, claims = _families(graphs), ledger.select(claim)
    given = tuple(Case(loaded.name, loaded.mdp, loaded.policy) for loaded in map(load_instance, instance))
    settings = {
        **{"claims": [chosen.id for chosen in claims], "instance": [str(path) for path in instance]},
        **{"graphs": list(families), "n": n, "gamma": str(discount), "kappa": kappa},
        **{"instances": instances, "seed": seed},
    }
    return claims, Scope(families, n, discount, instances, seed, kappa, given), settings


def kappa(
    instance: Positional[Path],
    tolerance: float,
    quantity: str = "value",
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """The smallest kappa whose truncation error is certified to be within a tolerance, for every reference law.

    From local quantities alone: the tight Theorem 1 or 2, capped Dobrushin coefficients, and for values the robust
    envelope where its tables are small. The joint space is never formed, so large networks are welcome.

    Args:
        instance: instance file, format networked-mdp/1 (see examples/).
        tolerance: largest error wanted in any agent's value or gradient.
        quantity: value, or gradient (Eq. 9, 2-norm in softmax logits).
        out: CSV file for the table, a row a kappa.
        overwrite: replace an existing file.
    """
    from tqdm import tqdm

    from dmpo_theory.certify import certify, write_rows
    from dmpo_theory.instance_file import load_instance

    if out is not None and out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give another --out, or --overwrite to replace it")
    loaded = load_instance(instance)
    with tqdm(desc="kappa", unit="kappa", leave=False) as bar:
        found = certify(loaded.mdp, loaded.policy, tolerance, quantity, progress=lambda _: bar.update())  # type: ignore[arg-type]
    last = found.rows[-1]
    print(
        table(
            ("kappa", "|N_i^kappa|", *found.bounds, "certified error", "by", "worst agent", "agents certified"),
            [
                (
                    str(row.kappa),
                    str(row.seen),
                    *(f"{row.errors[key]:.4g}" if key in row.errors else "-" for key in found.bounds),
                    f"{row.error:.4g}",
                    row.bound,
                    str(row.agent),
                    f"{row.certified}/{loaded.mdp.n}",
                )
                for row in found.rows
            ],
        )
    )
    for note in found.notes:
        print(f"Note: {note}")
    print(
        f"kappa = {found.kappa} is the smallest certified: every {quantity} error is at most {last.error:.4g} <= "
        f"{tolerance:g}, by {last.bound} at the worst agent, {last.agent}.\n"
        f"Cost: agents hear {last.mean_seen:.3g} states on average, {last.seen} at most; {found.seconds:.1f} s to find."
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(found, out)
        print(f"Results: {out} (a row a kappa)")


def _families(text: str) -> tuple[str, ...]:
    from dmpo_theory.errors import unknown_name
    from dmpo_theory.graph import FAMILIES

    chosen = tuple(name.strip() for name in text.split(",")) if text else tuple(FAMILIES)
    for name in chosen:
        if name not in FAMILIES:
            raise unknown_name("graph family", name, FAMILIES)
    return chosen


def _discount(text: str, zero: bool = True) -> Fraction:
    try:
        gamma = Fraction(text if "/" in text else repr(float(text)))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"--gamma {text} is not a number; write 0.9 or 9/10") from None
    if not 0 <= gamma < 1 or (gamma == 0 and not zero):
        raise ValueError(f"--gamma {text} is outside {'[' if zero else '('}0, 1); use a discount factor such as 9/10")
    return gamma
