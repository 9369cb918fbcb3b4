"""Golden traces: one short run of every algorithm on every task, kept, to know whether earlier results are still ours.

A result says which trace it goes with. While the code makes the same trace it would make the same result; when a trace
changes, results that go with the old one are stale. Numbers are compared to one part in a thousand, or to a millionth
where they are small: other processors and libraries round otherwise.

    python -m dmpo_deep.golden [--keep] [TASK ...]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.envs import ENVIRONMENTS, make_env
from dmpo_deep.envs.own import is_own, source_digest
from dmpo_deep.nets import one_thread
from dmpo_deep.presets import PRESETS, get_preset, override

FOLDER = Path(__file__).parent / "traces"
TOLERANCE = 1e-3
COLUMNS = ("env_steps", "train_return", "policy_loss", "value_loss", "entropy", "kl", "model_loss", "model_error")
SHORT: Mapping[str, str] = {
    **{"copies": "2", "rollout_steps": "25", "hidden": "16", "updates": "2", "minibatches": "2", "width": "16"},
    **{"warmup_steps": "25", "branches": "32", "model_horizon": "8", "model_steps": "20", "hidden_model": "16"},
}
"""What makes a run short; each algorithm takes what it has."""
EPOCHS = 4


def traced() -> list[tuple[str, str]]:
    """Tasks and algorithms of which there are traces: all whose presets there are, but users' own tasks."""
    return [(task, algo) for task, algo in PRESETS if not ENVIRONMENTS[task].source]


def digest(task: str, algo: str) -> str:
    """Of the kept trace; of a user's own task, which has none, that of its source; empty if there is neither."""
    if is_own(task):
        return source_digest(task)
    path = FOLDER / f"{task}-{algo}.csv"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""


def outdated(trace: str, task: str, algo: str) -> bool:
    """Whether results that go with a trace are not of the present code; a source that is not here cannot tell."""
    present = digest(task, algo)
    return trace != present and not (is_own(task) and not present)


def kept(task: str, algo: str) -> list[dict[str, str]]:
    """The rows of the kept trace."""
    with (FOLDER / f"{task}-{algo}.csv").open() as file:
        return list(csv.DictReader(file))


@one_thread()
def made(task: str, algo: str) -> list[dict[str, str]]:
    """The rows that the present code makes, six digits each; blank where an algorithm has no such thing."""
    tuned = get_preset(task, algo)  # its values are part of a result's own config: of them only what has to be
    needed = {name: getattr(tuned, name) for name in ("kappa_critic", "environment") if hasattr(tuned, name)}
    plain = type(tuned)(**needed)
    preset = override(plain, {key: text for key, text in SHORT.items() if hasattr(plain, key)})
    with closing(make_env(task, preset.copies, gamma=preset.gamma, **preset.environment)) as env:
        learner = ALGORITHMS[algo](env, preset, 0)
        rows = []
        for _ in range(EPOCHS):
            learned = learner.epoch()
            books = learner.collector
            row = {**learned, "env_steps": books.env_steps, "train_return": books.train_return}
            rows.append({name: "" if (x := row.get(name)) is None else f"{x:.6g}" for name in COLUMNS})
    return rows


def keep(task: str, algo: str) -> Path:
    """Make the trace and keep it."""
    path, rows = FOLDER / f"{task}-{algo}.csv", made(task, algo)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def differences(task: str, algo: str) -> Iterator[str]:
    """Where the present code departs from the kept trace."""
    old, new = kept(task, algo), made(task, algo)
    if len(old) != len(new):
        yield f"{len(new)} epochs, not {len(old)}"
    for epoch, (before, now) in enumerate(zip(old, new, strict=False)):
        for name in COLUMNS:
            a, b = before[name], now[name]
            if (not a) != (not b) or (a and abs(float(a) - float(b)) > TOLERANCE * max(1e-3, abs(float(a)))):
                yield f"epoch {epoch}: {name} = {b or 'blank'}, not {a or 'blank'}"


def main() -> None:
    """Compare every trace, or those of the named tasks, with what the code makes now; ``--keep`` makes them anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="tasks; all by default")
    parser.add_argument("--keep", action="store_true", help="make the traces anew: earlier results become stale")
    options = parser.parse_args()
    for task, algo in traced():
        if options.tasks and task not in options.tasks:
            continue
        if options.keep:
            sys.stdout.write(f"{keep(task, algo)}: {digest(task, algo)}\n")
        else:
            found = list(differences(task, algo))
            sys.stdout.write(f"{task} {algo}: {'; '.join(found[:3]) or 'the same'}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
