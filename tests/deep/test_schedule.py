"""When runs are evaluated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmpo_deep import log
from dmpo_deep.cli.sweep import read_plan
from dmpo_deep.config import read_config
from dmpo_deep.results import add, from_run, read
from dmpo_deep.schedule import due, schedule
from dmpo_deep.sweep import Training
from tests.deep.runs import small


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (0, "eval_every = 0; it must be"),
        (1.5, "eval_every = 1.5; it must be"),
        ([], r"eval_every = \[\]; give one number, or several that rise"),
        ([200, 100], r"eval_every = \[200, 100\]"),
        ([100, 100], r"eval_every = \[100, 100\]"),
        ([-5, 100], "eval_every = -5; it must be"),
    ],
)
def test_no_schedule(numbers: int | list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(numbers)


def test_every_evaluation_is_due_once() -> None:
    for when, expected in ((30, [40, 60, 100, 120]), ((30, 90), [40, 100]), ((5, 15, 110), [20, 120])):
        assert [now for now in range(20, 121, 20) if due(now - 20, now, when)] == expected


def test_a_run_with_evaluations_that_get_rarer(tmp_path: Path) -> None:
    """Evaluated where asked and at the end; results keep the schedule; more steps take the end's evaluation back."""
    marks, run = (200, 600), tmp_path / "run"

    def evaluated() -> list[int]:
        return [int(row["env_steps"] or 0) for row in log.read_progress(run) if row["eval_sampled"] is not None]

    small("dppo", run, steps=400, eval_every=marks)
    assert evaluated() == [200, 400]
    small("dppo", run, steps=800, eval_every=marks, resume=True)
    assert evaluated() == [200, 600, 800]
    assert read_config(run).eval_every == marks
    with pytest.raises(ValueError, match=re.escape("eval_every = (200, 600), not 200")):
        small("dppo", run, steps=1000, eval_every=200, resume=True)
    result = from_run(run)
    assert add([result], tmp_path / "results")[0].id == result.id
    assert [r.eval_every for r in read(tmp_path / "results")] == [marks]


def test_one_number_or_several_on_the_command_line_and_in_plans(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[train]]\nsteps = 1\nalgos = ["dppo"]\neval_every = [100, 300]\n')
    assert [job.eval_every for job in read_plan(plan) if isinstance(job, Training)] == [(100, 300)]
