"""Drills: what becomes of runs, sweeps, audits and input when machines, disks, simulators and files fail.

    python -m benchmarks.drills [--only NAME ...] [--out FOLDER] [--anew]

Findings are kept in FOLDER/NAME.jsonl, one line a case, as they are made: a drill that was stopped goes on where it
was. The exit status is 1 if a case did not go as it should. docs/reliability.md holds what these came to.

{drills}
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.drills import damage, disk, instances, kills, nan, simulator
from benchmarks.drills.harness import Drill, Finding

DRILLS: Mapping[str, Callable[[Drill], Iterator[Finding]]] = {
    "kill-train": kills.train,
    "kill-sweep": kills.sweep,
    "kill-audit": kills.audit,
    "disk-full": disk.full,
    "disk-read-only": disk.read_only,
    "damage-truncated": damage.truncated,
    "damage-flipped": damage.flipped,
    "damage-hostile": damage.hostile,
    "instances": instances.mutated_files,
    "instances-command": instances.through_the_command,
    "sumo-dies": simulator.dies,
    "sumo-hangs": simulator.hangs,
    "sumo-apart": simulator.apart,
    "sumo-stops": simulator.stops,
    "nan": nan.stops_the_run,
}
"""By name; the first line of each says what it does."""


def listed() -> str:
    """Names and what each does."""
    return "\n".join(f"  {name:18}{(drill.__doc__ or '').strip()}" for name, drill in DRILLS.items())


def main() -> None:
    """Hold the drills, one after another."""
    description = (__doc__ or "").format(drills=listed())
    parser = argparse.ArgumentParser(
        "python -m benchmarks.drills", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(DRILLS), default=list(DRILLS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/drills"), help="runs/drills by default")
    parser.add_argument("--anew", action="store_true", help="forget what earlier calls have found of these drills")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in options.only:
        drill, start = Drill(name, options.out.resolve()), time.perf_counter()
        if options.anew:
            drill.record.unlink(missing_ok=True)
        for finding in DRILLS[name](drill):
            drill.keep(finding)
            told = ", ".join(f"{count} {what}" for what, count in finding.counts.items())
            print(f"{'' if finding.passed else 'FAILED '}{name}, {finding.case}: {told}. {finding.note}", flush=True)
        findings, counts = drill.findings, Counter[str]()
        for finding in findings:
            counts.update(finding.counts)
        bad = sum(not finding.passed for finding in findings)
        failed += bad
        total = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"{name}: {len(findings) - bad} of {len(findings)} cases as it should be; {total}; "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    shutil.rmtree(options.out / "work", ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
