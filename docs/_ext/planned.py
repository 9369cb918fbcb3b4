"""What `results/` has of the runs that a figure plans."""

from __future__ import annotations

from pathlib import Path

from dmpo_deep.cli.sweep import read_plan
from dmpo_deep.figures import PLANS
from dmpo_deep.results import Result, read
from dmpo_deep.sweep import Training

RESULTS = Path(__file__).parents[2] / "results"


def wanted(figure: str) -> dict[str, int]:
    """The runs of a figure's plan, each once: id -> environment steps."""
    return {job.id: job.steps for job in read_plan(PLANS / f"{figure}.toml") if isinstance(job, Training)}


def planned(figure: str) -> list[Result]:
    """Those that ``results/`` has and the present code would repeat, whole, and as long as planned."""
    known = {result.id: result for result in read(RESULTS) if not result.stale}
    lengths = wanted(figure).items()
    return [known[key].until(steps) for key, steps in lengths if key in known and known[key].steps >= steps]
