"""Every reference controller in every scenario, on the evaluation draws; and the scale of normalised scores.

python benchmarks/levels.py --write

prints the tables of docs/environments/levels.md and, with --write, renews dmpo_deep/controllers/data/levels.json. With
--only TASK... it measures these tasks alone and leaves the levels of the others as they are. The signals take about 20
minutes on two cores, everything else together less.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from dmpo_deep.controllers import CONTROLLERS, LEVELS, arrivals, result
from dmpo_deep.episodes import Episodes
from dmpo_deep.evaluate import evaluate_controller

HUMANS = {"humans": 21, "start": "bunched", "warmup": 750}
"""One learning car among 21 human ones, in whose traffic waves have formed when it takes over."""
LENGTHS: tuple[dict[str, Any], ...] = ({}, {"length": 220}, {"length": 245}, {"length": 270})
SCENARIOS: Mapping[str, tuple[str, str, tuple[dict[str, Any], ...]]] = {
    "catch-up": ("catchup", "always", ({},)),
    "slow-down": ("slowdown", "always", ({},)),
    "ring, even start": ("ring", "zero", LENGTHS),
    "ring, bunched start": ("ring", "zero", tuple({**length, "start": "bunched"} for length in LENGTHS)),
    "ring with 21 humans": ("ring", "idm", tuple({**length, **HUMANS} for length in LENGTHS)),
    "figure eight": ("eight", "idm", ({}, {"right_of_way": "inside", "shift": 0.0})),
    "signals": ("atsc", "fixed-20-10-20", ({},)),
}
"""Title -> task, trivial controller, options of each column."""
ARRIVALS = 0.9
"""Share of the trivial controller's arrivals below which a result is not scored."""
LATE = 1500
"""Half of a ring's episode, after which speeds are compared."""


def main() -> None:
    """Measure, print, and write the scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew levels.json")
    parser.add_argument("--only", nargs="+", choices=sorted({task for task, *_ in SCENARIOS.values()}), metavar="TASK")
    options = parser.parse_args()
    wanted = options.only or [task for task, *_ in SCENARIOS.values()]
    kept = json.loads(LEVELS.read_text())["levels"] if options.only else []
    levels = [level for level in kept if level["task"] not in wanted]
    for title, (task, trivial, columns) in SCENARIOS.items():
        if task not in wanted:
            continue
        results = {}
        for name, known in CONTROLLERS[task].items():
            results[name] = [evaluate_controller(task, known, o) for o in columns]
            sys.stderr.write(f"{task}, {name}: {'; '.join(map(str, results[name]))}\n")
        heads = [str(o.get("length", o.get("right_of_way", "draws"))) for o in columns]
        rows = [(CONTROLLERS[task][name].label, *map(_cell, found)) for name, found in results.items()]
        _print(title, ("controller", *heads), rows)
        if next(iter(results.values()))[0].outcomes:
            _print_outcomes(title, {CONTROLLERS[task][name].label: found[0] for name, found in results.items()})
        levels += [_level(task, o, trivial, {k: v[i] for k, v in results.items()}) for i, o in enumerate(columns)]
    if "ring" in wanted:
        _print_late_speeds()
    if options.write:
        LEVELS.write_text(
            json.dumps({"command": "python benchmarks/levels.py --write", "levels": levels}, indent=1) + "\n"
        )


def _print_late_speeds() -> None:
    for start in ("even", "bunched"):
        given = [{**HUMANS, "start": start, "length": length, "limit": float("inf")} for length in (230, 260)]
        names = ("idm", "follower-stopper-0.86", "follower-stopper-0.98", "proportional-0.1", "pi")
        found = {
            name: [evaluate_controller("ring", CONTROLLERS["ring"][name], o, skip=LATE) for o in given]
            for name in names
        }
        rows = [(CONTROLLERS["ring"][name].label, *(_speed(e) for e in each)) for name, each in found.items()]
        title = f"ring with 21 humans, {start} start, no limit: late speed and its deviation over the cars"
        _print(title, ("controller", "230", "260"), rows)


def _level(task: str, options: dict[str, Any], trivial: str, results: Mapping[str, Episodes]) -> dict[str, Any]:
    least = ARRIVALS * arrivals(results[trivial])
    scored = {name: result(task, found) for name, found in results.items() if arrivals(found) >= least}
    best = max(scored, key=lambda name: scored[name])
    named = {key: {"controller": name, "metric": scored[name]} for key, name in (("trivial", trivial), ("best", best))}
    slow = {"least_arrivals": least, "metrics": {name: found.mean for name, found in results.items()}}
    more = slow if math.isfinite(least) else {}
    return {"task": task, "options": options, **named, "random": result(task, results["random"]), **more}


def _print_outcomes(title: str, results: Mapping[str, Episodes]) -> None:
    names = [*next(iter(results.values())).measures, *next(iter(results.values())).outcomes]
    rows = []
    for label, found in results.items():
        columns = {**found.measures, **found.outcomes}
        spread = f"{found.mean:.1f} [{found.metric.min():.0f}, {found.metric.max():.0f}]"
        rows.append(
            (label, spread, *(f"{columns[name].mean():.{1 if columns[name].mean() < 100 else 0}f}" for name in names))
        )
    _print(f"{title}: metric [least, most] and outcomes", ("controller", "metric", *names), rows)


def _cell(result: Episodes) -> str:
    return f"{result.mean:.1f} ({result.collisions} coll.)" if result.collisions else f"{result.mean:.1f}"


def _speed(result: Episodes) -> str:
    return f"{result.measures['speed'].mean():.2f} ({result.measures['speed_sd'].mean():.2f})"


def _print(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    lines = [header, ("---",) * len(header), *rows]
    sys.stdout.write(f"\n{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
