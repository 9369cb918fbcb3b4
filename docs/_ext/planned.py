"""What `results/` has of the runs that a figure plans."""

from __future__ import annotations

from pathlib import Path

from dmpo_deep.cli.sweep import read_plan
from dmpo_deep.figures import PLANS
from dmpo_deep.results import Result, read, run_id
from dmpo_deep.sweep import Training

RESULTS = Path(__file__).parents[2] / "results"


def jobs(figure: str) -> list[Training]:
    """The runs of a figure's plan."""
    return [job for job in read_plan(PLANS / f"{figure}.toml") if isinstance(job, Training)]


def planned(figure: str) -> list[Result]:
    """Those of them that ``results/`` has whole, and that the present code would repeat."""
    known = {result.id: result for result in read(RESULTS) if not result.stale}
    return [known[key] for job in jobs(figure) if (key := _id(job)) in known and known[key].steps >= job.steps]


def _id(job: Training) -> str:
    config = job.config()
    return run_id(config.task, job.algo, job.seed, job.eval_every, config.identity["preset"])
