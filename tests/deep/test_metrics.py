"""The docs of what is logged: every column is explained, once, and every algorithm's page names its own."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.envs import make_env
from dmpo_deep.golden import SHORT
from dmpo_deep.nets import one_thread
from dmpo_deep.presets import get_preset, override
from dmpo_deep.train import COLUMNS

DOCS = Path(__file__).parents[2] / "docs"


def metrics() -> dict[str, str]:
    """Column -> who logs it, as docs/metrics.md has it."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", (DOCS / "metrics.md").read_text(), re.M)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_every_column_is_explained() -> None:
    assert list(metrics()) == list(COLUMNS)


OF_THE_LOOP = {"env_steps", "epoch", "train_return", "gradient_steps", "seconds_cpu_evaluate"}


def test_who_logs_what() -> None:
    for algo, made in ALGORITHMS.items():
        preset = get_preset("catchup", algo)
        small = {**SHORT, "holdout": "0.2"}
        preset = override(preset, {key: text for key, text in small.items() if hasattr(preset, key)})
        learner = made(make_env("catchup", preset.copies, gamma=preset.gamma, **preset.environment), preset, 0)
        with one_thread():
            learner.epoch()
            logged = {name for name, value in learner.epoch().items() if value is not None}
        told = {name for name, who in metrics().items() if who == "all" or algo in who.split(", ")}
        told = {name for name in told - OF_THE_LOOP if not name.startswith(("eval_", "seconds_epoch", "seconds_total"))}
        assert logged - OF_THE_LOOP == told, algo
        everywhere = {name for name, who in metrics().items() if who == "all"} - {"policy_loss"}
        assert told - everywhere <= page_names(algo), algo


def page_names(algo: str) -> set[str]:
    """The columns that an algorithm's page names, those of DPPO's included where it refers to them."""
    section = (DOCS / "algorithms" / f"{algo}.md").read_text().partition("## What it logs")[2].partition("\n## ")[0]
    inherited = page_names("dppo") if "(dppo.md#what-it-logs)" in section else set()
    return set(re.findall(r"`(\w+)`", section)) | inherited


def test_every_algorithm_has_a_page_and_only_these() -> None:
    assert {path.stem for path in (DOCS / "algorithms").glob("*.md")} == set(ALGORITHMS)
